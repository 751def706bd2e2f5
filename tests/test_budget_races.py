"""Many processes on one budget, and on one logical key: real workers, a real service, real kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from suites.service import Arrival, Service, serving
from suites.workers import until

from agentledger import Budget, Runtime
from ledger_core.log import audit

AGENTS = Path(__file__).resolve().parent.parent / "fixtures" / "agents" / "spender.py"
WORKERS = 8


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(random.Random(4), slowest=0.01) as service:
        os.environ["SPENDER_SERVICE"] = service.url
        yield service


class Crew:
    """Worker processes on one ledger; one that is killed has a successor."""

    def __init__(self, root: Path, name: str) -> None:
        self._command = [sys.executable, "-m", "agentledger", "--root", str(root), "worker", f"{AGENTS}:{name}"]
        self._command += ["--concurrency", "2", "--drain", "--lease", "5"]
        self._living: list[subprocess.Popen[bytes]] = []
        self.killed = 0

    def hire(self, number: int) -> None:
        for _ in range(number):
            quiet = subprocess.DEVNULL
            self._living.append(subprocess.Popen(self._command, stdin=quiet, stdout=quiet, stderr=quiet))

    def kill(self, pid: int) -> None:
        self.killed += 1
        os.kill(pid, signal.SIGKILL)

    def work(self, ended: object) -> None:
        """Until `ended()`; whoever is killed, or drained too early, is replaced."""

        def done() -> bool:
            gone = [one for one in self._living if one.poll() is not None]
            self._living = [one for one in self._living if one.poll() is None]
            if ended():  # type: ignore[operator]
                return True
            self.hire(len(gone))
            return False

        try:
            until(done, 150)
        finally:
            for one in self._living:
                one.kill()
                one.wait()


def _ended(runtime: Runtime, runs: list[str]) -> bool:
    return all(runtime.state(run).ended for run in runs)


def _intact(runtime: Runtime) -> bool:
    return list(audit.whole(runtime.log._store, None)) == []


@pytest.mark.slow
@pytest.mark.invariant(20)
def test_eight_workers_execute_exactly_a_hundred_calls(tmp_path: Path, service: Service) -> None:
    """Of 8 worker processes on one budget of 100 calls, which some of them do not survive, exactly 100 are executed."""
    runs = [f"r{number}" for number in range(2 * WORKERS)]
    with Runtime.local(tmp_path / "ledger") as runtime:
        runtime.set_budget(Budget(calls=100), agent="shopper")
        for run in runs:
            runtime.create_run("shopper", run_id=run)
        crew, dice = Crew(tmp_path / "ledger", "shopper"), random.Random(7)

        def stored(arrival: Arrival) -> None:
            if crew.killed < 6 and dice.random() < 0.1:
                crew.kill(arrival.pid)

        service.stored = stored
        crew.hire(WORKERS)
        crew.work(lambda: _ended(runtime, runs))
        account = next(one for one in runtime.budgets() if one.name == "agent:shopper")
        blocked = Counter(runtime.state(run).refused["budget"] for run in runs)
        results = [runtime.result(run) for run in runs]
        assert [result.message for result in results if not result.ok] == []
        bought = sum(result.output["bought"] for result in results)
        assert _intact(runtime)

    assert crew.killed == 6
    assert len(service.arrivals) == len({one.key for one in service.arrivals}) == bought == 100
    assert (account.spent["calls"], account.reserved, account.open) == (100, {}, 0)
    assert blocked == {1: len(runs)}


@pytest.mark.slow
@pytest.mark.invariant(20)
@pytest.mark.parametrize("name", ["shopper", "blind"])
def test_dollars_that_are_known_afterwards_never_pass_the_budget(tmp_path: Path, service: Service, name: str) -> None:
    """What 8 workers spend, killed now and then, stays within the budget, in the ledger and at the service."""
    runs = [f"r{number}" for number in range(WORKERS)]
    with Runtime.local(tmp_path / "ledger") as runtime:
        runtime.set_budget(Budget(usd=5.0), agent=name)
        for run in runs:
            runtime.create_run(name, run_id=run)
        crew, dice = Crew(tmp_path / "ledger", name), random.Random(9)

        def stored(arrival: Arrival) -> None:
            if crew.killed < 4 and dice.random() < 0.2:
                crew.kill(arrival.pid)

        service.stored = stored
        crew.hire(WORKERS)
        crew.work(lambda: _ended(runtime, runs))
        account = next(one for one in runtime.budgets() if one.name == f"agent:{name}")
        passed = [
            event.seq
            for event in runtime.log.read(contents=False)
            if event.type == "budget_changed"
            and event.body.spent.get("usd_nano", 0) + event.body.reserved.get("usd_nano", 0) > 5_000_000_000
        ]
        assert _intact(runtime)

    sys.path.insert(0, str(AGENTS.parent))
    try:
        from spender import price_of
    finally:
        sys.path.remove(str(AGENTS.parent))
    cost = {"shopper": price_of, "blind": lambda _: 0.25}[name]
    paid = sum(cost(arrival.what) for arrival in service.arrivals)

    assert crew.killed == 4
    assert len(service.arrivals) == len({one.key for one in service.arrivals})
    assert passed == []
    assert account.spent["usd_nano"] == pytest.approx(paid * 1e9)
    assert 5.0 - 0.35 < paid <= 5.0
    assert account.reserved == {}


@pytest.mark.slow
@pytest.mark.invariant(15)
def test_racing_on_one_key_executes_exactly_one(tmp_path: Path, service: Service) -> None:
    """8 worker processes with 24 runs on one logical key make one call, though who makes it is killed at first."""
    runs = [f"r{number}" for number in range(3 * WORKERS)]
    with Runtime.local(tmp_path / "ledger") as runtime:
        for run in runs:
            runtime.create_run("once", run_id=run)
        crew = Crew(tmp_path / "ledger", "once")

        def stored(arrival: Arrival) -> None:
            if crew.killed < 1:
                crew.kill(arrival.pid)

        service.stored = stored
        crew.hire(WORKERS)
        crew.work(lambda: _ended(runtime, runs))
        results = [runtime.result(run) for run in runs]
        joined = Counter(event.type for event in runtime.log.read(contents=False))
        assert _intact(runtime)

    assert crew.killed == 1
    assert [arrival.what for arrival in service.arrivals] == ["the one"]
    assert {result.output["what"] for result in results if result.ok} == {"the one"}
    assert all(result.ok for result in results)
    assert joined["tool_call_joined"] == len(runs) - 1
