"""Workers: what they claim, and what they do when they lose it, end or wait; in real processes where it matters."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import needs
import pytest
from suites.barn import Barn
from suites.runs import bodies, replayed
from suites.service import Service, serving

from agentledger import BadInput, Clock, NoEffect, Refused, RetryableAgentError, Runtime, ToolFailed, agent, tool
from ledger_core.clock import NS
from ledger_core.errors import ChildFailed, Unavailable
from ledger_core.events.run import RunCreated
from ledger_core.events.step import StepClaimed, StepReleased
from ledger_core.events.wait import TimerStarted
from ledger_core.log import queue
from ledger_core.run import decide, schedule
from ledger_core.run.state import RunState
from ledger_core.runtime.agent import agent_of
from ledger_core.runtime.recorded import stream_of
from ledger_core.runtime.target import load

AGENTS = Path(__file__).resolve().parent.parent / "fixtures" / "agents" / "held.py"
DAY = 86_400


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)


@contextmanager
def working(runtime: Runtime, *agents: Any, **options: Any) -> Iterator[Any]:
    """A worker in a thread of this process, while the block lasts."""
    worker = runtime.worker(*agents, **options)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(40)
        assert not thread.is_alive()


def status(runtime: Runtime, run_id: str = "r") -> str:
    return runtime.state(run_id).status


def suspended(runtime: Runtime, run_id: str = "r") -> bool:
    state = runtime.state(run_id)
    return state.status == "waiting" and state.worker is None


def kinds(runtime: Runtime, run_id: str = "r") -> list[str]:
    return [event.type for event in runtime.log.stream(stream_of(run_id))]


class Moved:
    """A clock that a test moves; the time between its moves is the system's, or stands still."""

    def __init__(self, *, still: bool = False) -> None:
        self._offset = 0
        self._still = time.time_ns() if still else None
        self.clock = Clock(now_ns=self.now_ns)

    def now_ns(self) -> int:
        return (self._still or time.time_ns()) + self._offset

    def on(self, seconds: float) -> None:
        self._offset += int(seconds * NS)


def ring(runtime: Runtime) -> None:
    """A commit that concerns nobody."""
    runtime.create_run("nobody")


@pytest.fixture
def moved() -> Moved:
    return Moved()


# Processes of their own


@attrs.frozen
class Place:
    """Where workers of a barn work, and a runtime that watches them."""

    root: Path
    runtime: Runtime
    barn: Barn
    service: Service
    _env: dict[str, str]

    def worker(self, *names: str, **options: Any) -> tuple[int, Path]:
        """Start a worker; its pid, and the file of what it says. It is there when this returns."""
        said = self.root.parent / f"said-{len(list(self.root.parent.glob('said-*')))}"
        pid = self.barn.start(self.root, said, *names, env=self._env, **options)
        until(lambda: said.exists() and "worker" in said.read_text())
        return pid, said

    def file(self, name: str) -> Path:
        return Path(self._env["HELD_PLACE"], name)


@pytest.fixture(scope="module")
def barn() -> Iterator[Barn]:
    barn = Barn(AGENTS)
    yield barn
    barn.close()


@pytest.fixture
def place(tmp_path: Path, barn: Barn, findings: Any) -> Iterator[Place]:
    (tmp_path / "place").mkdir()
    with serving(random.Random(1)) as service, Runtime.local(tmp_path / "ledger") as runtime:
        env = {"HELD_SERVICE": service.url, "HELD_PLACE": str(tmp_path / "place")}
        os.environ.update(env)
        yield Place(tmp_path / "ledger", runtime, barn, service, env)
        barn.kill_all()
        assert findings(runtime.log._store) == []


class Gate:
    """Holds the answers of a service: the effect has happened, and nobody was told."""

    def __init__(self, service: Service, what: str = "first") -> None:
        self.came = threading.Event()
        self.open = threading.Event()
        self._what = what
        service.stored = self._hold

    def _hold(self, arrival: Any) -> None:
        if arrival.what == self._what and not self.came.is_set():
            self.came.set()
            assert self.open.wait(60)


