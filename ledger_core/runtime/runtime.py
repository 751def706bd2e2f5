"""The runtime: gets or creates a run, claims its step, executes the agent's code, and records how it ended.

Rules: recovery is the same call as running: whoever runs a run again continues it. Everything that is true of a run
stands in the log; this object holds none of it. A worker's sign of life is its lock; its right to append is its epoch.
This file joins the parts and knows none of their rules.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ledger_core import codec
from ledger_core.clock import SYSTEM, Clock
from ledger_core.errors import BadInput, Fenced, InDoubt, KeyConflict, LedgerError, NotFound, Refused
from ledger_core.errors import Diverged as DivergedError
from ledger_core.events import Missing
from ledger_core.events.run import RunCreated
from ledger_core.failpoints import reach
from ledger_core.governance.tool import Function, ToolSpec, spec_of
from ledger_core.ids import check_id, new_id
from ledger_core.log.batch import View
from ledger_core.log.log import Draft, Event, Log
from ledger_core.run import decide
from ledger_core.run.divergence import Divergence
from ledger_core.run.journal import Journal
from ledger_core.run.patch import diff, merge
from ledger_core.run.state import RunState, fold
from ledger_core.runtime import liveness
from ledger_core.runtime.agent import AgentSpec, Models, Provider, agent_of
from ledger_core.runtime.effects import normalised
from ledger_core.runtime.execute import Ended, Execution, in_own_thread
from ledger_core.runtime.recorded import Result, RunRecord, stream_of
from ledger_core.runtime.recorder import Recorder

WORKERS = "workers"
AnyAgent = AgentSpec | Function


class Runtime:
    """Runs agents on one ledger. Open with `Runtime.local` or `Runtime.in_memory`; safe for threads and loops."""

    def __init__(self, log: Log, *, models: Models = None) -> None:
        self.log = log
        self._models = models
        self._tools: dict[str, ToolSpec] = {}
        self._lease: liveness.Lease | None = None
        self._keep = False
        """A call of the user's outlived its run: the sign of life stays until the process ends."""
        self._workers = None if log.root is None else log.root / WORKERS

    @classmethod
    def local(
        cls,
        root: str | os.PathLike[str] = ".agentledger",
        *,
        models: Models = None,
        clock: Clock = SYSTEM,
    ) -> Runtime:
        """A runtime on the ledger in a directory, created if it is not there. Raises `CannotOpen`, `Damaged`."""
        return cls(Log.open(root, clock=clock), models=models)

    @classmethod
    def in_memory(cls, *, models: Models = None, clock: Clock = SYSTEM) -> Runtime:
        """A runtime whose ledger ends with the process."""
        return cls(Log.in_memory(clock=clock), models=models)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up this worker's sign of life and close the ledger."""
        if self._lease is not None and not self._keep:
            self._lease.end()
            self._lease = None
        self.log.close()

    def register_tool(self, declared: ToolSpec | Function) -> None:
        """Let every agent of this runtime call a tool."""
        spec = spec_of(declared)
        if self._tools.setdefault(spec.name, spec) is not spec:
            raise BadInput(f"A tool {spec.name} is registered already.", hint="Give one another name.")

    # Running

    def run(
        self,
        agent: AnyAgent,
        *,
        initial_state: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        session_id: str | None = None,
    ) -> Result:
        """Run an agent to its end, or go on with the run of that id; waits, also inside a running event loop.

        Raises `Refused` while another worker has the run, `Diverged`, `InDoubt`, `Fenced`, `StoreFull`; a failure of
        the agent's own is in the result.
        """
        spec = agent_of(agent)
        if spec.is_async:
            return in_own_thread(
                lambda: asyncio.run(self.arun(spec, initial_state=initial_state, run_id=run_id, session_id=session_id))
            )
        return in_own_thread(lambda: self._run_blocking(spec, self._asked(spec, initial_state, run_id, session_id)))

    async def arun(
        self,
        agent: AnyAgent,
        *,
        initial_state: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        session_id: str | None = None,
    ) -> Result:
        """`run`, in the running event loop; a sync agent runs in a thread."""
        spec = agent_of(agent)
        asked = self._asked(spec, initial_state, run_id, session_id)
        if not spec.is_async:
            return await asyncio.to_thread(self._run_blocking, spec, asked)
        claim = _Claim(self, spec, asked)
        events = await self.log.adecide(claim.decide)
        if claim.ended:
            return self.result(claim.run_id)
        execution, recorder = self._prepare(claim, events)
        try:
            ended = await execution.arun()
            reach("agent-ended")
            finish = _finish(execution, ended, recorder)
            if finish is not None:
                await recorder.acommit(finish)
        except BaseException:
            if execution.left:
                self._keep = True
            else:
                await _quietly(recorder.acommit(lambda state, _: decide.release(state, None)))
            raise
        return self._result(execution, recorder, ended)

    def resume(self, run_id: str, agent: AnyAgent) -> Result:
        """Go on with a run that lost its worker or waits. Raises `NotFound`."""
        if self.log.stream_head(stream_of(run_id)) is None:
            raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
        return self.run(agent, run_id=run_id)

    def _run_blocking(self, spec: AgentSpec, asked: _Asked) -> Result:
        claim = _Claim(self, spec, asked)
        events = self.log.decide(claim.decide)
        if claim.ended:
            return self.result(claim.run_id)
        execution, recorder = self._prepare(claim, events)
        try:
            ended = execution.run()
            reach("agent-ended")
            finish = _finish(execution, ended, recorder)
            if finish is not None:
                recorder.commit(finish)
        except BaseException:
            try:
                recorder.commit(lambda state, _: decide.release(state, None))
            except LedgerError:
                pass  # what is being raised says more
            raise
        return self._result(execution, recorder, ended)

    # Looking

    def state(self, run_id: str) -> RunState:
        """The run as the log has it, from facts alone; raises `NotFound`."""
        events = self.log.stream(stream_of(run_id), contents=False)
        state = fold((event.seq, event.time_ns, event.type, event.body) for event in events)
        if not state.events:
            raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
        return state

    def result(self, run_id: str) -> Result:
        """What came of a run so far; raises `NotFound`."""
        record = RunRecord.read(self.log, run_id)
        return Result(
            run_id=run_id,
            status=record.state.status,
            output=_present(record.output),
            state=_present(record.document) or {},
            error_type=record.error_type,
            message=_present(record.message),
            waiting=record.state.waiting,
        )

    # Parts

    def _asked(
        self, spec: AgentSpec, initial_state: Mapping[str, Any] | None, run_id: str | None, session_id: str | None
    ) -> _Asked:
        if initial_state is not None and not isinstance(initial_state, Mapping):
            raise BadInput("The initial state is a dict.", hint="Pass initial_state={…}.")
        random = self.log.clock.random
        name = new_id("run", random(10)) if run_id is None else check_id(run_id, "run")
        session = None if session_id is None else check_id(session_id, "session")
        created = RunCreated(
            run=name,
            agent=spec.name,
            role=spec.role,
            entry_point=spec.entry_point,
            code_digest=spec.code_digest,
            session=session,
            seed=random(32),
            initial_state=codec.roundtrip(dict(initial_state or {})),
            origin=spec.origin,
        )
        return _Asked(created=created, given=initial_state is not None)

    def _worker(self) -> str:
        if self._lease is None:
            self._lease = liveness.Lease(self._workers, new_id("worker", self.log.clock.random(10)))
        return self._lease.worker

    def _alive(self, worker: str) -> bool:
        return liveness.alive(self._workers, worker)

    def _prepare(self, claim: _Claim, events: list[Event]) -> tuple[Execution, Recorder]:
        """What the execution of a claimed step needs; reads the record only where there is one."""
        stream = stream_of(claim.run_id)
        if claim.fresh:
            state = fold((event.seq, event.time_ns, event.type, event.body) for event in events)
            journal, document = Journal(), claim.asked.created.initial_state
        else:
            record = RunRecord.read(self.log, claim.run_id)
            state, journal, document = record.state, record.journal, record.document
        tag = self.log.tagger(stream)
        if tag is None or isinstance(document, Missing):
            raise Refused(f"What run {claim.run_id} said was forgotten: it cannot go on.", hint="Start a new run.")
        recorder = Recorder(self.log, stream, state, events[-1].hash)
        execution = self.execution(claim.spec, state, journal, document, tag, recorder, claim.asked.created.session)
        return execution, recorder

    def execution(
        self,
        spec: AgentSpec,
        state: RunState,
        journal: Journal,
        document: dict[str, Any],
        tag: Callable[[bytes], bytes],
        recorder: Recorder | None,
        session: str | None,
    ) -> Execution:
        """An execution of an agent against a journal; without a recorder, nothing in it can be live."""
        return Execution(
            spec=spec,
            journal=journal,
            recorder=recorder,
            tag=tag,
            tools={**self._tools, **spec.tools},
            model=lambda model: _provider(model, spec.models, self._models),
            seed=state.seed,
            run_id=state.run,
            step_id=state.step,
            attempt=state.epoch,
            session_id=session,
            state=document,
            clock=self.log.clock,
        )

    def _result(self, execution: Execution, recorder: Recorder, ended: Ended) -> Result:
        """The result of an execution whose end is in the log, as `result` would read it; raises what stopped it."""
        stopped = ended.stopped
        if isinstance(stopped, Divergence):
            raise stopped.error()
        if isinstance(stopped, BaseException):
            raise stopped
        if recorder.state.status != "completed":
            return self.result(execution.run_id)
        document = merge(execution.state, diff(execution.state, ended.state))
        output = codec.roundtrip(ended.output)
        return Result(run_id=execution.run_id, status="completed", output=output, state=document)


