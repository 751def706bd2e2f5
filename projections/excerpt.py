"""Some effects of a run, read from where they stand in the log, without the rest of the run.

Rules: an excerpt is read by the same reading as a whole course, of fewer events; whoever asks for one holds it against
digests of the whole, because what was before may have decided what an effect came to. So this may give up, or be
wrong, and never has to be right. This file knows no digests.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from ledger_core.events.run import RunCreated
from ledger_core.log.log import Log
from ledger_core.log.record import Event
from projections import course
from projections.course import Effect

_BEFORE: Final = 32
"""Events before an effect's first that are looked at as well: what the policy said stands there."""
_MOST: Final = 20_000
"""Events that are read at once."""


def effects(log: Log, seqs: Sequence[int], behind: int) -> list[Effect] | None:
    """The effects whose first events have these seqs, in their order, by what is told of them up to `behind` events
    later. None where they cannot be had so."""
    found: dict[int, Effect] = {}
    try:
        while left := sorted(set(seqs) - found.keys()):
            told = _from(log, left, behind)
            if left[0] not in told:
                return None
            found |= told
    except Exception:  # any part of a run may be none that can be read by itself
        return None
    return [found[seq] for seq in seqs]


def _from(log: Log, seqs: Sequence[int], behind: int) -> dict[int, Effect]:
    """Those of the stream that the first of them is in."""
    first = log.event(seqs[0], contents=False)
    begin = max(first.stream_seq - 1 - _BEFORE, 0)
    events: list[Event] = []
    more = behind
    for event in islice(log.stream(first.stream, begin), _MOST):
        events.append(event)
        more -= event.seq > seqs[-1]
        if more <= 0:
            break
    wanted = set(seqs)
    paths = {getattr(event.body, "path", None) for event in events if event.seq in wanted}
    created = list(islice(log.stream(first.stream), min(begin, 2)))
    told = [event for event in events if getattr(event.body, "path", None) in {None, *paths}]
    assert isinstance((created or told)[0].body, RunCreated)
    effects_ = course.of_events([*created, *told], "").effects
    return {one.log_seq: one for one in effects_ if one.log_seq in wanted}
