"""An agent killed with SIGKILL wherever it can be, and again while it recovers: what is promised holds every time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from cli.tour.service import serve
from ledger_core.events.effect import ToolCallCompleted, ToolCallRequested, ToolCallSettled
from ledger_core.log.lmdb_store import open_store
from ledger_core.log.log import STORE, Log
from ledger_core.runtime.recorded import stream_of
from ledger_core.runtime.runtime import Runtime
from ledger_core.runtime.target import load
from replay import sides
from replay.comparing import compare
from replay.replaying import replay

HERE = Path(__file__).resolve().parent
AGENTS = HERE.parent / "fixtures" / "agents" / "forty.py"
KILLED = -9


class Nursery:
    """Children to kill."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])},
        )

    def run(self, **order: object) -> tuple[int, str]:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["code"], answer["out"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def service(tmp_path):
    """The ticket service, which does not deduplicate; its tickets can be counted."""
    server = serve(str(tmp_path / "tickets.sqlite"), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _tickets(url: str) -> Counter:
    from urllib.request import urlopen

    with urlopen(f"{url}/tickets") as answer:
        return Counter(ticket["title"] for ticket in json.loads(answer.read())["tickets"])


def _order(tmp_path: Path, url: str, name: str, agent: str, **more: object) -> dict:
    env = {"FORTY_SERVICE": url, "FORTY_NOTES": str(tmp_path / f"{name}.notes")}
    return {"root": str(tmp_path / name), "target": f"{AGENTS}:{agent}", "run_id": "r", "env": env, **more}


def _acknowledged_is_recorded(root: Path, notes: Path) -> None:
    """Every write that the agent was told of has its outcome in the log."""
    told = notes.read_text().split("\n")[:-1] if notes.exists() else []
    with Log.open(root, readonly=True) as log:
        bodies = [event.body for event in log.stream(stream_of("r"))]
    titles = {body.path: body.arguments.get("title") for body in bodies if isinstance(body, ToolCallRequested)}
    done = {titles[body.path] for body in bodies if isinstance(body, (ToolCallCompleted, ToolCallSettled))}
    assert set(told) <= done


def _findings(root: Path, findings) -> list:
    store = open_store(root / STORE, readonly=True)
    try:
        return findings(store)
    finally:
        store.close()


@pytest.mark.invariant(12)
@pytest.mark.parametrize("agent", ["forty", "forty_in_a_row"])
def test_killed_everywhere_and_again_while_recovering(agent, tmp_path, nursery, service, findings):
    """Wherever it is killed, and killed again, the run comes to the same state, with each outside write once."""
    trace = tmp_path / "trace"
    code, said = nursery.run(**_order(tmp_path, service, "whole", agent, trace=str(trace)))
    assert code == 0, said
    places = trace.read_text().splitlines()
    with Runtime.local(tmp_path / "whole") as runtime:
        whole, course = runtime.result("r"), sides.of_run(runtime.log, "r")
        assert runtime.state("r").effects >= 40
    expected = _tickets(service)
    assert set(expected.values()) == {1}

    dice = random.Random(20261122)
    killed = Counter()
    for number in range(1, len(places) + 1):
        name = f"killed-{number}"
        root, notes = tmp_path / name, tmp_path / f"{name}.notes"
        before = _tickets(service)
        for failpoint in (number, dice.randint(1, 40), ""):
            code, said = nursery.run(**_order(tmp_path, service, name, agent, failpoint=failpoint))
            assert code in ({0} if failpoint == "" else {0, KILLED}), f"at {places[number - 1]} ({number}): {said}"
            killed[failpoint == number] += code == KILLED
            if code == 0 or (notes.exists() and notes.read_text()):
                _acknowledged_is_recorded(root, notes)
                assert _findings(root, findings) == []
        with Runtime.local(root) as runtime:
            result = runtime.result("r")
            os.environ.update(FORTY_SERVICE="http://127.0.0.1:9", FORTY_NOTES=os.devnull)
            again = replay(runtime, "r", load(f"{AGENTS}:{agent}"))
            recovered = sides.of_run(runtime.log, "r")
        assert (result.status, result.output, result.state) == (whole.status, whole.output, whole.state)
        assert again.ok and again.complete, again.divergence
        assert compare(course, recovered).same, compare(course, recovered).verdict()
        assert _tickets(service) - before == expected, f"at {places[number - 1]} ({number})"
        assert _findings(root, findings) == []
    assert killed[True] >= len(places) * 0.95  # how many places a run has depends on how its commits met
    assert killed[False] >= len(places) * 0.5