@attrs.frozen(kw_only=True)
class _Asked:
    """What a caller asked for: the run as it would be created."""

    created: RunCreated
    given: bool
    """Whether the caller named an initial state."""


class _Claim:
    """The decision to create a run, or to take an existing one."""

    def __init__(self, runtime: Runtime, spec: AgentSpec, asked: _Asked) -> None:
        self.spec = spec
        self.asked = asked
        self.run_id = asked.created.run
        self.fresh = False
        self.ended = False
        self._runtime = runtime
        self._worker = runtime._worker()

    def decide(self, view: View) -> Iterator[Draft]:
        """Drafts of the claim; nothing for a run that has ended."""
        stream = stream_of(self.run_id)
        self.fresh = view.head(stream) is None
        self.ended = False
        bodies = (
            decide.create(self.asked.created, new_id("step", self._runtime.log.clock.random(10))) if self.fresh else []
        )
        events = view.events(stream)
        state = fold((event.seq, event.time_ns, event.type, event.body) for event in events)
        for body in bodies:
            state.apply(0, 0, body.kind.name, body)
        if state.agent != self.spec.name:
            raise Refused(
                f"Run {self.run_id} is a run of agent {state.agent}, not of {self.spec.name}.",
                hint="Use another run id, or the agent that the run was started with.",
            )
        if self.asked.given and not self.fresh:
            self._check_same_begin(view, stream)
        self.ended = state.ended
        if not self.ended:
            alive = state.worker is not None and self._runtime._alive(state.worker)
            bodies += decide.claim(state, self._worker, owner_alive=alive, code_digest=self.spec.code_digest)
            yield from (Draft(stream=stream, body=body, step=state.step or None) for body in bodies)

    def _check_same_begin(self, view: View, stream: str) -> None:
        begun = next(view.events(stream, contents=True)).body
        if isinstance(begun, RunCreated) and begun.initial_state != self.asked.created.initial_state:
            raise KeyConflict(
                f"Run {self.run_id} was begun with another initial state.",
                hint="Leave the initial state out to go on with it, or choose another run id.",
            )


