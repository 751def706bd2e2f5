"""Processes that are killed while they catch up or rebuild: what they leave is whole, and the next one goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from suites import histories

from ledger_core.events import effect
from ledger_core.log.log import Log
from ledger_core.log.record import Draft
from projections import batch, rebuild, store, views
from projections.folding import Parked
from projections.tables import ALL
from projections.views import Views

CATCHES_UP = """
import sys
from ledger_core.log.log import Log
from projections import batch, views
batch.SIZE = int(sys.argv[2])
with Log.open(sys.argv[1]) as log, views.Views.open(log) as rows:
    print("begun", flush=True)
    rows.catch_up()
    print("done", flush=True)
"""
REBUILDS = """
import sys
from ledger_core.log.log import Log
from projections import rebuild
with Log.open(sys.argv[1]) as log:
    print("begun", flush=True)
    rebuild.rebuild(log, jobs=2)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Path:
    """A ledger of some 20,000 events in 800 runs."""
    root = tmp_path_factory.mktemp("views") / "ledger"
    with Log.open(root) as log:
        for number in range(800):
            stream = f"run/r{number}"
            drafts = histories.beginning(stream)
            for path in map(str, range(11)):
                call = effect.ToolCallRequested(
                    path=path,
                    attempt=1,
                    tool=f"t{number % 3}",
                    tool_version="1",
                    side_effect="external_write",
                    request=bytes(32),
                    arguments={},
                )
                done = effect.ToolCallCompleted(path=path, attempt=1, spent={"usd_nano": number}, result=None)
                drafts += [Draft(stream=stream, body=call), Draft(stream=stream, body=done)]
            log.append(*drafts)
    return root


def digests(log: Log) -> dict[str, bytes]:
    with Views.temporary(log) as fresh:
        fresh.catch_up()
        return {name: fresh.digest(name) for name in ALL}


def kept(log: Log) -> tuple[int, dict[str, bytes]]:
    with Views.open(log) as rows:
        return min(one.seq for one in rows.standing()), {name: rows.digest(name) for name in ALL}


@pytest.mark.slow
def test_a_killed_catch_up_goes_on(ledger, python):
    """Killed again and again at any moment, catching up leaves rows of whole batches, and comes to the same end."""
    draw = random.Random(5)
    seen = []
    with Log.open(ledger) as log:
        for size in (97, 700, 211, 4096, 13, 350):
            child = python.start(CATCHES_UP, ledger, size)
            assert child.stdout.readline().strip() == "begun"
            time.sleep(draw.random() * 0.3)
            child.send_signal(signal.SIGKILL)
            child.wait()
            seq, found = kept(log)
            seen.append(seq)
            with views.at(log, seq) as then:
                assert {name: then.digest(name) for name in ALL} == found
        assert len(set(seen)) > 1, "no kill came while it was under way"
        with views.open_caught_up(log) as rows:
            assert {name: rows.digest(name) for name in ALL} == digests(log)


@pytest.mark.slow
def test_a_killed_rebuild_leaves_what_was_there(ledger, python):
    """A rebuild killed at any moment, with its processes, changes nothing of what is read; the next one clears up."""
    with Log.open(ledger) as log:
        with views.open_caught_up(log) as rows:
            before = {name: rows.digest(name) for name in ALL}
        left = 0
        for pause in (0.05, 0.4, 0.8):
            child = python.start(REBUILDS, ledger)
            assert child.stdout.readline().strip() == "begun"
            time.sleep(pause)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            left += len(list((ledger / store.VIEWS).glob("b-*")))
            assert kept(log) == (log.head().seq, before)
        assert left > 0, "no kill came while it was under way"
        rebuild.rebuild(log, jobs=2)
        assert list((ledger / store.VIEWS).glob("b-*")) == []
        assert kept(log)[1] == before


@pytest.mark.slow
def test_two_processes_catch_up_at_once(ledger, python):
    """Two that catch up together, each in its own batches, leave the rows that one would."""
    with Log.open(ledger) as log:
        with Views.open(log) as rows:
            rows.drop(ALL.values())
        children = [python.start(CATCHES_UP, ledger, size) for size in (61, 100)]
        for child in children:
            assert child.stdout.read().split() == ["begun", "done"]
            assert child.wait() == 0
        assert kept(log) == (log.head().seq, digests(log))


