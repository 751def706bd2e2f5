"""A storm: hundreds of runs over workers that are killed and stopped at random; afterwards all is as it should be.

`STORM_SEED` repeats a storm's dice (not its timing), `STORM_SECONDS` makes it longer.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from suites.barn import Barn
from suites.service import Arrival, Service, serving

from ledger_core.events.effect import ToolCallCompleted, ToolCallFailed, ToolCallRequested, ToolCallSettled
from ledger_core.events.step import LeaseExpired
from ledger_core.log.lmdb_store import open_store
from ledger_core.log.log import STORE
from ledger_core.runtime.recorded import RunRecord, stream_of
from ledger_core.runtime.runtime import Runtime
from ledger_core.runtime.target import load
from replay.replaying import replay

AGENTS = Path(__file__).resolve().parent.parent / "fixtures" / "agents" / "storm.py"
SECONDS = float(os.environ.get("STORM_SECONDS", "60"))
RUNS = int(5 * SECONDS)
WORKERS = 4
LEASE = 2.0
PATIENCE = 240.0
"""Seconds for which workers may go on after the storm."""


PLACES = ("effect-before", "effect-after", "verify-before", "commit-before", "commit-after", "agent-ended")


class Weather:
    """Keeps workers there, kills and stops them; all signals are sent under one lock, to processes not yet reaped."""

    def __init__(self, barn: Barn, root: Path, dice: random.Random) -> None:
        self._barn, self._root, self._dice = barn, root, dice
        self._mutex = threading.Lock()
        self._alive: set[int] = set()
        self._stopped: dict[int, float] = {}
        self._calm = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._blow)
        self.killed: dict[int, float] = {}
        """When each worker was killed, or was found to have killed itself."""
        self.stops = self._made = 0
        self.unasked: dict[int, int] = {}
        """Exit codes of workers that ended and were not killed."""

    def begin(self) -> None:
        self._thread.start()

    def calm(self) -> None:
        """No more harm; workers are kept."""
        self._calm.set()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def strike(self, arrival: Arrival) -> None:
        """Kill or stop who is just waiting for an answer, sometimes."""
        if not self._strike(arrival.pid, 0.06):
            with self._mutex:
                if not self._calm.is_set() and self._dice.random() < 0.05:
                    self._stop(arrival.pid)

    def still(self, service: Service, key: str) -> bool:
        """Whether what arrived under a key came from a worker that is stopped: it may say itself what became of it."""
        with self._mutex:
            return any(arrival.key == key and arrival.pid in self._stopped for arrival in list(service.arrivals))

    def shake(self, pid: int) -> None:
        """Kill whose request has just been sent, sometimes: it arrives all the same, a little later."""
        if self._strike(pid, 0.01):
            time.sleep(0.1)

    def _strike(self, pid: int, chance: float) -> bool:
        with self._mutex:
            struck = not self._calm.is_set() and self._dice.random() < chance
            if struck:
                self._kill(pid)
            return struck

    def _kill(self, pid: int) -> None:
        if pid in self._alive and pid not in self.killed:
            self.killed[pid] = time.monotonic()
            os.kill(pid, signal.SIGKILL)

    def _stop(self, pid: int) -> None:
        """Stop a worker past its lease, one at a time."""
        if pid in self._alive and pid not in self.killed and not self._stopped:
            self._stopped[pid] = time.monotonic() + self._dice.uniform(1.5 * LEASE, 2 * LEASE)
            self.stops += 1
            os.kill(pid, signal.SIGSTOP)

    def _worker(self) -> int:
        self._made += 1
        place = f"{self._dice.choice(PLACES)}:{self._dice.randint(1, 40)}"
        armed = place if not self._calm.is_set() and self._dice.random() < 0.3 else ""
        said = self._root.parent / f"said-{self._made:04}"
        return self._barn.start(self._root, said, lease=LEASE, failpoint=armed, concurrency=8)

    def _blow(self) -> None:
        next_kill = next_stop = time.monotonic() + 1
        while not self._over.wait(0.02):
            now = time.monotonic()
            with self._mutex:
                for pid, code in self._barn.dead().items():
                    self._alive.discard(pid)
                    self._stopped.pop(pid, None)
                    if code == -signal.SIGKILL:
                        self.killed.setdefault(pid, now)
                    else:
                        self.unasked[pid] = code
                for pid in [pid for pid, until in self._stopped.items() if now > until or self._calm.is_set()]:
                    del self._stopped[pid]
                    os.kill(pid, signal.SIGCONT)
                while len(self._alive) < WORKERS:
                    self._alive.add(self._worker())
                if self._calm.is_set():
                    continue
                at_large = sorted(self._alive - self.killed.keys() - self._stopped.keys())
                if now > next_kill and at_large:
                    next_kill = now + self._dice.uniform(0.2, 1.4)
                    self._kill(self._dice.choice(at_large))
                elif now > next_stop and len(at_large) > 2:
                    next_stop = now + self._dice.uniform(2, 6)
                    self._stop(self._dice.choice(at_large))


@attrs.define(kw_only=True)
class Started:
    """A run of the storm's, and what it was told."""

    kind: str
    state: dict[str, Any]
    payloads: list[str]
    approved: bool


