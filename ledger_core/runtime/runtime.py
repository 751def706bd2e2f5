"""The runtime: what a program holds to run agents on one ledger, and to steer their runs.

Rules: recovery is the same call as running: whoever runs a run again continues it. Everything that is true of a run
stands in the log; this object holds none of it. A worker's sign of life is its lock; its right to append is its epoch.
This file joins the parts and knows none of their rules.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from ledger_core.clock import NS, SYSTEM, Clock
from ledger_core.errors import BadInput, NotFound
from ledger_core.events import Missing
from ledger_core.events.run import Driver, RunCreated
from ledger_core.governance.calling import Function
from ledger_core.governance.tool import ToolSpec, spec_of, tool
from ledger_core.ids import check_id, check_name, new_id
from ledger_core.log.log import Log
from ledger_core.run.journal import Journal
from ledger_core.run.state import RunState, fold
from ledger_core.runtime import liveness
from ledger_core.runtime.agent import AgentSpec, Models, Provider, agent_of
from ledger_core.runtime.asked import duration, run_options
from ledger_core.runtime.attach import AttachedContext, Attaching, specs
from ledger_core.runtime.claims import Asked, Desk, Opening
from ledger_core.runtime.effect import Surroundings
from ledger_core.runtime.execute import Execution, in_own_thread
from ledger_core.runtime.folds import Folds, stream_of
from ledger_core.runtime.foreground import Foreground
from ledger_core.runtime.forking import Fork, make
from ledger_core.runtime.governing import Governing
from ledger_core.runtime.liveness import Life
from ledger_core.runtime.pulse import Pulse
from ledger_core.runtime.recorded import Result, RunRecord
from ledger_core.runtime.recorder import Recorder
from ledger_core.runtime.sessions import Sessions
from ledger_core.runtime.steering import Steering
from ledger_core.runtime.worker import Worker

F = TypeVar("F", bound=Function)
WORKERS = "workers"
AnyAgent = AgentSpec | Function


class Runtime(Steering, Sessions, Governing):
    """Runs agents on one ledger. Open with `Runtime.local` or `Runtime.in_memory`; safe for threads and loops."""

    def __init__(self, log: Log, *, models: Models = None, lease: float | None = None, **rules: Any) -> None:
        self.log = log
        self._govern(**rules)
        self.folds = Folds()
        self.pulse = Pulse(log)
        self.desk = Desk(log=log, folds=self.folds, alive=self.alive)
        self.agents: dict[str, AgentSpec] = {}
        """Agents that were run, registered, spawned or served here, by name."""
        self._models = models
        self._tools: dict[str, ToolSpec] = {}
        self._lease: liveness.Lease | None = None
        self._lease_ns = liveness.LEASE_NS if lease is None else int((duration(lease) or 0) * NS)
        self._keep = False
        """A call of the user's outlived its run: the sign of life stays until the process ends."""
        self._under_way: set[tuple[str, str, int]] = set()
        self._adopted: set[bytes] = set()
        self._known_sessions = {}
        self._workers = None if log.root is None else log.root / WORKERS

    @classmethod
    def local(
        cls,
        root: str | os.PathLike[str] = ".agentledger",
        *,
        models: Models = None,
        clock: Clock = SYSTEM,
        lease: float | None = None,
        **rules: Any,
    ) -> Runtime:
        """A runtime on the ledger in a directory, created if it is not there. Raises `CannotOpen`, `Damaged`.

        `lease` is how many seconds this process may be stopped before others take its runs over. `rules` are what
        governs its runs: `policy`, `sandbox`, `budget`, `prices` (`Governing`). Raises `BadInput` for bad ones.
        """
        log = Log.open(root, clock=clock)
        try:
            return cls(log, models=models, lease=lease, **rules)
        except BaseException:
            log.close()
            raise

    @classmethod
    def in_memory(cls, *, models: Models = None, clock: Clock = SYSTEM, **rules: Any) -> Runtime:
        """A runtime whose ledger ends with the process."""
        return cls(Log.in_memory(clock=clock), models=models, **rules)

    def beside(self) -> Runtime:
        """A runtime with the same rules, models and tools, whose ledger ends with it, and which shares nothing else."""
        made = Runtime.in_memory(models=self._models, clock=self.log.clock)
        made.policy, made.sandboxes, made.prices = self.policy, self.sandboxes, self.prices
        made._tools = dict(self._tools)
        return made

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

    def tool(self, function: F | None = None, /, **options: Any) -> Any:
        """Declare a tool (as `agentledger.tool`) that every agent of this runtime may call. Raises `BadInput`."""

        def register(function: F) -> F:
            declared: F = tool(**options)(function)
            self.register_tool(declared)
            return declared

        return register if function is None else register(function)

    def register_agent(self, declared: AnyAgent) -> AgentSpec:
        """Let runs name an agent, and this runtime's workers serve it."""
        spec = agent_of(declared)
        self.agents[spec.name] = spec
        return spec

    def known(self, declared: AnyAgent | str) -> AgentSpec | str:
        """The spec of an agent, however it is named; its name alone where only others know it. Raises `BadInput`."""
        if isinstance(declared, str):
            return self.agents.get(check_name(declared, "agent"), declared)
        return self.register_agent(declared)

    # Running

    def run(
        self,
        agent: AnyAgent,
        *,
        initial_state: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        session_id: str | None = None,
        wait: bool = False,
        **options: Any,
    ) -> Result:
        """Run an agent to its end, or go on with the run of that id; waits, also inside a running event loop.

        Times are waited for here, and children are run here. A run that waits for a signal or a person is left
        waiting, unless `wait` is true: its result says so. `options` are `priority`, `capabilities`, `retry_policy`
        and `timeout` of a new run. Raises `Refused` while another worker has the run, `Diverged`, `InDoubt`, `Fenced`,
        `StoreFull`; a failure of the agent's own is in the result.
        """
        spec = self.register_agent(agent)
        asked = self.asked(spec, initial_state, run_id, session_id, options)
        foreground = Foreground(self, wait=wait)
        if spec.is_async:
            return in_own_thread(lambda: asyncio.run(foreground.arun(asked)))
        return in_own_thread(lambda: foreground.run(asked))

    async def arun(
        self,
        agent: AnyAgent,
        *,
        initial_state: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        session_id: str | None = None,
        wait: bool = False,
        **options: Any,
    ) -> Result:
        """`run`, in the running event loop; a sync agent runs in a thread."""
        spec = self.register_agent(agent)
        asked = self.asked(spec, initial_state, run_id, session_id, options)
        foreground = Foreground(self, wait=wait)
        if spec.is_async:
            return await foreground.arun(asked)
        return await asyncio.to_thread(foreground.run, asked)

    def create_run(
        self,
        agent: AnyAgent | str,
        *,
        initial_state: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        session_id: str | None = None,
        **options: Any,
    ) -> str:
        """Create a run, or find the one of that id, and leave it to the workers; returns its id."""
        asked = self.asked(self.known(agent), initial_state, run_id, session_id, options)
        opening = Opening(self.desk, asked, worker=None, digest=lambda _: None)
        self.log.decide(opening.decide)
        return opening.run_id

    def attach(
        self,
        run_id: str | None = None,
        *,
        agent: str = "attached",
        initial_state: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        tools: Iterable[ToolSpec | Function] = (),
        **options: Any,
    ) -> AbstractContextManager[AttachedContext]:
        """Code that is not one function appends to a run of its own: `with runtime.attach("order-42") as ctx: …`.

        The run is created, or gone on with. `tools` are called through the context, or only verify what was left open.
        Raises `BadInput`, `Refused`.
        """
        name = check_name(agent, "agent")
        asked = self.asked(name, initial_state, run_id, session_id, options, driver="external")
        return Attaching(runtime=self, asked=asked, tools=specs(tools)).context()

    def resume(self, run_id: str, agent: AnyAgent, *, wait: bool = False) -> Result:
        """Go on with a run that lost its worker, waits, or was parked. Raises `NotFound`."""
        if self.log.stream_head(stream_of(run_id)) is None:
            raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
        return self.run(agent, run_id=run_id, wait=wait)

    def fork(
        self,
        run_id: str,
        *,
        at: int | None = None,
        agent: AnyAgent | None = None,
        set_state: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        live: bool = False,
        new_id: str | None = None,
    ) -> str:
        """Create a run that shares another's history up to its event `at`, and goes on from there; returns its id.

        `agent` is other code to go on with, `set_state` a merge patch of the state behind the shared part, `overrides`
        results in the place of recorded ones, by path. What the fork would write outside is refused, unless it is
        `live`. It is left to the workers, as `create_run` leaves runs, or run with `resume`. Raises `NotFound`,
        `BadInput`, `Refused`, `Damaged`.
        """
        spec = None if agent is None else self.register_agent(agent)
        asked = Fork(
            run_id=run_id,
            at=at,
            agent=spec,
            set_state=set_state,
            overrides=dict(overrides or {}),
            live=live,
            new_id=new_id,
        )
        return make(self.log, self.desk, asked)

    def worker(
        self,
        *agents: AnyAgent,
        concurrency: int = 16,
        capabilities: Iterable[str] = (),
        any_code: bool = False,
        grace: float = 30.0,
    ) -> Worker:
        """A worker that serves agents' runs from the queue, `concurrency` of them at once; see `Worker.run`.

        It claims runs whose code is its own, or nobody's yet; of any code if `any_code` is true. Raises `BadInput`.
        """
        return Worker(self, agents, concurrency=concurrency, capabilities=capabilities, any_code=any_code, grace=grace)

    def run_once(self, *agents: AnyAgent) -> int:
        """Claim one run of these agents (or of all that are registered) and carry it as far as it goes; how many."""
        worker = self.worker(*(agents or self.agents.values()), concurrency=1)
        return in_own_thread(lambda: asyncio.run(worker.once()))

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

    def asked(
        self,
        spec: AgentSpec | str,
        initial_state: Mapping[str, Any] | None,
        run_id: str | None,
        session_id: str | None,
        options: Mapping[str, Any],
        *,
        driver: Driver = "code",
    ) -> Asked:
        """A caller's wish, checked; raises `BadInput`."""
        known = run_options(initial_state, {**options, "run_id": run_id})
        random = self.log.clock.random
        session = None if session_id is None else check_id(session_id, "session")
        code = None if isinstance(spec, str) else spec
        created = RunCreated(
            run=new_id("run", random(10)) if run_id is None else check_id(run_id, "run"),
            agent=spec if isinstance(spec, str) else spec.name,
            driver=driver,
            role=None if code is None else code.role,
            entry_point=None if code is None else code.entry_point,
            code_digest=None if code is None else code.code_digest,
            session=session,
            seed=random(32),
            priority=known["priority"] or None,
            capabilities=known["capabilities"],
            budget=known["budget"] or self._default_budget(code),
            retry=known["retry"],
            timeout_ns=known["timeout_ns"],
            variables=None if session is None else self.session_variables(session),
            initial_state=known["initial_state"],
            origin=None if code is None else code.origin,
        )
        return Asked(created=created, given=initial_state is not None)

    @property
    def worker_id(self) -> str:
        """This process's name as a worker; the first use makes its sign of life."""
        if self._lease is None:
            name = new_id("worker", self.log.clock.random(10))
            self._lease = liveness.Lease(self._workers, name, self._lease_ns)
        return self._lease.worker

    def alive(self, worker: str) -> bool:
        """Whether a worker lives and is not overdue."""
        return self.life(worker) == "alive"

    def life(self, worker: str) -> Life:
        """Whether a worker lives, is overdue, or is gone."""
        return liveness.life(self._workers, worker)

    def keep_sign_of_life(self) -> None:
        """Let this worker pass for alive until its process ends: a call of the user's is still under way."""
        self._keep = True

    def digest(self, agent: str) -> bytes | None:
        """The digest of an agent's code, where it is known here."""
        spec = self.agents.get(agent)
        return None if spec is None else spec.code_digest

    def execution(
        self,
        spec: AgentSpec,
        state: RunState,
        journal: Journal,
        document: dict[str, Any],
        tag: Callable[[bytes], bytes],
        recorder: Recorder | None,
        session: str | None,
        *,
        variables: Mapping[str, Any] | None = None,
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
            lineage_seed=state.lineage_seed,
            run_id=state.run,
            step_id=state.step,
            step_number=state.step_number,
            attempt=journal.attempt,
            epoch=state.epoch,
            session_id=session,
            variables=dict(variables or {}),
            state=document,
            clock=self.log.clock,
            surroundings=Surroundings(
                life=self.life,
                under_way=self._under_way,
                known=self.known,
                policy=self.policy,
                adopted=self._adopted,
                sandboxes=self.sandboxes,
                prices=self.prices,
            ),
            heard=self.pulse.heard,
            timeout_ns=state.timeout_ns or spec.timeout_ns if recorder is not None else None,
        )


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


def _root(root: str | os.PathLike[str] | None) -> Path:
    return Path(root or os.environ.get("AGENTLEDGER_ROOT") or ".agentledger")


def run(agent: AnyAgent, *, root: str | os.PathLike[str] | None = None, models: Any = None, **options: Any) -> Result:
    """Run an agent on the ledger in `root`, `$AGENTLEDGER_ROOT`, or `.agentledger`.

    `options` are those of `Runtime.run`, and `policy`, `sandbox`, `prices` of `Runtime.local`.
    """
    with Runtime.local(_root(root), models=models, **_rules(options)) as runtime:
        return runtime.run(agent, **options)


async def arun(
    agent: AnyAgent, *, root: str | os.PathLike[str] | None = None, models: Any = None, **options: Any
) -> Result:
    """`run`, in the running event loop."""
    with Runtime.local(_root(root), models=models, **_rules(options)) as runtime:
        return await runtime.arun(agent, **options)


def _rules(options: dict[str, Any]) -> dict[str, Any]:
    """What governs, taken out of the options of a run."""
    return {name: options.pop(name) for name in ("policy", "sandbox", "prices") if name in options}
