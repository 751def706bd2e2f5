"""Many runs are replayed over several processes; whatever code does to one of them, the others come to their end."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from agentledger import Log, Runtime, agent
from ledger_core.runtime.target import load
from replay import many
from replay.many import Outcome

AGENTS = """
import os, signal, sys, threading, time
from pathlib import Path
from agentledger import Secret, agent, tool

HERE = Path(__file__).parent
print("imported, and says so")

@tool
def look(number: int) -> int:
    return number

@tool(side_effect="external_write")
def write(text: str) -> str:
    with open(HERE / "written", "a") as file:
        file.write(text)
    return text

@agent(tools=[look, write])
def many(ctx, state):
    print("agents print what they like", flush=True)
    sys.stderr.write("and complain\\n")
    for number in range(state["calls"]):
        ctx.call_tool("look", number=number)
    ctx.call_tool("write", text="w")
    if (HERE / "armed").exists():
        trouble(state.get("trouble"))
    return state["calls"]

def trouble(kind):
    if kind == "exit":
        os._exit(7)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segfault":
        import ctypes
        ctypes.string_at(0)
    if kind == "sys.exit":
        sys.exit(3)
    if kind == "hang":
        (HERE / "hangs").write_text(str(os.getpid()))
        while True:
            pass
    if kind == "swallow":
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    if kind == "close":
        os.closerange(3, 256)
        time.sleep(60)
    if kind == "grandchild":
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        os._exit(9)
    if kind == "babble":
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"no answer\\n{}\\nno end")
            except OSError:
                pass
    if kind == "stdin":
        sys.stdin.read()
    if kind == "thread":
        threading.Thread(target=lambda: time.sleep(3600)).start()
    if kind == "raise":
        raise KeyboardInterrupt
