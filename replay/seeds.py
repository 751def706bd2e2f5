"""Which recorded runs make a useful corpus: the fewest that show every agent, every ending, every type of event.

Rules: pure over what runs have, but for the replays that somebody hands in. A run is chosen for what nobody before it
shows; of equals the shortest, then the youngest. Only runs that came to an end, that can be replayed from a file, and
with which the code of today does the same. What no such run shows is said. Choosing again after that chooses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs

from ledger_core.events.run import RunCreated
from ledger_core.log.log import Log
from ledger_core.run.state import RunState
from ledger_core.runtime import target as targets
from projections import runs
from replay.corpus import Entry
from replay.many import Outcome

Trait = tuple[str, str]
"""What a run shows: ("agent", name), ("status", name) or ("event", type)."""
_RUN: Final = "run/"


@attrs.frozen(kw_only=True)
class Candidate:
    """A run that may be chosen."""

    run_id: str
    traits: frozenset[Trait]
    events: int


@attrs.frozen(kw_only=True)
class Seeds:
    """The runs that were chosen, in the order in which they were, and what was not."""

    chosen: tuple[str, ...]
    left_out: Mapping[str, str]
    """Runs that would have been chosen, and why they were not."""
    missing: tuple[Trait, ...]
    """What occurs in the ledger, and in no chosen run."""


def seeds(
    log: Log,
    there: Iterable[Entry],
    replayed: Callable[[Sequence[str]], Iterable[Outcome]],
    *,
    limit: int | None = None,
) -> Seeds:
    """The runs to be added to what is there; `replayed` replays the named ones."""
    candidates, occurring = _candidates(log)
    shown = frozenset[Trait]().union(*(_of_entry(one) for one in there))
    same, left_out = set[str](), dict[str, str]()
    while True:
        picked = cover([one for one in candidates if one.run_id not in left_out], shown, limit)
        unknown = [one.run_id for one in picked if one.run_id not in same]
        if not unknown:
            break
        for outcome in replayed(unknown):
            if outcome.status == "same":
                same.add(outcome.run_id)
            else:
                left_out[outcome.run_id] = outcome.words()
    missing = occurring - shown.union(*(one.traits for one in picked))
    return Seeds(chosen=tuple(one.run_id for one in picked), left_out=left_out, missing=tuple(sorted(missing)))


def cover(candidates: Sequence[Candidate], shown: frozenset[Trait], limit: int | None = None) -> list[Candidate]:
    """Candidates that show what is not shown yet, each the one with the most of it: at most `limit`.

    Greedy, so at most ln(n) + 1 times as many as the fewest that would do. Of equals the first.
    """
    picked: list[Candidate] = []
    left = list(candidates)
    while left and (limit is None or len(picked) < limit):
        left = [one for one in left if one.traits - shown]
        best = max(left, key=lambda one: (len(one.traits - shown), -one.events), default=None)
        if best is None:
            break
        picked.append(best)
        shown |= best.traits
    return picked


def _candidates(log: Log) -> tuple[list[Candidate], frozenset[Trait]]:
    """Runs that may be chosen, the youngest first, and all that occurs in any run."""
    found, occurring = [], set[Trait]()
    for state in runs.newest_first(log):
        traits = _of_state(state)
        occurring |= traits
        if state.ended and _alone(log, state):
            found.append(Candidate(run_id=state.run, traits=traits, events=state.events))
    return found, frozenset(occurring)


def _alone(log: Log, state: RunState) -> bool:
    """Whether a file with a run's evidence is all that its replay needs."""
    head = log.stream_head(_RUN + state.run)
    created = None if head is None else log.event(head.first).body
    if not isinstance(created, RunCreated) or log.key(_RUN + state.run) is None or created.ancestor is not None:
        return False
    origin = created.origin if isinstance(created.origin, str) else None
    return state.driver == "external" or targets.recorded(state.entry_point, origin) is not None


def _of_state(state: RunState) -> frozenset[Trait]:
    return _traits(state.agent, state.status, state.counts)


def _of_entry(entry: Entry) -> frozenset[Trait]:
    return _traits(entry.agent, entry.status, entry.types)


def _traits(agent: str, status: str, types: Iterable[str]) -> frozenset[Trait]:
    return frozenset((("agent", agent), ("status", status), *(("event", name) for name in types)))