class World:
    """Starts runs all through the storm, and sends them what they wait for, at times that it throws dice for."""

    def __init__(self, runtime: Runtime, dice: random.Random) -> None:
        self._runtime, self._dice = runtime, dice
        self._module = load(f"{AGENTS}:clerk").function.__globals__
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.runs: dict[str, Started] = {}

    def go_on(self, seconds: float) -> None:
        """Until everything that was to be done is done."""
        begun = time.monotonic()
        for number in range(RUNS):
            kind = self._module["KINDS"][number % len(self._module["KINDS"])]
            self._later(
                begun + self._dice.uniform(0, 0.85 * seconds),
                lambda kind=kind, number=number: self._start(kind, number),
            )
        while self._agenda:
            self._agenda.sort(key=lambda item: item[:2])
            when, _, act = self._agenda.pop(0)
            time.sleep(max(0.0, when - time.monotonic()))
            act()

    def _later(self, when: float, act: Callable[[], None]) -> None:
        self._agenda.append((when, len(self._agenda), act))

    def _start(self, kind: Any, number: int) -> None:
        name = kind.__name__
        pause = self._dice.choice((0.05, 0.2, 0.7, 1.5, 3.0))
        state = {"name": f"{name} {number}", "pause": pause, "fails": self._dice.randint(0, 2)}
        retry = {"max_attempts": 5, "initial": 0.1, "maximum": 0.8, "max_losses": 1000}
        run_id = self._runtime.create_run(
            kind, initial_state=state, priority=self._dice.randint(-3, 3), retry_policy=retry
        )
        payloads = [f"{number}-{place}" for place in range({"listener": 2, "rower": 1}.get(name, 0))]
        approved = self._dice.random() < 0.7
        self.runs[run_id] = Started(kind=name, state=state, payloads=payloads, approved=approved)
        now = time.monotonic()
        times = sorted(now + self._dice.uniform(0, 6) for _ in payloads)
        for when, payload in zip(times, payloads, strict=True):
            self._later(when, lambda payload=payload: self._signal(run_id, "go", payload))
        if name == "listener":
            self._later(now + self._dice.uniform(0, 6), lambda: self._signal(run_id, "other", "else"))
        if name == "asker":
            self._later(now + self._dice.uniform(0, 4), lambda: self._answer(run_id, approved))

    def _signal(self, run_id: str, name: str, payload: str) -> None:
        assert self._runtime.signal(run_id, name, payload, sender_id=payload)
        assert not self._runtime.signal(run_id, name, payload, sender_id=payload)

    def _answer(self, run_id: str, approved: bool) -> None:
        asked = list(self._runtime.state(run_id).approvals)
        if asked:
            (self._runtime.approve if approved else self._runtime.deny)(asked[0], by="a person")
        else:
            self._later(time.monotonic() + 0.3, lambda: self._answer(run_id, approved))


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("STORM_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"STORM_SEED={seed}")
    return seed


@pytest.mark.slow
@pytest.mark.invariant(7, 12, 13, 15)
def test_a_storm(seed: int, tmp_path: Path, findings: Any) -> None:
    """Whoever is killed or stopped, whenever: every run comes to its end, and every effect happens exactly once."""
    dice, root = random.Random(seed), tmp_path / "ledger"
    with Runtime.local(root, lease=LEASE) as runtime, serving(random.Random(seed + 1), slowest=0.08) as service:
        os.environ["STORM_SERVICE"] = service.url
        service.refuses, fog = _refuses, random.Random(seed + 3)
        barn = Barn(AGENTS, STORM_SERVICE=service.url)
        weather, world = Weather(barn, root, random.Random(seed + 2)), World(runtime, dice)
        service.stored, service.arriving = weather.strike, weather.shake
        service.mute = lambda key: fog.random() < (0.8 if weather.still(service, key) else 0.3)
        begun = time.monotonic()
        try:
            weather.begin()
            world.go_on(SECONDS)
            time.sleep(max(0.0, begun + SECONDS - time.monotonic()))
            calm = time.monotonic()
            weather.calm()
            left = _wait_until_all_have_ended(runtime, PATIENCE)
            ended = time.monotonic()
        finally:
            weather.end()
            barn.close()
        between, late = _killed_between(runtime, service, weather.killed)
        print(
            f"{len(world.runs)} runs, {runtime.log.head().seq} events, {len(service.arrivals)} effects; "
            f"{len(weather.killed)} kills, {len(between)} of them between {sum(between.values())} effects and their "
            f"outcomes, {late} effects of the dead arrived late; {weather.stops} stops; "
            f"{calm - begun:.0f} s of storm, {ended - calm:.1f} s of calm; "
            f"settled: {dict(_settled(runtime))}"
        )
        said = "".join(path.read_text(errors="replace") for path in sorted(tmp_path.glob("said-*")))
        assert not left, f"{_how(runtime, left)}\n{_worth_reading(said)}"
        assert weather.unasked == {}, _worth_reading(said)
        assert "Traceback" not in said, _worth_reading(said)
        _all_is_well(runtime, world, service)
        assert len(between) >= SECONDS / 2
        assert weather.stops >= SECONDS / 10
    store = open_store(root / STORE, readonly=True)
    try:
        assert findings(store) == []
    finally:
        store.close()


def _refuses(what: str, before: int) -> int:
    if before == 0 and what.endswith("/refused first"):
        return 409
    return 503 if before == 0 and what.endswith("/away first") else 0


def _wait_until_all_have_ended(runtime: Runtime, patience: float) -> list[str]:
    """Streams that are left in the queue after so many seconds."""
    end = time.monotonic() + patience
    while left := [row.stream for row in runtime.log.queued(limit=1000)]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return left


def _killed_between(runtime: Runtime, service: Service, killed: dict[int, float]) -> tuple[Counter[int], int]:
    """Workers that were killed while effects of theirs had happened and had no outcome in the log, with how many.

    And how many effects happened when whoever had asked for them was dead.
    """
    keys = {arrival.key: arrival for arrival in service.arrivals}
    between, late = Counter[int](), 0
    for stream in runtime.log.streams("run/"):
        open_: set[str] = set()
        lost: set[str] = set()
        for event in runtime.log.stream(stream):
            body = event.body
            if isinstance(body, ToolCallRequested) and body.side_effect == "external_write":
                open_.add(body.path)
            elif isinstance(body, (ToolCallCompleted, ToolCallFailed)):
                open_.discard(body.path)
            elif isinstance(body, LeaseExpired):
                lost |= open_
            elif isinstance(body, ToolCallSettled) and body.path in lost and body.outcome == "succeeded":
                lost.discard(body.path)
                arrival = keys[body.result["key"]]
                if arrival.at <= killed.get(arrival.pid, 0.0):
                    between[arrival.pid] += 1
                late += arrival.at > killed.get(arrival.pid, arrival.at)
    return between, late


def _settled(runtime: Runtime) -> Counter[str]:
    bodies = (event.body for event in runtime.log.read(contents=False))
    return Counter(f"{body.outcome} by {body.by}" for body in bodies if isinstance(body, ToolCallSettled))


def _all_is_well(runtime: Runtime, world: World, service: Service) -> None:
    """Every run ended as it should, what they recorded is what arrived, once, and all can be replayed."""
    assert {row.key: row.stream for row in runtime.log.queued(limit=1000)} == {}
    wanted: set[str] = set()
    for run_id, started in world.runs.items():
        result = runtime.result(run_id)
        assert result.status == ("failed" if started.kind == "doomed" else "completed"), result
        assert result.output == _output(started), result
        last = (started.payloads or [""])[-1]
        wanted |= world._module["writes"](started.kind, started.state, last=last, approved=started.approved)
    assert Counter(arrival.what for arrival in service.arrivals) == Counter(wanted)
    recorded: Counter[str] = Counter()
    for stream in runtime.log.streams("run/"):
        run_id = stream.removeprefix("run/")
        recorded.update(entry["key"] for entry in _results(runtime, run_id))
        record = RunRecord.read(runtime.log, run_id)
        assert record.state.status in ("completed", "failed")
        assert record.state.in_doubt == []
        again = replay(runtime, run_id, load(f"{AGENTS}:{record.state.step_agent}"))
        assert again.ok and again.complete, again.divergence
    assert recorded == Counter(arrival.key for arrival in service.arrivals)


def _results(runtime: Runtime, run_id: str) -> list[Any]:
    """Results of a run's outside writes."""
    found = []
    for event in runtime.log.stream(stream_of(run_id)):
        body = event.body
        done = isinstance(body, ToolCallCompleted) or (
            isinstance(body, ToolCallSettled) and body.outcome == "succeeded"
        )
        if done and isinstance(body.result, dict):
            found.append(body.result)
    return found


def _output(started: Started) -> Any:
    name, payloads, fails = started.state["name"], started.payloads, started.state["fails"]
    return {
        "clerk": lambda: {"seen": [0, f"{name}/0", 1, f"{name}/1", 4, f"{name}/2"], "once": True},
        "sleeper": lambda: "slept",
        "listener": lambda: [payloads[0], f"{name}/between", "else", payloads[1]],
        "parent": lambda: ["ValueError" if number == fails else f"{name}.{number}" for number in range(2)],
        "crowd": lambda: [["answer 1"] * 4, [3, 2, 1]],
        "rower": lambda: [[0, 1, 4], "answer 1", payloads[0]],
        "stubborn": lambda: 3,
        "relay": lambda: 3,
        "asker": lambda: started.approved,
        "doomed": lambda: None,
        "shy": lambda: None,
    }[started.kind]()


def _how(runtime: Runtime, streams: list[str]) -> str:
    lines = []
    for stream in streams[:20]:
        state = runtime.state(stream.removeprefix("run/"))
        lines.append(
            f"{stream} {state.agent} {state.status} {state.waiting} {state.worker} {list(state.waits.values())}"
        )
    return "\n".join(lines)


def _worth_reading(said: str) -> str:
    """What workers said, but for what they say all the time."""
    return "\n".join([line for line in said.splitlines() if not line.startswith(("INFO", "worker "))][-60:])