def target(name: str) -> Any:
    return load(f"{AGENTS}:{name}")


@pytest.mark.invariant(13)
def test_two_processes_never_carry_one_run_at_once(place: Place) -> None:
    """Runs change hands again and again, and an agent that locks a file of its run's always gets the lock."""
    names = ("lonely", "lonely_in_a_row")
    ids = [place.runtime.create_run(target(names[number % 2])) for number in range(24)]
    pids = {place.worker(*names, concurrency=3)[0] for _ in range(3)}

    until(lambda: all(place.runtime.state(run_id).ended for run_id in ids), 60)

    results = [place.runtime.result(run_id) for run_id in ids]
    assert [result.message for result in results if not result.ok] == []
    assert {pid for result in results for pid in result.output} == pids
    assert any(len(set(result.output)) > 1 for result in results)
    for run_id in ids:
        events = [event.body for event in place.runtime.log.stream(stream_of(run_id), contents=False)]
        turns = [body for body in events if isinstance(body, (StepClaimed, StepReleased))]
        assert [isinstance(body, StepClaimed) for body in turns] == [n % 2 == 0 for n in range(len(turns))]
        assert [body.epoch for body in turns[::2]] == list(range(1, len(turns[::2]) + 1))


@pytest.mark.invariant(13)
@pytest.mark.parametrize("agent_name", ["writer", "writer_in_a_row"])
@pytest.mark.parametrize("verify_knows", [True, False])
def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(
    agent_name: str, verify_knows: bool, place: Place
) -> None:
    """It adds what became of its own call, where nobody knows yet, and says so; nothing else is its to write."""
    if not verify_knows:
        place.file("nobody-knows").touch()
    gate, runtime = Gate(place.service), place.runtime
    first, said = place.worker(agent_name, lease=1.0)
    runtime.create_run(target(agent_name), run_id="r")
    assert gate.came.wait(20)
    os.kill(first, signal.SIGSTOP)
    second, _ = place.worker(agent_name, lease=30.0)

    until(lambda: runtime.state("r").epoch == 2)
    until(lambda: "tool_call_settled" in kinds(runtime) if verify_knows else runtime.state("r").in_doubt)
    gate.open.set()
    os.kill(first, signal.SIGCONT)
    until(lambda: "Lost" in said.read_text())
    place.file("nobody-knows").unlink(missing_ok=True)
    until(lambda: runtime.state("r").ended)

    assert "WARNING Lost" in said.read_text()
    assert runtime.result("r").output == ["first", "second"]
    assert runtime.result("r").state == {"first": True, "second": True}
    assert [body.by for body in bodies(runtime, "tool_call_settled")] == ["verify" if verify_knows else "late"]
    assert [arrival.what for arrival in place.service.arrivals] == ["first", "second"]
    assert place.service.arrivals[0].pid == first
    events = list(runtime.log.stream(stream_of("r")))
    over = next(number for number, event in enumerate(events) if event.type == "lease_expired")
    late = [event for event in events[over + 1 :] if event.epoch == 1 or event.actor == "late worker"]
    assert [event.type for event in late] == ([] if verify_knows else ["tool_call_settled"])
    assert runtime.state("r").in_doubt == []
    asked = [body for body in bodies(runtime, "tool_call_failed") if body.category == "unknown"]
    assert len(asked) <= 1 + (events[-1].time_ns - events[0].time_ns) // NS  # a hook that cannot say is left in peace
    replayed(runtime, target(agent_name))


def test_a_killed_workers_run_is_taken_over_without_waiting_for_its_lease(place: Place) -> None:
    """A lease of an hour, and a worker that is killed: another one that was there before goes on at once."""
    gate = Gate(place.service)
    first, _ = place.worker("writer", lease=3600.0)
    place.runtime.create_run(target("writer"), run_id="r")
    assert gate.came.wait(20)
    second, _ = place.worker("writer", lease=3600.0)
    os.kill(first, signal.SIGKILL)

    until(lambda: place.runtime.state("r").ended, 20)

    assert [body.by for body in bodies(place.runtime, "tool_call_settled")] == ["verify"]
    assert [arrival.pid for arrival in place.service.arrivals] == [first, second]
    assert place.runtime.state("r").epoch == 2


