"""Certificates: what somebody's rebuild of a projection came to, in the log, to be compared with anybody else's.

Rules: a certificate is made of rows that were folded from nothing and found equal to those that are kept. It holds for
the event that it names, and the code; comparing it is folding the log anew up to that event. What was made by other
code is not compared, and that is said. This file does not fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from ledger_core.errors import Damaged, Refused
from ledger_core.events.ledger import STREAM, ProjectionCertified
from ledger_core.ids import Seq
from ledger_core.log.log import Log
from ledger_core.log.record import Draft, Event
from projections import rebuild
from projections.code import code_digests
from projections.tables import ALL
from projections.views import Progress, Views, digest_of, open_caught_up

Outcome = Literal["same", "different", "other code", "other log"]


@attrs.frozen(kw_only=True)
class Comparison:
    """A certificate, and what the log gives now."""

    seq: Seq
    """Of the certificate."""
    certified: ProjectionCertified
    outcome: Outcome


def certify(log: Log, *, jobs: int | None = None, progress: Progress | None = None) -> list[Event]:
    """Append a certificate of every projection; raises `Damaged` if what is kept is not what the log gives, `Refused`
    where events could not be folded.
    """
    with open_caught_up(log) as views:
        parked = views.parked()
        if parked:
            raise Refused(
                f"{len(parked):,} events could not be folded (seq {parked[0].seq:,} …); nothing was certified.",
                hint="`agentledger views` lists them.",
            )
        checked = list(rebuild.check(log, views, jobs=jobs, progress=progress))
        wrong = [one.name for one in checked if not one.same]
        if wrong:
            raise Damaged(
                f"What is kept of {', '.join(wrong)} is not what the log gives; nothing was certified.",
                hint="Make it anew: agentledger rebuild",
            )
        return log.append(*(Draft(stream=STREAM, body=_body(log, views, one)) for one in checked))


def compare(log: Log, *, jobs: int | None = None, progress: Progress | None = None) -> Iterator[Comparison]:
    """The newest certificate of each projection, compared with what the log gives up to the same event."""
    newest: dict[str, tuple[Seq, ProjectionCertified]] = {}
    for event in log.stream(STREAM, contents=False):
        if isinstance(event.body, ProjectionCertified):
            newest[event.body.projection] = (event.seq, event.body)
    by_seq: dict[int, list[tuple[Seq, ProjectionCertified]]] = {}
    for seq, certified in newest.values():
        outcome = _comparable(log, certified)
        if outcome is None:
            by_seq.setdefault(certified.seq, []).append((seq, certified))
        else:
            yield Comparison(seq=seq, certified=certified, outcome=outcome)
    for at, found in sorted(by_seq.items()):
        with rebuild.folded(log, at, jobs=jobs, progress=progress) as fresh, fresh.read() as reader:
            for seq, certified in found:
                same = digest_of(reader, certified.projection) == certified.rows
                yield Comparison(seq=seq, certified=certified, outcome="same" if same else "different")


def _comparable(log: Log, certified: ProjectionCertified) -> Outcome | None:
    """Why a certificate cannot be compared; None if it can."""
    if not 0 < certified.seq <= log.head().seq or log.event(certified.seq, contents=False).hash != certified.head:
        return "other log"
    if code_digests().get(certified.projection) != certified.code:
        return "other code"
    return None


def _body(log: Log, views: Views, checked: rebuild.Checked) -> ProjectionCertified:
    with views.reading() as reader:
        count = reader.count(checked.name)
    return ProjectionCertified(
        projection=checked.name,
        version=ALL[checked.name].version,
        code=code_digests()[checked.name],
        seq=checked.seq,
        head=bytes(log.event(checked.seq, contents=False).hash),
        count=count,
        rows=bytes(checked.folded),
    )