"""
FATAL = {
    "exit": "exit code 7",
    "kill": "SIGKILL",
    "segfault": "SIGSEGV",
    "close": "ended",
    "grandchild": "exit code 9",
    "sys.exit": "SystemExit: 3",
    "raise": "KeyboardInterrupt",
}


@pytest.fixture
def place(tmp_path):
    """A directory with agents.py, and a ledger with runs of it: `place / "ledger"`."""
    (tmp_path / "agents.py").write_text(textwrap.dedent(AGENTS), encoding="utf-8")
    return tmp_path


def recorded(place, states, file="agents.py", name="many"):
    """Run an agent once for each state, for real; the run ids."""
    spec = load(f"{place / file}:{name}")
    with Runtime.local(place / "ledger") as runtime:
        return [runtime.run(spec, run_id=run, initial_state=state).run_id for run, state in states.items()]


def replayed(place, run_ids, **how):
    found = {one.run_id: one for one in many.replay_many(place / "ledger", run_ids, **how)}
    assert sorted(found) == sorted(run_ids)
    return found


def test_all_runs_are_the_same_and_nothing_is_written(place, capfd):
    """Unchanged code does the same in every process; log and outside are as they were, nothing is printed."""
    runs = recorded(place, {f"r{number}": {"calls": number} for number in range(9)})
    written = (place / "written").read_text()
    with Log.open(place / "ledger", readonly=True) as log:
        head = log.head()
        ends = {run: log.stream_head(f"run/{run}") for run in runs}
    capfd.readouterr()
    told = []
    found = replayed(place, runs, jobs=3, progress=lambda done, of: told.append((done, of)))
    assert {one.status for one in found.values()} == {"same"}
    assert [found[f"r{number}"].effects for number in range(9)] == [number + 1 for number in range(9)]
    assert all(one.complete and one.same_code and one.agent == "many" for one in found.values())
    assert {run: (one.seq, one.hash) for run, one in found.items()} == {
        run: (end.seq, end.hash.hex()) for run, end in ends.items()
    }
    assert told == [(number, 9) for number in range(10)]
    assert (place / "written").read_text() == written == "w" * 9
    assert capfd.readouterr() == ("", "")
    with Log.open(place / "ledger", readonly=True) as log:
        assert log.head() == head


@pytest.mark.parametrize("kind", FATAL)
def test_what_ends_a_process_fails_one_run_and_no_other(place, kind):
    """Code that kills, leaves or breaks its process fails its own run with how; the runs around it are the same."""
    states = {"a": {"calls": 1}, "b": {"calls": 1, "trouble": kind}, "c": {"calls": 1}, "d": {"calls": 2}}
    runs = recorded(place, states)
    (place / "armed").touch()
    found = replayed(place, runs, jobs=1, limit_s=30)
    assert {run: one.status for run, one in found.items()} == {"a": "same", "b": "failed", "c": "same", "d": "same"}
    assert FATAL[kind] in found["b"].why
    assert many.exit_code(found.values()) == 1


def test_the_last_words_of_a_dead_process_are_told(place):
    """What a process wrote to stderr last stands in why its run failed."""
    runs = recorded(place, {"a": {"calls": 0, "trouble": "exit"}})
    (place / "armed").touch()
    assert found_why(place, runs) == "The process that replayed it ended: exit code 7 (and complain)."


def found_why(place, runs):
    (one,) = replayed(place, runs).values()
    return one.why


@pytest.mark.parametrize("kind", ["hang", "swallow"])
def test_a_run_that_does_not_end_is_stopped(place, kind):
    """Code that never ends, or that catches all that would end it, is ended at the limit; the others go on."""
    runs = recorded(place, {"a": {"calls": 1, "trouble": kind}, "b": {"calls": 1}, "c": {"calls": 1}})
    (place / "armed").touch()
    found = replayed(place, runs, jobs=1, limit_s=3)
    assert found["a"].why == "It did not come to an end within 3 s."
    assert (found["b"].status, found["c"].status) == ("same", "same")


@pytest.mark.parametrize("kind", ["stdin", "thread", "babble"])
def test_code_that_meddles_with_its_process_holds_nobody(place, kind):
    """Nothing on stdin is waited for, a thread left behind keeps no process, and words in the pipe are no answer."""
    runs = recorded(place, {"a": {"calls": 1, "trouble": kind}})
    (place / "armed").touch()
    assert replayed(place, runs, limit_s=60)["a"].status == "same"


def test_changed_code_diverges_run_by_run(place):
    """Runs that take a changed branch diverge, with what was recorded and attempted; others stay the same."""
    runs = recorded(place, {"a": {"calls": 1}, "b": {"calls": 2}})
    file = place / "agents.py"
    file.write_text(file.read_text().replace('range(state["calls"])', 'range(min(1, state["calls"]))'))
    found = replayed(place, runs, jobs=2)
    assert (found["a"].status, found["b"].status) == ("same", "diverged")
    assert not found["a"].same_code
    assert found["b"].divergences[0]["path"] == "2"
    assert found["b"].divergences[0]["code"] in found["b"].words()
    assert many.exit_code(found.values()) == 4
    value = many.summary(found.values())
    json.dumps(value, allow_nan=False)
    counts = (value["ok"], value["runs"], value["same"], value["diverged"], value["failed"], value["other_code"])
    assert counts == (False, 2, 1, 1, 0, 2)
    assert [one["run_id"] for one in value["outcomes"]] == ["b", "a"]
    assert [many.outcome_of(one) for one in value["outcomes"]] == [found["b"], found["a"]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "There is no file"),
        ("raise ValueError('no')", "cannot be imported: ValueError: no"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("this is no python", "cannot be imported: SyntaxError"),
        ("", "has no agent"),
        ("import os; os._exit(5)", "exit code 5"),
    ],
)
def test_code_that_cannot_be_imported_fails_in_one_sentence(place, text, why):
    """Each run of code that is gone, or breaks when it is imported, fails with why."""
    runs = recorded(place, {"a": {"calls": 1}, "b": {"calls": 1}})
    (place / "agents.py").unlink() if text is None else (place / "agents.py").write_text(text)
    for one in replayed(place, runs).values():
        assert one.status == "failed"
        assert why in one.why
        assert "\n" not in one.why


def test_what_cannot_be_replayed_is_skipped(place):
    """A forgotten run, and one that does not say where its code is, are skipped with why; attached code is read."""
    recorded(place, {"gone": {"calls": 1}})
    with Runtime.local(place / "ledger") as runtime:

        @agent(name="local")
        def local(ctx):
            return 1

        runtime.run(local, run_id="local")
        with runtime.attach("attached") as ctx:
            ctx.now()
        runtime.log.forget("run/gone")
    found = replayed(place, ["gone", "local", "attached"])
    assert {run: one.status for run, one in found.items()} == {
        "gone": "skipped",
        "local": "skipped",
        "attached": "same",
    }
    assert "forgotten" in found["gone"].why
    assert "where its code is" in found["local"].why
    assert many.exit_code(found.values()) == 6


def test_a_named_target_replays_what_does_not_name_its_own(place):
    """Runs are replayed with the code that was named, and not with the code that they recorded."""
    recorded(place, {"a": {"calls": 3}})
    (place / "moved").mkdir()
    (place / "agents.py").rename(place / "moved" / "new.py")
    found = replayed(place, ["a"], target=f"{place / 'moved' / 'new.py'}:many")
    assert (found["a"].status, found["a"].effects) == ("same", 4)


def test_a_run_that_goes_on_is_replayed_as_far_as_it_is(place):
    """A run that waits is the same up to where its record stops, and is not complete."""
    (place / "waits.py").write_text(
        "from agentledger import agent\n@agent\ndef waits(ctx):\n    ctx.now()\n    return ctx.wait_signal('go')\n"
    )
    recorded(place, {"w": {}}, "waits.py", "waits")
    found = replayed(place, ["w"])["w"]
    assert (found.status, found.complete) == ("same", False)


def test_agents_of_one_module_name_do_not_meet(tmp_path):
    """Two agents whose files, and whose modules beside them, have the same names are each replayed with their own."""
    runs = []
    for number in (1, 2):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "word.py").write_text(f"WORD = 'word {number}'\n")
        text = "from agentledger import agent\nfrom word import WORD\n@agent\ndef say(ctx):\n    return WORD\n"
        (place / "say.py").write_text(text)
        script = "import sys\nfrom agentledger import Runtime\nfrom ledger_core.runtime.target import load\n"
        script += "with Runtime.local(sys.argv[1]) as runtime:\n"
        script += "    assert runtime.run(load(sys.argv[2]), run_id=sys.argv[3]).ok\n"
        runs.append(f"r{number}")
        arguments = [str(tmp_path / "ledger"), f"{place / 'say.py'}:say", runs[-1]]
        os.spawnv(os.P_WAIT, _python(), [_python(), "-c", script, *arguments])
    found = replayed(tmp_path, runs, jobs=1)
    assert [found[run].status for run in runs] == ["same", "same"]


def test_what_agents_keep_secret_does_not_leave_their_process(place):
    """A value that only the agent's code knows to be secret stands in no outcome."""
    file = place / "keeps.py"
    text = (
        "from agentledger import agent\n@agent\ndef keeps(ctx):\n    ctx.write_state_patch('k', {})\n    return 'x'\n"
    )
    file.write_text(text.format("'harmless'"))
    recorded(place, {"s": {}}, "keeps.py", "keeps")
    changed = "from agentledger import Secret\nHIDDEN = Secret('hidden', 'tr0ub4dor-and-3')\n"
    file.write_text(changed + text.format("'tr0ub4dor-and-3'"))
    found = replayed(place, ["s"])["s"]
    assert found.status == "diverged"
    said = json.dumps(found.as_json())
    assert "tr0ub4dor" not in said
    assert "harmless" in said


