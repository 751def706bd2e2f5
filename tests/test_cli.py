"""The command line as a person uses it: in an empty folder, in a process of its own."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time

import needs
import pytest

AGENTS = """
import os, signal, sys, time
from agentledger import agent, tool

@tool
def t(n):
    return n

@tool(side_effect="external_write")
def send(n):
    if os.environ.get("DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
    return n

@agent(tools=[t, send])
def hello(ctx, state):
    return {"t": ctx.call_tool("t", n=state.get("n", 0) + int(os.environ.get("MORE", 0)))}

@agent(tools=[send])
def sends(ctx):
    return ctx.call_tool("send", n=1)

@agent
def data(ctx):
    return b"bytes"

@agent
def leaves(ctx):
    sys.exit(0)

@agent
def fails(ctx):
    raise ValueError("boom")

@agent
def waits(ctx):
    ctx.now()
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)

@agent(tools=[t])
def marks(ctx):
    return ctx.call_tool("t", n=":bug: [red]x")
"""
COMMANDS = ("init", "doctor", "demo", "run", "resume", "runs", "status", "log", "verify", "replay")


class Shell:
    """A folder of one's own, and the command in it."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "agents.py").write_text(AGENTS)

    def start(self, *words, **env):
        command = [sys.executable, "-m", "agentledger", *words]
        pipe = subprocess.PIPE
        environment = {**os.environ, **env}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def __call__(self, *words, code=0, said="", **env):
        process = self.start(*words, **env)
        out, err = process.communicate(said, timeout=60)
        assert process.returncode == code, f"{words} ended with {process.returncode}:\n{out}\n{err}"
        assert "Traceback" not in out + err and "defect" not in err, err
        return out, err

    def json(self, *words, code=0, **env):
        out, _ = self(*words, code=code, **env)
        return json.loads(out)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.delenv("AGENTLEDGER_ROOT", raising=False)
    return Shell(tmp_path)


def test_every_command_has_help(shell):
    """Help shows every command, and every command has help of its own, in one sentence at least."""
    out, _ = shell("--help")
    for command in COMMANDS:
        assert f"  {command}" in out
        assert len(shell(command, "-h")[0].splitlines()) > 3


_READING = ("runs", "status latest", "log show", "log head", "log tail", "verify", "replay x", "resume x")


@pytest.mark.parametrize("words", _READING)
def test_where_there_is_no_ledger(shell, words):
    """Without a ledger every reading command says so, in one sentence, and creates none."""
    _, err = shell(*words.split(), code=1)
    assert "ledger" in err
    assert not (shell.folder / ".agentledger").exists()


def test_an_empty_ledger(shell):
    """A new ledger has no runs, verifies, and has a head."""
    assert shell.json("init", "--json")["events"] == 1
    assert shell.json("runs", "--json") == {"runs": []}
    assert "no run" in shell("status", "latest", code=1)[1].lower()
    assert shell("log", "head")[0].startswith("1:")


def test_run_and_look(shell):
    """A run's output goes to stdout; the others show it, with --json before or after their names."""
    out, err = shell("run", "agents.py:hello", "--input", '{"n": 3}', "--run-id", "abc1", "--check")
    assert json.loads(out) == {"t": 3}
    assert "abc1" in err and "replayed" in err
    assert shell.json("--json", "status", "latest")["run_id"] == "abc1"
    assert shell.json("status", "ab", "--json")["output"] == {"t": 3}
    assert [event["seq"] for event in shell.json("log", "show", "abc1", "--json")["events"]] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert shell.json("replay", "latest", "--json")["ok"]
    assert shell.json("run", "agents.py:hello", "--run-id", "abc1", "--json")["events"] == 8
    shell("run", "agents.py:hello", "--input", "-", "--run-id", "abc2", said='{"n": 4}')
    assert "abc1" in shell("status", "abc", code=1)[1]


def test_verify_json_has_its_shape(shell):
    """`verify --json` prints the documented object, and exits with 3 for a head that is not the ledger's."""
    shell("init")
    value = shell.json("verify", "--json")
    assert list(value) == ["ok", "checked", "head", "findings", "not_checked", "replay_certificate"]
    assert list(value["checked"]) == ["events", "streams", "contents", "blobs"]
    assert list(value["head"]) == ["seq", "hash"]
    assert shell.json("verify", "--json", "--against", f"9:{'0' * 64}", code=3)["findings"][0].keys() >= {
        "kind", "seq", "stream", "detail"
    }  # fmt: skip


def test_a_prefix_with_and_without_run(shell):
    """A prefix that fits one run names it, though it fits with and without `run_`."""
    shell("run", "agents.py:hello", "--run-id", "run_r1")
    assert shell.json("status", "r", "--json")["run_id"] == "run_r1"


def test_a_killed_run(shell):
    """The run of a killed process is not shown as held, waits in doubt when resumed, and says what to do."""
    process = shell.start("run", "agents.py:sends", "--run-id", "k", DIE="1")
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    out, _ = shell("status", "k")
    assert "resume k" in out
    assert "A worker holds it" not in out
    assert shell.json("--json", "resume", "k", code=5)["error"] == "InDoubt"
    assert "PENDING_VERIFICATION" in shell("status", "k")[0]


@pytest.mark.parametrize("words", [("replay",), ("run", "agents.py:hello", "--check", "--run-id")])
def test_a_divergence_is_one_object(shell, words):
    """With --json a divergence exits with 4 and prints one object."""
    shell("run", "agents.py:hello", "--run-id", "d")
    assert "divergence" in json.dumps(shell.json(*words, "d", "--json", code=4, MORE="1"))


