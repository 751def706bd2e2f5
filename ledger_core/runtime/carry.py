"""One claimed step carried to where it ends or waits: prepare, execute, record what came of it.

Rules: whatever ends an execution is put into the log under the claim's epoch, or, where the step has another owner by
now, nothing is. What the caller gets is a value (`Carried`); errors that say that this worker may not go on are in it.
This file does not claim, and does not know who waits for the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from ledger_core import secret
from ledger_core.clock import NS
from ledger_core.errors import BadInput, Cancelled, EffectFailed, Fenced, InDoubt, KeyConflict, LedgerError, Refused
from ledger_core.events import Body, Missing
from ledger_core.events.step import StepCreated
from ledger_core.failpoints import reach
from ledger_core.ids import new_id
from ledger_core.log.log import Event
from ledger_core.run import decide
from ledger_core.run.decide import Failure
from ledger_core.run.divergence import Divergence
from ledger_core.run.journal import Journal
from ledger_core.run.patch import diff, merge
from ledger_core.run.state import RunState
from ledger_core.runtime.adopting import inputs_of, not_adopted
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.context import ContinueWith
from ledger_core.runtime.driver import Suspended, TimedOut
from ledger_core.runtime.effect import error_types, normalised
from ledger_core.runtime.execute import Ended
from ledger_core.runtime.folds import Fold, stream_of
from ledger_core.runtime.lineage import forgotten, tagger
from ledger_core.runtime.recorded import Result, RunRecord
from ledger_core.runtime.recorder import Bodies, Family, Recorder

if TYPE_CHECKING:
    from ledger_core.runtime.runtime import Runtime


@attrs.frozen(kw_only=True)
class Carried:
    """What came of carrying a step: `error` is why it may not go on here; `goes_on`, that the run is not at its end."""

    error: BaseException | None = None
    goes_on: bool = False
    result: Result | None = None
    """Of a run that completed just now; others are read from the log."""


class Carrier:
    """Carries one claimed step."""

    def __init__(self, runtime: Runtime, spec: AgentSpec, run_id: str, events: list[Event], *, fresh: bool) -> None:
        """`events` are those of the claim's commit."""
        self._runtime = runtime
        self._spec = spec
        self._refused: Refused | None = None
        self._inputs: list[Body] = []
        stream = stream_of(run_id)
        own = [event for event in events if event.stream == stream]
        if fresh:
            fold = Fold()
            for event in own:
                fold.apply(event)
            state, journal, begun = fold.state, Journal(), own[0].body
            document, variables, session = begun.initial_state, begun.variables, begun.session  # type: ignore[attr-defined]
        else:
            record = RunRecord.read(runtime.log, run_id)
            state, journal, document = record.state, record.journal, record.document
            variables, session = record.variables, record.session
            self._refused = _unsettled(record)
            if record.inputs is not None and record.created is not None:
                self._inputs = inputs_of(runtime.log, record.inputs, record.created)
        tag = tagger(runtime.log, state)
        if tag is None or isinstance(document, Missing):
            gone = forgotten(runtime.log, state) or run_id
            self._refused = Refused(f"What run {gone} said was forgotten: {run_id} cannot go on.", hint=_FORGOTTEN)
            tag, document, self._inputs = bytes, {}, []
        self.recorder = Recorder(runtime.log, stream, state, own[-1].hash, runtime.folds)
        self.execution = runtime.execution(
            spec,
            state,
            journal,
            document,
            tag,
            self.recorder,
            session,
            variables=variables or {},
        )

    def spawning(self, spawned: Callable[[str], None]) -> None:
        """Have `spawned` told of every child run."""
        around = attrs.evolve(self.execution.surroundings, spawned=spawned)
        self.execution = attrs.evolve(self.execution, surroundings=around)

    def carry(self) -> Carried:
        """Carry sync code, in this thread."""
        if self._refused is not None:
            self.recorder.commit(_blocked(self._refused))
            return Carried(error=self._refused)
        if self._inputs:
            self.recorder.commit(self._adopt)
        try:
            ended = self.execution.run()
            reach("agent-ended")
            finish = self._finish(ended)
            if finish is not None:
                try:
                    self.recorder.commit(finish, family=self._worked())
                except BadInput as unfit:
                    self.recorder.drop()
                    self.recorder.commit(_blocked(unfit))
                    return Carried(error=unfit)
        except BaseException:
            self.recorder.forget_held()
            try:
                self.recorder.commit(_unless_cancelled(lambda state, _: decide.release(state, None)))
            except LedgerError:
                pass  # what is being raised says more
            raise
        return self._carried(ended)

    async def acarry(self) -> Carried:
        """Carry async code, in the running loop."""
        if self._refused is not None:
            await self.recorder.acommit(_blocked(self._refused))
            return Carried(error=self._refused)
        if self._inputs:
            await self.recorder.acommit(self._adopt)
        try:
            ended = await self.execution.arun()
            reach("agent-ended")
            finish = self._finish(ended)
            if finish is not None:
                try:
                    await self.recorder.acommit(finish, family=self._worked())
                except BadInput as unfit:
                    self.recorder.drop()
                    await self.recorder.acommit(_blocked(unfit))
                    return Carried(error=unfit)
        except BaseException:
            self.recorder.forget_held()
            if self.execution.left:
                self._runtime.keep_sign_of_life()
            else:
                try:
                    await self.recorder.acommit(_unless_cancelled(lambda state, _: decide.release(state, None)))
                except LedgerError:
                    pass  # what is being raised says more
            raise
        return self._carried(ended)

    def _adopt(self, state: RunState, _: Sequence[Body]) -> list[Body]:
        return list(not_adopted(state, self._inputs))

    async def give_back(self) -> None:
        """Let others have the step, of which nothing was executed."""
        await self.recorder.acommit(_unless_cancelled(lambda state, _: decide.release(state, None)))

    def _worked(self) -> Family:
        """What the budgets are told at the end of the claim."""
        worked_ns = self.execution.worked_ns
        return lambda runs, state: runs.worked(state, worked_ns)

    def _carried(self, ended: Ended) -> Carried:
        stopped, state = ended.stopped, self.recorder.state
        if isinstance(stopped, Divergence):
            return Carried(error=stopped.error())
        if isinstance(stopped, Cancelled):
            return Carried()
        if isinstance(stopped, BaseException):
            return Carried(error=stopped)
        if state.status != "completed":
            return Carried(goes_on=not state.ended)
        document = merge(self.execution.state, diff(self.execution.state, ended.state))
        output = secret.plain(ended.output)
        return Carried(result=Result(run_id=state.run, status="completed", output=output, state=document))

    def _finish(self, ended: Ended) -> Bodies | None:
        """The decision that records how an execution ended; None where nothing may be recorded any more."""
        stopped = ended.stopped
        if stopped is not None:
            self.recorder.forget_held()
        if isinstance(stopped, Fenced):
            return None
        if isinstance(stopped, Divergence):
            self.recorder.drop()
            return _unless_cancelled(lambda state, _: decide.diverge(state, stopped))
        if isinstance(stopped, Cancelled):
            return decide.cancelled
        if isinstance(stopped, Suspended):
            return _unless_cancelled(lambda state, riders: decide.release(state, _waits(state, riders)))
        if isinstance(stopped, TimedOut):
            limit = (self.execution.timeout_ns or 0) / NS
            return self._failure(
                Failure(category="timeout", error_type="TimeoutError", message=f"more than {limit:g} s")
            )
        if isinstance(stopped, InDoubt):
            return _unless_cancelled(
                lambda state, riders: decide.release(state, "in doubt" if _after(state, riders).in_doubt else None)
            )
        if isinstance(stopped, (BadInput, KeyConflict)):  # the same again, until somebody changes something
            return _unless_cancelled(lambda state, _: decide.block(state, str(stopped)))
        if stopped is not None:
            return _unless_cancelled(lambda state, _: decide.release(state, None))
        if ended.error is not None:
            return self._failure(_failure(ended.error))
        return self._returned(ended)

    def _returned(self, ended: Ended) -> Bodies:
        patch = diff(self.execution.state, ended.state)
        if isinstance(ended.output, ContinueWith):
            following = self._following(ended.output)
            return _unless_cancelled(lambda state, _: decide.proceed(state, patch, following))
        try:
            output = secret.plain(ended.output)
        except LedgerError as error:
            return self._failure(_failure(error))
        return _unless_cancelled(lambda state, riders: decide.complete(state, output, patch, riders))

    def _following(self, asked: ContinueWith) -> StepCreated:
        known = self._spec if asked.agent is None else self._runtime.known(asked.agent)
        spec = None if isinstance(known, str) else known
        return StepCreated(
            step=new_id("step", self._runtime.log.clock.random(10)),
            number=self.recorder.state.step_number + 1,
            agent=known if isinstance(known, str) else known.name,
            entry_point=None if spec is None else spec.entry_point,
            code_digest=None if spec is None else spec.code_digest,
        )

    def _failure(self, failure: Failure) -> Bodies:
        now_ns = self._runtime.log.clock.now_ns
        return _unless_cancelled(lambda state, riders: decide.fail(state, failure, riders, now_ns()))


