"""Artifacts: one row for everything that was kept: bytes, references to media, places in streams."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.events.govern import ArtifactCreated
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, counted, of_seq

_SAID = ("artifact", "schema", "media_kind", "size", "digest")


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if not isinstance(body, ArtifactCreated):
        return row
    said = {name: getattr(body, name) for name in _SAID}
    return {**about(event, state), "path": body.path, **said, "seq": event.seq, "time_ns": event.time_ns}


def _sums(row: Row) -> Iterable[Contribution]:
    yield counted(("schema", row["schema"]), artifacts=1, bytes=row["size"] or 0)
    if row["media_kind"] is not None:
        yield counted(("media", row["media_kind"]), artifacts=1)


ARTIFACTS = Projection(name="artifacts", version=1, keys={ArtifactCreated: of_seq}, fold=_fold, sums=_sums)