def test_runs_that_are_not_there_fail_and_none_at_all_is_nothing(place):
    """A run that the ledger has not is failed, no run is no outcome, and a run named twice is replayed once."""
    recorded(place, {"a": {"calls": 0}})
    assert replayed(place, ["nobody"])["nobody"].why == "There is no run 'nobody'."
    assert list(many.replay_many(place / "ledger", [])) == []
    assert many.exit_code([]) == 0
    assert len(list(many.replay_many(place / "ledger", ["a", "a"], jobs=64))) == 1


def test_runs_are_chosen_by_age_agent_and_status(place):
    """Runs are named newest first; those since a time, of an agent, of a status, or of all three."""
    recorded(place, {"one": {"calls": 0}})
    (place / "bad.py").write_text("from agentledger import agent\n@agent\ndef bad(ctx):\n    raise ValueError('x')\n")
    recorded(place, {"two": {}}, "bad.py", "bad")
    middle_ns = time.time_ns()
    recorded(place, {"three": {"calls": 0}})
    with Log.open(place / "ledger", readonly=True) as log:
        assert many.chosen(log) == ["three", "two", "one"]
        assert many.chosen(log, since_ns=middle_ns) == ["three"]
        assert many.chosen(log, agent="many") == ["three", "one"]
        assert many.chosen(log, status="failed") == ["two"]
        assert many.chosen(log, agent="many", status="failed") == []