def test_a_run_that_costs_one_worker_after_the_other_is_parked_and_can_be_resumed(place: Place) -> None:
    """After `max_losses` workers no more are spent on it; a person mends it, and it goes on."""
    runtime = place.runtime
    runtime.create_run(target("deadly"), run_id="r", retry_policy={"max_losses": 3})
    for losses in range(1, 4):
        pid, _ = place.worker("deadly")
        assert place.barn.code(pid) == -signal.SIGKILL
        assert runtime.recover_expired_leases() == ["r"]
        assert bodies(runtime, "run_parked") == [] or losses == 3
    pid, _ = place.worker("deadly", "lonely")
    place.runtime.create_run(target("lonely"), run_id="other")
    until(lambda: runtime.state("other").ended)

    assert (status(runtime), runtime.state("r").epoch) == ("parked", 3)

    place.file("cured").touch()
    assert runtime.resume("r", target("deadly")).output == "cured"
    assert runtime.result("r").state == {"lived": True}


@pytest.mark.parametrize("agent_name", ["writer", "writer_in_a_row"])
def test_a_worker_that_is_told_to_end_finishes_what_it_holds(agent_name: str, place: Place) -> None:
    """SIGTERM while a tool runs: with time, the run comes to its end, and the process ends well."""
    gate = Gate(place.service)
    pid, said = place.worker(agent_name, grace=30.0)
    place.runtime.create_run(target(agent_name), run_id="r")
    assert gate.came.wait(20)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.1)
    gate.open.set()

    assert place.barn.code(pid) == 0
    assert place.runtime.result("r").output == ["first", "second"]
    assert said.read_text().rstrip().endswith("ended")


@pytest.mark.parametrize("agent_name", ["writer", "writer_in_a_row"])
def test_a_worker_that_is_told_to_end_hands_back_what_takes_too_long(agent_name: str, place: Place) -> None:
    """With no time left, the call under way gets its outcome, nothing more begins, and others go on."""
    gate, runtime = Gate(place.service), place.runtime
    pid, _ = place.worker(agent_name, grace=0.05)
    runtime.create_run(target(agent_name), run_id="r")
    assert gate.came.wait(20)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)
    gate.open.set()

    assert place.barn.code(pid) == 0
    state = runtime.state("r")
    assert (state.status, state.worker, state.ledger["1"].status) == ("pending", None, "SUCCEEDED")
    assert runtime.log.queued(schedule.HELD) == []
    assert [arrival.what for arrival in place.service.arrivals] == ["first"]

    other, _ = place.worker(agent_name)
    until(lambda: runtime.state("r").ended)
    assert runtime.result("r").output == ["first", "second"]
    assert [arrival.pid for arrival in place.service.arrivals] == [pid, other]
    assert bodies(runtime, "lease_expired") == bodies(runtime, "tool_call_settled") == []


# What is claimed


def test_the_most_urgent_is_claimed_first_and_then_the_oldest(runtime: Runtime) -> None:
    """One run at a time: by priority, and among equals by age."""
    order: list[str] = []

    @agent
    async def noted(ctx):
        order.append(ctx.run_id)

    for name, priority in (("a", 0), ("b", -128), ("c", 127), ("d", 0), ("e", 127), ("f", 1)):
        runtime.create_run(noted, run_id=name, priority=priority)
    runtime.worker(noted, concurrency=1).run(drain=True)

    assert order == ["c", "e", "f", "a", "d", "b"]