def test_ctrl_c_ends_a_rebuild_with_its_processes(ledger):
    """Ctrl-C during a rebuild: a word, exit code 130, no process left, and what was kept is as it was."""
    with Log.open(ledger) as log:
        with views.open_caught_up(log) as rows:
            before = {name: rows.digest(name) for name in ALL}
        command = [sys.executable, "-m", "agentledger", "--root", str(ledger), "rebuild", "--jobs", "2"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 20
        while not list((ledger / store.VIEWS).glob("b-*/part-*/data.mdb")) and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
        assert child.returncode == 130, said
        assert "interrupted" in said
        assert "Traceback" not in said
        assert kept(log)[1] == before
        assert list((ledger / store.VIEWS).glob("b-*")) == []


def test_files_where_the_caller_stands_are_not_ours(ledger, tmp_path):
    """A caller whose directory holds files named like modules rebuilds and verifies all the same."""
    for name in ("random", "json", "lmdb", "selectors"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    ours = Path(views.__file__).parent.parent
    begin = f"import sys; sys.path.append({str(ours)!r}); from cli.main import main; main(sys.argv[1:])"
    for words in (("rebuild", "--jobs", "2"), ("verify", "--jobs", "2")):
        command = [sys.executable, "-P", "-c", begin, "--root", str(ledger), *words]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        assert done.returncode == 0, done.stderr


def test_the_commands_tell_and_repair(ledger):
    """`views` lists what is kept, a changed row makes `rebuild --check` end with 3, and `rebuild` mends it."""

    def run(*words: str, code: int = 0) -> dict:
        command = [sys.executable, "-m", "agentledger", "--root", str(ledger), "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    assert {one["name"]: one["rows"] for one in run("views")["projections"]}["tool_ledger"] == 8800
    assert run("views", "costs", "--sums", "tool")["sums"]["t0"]["calls"] == 267 * 11
    assert run("views", "runs", "--at", "30")["rows"][0]["status"] == "running"
    assert run("rebuild", "--check")["same"] is True
    assert run("rebuild", "--certify")["certified"] == len(ALL)
    with Log.open(ledger) as log, Views.open(log) as rows, rows._store.write() as writer:
        key, value = next(writer.scan("tool_ledger"))
        writer.put("tool_ledger", key, value.replace(b"SUCCEEDED", b"SUCCEEDEX"))
    found = run("rebuild", "--check", code=3)
    assert [one["name"] for one in found["projections"] if not one["same"]] == ["tool_ledger"]
    run("rebuild", "tool_ledger")
    found = run("rebuild", "--check")
    assert found["same"] is True
    assert {one["outcome"] for one in found["certificates"]} == {"same"}
    assert run("views", "nothing", code=1)["error"]


FULL = """
import resource, sys
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
from cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), limit[1]))
main(["--root", sys.argv[1], *sys.argv[3:]])
"""


@pytest.mark.parametrize("words", [("views",), ("rebuild", "--jobs", "1"), ("rebuild", "--jobs", "2")])
@pytest.mark.parametrize("room", [1 << 16, 1 << 20])
def test_a_full_disk_is_a_sentence(ledger, python, words, room):
    """Where there is no room for what is derived, a sentence says so; the log, and the next who has room, are well."""
    with Log.open(ledger) as log, Views.open(log) as rows:
        rows.drop(ALL.values())
        file = rows._store.path / "data.mdb"
    file.unlink()
    child = python.start(FULL, ledger, room, *words)
    out, said = child.communicate(timeout=60)
    assert child.returncode == 1, (out, said)
    assert "could not be kept" in said or "cannot be kept" in said
    assert "Traceback" not in said and "defect" not in said
    with Log.open(ledger) as log, views.open_caught_up(log) as rows:
        assert {name: rows.digest(name) for name in ALL} == digests(log)


def test_doctor_tells_what_was_parked(ledger, python):
    """An event that a projection could not take is what `doctor` calls bad, and says where."""
    with Log.open(ledger) as log, views.open_caught_up(log) as rows, rows._store.write() as writer:
        batch.park(writer, Parked(projection="runs", seq=17, error="ValueError: odd"))
    said = subprocess.run(
        [sys.executable, "-m", "agentledger", "--root", str(ledger), "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert "BAD  views" in said.stdout
    assert "runs at seq 17: ValueError: odd" in said.stdout
    with Log.open(ledger) as log:
        rebuild.rebuild(log, ["runs"])
        with Views.open(log) as rows:
            assert rows.parked() == []