def test_nobody_outlives_an_iterator_that_is_closed(place):
    """Whoever stops asking ends the processes, also one whose code hangs."""
    runs = recorded(place, {"a": {"calls": 0}, "b": {"calls": 0, "trouble": "hang"}})
    (place / "armed").touch()
    outcomes = many.replay_many(place / "ledger", runs, jobs=2)
    assert next(outcomes).run_id == "a"
    pid = _hanging(place)
    outcomes.close()
    assert _gone(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nobody_outlives_whoever_asked(place, python, number):
    """Ctrl-C ends all processes at once; and when the one who asked is killed, they end by themselves."""
    runs = recorded(place, {"a": {"calls": 0, "trouble": "hang"}})
    (place / "armed").touch()
    script = """
        import sys
        from pathlib import Path
        from replay import many
        try:
            print(list(many.replay_many(Path(sys.argv[1]), sys.argv[2:])))
        except KeyboardInterrupt:
            print("interrupted")
    """
    asking = python.start(script, place / "ledger", *runs)
    pid = _hanging(place)
    os.kill(asking.pid, number)
    said, _ = asking.communicate(timeout=30)
    assert said.strip() == ("interrupted" if number == signal.SIGINT else "")
    assert _gone(pid)


def test_a_process_that_is_killed_from_outside_takes_one_run_with_it(place):
    """SIGKILL from outside fails the run that was being replayed, and a new process does the rest."""
    runs = recorded(place, {"a": {"calls": 0, "trouble": "hang"}, "b": {"calls": 0}, "c": {"calls": 0}})
    (place / "armed").touch()
    outcomes = many.replay_many(place / "ledger", runs, jobs=1, progress=lambda *_: None)
    script = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\ntime.sleep(0.1)\n"
    script += "os.kill(int(open(sys.argv[1]).read()), 9)\n"
    os.spawnv(os.P_NOWAIT, _python(), [_python(), "-c", script, str(place / "hangs")])
    found = {one.run_id: one for one in outcomes}
    assert "SIGKILL" in found["a"].why
    assert (found["b"].status, found["c"].status) == ("same", "same")


def test_a_ledger_that_is_not_there_is_said(tmp_path):
    """Without a ledger there is nothing to replay, and one sentence says so."""
    with pytest.raises(Exception, match="no ledger"):
        list(many.replay_many(tmp_path / "nothing", ["a"]))


def test_an_outcome_has_words_for_every_status():
    """Each outcome is one line for a person."""
    divergence = {"code": "AL101", "kind": "missing effect", "path": "3", "recorded": "tool x", "attempted": ""}
    diverged = Outcome(run_id="r", status="diverged", divergences=({**divergence, "line": "a.py:3"}, divergence))
    assert diverged.words() == (
        "AL101 missing effect at effect 3: recorded tool x, attempted nothing (a.py:3), and 1 more"
    )
    other = Outcome(run_id="r", status="diverged", divergences=({**divergence, "attempted": "tool x"},))
    assert other.words().endswith("recorded tool x, attempted another one")
    assert Outcome(run_id="r", status="same", effects=2, complete=True).words() == "2 effects, the same to its end"
    assert Outcome(run_id="r", status="same").words() == "0 effects, the same to where it stops"
    assert Outcome(run_id="r", status="skipped", why="Because.").words() == "Because."


def _python():
    import sys

    return sys.executable


def _hanging(place: Path) -> int:
    """The process whose code hangs, once it does."""
    end = time.monotonic() + 60
    while not (place / "hangs").exists() or not (place / "hangs").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    return int((place / "hangs").read_text())


def _gone(pid: int) -> bool:
    """Whether a process ends soon."""
    for _ in range(1000):
        try:
            os.kill(pid, 0)
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False
