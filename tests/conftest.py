"""Fixtures that all tests share: a log that is verified when its test ends, and Python processes of one's own.

Nothing here stands in for the thing under test: memory is a real store, children are real processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from ledger_core.ids import Head
from ledger_core.log import audit
from ledger_core.log.log import Log
from ledger_core.log.record import Draft, Event
from ledger_core.log.store import Store
from ledger_core.log.verify import Finding
from ledger_core.runtime.runtime import Runtime

ROOT = Path(__file__).parent.parent

settings.register_profile(
    "tests",  # two busy cores are no reason to fail, and nothing is written beside the tests
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tests")

try:
    distribution("agentledger")
except PackageNotFoundError:  # children must find the packages too
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

Audit = Callable[..., list[Finding]]


def _audit(store: Store, against: Head | None = None) -> list[Finding]:
    return list(audit.whole(store, against))


@pytest.fixture
def findings() -> Audit:
    """All that verification finds in a store, in this process: `findings(store, against=head)`."""
    return _audit


@pytest.fixture(params=["memory", "lmdb"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    """A new log; when its test ends it must read to its end, and verification must find nothing in it."""
    log = Log.in_memory() if request.param == "memory" else Log.open(tmp_path / "ledger")
    yield log
    if log._closed:
        if log.root is None:
            return
        log = Log.open(log.root)
    assert [event.seq for event in log.read()] == list(range(1, log.head().seq + 1))
    assert _audit(log._store) == []
    log.close()


@pytest.fixture
def lmdb_log(tmp_path: Path) -> Iterator[Log]:
    """As `log`, where only a file will do."""
    with Log.open(tmp_path / "ledger") as log:
        yield log
        assert _audit(log._store) == []


class Python:
    """Python processes; none outlives its test."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[str]] = []

    def start(self, script: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start a script; `before` is the command that runs it (strace, unshare)."""
        command = [*before, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self._children.append(child)
        return child

    def ends(self, child: subprocess.Popen[str], timeout: float = 60) -> str:
        """What a child printed until it ended well; fails with its error if it did not."""
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            pytest.fail(f"the child still ran after {timeout} s, having printed:\n{out}{err}")
        assert child.returncode == 0, f"the child ended with {child.returncode}:\n{out}{err}"
        return out

    def run(self, script: str, *arguments: object, before: tuple[str, ...] = (), timeout: float = 60) -> str:
        """What a script prints."""
        return self.ends(self.start(script, *arguments, before=before), timeout)

    def end(self) -> None:
        """Kill what still runs."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def python() -> Iterator[Python]:
    """Real child processes: `python.run(script, *arguments)`."""
    python = Python()
    yield python
    python.end()


class Batch:
    """Has commands wait until they are all queued behind one, so that they are one batch."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def run(self, *commands: Callable[[Any], Any]) -> list[list[Event] | BaseException]:
        outcomes: list[Any] = [None] * len(commands)
        inside, go = threading.Event(), threading.Event()

        def lead(_: Any) -> list[Draft]:
            inside.set()
            assert go.wait(20)
            return []

        def follow(place: int) -> None:
            try:
                outcomes[place] = self._log.decide(commands[place])
            except BaseException as error:
                outcomes[place] = error

        threads = [threading.Thread(target=self._log.decide, args=(lead,))]
        threads[0].start()
        assert inside.wait(20)
        for place in range(len(commands)):
            threads.append(threading.Thread(target=follow, args=(place,)))
            threads[-1].start()
            _until(lambda: len(self._log._group._queue) == len(threads) - 1)
        go.set()
        for thread in threads:
            thread.join(20)
        return outcomes


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def batch(log: Log) -> Batch:
    """Commands that become one batch: `batch.run(*commands)` gives what came of each."""
    return Batch(log)


@pytest.fixture
def runtime(log: Log) -> Runtime:
    """A runtime on every kind of log; its model answers with the number of messages it was sent."""
    return Runtime(log, models=lambda request: {"content": f"{len(request['messages'])}"})