def test_a_worker_claims_only_what_it_can_do(runtime: Runtime) -> None:
    """A run's capabilities must all be a worker's; what it cannot do keeps it from nothing else."""

    @agent
    async def anything(ctx):
        return "done"

    needs_of = {"plain": [], "gpu": ["gpu"], "both": ["gpu", "eu"], "eu": ["eu"]}
    for name, wanted in needs_of.items():
        runtime.create_run(anything, run_id=name, capabilities=wanted, priority=len(wanted))
    done = lambda: {name for name in needs_of if runtime.state(name).ended}

    runtime.worker(anything).run(drain=True)
    assert done() == {"plain"}
    runtime.worker(anything, capabilities=["eu", "x"]).run(drain=True)
    assert done() == {"plain", "eu"}
    runtime.worker(anything, capabilities=["gpu", "eu"]).run(drain=True)
    assert done() == set(needs_of)
    with pytest.raises(BadInput, match="a list of names"):
        runtime.worker(anything, capabilities="gpu")


def test_a_worker_claims_runs_of_its_own_code_or_nobodys(runtime: Runtime) -> None:
    """A run that other code was to work on is left alone, unless the worker is told to take any code."""

    @agent
    async def coded(ctx):
        await ctx.sleep(1 if ctx.run_id == "begun" else 0)
        return "done"

    other = attrs.evolve(agent_of(coded), code_digest=b"o" * 32)
    runtime.create_run(other, run_id="other")
    runtime.register_agent(coded)
    runtime.create_run("coded", run_id="own")
    del runtime.agents["coded"]
    runtime.create_run("coded", run_id="nobodys")
    runtime.create_run("coded", run_id="begun")

    runtime.worker(coded).run(drain=True)
    assert {name: status(runtime, name) for name in ("other", "own", "nobodys", "begun")} == {
        "other": "pending",
        "own": "completed",
        "nobodys": "completed",
        "begun": "waiting",
    }
    assert runtime.state("begun").code_digest == agent_of(coded).code_digest  # the first claim made it this code's
    time.sleep(1.1)
    runtime.worker(other).run(drain=True)
    assert (status(runtime, "other"), status(runtime, "begun")) == ("completed", "waiting")
    runtime.worker(other, any_code=True).run(drain=True)
    assert status(runtime, "begun") == "completed"


def test_agents_that_a_worker_does_not_serve_are_left_alone(runtime: Runtime) -> None:
    """Thousands of runs of another agent, more urgent ones, keep nobody from the one that is served."""

    @agent
    async def served(ctx):
        return "done"

    _sleepers(runtime, 0, ready=300, agent_name="another", priority=100)
    runtime.create_run(served, run_id="r")
    runtime.worker(served, concurrency=1).run(drain=True)

    assert runtime.result("r").output == "done"
    assert {runtime.state(f"ready-{number}").status for number in range(300)} == {"pending"}


# Waiting


@agent
async def month(ctx):
    begun = ctx.now()
    await ctx.sleep(30 * DAY)
    return (ctx.now() - begun).days


@agent
def month_in_a_row(ctx):
    begun = ctx.now()
    ctx.sleep(30 * DAY)
    return (ctx.now() - begun).days


@pytest.mark.parametrize("function", [month, month_in_a_row])
@pytest.mark.parametrize("rung", [True, False])
def test_a_month_of_sleep_holds_nobody_and_ends_in_time(
    function: Any, rung: bool, moved: Moved, tmp_path: Path
) -> None:
    """It wakes when the clock says so: at the next commit, or, with none, within the seconds of a worker's look."""
    with Runtime.local(tmp_path, clock=moved.clock) as runtime, working(runtime, function):
        runtime.create_run(function, run_id="r")
        until(lambda: suspended(runtime))
        moved.on(30 * DAY - 60)
        ring(runtime)
        time.sleep(0.2)
        assert suspended(runtime)

        moved.on(60)
        if rung:
            ring(runtime)
        until(lambda: runtime.state("r").ended, 20)

    with Runtime.local(tmp_path) as runtime:
        assert runtime.result("r").output == 30
        assert runtime.state("r").epoch == 2
        replayed(runtime, function)