_FORGOTTEN: Final = "Start a new run."


def _unsettled(record: RunRecord) -> Refused | None:
    """Why a fork may not go on: its ancestor was making an outside write, and nobody knows what came of it."""
    if not record.unsettled:
        return None
    ancestor, path = record.state.ancestor, record.unsettled[0]
    return Refused(
        f"{ancestor}, of which {record.state.run} is a fork, was making an outside write at effect {path} then, and "
        "nobody knows what came of it.",
        hint=f"Find out, and say it: agentledger ledger settle {ancestor}:{path} --as …",
    )


def _unless_cancelled(bodies: Bodies) -> Bodies:
    """What ends or gives back a step, unless somebody wants its run to end: then it ends."""
    return lambda state, riders: decide.cancelled(state, riders) if state.cancelling else bodies(state, riders)


def _blocked(why: LedgerError) -> Bodies:
    """Give the step back because it cannot go on, and could not if it were tried again."""
    return _unless_cancelled(lambda state, _: decide.block(state, str(why)))


def _waits(state: RunState, riders: Sequence[Body]) -> str:
    """Why a suspended step is given back, after what rides along: it waits, or only lets others have a turn."""
    return "waits" if _after(state, riders).waits else "yield"


def _after(state: RunState, riders: Sequence[Body]) -> RunState:
    """A state with what rides along."""
    after = state.clone()
    for body in riders:
        after.apply(0, after.updated_ns, body.kind.name, body)
    return after


def _failure(error: Exception) -> Failure:
    kind, message = normalised(error)
    return Failure(
        category=_category(error), error_type=kind, message=message, types=error_types(error), path=_cause(error)
    )


def _cause(error: BaseException) -> str | None:
    """Path of the effect whose failure an error comes from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if isinstance(found, EffectFailed):
            return found.path
        seen.add(id(found))
        found = found.__cause__ or found.__context__
    return None


_CATEGORIES: dict[str, str] = {
    "RetryableAgentError": "retryable",
    "NonRetryableAgentError": "non_retryable",
    "PermissionDenied": "policy",
    "BudgetExceeded": "budget",
    "SandboxFailed": "sandbox",
    "ToolFailed": "tool",
    "ModelFailed": "model",
    "ChildFailed": "child",
    "TimeoutError": "timeout",
}


def _category(error: Exception) -> str:
    return next((_CATEGORIES[one.__name__] for one in type(error).__mro__ if one.__name__ in _CATEGORIES), "unhandled")
