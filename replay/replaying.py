"""Replay: the agent's code runs again, and the record answers for the world.

Rules: nothing outside is touched, nothing is spent, nothing is appended. The same machine as recovery, without a pen:
whatever would have to be live is a divergence. What comes of it is a value. This file does not print.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final, Literal

import attrs

from ledger_core.errors import BadInput, LedgerError, NotFound
from ledger_core.run import divergence
from ledger_core.run.divergence import Divergence
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.lineage import shared
from ledger_core.runtime.recorded import RunRecord
from ledger_core.runtime.runtime import Runtime
from projections.course import Course, Effect, of_events
from replay.attempt import effects_of, end_of
from replay.comparing import STOPS, Comparison, compare, effect_json
from replay.journals import Aligned, Version, Watched
from replay.live import Ask, Live
from replay.steps import Step, end_differences, executed, first_difference, steps_of

Mode = Literal["strict", "collect", "cut"]
SAVED: Final = "agentledger.replay.v1"
"""Schema of a replay that was saved, which has what the code did in `course`."""
TODAY: Final = "the code of today"


@attrs.frozen(kw_only=True)
class Replay:
    """What a replay came to."""

    run_id: str
    effects: int
    """Effects answered from the record."""
    steps: int = 1
    executed: int = 1
    """Steps whose code was known here, and executed."""
    complete: bool
    """Whether the code came to its recorded end; False where the record stops before it."""
    same_code: bool
    mode: Mode = "strict"
    divergences: tuple[Divergence, ...] = ()
    """Where the code does something else than was recorded, in order; the first alone in strict mode."""
    course: Course | None = None
    """What the code did, as it can be saved and compared; None where it was not kept."""
    live: Effect | None = None
    """The effect that was made, where one was."""

    @property
    def divergence(self) -> Divergence | None:
        """The first divergence."""
        return self.divergences[0] if self.divergences else None

    @property
    def ok(self) -> bool:
        return not self.divergences

    def saved(self) -> dict[str, Any]:
        """The value as `--save` writes it, and `diff` reads it. Raises `BadInput` for one that was not kept."""
        if self.course is None:
            raise BadInput(f"The replay of {self.run_id} did not keep what the code did.", hint="replay(…, keep=True)")
        return {"schema": SAVED, **self.as_json(), "course": self.course.as_json()}

    def as_json(self) -> dict[str, Any]:
        """The value as `--json` prints it."""
        found = self.divergence
        return {
            "run_id": self.run_id,
            "ok": self.ok,
            "complete": self.complete,
            "effects": self.effects,
            "steps": self.steps,
            "executed": self.executed,
            "same_code": self.same_code,
            "mode": self.mode,
            "divergence": None if found is None else found.as_json(),
            "divergences": [one.as_json() for one in self.divergences],
            "live": None if self.live is None else {**effect_json(self.live), "value": self.live.value},
        }


def cut(runtime: Runtime, run_id: str, agent: AgentSpec, point: str, *, keep: bool = False) -> Replay:
    """Replay with one effect live, that at the path `point`, under the runtime's rules; all others are answered.

    What comes of it, and of all that follows, is collected. Raises as `replay` does, and `BadInput` where the code has
    no such effect, or one that cannot be asked of the world: an outside write, or what waits for others.
    """
    answers: dict[str, Effect] = {}
    state = runtime.state(run_id)
    compared = attempt(runtime, run_id, agent, lambda intent, _: intent.path == point, answers)
    made = None if compared is None else next((one for one in compared.attempted.effects if one.path == point), None)
    if compared is None or made is None:
        raise BadInput(
            f"Agent {agent.name} asks for nothing at effect {point!r:.80} of run {run_id}.",
            hint=f"agentledger debug {run_id} shows the effects: tool and model calls can be made again.",
        )
    if point not in answers:
        raise BadInput(
            f"Effect {point} of run {run_id}, {made.words()}, cannot be made again by itself.",
            hint="Outside writes are never made by a replay, nor calls with secrets. `fork --live` goes on for real.",
        )
    return Replay(
        run_id=run_id,
        effects=len(compared.attempted.effects) - 1,
        complete=state.ended,
        same_code=agent.code_digest == state.code_digest,
        mode="cut",
        divergences=tuple(one for one in compared.divergences if one.recorded != STOPS),
        course=compared.attempted if keep else None,
        live=made,
    )


def replay(runtime: Runtime, run_id: str, agent: AgentSpec, *, mode: Mode = "strict", keep: bool = False) -> Replay:
    """Replay a run against an agent's code, which is that of its last step, and of all steps of that agent.

    Where the code does something else, it is executed once more, answered as well as the record can: what it does
    behind the first difference says what that was, an added call, a dropped one, or a moved one. With `keep`, the
    replay holds what the code did. Raises `NotFound`, and `Refused` for a forgotten run.
    """
    steps = steps_of(runtime, run_id, agent)
    last = steps[-1]
    found, number = _strictly(runtime, steps)
    complete = last.record.state.ended
    if found is not None and not found.recorded and found.kind is divergence.EXTRA and last.broken_off:
        found, complete = None, False  # the code wants to go on where the record stops
    several: tuple[Divergence, ...] = () if found is None else (found,)
    course = _recorded(runtime, run_id, agent) if keep and found is None else None
    if found is not None and (compared := attempt(runtime, run_id, agent)) is not None:
        several = tuple(one for one in compared.divergences if one.recorded != STOPS) or several
        course = compared.attempted if keep else None
    return Replay(
        run_id=run_id,
        effects=sum(len(step.record.journal.entries) for step in steps),
        steps=len(steps),
        executed=number,
        complete=complete and found is None,
        same_code=agent.code_digest == last.record.state.code_digest,
        mode=mode,
        divergences=several[:1] if mode == "strict" else several,
        course=course,
    )


def _strictly(runtime: Runtime, steps: list[Step]) -> tuple[Divergence | None, int]:
    """The first difference of code that is stopped there, and how many steps were executed."""
    number = 0
    for done in executed(runtime, steps, lambda step, spec: Watched(step.record.journal, _version(spec))):
        number += 1
        if (found := first_difference(done)) is not None:
            return found, number
    return None, number


def attempt(
    runtime: Runtime, run_id: str, agent: AgentSpec, ask: Ask | None = None, answers: dict[str, Effect] | None = None
) -> Comparison | None:
    """What the code does when it is answered whatever it asks for, held against the record.

    `ask` chooses what is asked of the world, and `answers` is told what came of it, by path; nothing without it. None
    where code of it could not be executed to an end. Raises as `replay` does.
    """
    recorded = _recorded(runtime, run_id)
    steps = steps_of(runtime, run_id, agent)
    by_step: dict[int, list[Effect]] = defaultdict(list)  # what a fork shares may be of earlier steps
    for one in recorded.effects:
        by_step[_step(one.path)].append(one)
    ends: list[Divergence] = []
    last: dict[str, Any] = {}

    def journal(step: Step, spec: AgentSpec) -> Aligned:
        live = None if ask is None else Live(runtime, spec, ask, {} if answers is None else answers)
        return Aligned(step.record.journal, step.record.state.created_ns, live)

    for done in executed(runtime, steps, journal):
        if isinstance(done.ended.stopped, LedgerError):
            return None
        by_step[done.step.number] = effects_of(recorded, done.journal, done.spec.tools)
        if done.step.following is None:
            last = {"code_digest": _hex(done.spec), **end_of(done.ended, done.step.record.initial)}
        else:
            ends += end_differences(done)
    effects = tuple(one for number in sorted(by_step) for one in by_step[number])
    attempted = attrs.evolve(recorded, source=TODAY, effects=effects, events={}, **last)
    found = compare(recorded, attempted)
    return attrs.evolve(found, ends=(*ends, *found.ends))


def _recorded(runtime: Runtime, run_id: str, agent: AgentSpec | None = None) -> Course:
    """What a run did; as an agent's code does it, where that did the same."""
    log = runtime.log
    found = of_events(log.stream(stream_of(run_id)), run_id, lambda made: shared(log, made))
    return found if agent is None else attrs.evolve(found, source=TODAY, code_digest=_hex(agent), events={})


def _hex(agent: AgentSpec) -> str | None:
    return None if agent.code_digest is None else agent.code_digest.hex()


def _step(path: str) -> int:
    """Number of the step that a path is of."""
    return int(path[1:].partition("/")[0]) if path.startswith("#") else 1


def _version(agent: AgentSpec) -> Version:
    return lambda name: agent.tools[name].version if name in agent.tools else None


def refold(runtime: Runtime, run_id: str) -> Replay:
    """Read a run without its code: nothing is executed; what is on record must fold to its own end.

    So for runs of attached code, and where the code is not at hand. Raises `NotFound`, `Damaged`.
    """
    log = runtime.log
    records = list(RunRecord.steps(log.stream(stream_of(run_id)), lambda made: shared(log, made)))
    if not records:
        raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
    settled = [entry for one in records for entry in one.journal.entries.values() if entry.final or entry.no_effect]
    return Replay(
        run_id=run_id,
        effects=len(settled),
        complete=records[-1].state.ended,
        steps=len(records),
        executed=0,
        same_code=True,
    )