def test_a_signal_that_comes_while_the_code_sleeps_is_there_afterwards(runtime: Runtime) -> None:
    """Signals are taken in their order, once, also those that came before anybody waited."""

    @agent
    async def listens(ctx):
        await ctx.sleep(0.6)
        return [await ctx.wait_signal("s"), await ctx.wait_signal("s"), await ctx.wait_signal("s")]

    runtime.create_run(listens, run_id="r")
    runtime.signal("r", "s", 1)
    with working(runtime, listens):
        until(lambda: suspended(runtime))
        runtime.signal("r", "s", 2)
        until(lambda: len(bodies(runtime, "wait_answered")) == 2 and suspended(runtime))
        runtime.signal("r", "s", 3)
        until(lambda: runtime.state("r").ended)

    assert runtime.result("r").output == [1, 2, 3]
    replayed(runtime, listens)


IDLE = """
import asyncio, sys, threading, time
from agentledger import Runtime, agent

@agent
async def sleeper(ctx):
    await ctx.sleep(3600)

with Runtime.local(sys.argv[1]) as runtime:
    worker = runtime.worker(sleeper)
    thread = threading.Thread(target=worker.run)
    thread.start()
    time.sleep(2)
    before = worker.looks + runtime.pulse.looks
    time.sleep(float(sys.argv[2]))
    print(worker.looks + runtime.pulse.looks - before, worker.carried, len(runtime.log.queued(b"t", limit=20_000)))
    worker.stop()
    thread.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize("served", [True, False])
def test_an_idle_worker_syncs_nothing_and_hardly_wakes(served: bool, python: Any, tmp_path: Path) -> None:
    """With 10,000 sleeping runs: no sync at all, and fewer than 60 wakes in a minute."""
    needs.strace()
    with Runtime.local(tmp_path / "ledger") as runtime:
        _sleepers(runtime, 10_000, agent_name="sleeper" if served else "another")
    trace = tmp_path / "trace"
    before = ("strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fdatasync,fsync,msync,sync_file_range,sync")

    said = python.run(IDLE, tmp_path / "ledger", 12, before=before, timeout=120)

    looks, carried, sleeping = map(int, said.split())
    assert looks * 60 / 12 < 60
    assert (carried, sleeping) == (0, 10_000)
    assert [line for line in trace.read_text().splitlines() if "sync" in line] == []


def test_claiming_reads_as_much_with_ten_thousand_sleepers_as_with_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rows of the queue that are read to find, claim and carry a new run do not become more."""
    read = 0
    scan = queue.scan

    def counted(*arguments: Any) -> Iterator[Any]:
        nonlocal read
        for row in scan(*arguments):
            read += 1
            yield row

    @agent
    async def new(ctx):
        return "done"

    def costs(runtime: Runtime, run_id: str) -> int:
        nonlocal read
        runtime.create_run(new, run_id=run_id)
        read = 0
        assert runtime.run_once(new) == 1
        assert runtime.result(run_id).output == "done"
        return read

    monkeypatch.setattr(queue, "scan", counted)
    with Runtime.local(tmp_path) as runtime:
        empty = costs(runtime, "first")
        _sleepers(runtime, 10_000, agent_name="new")
        assert costs(runtime, "second") <= empty + 10


def _sleepers(
    runtime: Runtime, sleeping: int, *, ready: int = 0, agent_name: str = "sleeper", priority: int | None = None
) -> None:
    """Runs that were claimed and sleep for a day, and ready ones, put into the log as workers put them there."""

    def family(names: list[str]) -> Callable[[Any], Iterator[Any]]:
        def decision(view: Any) -> Iterator[Any]:
            runs = runtime.desk.runs(view)
            for name in names:
                created = RunCreated(
                    run=name, agent=agent_name, seed=bytes(32), initial_state={}, priority=priority, role=None
                )
                drafts: list[Any] = decide.create(created, f"step-{name}")
                if name.startswith("sleeps"):
                    wake = runtime.log.clock.now_ns() + DAY * NS
                    drafts += [
                        StepClaimed(step=f"step-{name}", epoch=1, worker="w", base_version=0),
                        TimerStarted(path="1", request=b"r" * 32, wake_ns=wake, asked={"seconds": DAY}),
                        StepReleased(step=f"step-{name}", epoch=1, waiting="waits"),
                    ]
                yield from runs.drafts(RunState(), drafts)

        return decision

    names = [f"sleeps-{number}" for number in range(sleeping)] + [f"ready-{number}" for number in range(ready)]
    for start in range(0, len(names), 500):
        runtime.log.decide(family(names[start : start + 500]))


