"""What somebody's replay of recorded runs came to, as a certificate in the log says it, held against the log.

Rules: a certificate is about events that were there: its head, and for each run the last event that was replayed. What
came since, it says nothing of. What does not fit is a finding; a list that cannot be opened here (the key is elsewhere)
is said, and is none. The newest certificate counts, and stands for itself. This file replays nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from ledger_core import chain, codec
from ledger_core.errors import LedgerError
from ledger_core.events import Missing
from ledger_core.events.ledger import STREAM, ReplayCertified
from ledger_core.ids import Seq
from ledger_core.log.log import Log

STATUSES: Final = ("same", "diverged", "skipped", "failed")
_RUN: Final = "run/"


@attrs.frozen(kw_only=True)
class Replayed:
    """What a certificate says of one run."""

    hash: bytes
    """Of its last event that was replayed."""
    status: str
    codes: Sequence[str] = ()
    """Of its divergences."""


@attrs.frozen(kw_only=True)
class Certificate:
    """The newest certificate of a log, and how it stands."""

    seq: Seq
    said: ReplayCertified
    runs: Mapping[str, Replayed] | None
    """By run id; None where the list cannot be opened, or is none."""
    findings: tuple[str, ...] = ()
    """Why it does not fit the log."""
    newer: int = 0
    """Runs that were created since, or have gone on."""
    left_out: int = 0
    """Runs that were there, and were not replayed."""
    events: int = 0
    """Events of the log since."""

    def words(self) -> str:
        """The certificate in a line."""
        said = self.said
        odd = [f"{number:,} {name}" for name in STATUSES[1:] if (number := getattr(said, name)) or name == "diverged"]
        parts = [f"{_runs(said.runs)}, {', '.join(odd)}"]
        if self.newer:
            parts.append(f"{_runs(self.newer)} {'is' if self.newer == 1 else 'are'} newer")
        if self.left_out:
            parts.append(f"{_runs(self.left_out)} not among them")
        if self.runs is None and not self.findings:
            parts.append("its list cannot be opened here")
        return f"replay certified at seq {self.seq:,}: {'; '.join(parts)}"

    def as_json(self) -> dict[str, Any]:
        """The certificate as `--json` prints it, without its list."""
        said = self.said
        return {
            "seq": self.seq,
            "ok": not self.findings,
            "mode": said.mode,
            "of_seq": said.seq,
            "runs": said.runs,
            **{name: getattr(said, name) for name in STATUSES},
            "code": said.code.hex(),
            "outcomes": said.outcomes.hex(),
            "opened": self.runs is not None,
            "newer": self.newer,
            "left_out": self.left_out,
            "events_since": self.events,
            "findings": list(self.findings),
        }


def listed(runs: Mapping[str, Replayed]) -> list[Any]:
    """The list of a certificate: one form for what it says."""
    return [[run, one.hash, one.status, sorted(one.codes)] for run, one in sorted(runs.items())]


def digest(rows: Any) -> bytes:
    """What the facts of a certificate say of its list."""
    return chain.course_digest(codec.canonical(["replayed", rows]))


def code_digest(digests: Iterable[bytes]) -> bytes:
    """What the facts of a certificate say of the code that was executed."""
    return chain.course_digest(codec.canonical(["code", sorted(set(digests))]))


def newest(log: Log) -> Certificate | None:
    """The newest certificate, held against the log; None if nobody made one. Raises `Damaged` for the log's own."""
    found = None
    for event in log.stream(STREAM, contents=False):
        if isinstance(event.body, ReplayCertified):
            found = event.seq
    if found is None:
        return None
    try:
        said = log.event(found).body
    except LedgerError:  # keys that this user may not read, or that are damaged, are no fault of the log
        said = log.event(found, contents=False).body
    assert isinstance(said, ReplayCertified)
    head = log.head().seq
    findings = list(_head(log, found, said))
    runs = None
    if not isinstance(said.replayed, Missing):
        runs = _opened(said.replayed)
        findings += _list(said, runs)
    changed = set[str]()
    for run, one in (runs or {}).items():
        last = log.stream_head(_RUN + run)
        if last is None or last.hash != one.hash:
            changed.add(run)
            if not any(event.hash == one.hash for event in log.stream(_RUN + run, contents=False)):
                findings.append(f"it replayed run {run[:128]} up to an event that is not in the log")
    created = left_out = 0
    for name, last in log.streams_newest_first(_RUN):
        newer = last.first > said.seq
        created += newer and name.removeprefix(_RUN) not in changed
        left_out += runs is not None and not newer and name.removeprefix(_RUN) not in runs
    return Certificate(
        seq=found,
        said=said,
        runs=runs,
        findings=tuple(findings),
        newer=created + len(changed),
        left_out=left_out,
        events=head - said.seq - (said.seq < found),
    )


def _head(log: Log, at: Seq, said: ReplayCertified) -> Iterator[str]:
    try:
        fits = 0 < said.seq < at and log.event(said.seq, contents=False).hash == said.head
    except LedgerError:
        fits = False
    if not fits:
        yield f"it names an event at seq {said.seq:,} that is not the log's"


def _opened(rows: Any) -> dict[str, Replayed] | None:
    """The list as it is read; None if it has another form."""
    try:
        found = {run: Replayed(hash=hash_, status=status, codes=codes) for run, hash_, status, codes in rows}
        return found if listed(found) == rows else None
    except (TypeError, ValueError):
        return None


def _list(said: ReplayCertified, runs: Mapping[str, Replayed] | None) -> Iterator[str]:
    if digest(said.replayed) != said.outcomes:
        yield "its list of runs is not the one that its digest names"
    if runs is None:
        yield "its list of runs has another form than any that is made"
        return
    counted = Counter(one.status for one in runs.values())
    wrong = [name for name in STATUSES if counted.pop(name, 0) != getattr(said, name)]
    if wrong or counted or said.runs != len(runs):
        yield f"its numbers are not those of its list: {', '.join([*wrong, *map(str, counted)]) or 'runs'}"


def _runs(number: int) -> str:
    return f"{number:,} run" + ("" if number == 1 else "s")