def _finish(execution: Execution, ended: Ended, recorder: Recorder) -> Any:
    """The decision that records how an execution ended; None where nothing may be recorded any more."""
    stopped = ended.stopped
    if isinstance(stopped, (Fenced, DivergedError)):
        return None
    if isinstance(stopped, Divergence):
        recorder.drop()
        return lambda state, _: decide.diverge(state, stopped)
    if stopped is not None:
        waiting = "in doubt" if isinstance(stopped, InDoubt) else None
        return lambda state, _: decide.release(state, waiting)
    if ended.error is not None:
        return _failure(ended.error)
    try:
        output = codec.roundtrip(ended.output)
    except LedgerError as error:
        return _failure(error)
    patch = diff(execution.state, ended.state)
    return lambda state, riders: decide.complete(state, output, patch, riders)


def _failure(error: Exception) -> Any:
    kind, message = normalised(error)
    return lambda state, riders: decide.fail(state, _category(error), kind, message, riders)


def _category(error: Exception) -> str:
    names: Iterable[type] = type(error).__mro__
    table = {
        "RetryableAgentError": "retryable",
        "NonRetryableAgentError": "non_retryable",
        "ToolFailed": "tool",
        "ModelFailed": "model",
        "TimeoutError": "timeout",
    }
    return next((table[one.__name__] for one in names if one.__name__ in table), "unhandled")


def _present(value: Any) -> Any:
    return None if isinstance(value, Missing) else value


def _provider(model: str, *sources: Models) -> Provider:
    """The provider of a model: the agent's own, or the runtime's."""
    for source in sources:
        found = source.get(model, source.get("default")) if isinstance(source, Mapping) else source
        if found is not None:
            return found
    raise BadInput(
        f"No provider is known for model {model!r}.",
        hint="Pass models=callable, or models={name: callable}, to @agent or to the runtime.",
    )


async def _quietly(work: Any) -> None:
    try:
        await work
    except LedgerError:
        pass  # what is being raised says more


def _root(root: str | os.PathLike[str] | None) -> Path:
    return Path(root or os.environ.get("AGENTLEDGER_ROOT") or ".agentledger")


def run(agent: AnyAgent, *, root: str | os.PathLike[str] | None = None, models: Any = None, **options: Any) -> Result:
    """Run an agent on the ledger in `root`, `$AGENTLEDGER_ROOT`, or `.agentledger`; see `Runtime.run`."""
    with Runtime.local(_root(root), models=models) as runtime:
        return runtime.run(agent, **options)


async def arun(
    agent: AnyAgent, *, root: str | os.PathLike[str] | None = None, models: Any = None, **options: Any
) -> Result:
    """`run`, in the running event loop."""
    with Runtime.local(_root(root), models=models) as runtime:
        return await runtime.arun(agent, **options)