# Cancelling


class Busy:
    """A tool that is under way until it is let go."""

    def __init__(self, side_effect: str = "external_write") -> None:
        self.came, self.go = threading.Event(), threading.Event()
        self.calls: list[str] = []

        @tool(name="busy", side_effect=side_effect, verify=self._verify if side_effect == "external_write" else None)
        async def busy(what: str) -> str:
            self.calls.append(what)
            self.came.set()
            await asyncio.to_thread(self.go.wait, 30)
            return what

        self.tool = busy

    def _verify(self, **_: Any) -> str:
        raise NoEffect


def test_a_run_is_cancelled_while_its_tool_runs(runtime: Runtime) -> None:
    """The call comes to its end and into the log, nothing begins behind it, and the run has ended."""
    busy = Busy()

    @agent(tools=[busy.tool])
    async def works(ctx):
        ctx.write_state_patch("x", 1)
        await ctx.call_tool("busy", what="first")
        await ctx.call_tool("busy", what="second")

    with working(runtime, works):
        runtime.create_run(works, run_id="r")
        assert busy.came.wait(20)
        assert runtime.cancel_run("r", "enough")
        assert not runtime.cancel_run("r", "enough")
        assert status(runtime) == "running"
        busy.go.set()
        until(lambda: runtime.state("r").ended)

    assert status(runtime) == "cancelled"
    assert busy.calls == ["first"]
    assert runtime.result("r").state == {}
    assert [body.result for body in bodies(runtime, "tool_call_completed")] == ["first"]
    assert runtime.state("r").ledger["2"].status == "SUCCEEDED"
    with pytest.raises(Refused, match="cancelled"):
        runtime.cancel_run("r")


@pytest.mark.parametrize("wait", ["sleep", "signal", "approval"])
def test_a_run_that_waits_is_cancelled_at_once(wait: str, runtime: Runtime) -> None:
    """Nobody holds it, so nobody is waited for; what it waited for is not taken any more."""

    @agent
    async def waits(ctx):
        if wait == "sleep":
            await ctx.sleep(DAY)
        elif wait == "signal":
            await ctx.wait_signal("s")
        else:
            await ctx.request_approval("?")

    with working(runtime, waits):
        runtime.create_run(waits, run_id="r")
        until(lambda: suspended(runtime))
        assert runtime.cancel_run("r")
        assert status(runtime) == "cancelled"

    assert runtime.log.queued() == []
    assert runtime.state("r").epoch == 1
    with pytest.raises(Refused):
        runtime.signal("r", "s")


def test_a_run_is_cancelled_with_its_children(runtime: Runtime) -> None:
    """Children that sleep end at once, one that is at work at its next effect; those of others are left alone."""
    busy = Busy()

    @agent(tools=[busy.tool])
    async def young(ctx, state):
        if state["works"]:
            await ctx.call_tool("busy", what="child")
        await ctx.sleep(DAY)

    @agent
    async def old(ctx):
        children = [await ctx.spawn(young, {"works": works}, run_id=f"child-{works}") for works in (0, 1)]
        try:
            for child in children:
                await child.join()
        except ChildFailed:
            return "told"

    with working(runtime, old, young):
        runtime.create_run(young, run_id="another", initial_state={"works": 0})
        runtime.create_run(old, run_id="r")
        assert busy.came.wait(20)
        until(lambda: suspended(runtime) and suspended(runtime, "child-0") and suspended(runtime, "another"))
        runtime.cancel_run("r", "enough")
        assert [status(runtime, name) for name in ("r", "child-0", "child-1")] == ["cancelled", "cancelled", "running"]
        busy.go.set()
        until(lambda: runtime.state("child-1").ended)

    assert [status(runtime, name) for name in ("r", "child-1", "another")] == ["cancelled", "cancelled", "waiting"]
    assert len(runtime.log.queued()) == 1


