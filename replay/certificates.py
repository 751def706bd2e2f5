"""Certifying a replay: what came of it goes into the log, where everybody who has a copy can hold it against theirs.

Rules: a certificate names the log's head, and for each run the last event that was replayed; a run that went on in the
meantime is covered up to there. All that was replayed is in it, also what diverged: a certificate is what somebody saw,
and no praise. How certificates are read is `projections.replayed`. This file replays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.errors import BadInput
from ledger_core.events.ledger import STREAM, ReplayCertified
from ledger_core.log.log import Log
from ledger_core.log.record import Draft, Event
from ledger_core.runtime.folds import stream_of
from projections.replayed import STATUSES, Certificate, Replayed, code_digest, digest, listed
from projections.replayed import newest as check
from replay.many import Outcome


def certify(log: Log, outcomes: Iterable[Outcome], *, mode: str, target: str | None = None) -> Event:
    """Append what came of a replay; gives the event. Raises `BadInput` for runs that are not of this log, or for none.

    `target` is the code, where one was named for all runs.
    """
    head = log.head()
    runs, code = dict[str, Replayed](), set[bytes]()
    for one in outcomes:
        last = log.stream_head(stream_of(one.run_id))
        if last is None:
            raise BadInput(f"There is no run {one.run_id!r:.140} in this ledger: its replay is none of it.")
        runs[one.run_id] = Replayed(
            hash=bytes(last.hash) if one.hash is None else bytes.fromhex(one.hash),
            status=one.status,
            codes=tuple({str(found["code"]) for found in one.divergences}),
        )
        if one.code_digest is not None:
            code.add(bytes.fromhex(one.code_digest))
    if not runs:
        raise BadInput("No run was replayed: there is nothing to certify.", hint="Name runs, or leave --since out.")
    rows = listed(runs)
    counted = {name: sum(one.status == name for one in runs.values()) for name in STATUSES}
    body = ReplayCertified(
        mode=mode,
        runs=len(runs),
        **counted,
        seq=head.seq,
        head=bytes(head.hash),
        code=code_digest(code),
        outcomes=digest(rows),
        target=target,
        replayed=rows,
    )
    return log.append(Draft(stream=STREAM, body=body))[0]


__all__ = ["Certificate", "certify", "check"]