@pytest.mark.parametrize(
    "words, code",
    [
        ("run nofile.py", 1),
        ("run agents.py", 1),
        ("run agents.py:nobody", 1),
        ("run no.such.module:x", 1),
        ("run broken.py", 1),
        ("run agents.py:hello --input [1", 1),
        ("run agents.py:hello --input [1]", 1),
        ("run agents.py:hello --input @nofile", 1),
        ("run agents.py:hello --run-id latest", 1),
        ("run agents.py:fails", 1),
        ("log show --type nonsense", 1),
        ("verify --against nonsense", 1),
        ("runs --status nonsense", 2),
        ("frobnicate", 2),
        ("runs --limit 0", 2),
    ],
)
def test_what_is_wrong_is_said(shell, words, code):
    """What a person gets wrong ends with its code and words on stderr."""
    shell("init")
    (shell.folder / "broken.py").write_text("import nothing_like_it\n")
    _, err = shell(*words.split(), code=code)
    assert err.strip()


def test_a_module_whose_name_has_py_in_it(shell):
    """A target with `.py` inside a module's name is a module."""
    (shell.folder / "bots").mkdir()
    (shell.folder / "bots" / "pylon.py").write_text(AGENTS)
    shell("run", "bots.pylon:hello")


def test_any_output_is_shown(shell):
    """Whatever an agent may return can be printed."""
    shell("run", "agents.py:data")
    shell("run", "agents.py:data", "--json")


def test_an_agent_that_exits(shell):
    """An agent that calls sys.exit(0) did not end well: the command says so."""
    process = shell.start("run", "agents.py:leaves")
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert err


def test_content_is_shown_as_it_is(shell):
    """Tables show what was recorded, letter by letter."""
    shell("run", "agents.py:marks")
    assert ":bug: [red]x" in shell("log", "show", "latest")[0]


def test_interrupted(shell):
    """SIGINT ends a run with 130 and words; the run can be resumed."""
    process = shell.start("run", "agents.py:waits", "--run-id", "w")
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "resume" in err and "Traceback" not in err
    assert shell.json("status", "w", "--json")["status"] == "pending"


def test_interrupted_where_no_agent_runs(shell):
    """Ctrl-C in commands that read ends with 130, and does not tell anybody to run an agent."""
    shell("run", "agents.py:hello", "--run-id", "r")
    pipe = shell.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for words in (("log", "tail", "-f", "--after", "0"), ("timetravel", "r", "--html", "pipe")):
        process = shell.start(*words)
        begun = process.stdout if words[0] == "log" else reader  # a page is more than a pipe holds: its writer waits
        assert select.select([begun], [], [], 30)[0], words
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130, err
        assert err.strip() == "interrupted; what was recorded is kept."
    os.close(reader)


@pytest.mark.parametrize("module", ["ledger_core.log.log", "click", "rich.table", "cli.commands.views", "lmdb"])
@pytest.mark.parametrize("begin", ["runpy.run_module('agentledger', run_name='__main__')", "from cli.main import main"])
def test_interrupted_while_it_imports(shell, module, begin):
    """Ctrl-C while the command line imports its parts ends with 130 and a word, from both ways to start it."""
    script = f"""
import os, runpy, signal, sys
def hook(event, args):
    if event == "import" and args[0] == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
sys.argv = ["agentledger", "runs"]
{begin}
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=shell.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing was begun.\n")


def test_a_broken_pipe(shell):
    """A reader that goes away ends the command without a word."""
    shell("run", "agents.py:hello")
    process = shell.start("log", "tail", "-f", "--after", "0")
    process.stdout.readline()
    process.stdout.close()
    shell("run", "agents.py:hello")
    end = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert process.poll() is not None
    err = process.stderr.read()
    assert "Traceback" not in err and "BrokenPipe" not in err
    process.stdin.close()
    process.stderr.close()


@pytest.mark.parametrize("words", [("trace", "r"), ("runs", "--tree")])
def test_whoever_reads_may_stop(shell, tmp_path, words):
    """A command whose reader has seen enough ends well, and says nothing of it."""
    shell("run", "agents.py:hello", "--run-id", "r")
    command = [sys.executable, "-c", "from cli.main import main; main()", *words]
    reader = f"{shlex.join(command)}; echo $? >&2"
    words = ["bash", "-c", f"({reader}) | true"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.split() == ["0"]


@pytest.mark.parametrize("words", [("runs",), ("log", "show", "r"), ("status", "r", "--json")])
def test_what_cannot_be_printed_is_said(shell, tmp_path, words):
    """Where stdout takes no more, a command says so in a sentence, and fails."""
    needs.linux()
    shell("run", "agents.py:hello", "--run-id", "r")
    command = [sys.executable, "-c", "from cli.main import main; main()", *words]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: what was to be printed could not be written")
    assert "Traceback" not in done.stderr


def test_reading_changes_nothing(shell):
    """Replay and the commands that read append nothing."""
    shell("run", "agents.py:hello", "--run-id", "r")
    head = shell("log", "head")[0]
    for words in (("replay", "r"), ("runs",), ("status", "r"), ("log", "show"), ("verify",), ("doctor",)):
        shell(*words)
    assert shell("log", "head")[0] == head


def test_the_whole_tour(shell):
    """`demo --json` takes the whole tour and prints one object: every ticket once, verified, replayed, found out."""
    value = shell.json("demo", "--json")
    assert set(value["tickets"].values()) == {1}
    assert len(value["tickets"]) == value["reports"] > value["tickets_at_kill"] == 3
    assert value["verify"]["ok"] and value["replay"]["ok"] and value["replay"]["complete"]
    assert value["tampered"]["verify"]["findings"][0]["seq"] == value["tampered"]["seq"]