def test_a_parent_is_told_of_a_child_that_was_cancelled(runtime: Runtime) -> None:
    """A child may be cancelled alone: its parent's join fails, and the parent goes on."""

    @agent
    async def young(ctx):
        await ctx.sleep(DAY)

    @agent
    async def old(ctx):
        try:
            await (await ctx.spawn(young, run_id="child")).join()
        except ChildFailed as error:
            return error.error_type

    with working(runtime, old, young):
        runtime.create_run(old, run_id="r")
        until(lambda: suspended(runtime) and suspended(runtime, "child"))
        runtime.cancel_run("child")
        until(lambda: runtime.state("r").ended)

    assert runtime.result("r").output == "Cancelled"
    replayed(runtime, old)


# Failures


@pytest.mark.parametrize("side_effect", ["external_write", "external_read"])
def test_an_outage_is_waited_for_without_a_worker_and_burns_nothing(
    side_effect: str, moved: Moved, tmp_path: Path
) -> None:
    """The other side is away for hours: no attempt is used up, and between its looks nobody holds the run."""
    away = [True]

    @tool(side_effect=side_effect, verify=lambda **_: 1 / 0)
    def post() -> str:
        if away:
            raise Unavailable("it is away")
        return "posted"

    @agent(tools=[post])
    async def posts(ctx):
        return await ctx.call_tool("post")

    with Runtime.local(tmp_path, clock=moved.clock) as runtime, working(runtime, posts):
        runtime.create_run(posts, run_id="r", retry_policy={"max_attempts": 1, "max_losses": 1})
        while not runtime.state("r").ended:
            until(lambda: suspended(runtime) or runtime.state("r").ended)
            if len(bodies(runtime, "tool_call_failed")) >= 8:
                away.clear()
            moved.on(61)
            ring(runtime)
            until(lambda: not suspended(runtime))

        failed = bodies(runtime, "tool_call_failed")
        assert runtime.result("r").output == "posted"
        assert {body.category for body in failed} == {"outage"}
        assert not any(body.in_doubt for body in failed)
        released = [body.waiting for body in bodies(runtime, "step_released")]
        assert (set(released), len(failed)) == ({"waits"}, 8)
        assert len(released) <= len(failed)  # a first pause may be short enough to be held
        assert bodies(runtime, "step_retry_scheduled") == bodies(runtime, "tool_call_settled") == []
        replayed(runtime, posts)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_tool_has_so_much_time(is_async: bool, runtime: Runtime) -> None:
    """A read that takes too long has failed; of an outside write, its hook is asked."""
    let_go = threading.Event()

    async def hang() -> None:
        await asyncio.to_thread(let_go.wait, 30)

    def hang_here() -> None:
        let_go.wait(30)

    function = hang if is_async else hang_here
    reading = tool(name="read", side_effect="external_read", timeout=0.05)(function)

    async def hang_too() -> None:
        await hang()

    def hang_here_too() -> None:
        hang_here()

    writing = tool(name="write", side_effect="external_write", timeout=0.05, verify=lambda: "found")(
        hang_too if is_async else hang_here_too
    )

    @agent(tools=[reading, writing])
    async def times(ctx):
        try:
            await ctx.call_tool("read")
        except ToolFailed as error:
            return [error.error_type, await ctx.call_tool("write")]

    with working(runtime, times):
        runtime.create_run(times, run_id="r")
        until(lambda: runtime.state("r").ended)
        let_go.set()

    assert runtime.result("r").output == ["TimeoutError", "found"]
    assert [(body.category, body.in_doubt) for body in bodies(runtime, "tool_call_failed")] == [
        ("timeout", False),
        ("timeout", True),
    ]
    assert [body.by for body in bodies(runtime, "tool_call_settled")] == ["verify"]
    replayed(runtime, times)


