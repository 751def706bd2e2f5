"""Workers: what they claim, and what they do when they lose it, end or wait; in real processes where it matters."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import needs
import pytest
from suites.barn import Barn
from suites.runs import bodies, replayed
from suites.service import Service, serving
from suites.workers import Moved, kinds, ring, status, suspended, until, working

from agentledger import BadInput, Runtime, agent
from ledger_core.clock import NS
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