def test_a_step_has_so_much_time(runtime: Runtime) -> None:
    """A step that works for longer fails of it, with what it had begun in the log; waiting is no work."""

    @tool(side_effect="external_read")
    async def slow() -> str:
        await asyncio.sleep(0.4)
        return "done"

    @agent(tools=[slow], timeout=0.3)
    async def works(ctx):
        await ctx.sleep(0.7)
        await ctx.call_tool("slow")
        await ctx.call_tool("slow")

    @agent(tools=[slow])
    def rows(ctx):
        ctx.sleep(0.7)
        ctx.call_tool("slow")
        ctx.call_tool("slow")

    with working(runtime, works, rows):
        runtime.create_run(works, run_id="r")
        runtime.create_run(rows, run_id="row", timeout=0.3)
        until(lambda: runtime.state("r").ended and runtime.state("row").ended)

    for name in ("r", "row"):
        result = runtime.result(name)
        assert (result.status, result.error_type, runtime.state(name).category) == ("failed", "TimeoutError", "timeout")
        assert len(bodies(runtime, "tool_call_requested", name)) == 1


def test_retries_follow_their_schedule(tmp_path: Path) -> None:
    """Each failure records when it is tried again; the pauses grow as the policy says, and nobody is held."""
    moved = Moved(still=True)

    @agent
    async def fails(ctx):
        raise RetryableAgentError(f"attempt {ctx.attempt}")

    policy = {"max_attempts": 4, "initial": 10.0, "factor": 3.0, "maximum": 60.0, "jitter": 0}
    with Runtime.local(tmp_path, clock=moved.clock) as runtime, working(runtime, fails):
        runtime.create_run(fails, run_id="r", retry_policy=policy)
        for pause in (10, 30, 60):
            until(lambda: suspended(runtime))
            scheduled = bodies(runtime, "step_retry_scheduled")[-1]
            assert scheduled.wake_ns - runtime.log.clock.now_ns() == pause * NS
            assert runtime.state("r").step_status == "retry_scheduled"
            moved.on(pause - 0.001)
            ring(runtime)
            time.sleep(0.05)
            assert suspended(runtime)
            moved.on(0.001)
            ring(runtime)
            until(lambda: len(bodies(runtime, "step_claimed")) > scheduled.attempt - 1)
        until(lambda: runtime.state("r").ended)

        assert [body.attempt for body in bodies(runtime, "step_retry_scheduled")] == [2, 3, 4]
        assert runtime.result("r").message == "attempt 4"
        assert (status(runtime), runtime.state("r").attempt) == ("failed", 4)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("end", ["wakes", "cancelled"])
def test_effects_of_code_that_is_torn_down_do_nothing(is_async: bool, end: str, moved: Moved, tmp_path: Path) -> None:
    """What stands in `finally` runs when the code is put to sleep, and does nothing; when it really ends, it does."""
    calls: list[int] = []
    torn: list[bool] = []

    @tool(side_effect="external_write", verify=lambda: 1 / 0)
    def clean() -> str:
        calls.append(1)
        return "cleaned"

    @agent(tools=[clean])
    async def tidy(ctx):
        try:
            await ctx.sleep(DAY)
        finally:
            torn.append(True)
            ctx.write_state_patch("tidy", True)
            await ctx.call_tool("clean")

    @agent(tools=[clean])
    def tidy_in_a_row(ctx):
        try:
            ctx.sleep(DAY)
        finally:
            torn.append(True)
            ctx.write_state_patch("tidy", True)
            ctx.call_tool("clean")

    function = tidy if is_async else tidy_in_a_row
    with Runtime.local(tmp_path, clock=moved.clock) as runtime, working(runtime, function):
        runtime.create_run(function, run_id="r")
        until(lambda: suspended(runtime))
        assert (torn, calls) == ([True], [])
        assert kinds(runtime)[-2:] == ["timer_started", "step_released"]
        if end == "cancelled":
            runtime.cancel_run("r")
            assert (status(runtime), calls) == ("cancelled", [])
            return
        moved.on(DAY)
        ring(runtime)
        until(lambda: runtime.state("r").ended)
        assert (status(runtime), calls) == ("completed", [1])
        assert runtime.result("r").state == {"tidy": True}
        replayed(runtime, function)
