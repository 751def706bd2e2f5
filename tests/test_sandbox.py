"""Both executors under the one suite, what is left when we die, what is no sandbox at all, and the command."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import needs
import pytest
from suites import captives
from suites.executors import ExecutorSuite, mark, running, until

from cli.commands.sandbox import sandbox as sandbox_command
from cli.output import Settings
from ledger_core.governance.sandbox import (
    SandboxPolicy,
    SandboxUnavailable,
    Stop,
)
from ledger_core.governance.sandbox.built_in import built_in
from ledger_core.governance.sandbox.local import converse

HOST: dict[str, Any] = {"executor": "process", "network": True, "filesystem": "host"}
MB = 1 << 20


class TestProcess(ExecutorSuite):
    """A process with limits."""

    policy: ClassVar[dict[str, Any]] = {"network": True, "filesystem": "host"}

    @pytest.fixture
    def executor(self) -> Any:
        needs.linux()
        return built_in()["process"]

    def test_a_sandbox_shares_its_limits(self, executor: Any) -> None:
        """Memory and processes are limits of all of a tool's processes together."""
        assert (executor.inspect().memory, executor.inspect().processes) == ("all together", "all together")

    def test_its_directory_is_removed(self, executor: Any) -> None:
        """What a tool leaves in its directory is removed with it, however deep, and when it is stopped, too."""
        plan = self.plan(executor, time=2)
        made = plan.run(captives.around, (), {})[0]["directory"]
        assert not os.path.exists(made)
        made = plan.run(captives.dig, (200,), {})[0]
        assert not os.path.exists(made)
        error = self.stopped(plan, captives.dig_and_stay)
        assert error.reason == "time"
        assert not os.path.exists(error.outcome.stderr.strip())

    def test_it_refuses_what_it_cannot_keep(self, executor: Any) -> None:
        """A policy without network, or with files of its own, is refused, and the sentence says which."""
        with pytest.raises(SandboxUnavailable, match=r"network: .*; filesystem: "):
            executor.check(SandboxPolicy())
        with pytest.raises(SandboxUnavailable, match=r"\(network: a process has"):
            executor.check(SandboxPolicy(filesystem="host"))
        with pytest.raises(SandboxUnavailable, match=r"\(filesystem: a process sees"):
            executor.check(SandboxPolicy(network=True))

    def test_root_is_not_what_a_tool_is(self, executor: Any) -> None:
        """Where we are root, every tool is another user, who is nobody known, without groups; else it is who we are."""
        uids = {self.plan(executor).run(captives.around, (), {})[0]["uid"] for _ in range(3)}

        assert len(uids) == 3 if os.geteuid() == 0 else uids == {os.geteuid()}
        assert 0 not in uids


class TestBubblewrap(ExecutorSuite):
    """Namespaces."""

    @pytest.fixture
    def executor(self) -> Any:
        needs.bubblewrap()
        return built_in()["bubblewrap"]

    def test_everything_is_kept(self, executor: Any) -> None:
        """Nothing that a policy can demand is not kept; memory and processes by all of a tool's processes together."""
        found = executor.inspect().as_json()

        assert found.pop("memory") == found.pop("processes") == "all together"
        assert set(found.values()) == {"yes"}

    def test_it_gives_no_file_system_of_the_host(self, executor: Any) -> None:
        """A policy that means the host's file system is refused."""
        with pytest.raises(SandboxUnavailable, match="file system of its own"):
            executor.check(SandboxPolicy(filesystem="host"))


# What is left when we die


DIES = """
import sys
sys.path.insert(0, sys.argv[1])
from suites import captives
from ledger_core.governance.sandbox import Sandboxes
try:
    plan = Sandboxes.of().plan("t", {"executor": sys.argv[2], **eval(sys.argv[3])})
    plan.run(captives.daemonize_and_stay, (sys.argv[4],), {})
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("executor", ["process", "bubblewrap"])
def test_a_tool_does_not_outlive_us(python, ending, executor):
    """When this process is killed, or interrupted, while a tool runs, the tool and what it left elsewhere are gone."""
    needs.linux() if executor == "process" else needs.bubblewrap()
    marked = mark()
    child = python.start(DIES, Path(__file__).parent, executor, {} if executor == "bubblewrap" else HOST, marked)
    until(lambda: running(marked) and _sleeps(marked))
    child.send_signal(ending)
    out, err = child.communicate(timeout=20)

    assert (child.returncode, out) == ((0, "interrupted\n") if ending == signal.SIGINT else (-ending, "")), err
    until(lambda: not _sleeps(marked))


def _sleeps(marked: str) -> bool:
    """Whether the process that a tool left behind runs: our own child has the mark in its command line, too."""
    return any(b"sleep\0" + marked.encode() in _command_line(name) for name in os.listdir("/proc") if name.isdigit())


def _command_line(process: str) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_fork_of_ours_does_not_hold_a_sandbox(python):
    """A child that was forked while a tool runs, and holds our pipes, keeps no sandbox from ending."""
    needs.linux()
    script = """
        import os, sys, threading, time
        sys.path.insert(0, sys.argv[1])
        from suites import captives
        from ledger_core.governance.sandbox import Sandboxes, SandboxStopped
        plan = Sandboxes.of().plan("t", eval(sys.argv[2]))
        said = []
        def run(function, *args):
            try:
                said.append(plan.run(function, args, {})[0])
            except SandboxStopped as error:
                said.append([error.reason, "may still run" in str(error)])
        calls = [(captives.stay,), (captives.nap, 2)]
        threads = [threading.Thread(target=run, args=args) for args in calls]
        for thread in threads:
            thread.start()
        time.sleep(1)
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        plan_ended = threads[1].join(20)
        plan.kill()
        threads[0].join(20)
        print(said, os.waitpid(child, os.WNOHANG)[0])
        os.kill(child, 9)
    """

    assert python.run(script, Path(__file__).parent, HOST).strip() == "['rested', ['killed', False]] 0"


# What runs is not what was meant


class _Plain:
    """Any program, as a sandbox: nothing but a process."""

    exit_code = signal = None

    def __init__(self, command: list[str], pipes: Any) -> None:
        self.process = subprocess.Popen(
            [one.format(request=pipes.their_request, answer=pipes.their_answer) for one in command],
            stdout=pipes.their_output,
            stderr=pipes.their_output,
            pass_fds=(pipes.their_request, pipes.their_answer),
        )
        self.ended = os.pidfd_open(self.process.pid)

    def told(self, line: str) -> None: ...

    def root(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()

    def left(self, seconds: float) -> str:
        self.exit_code = self.process.wait(seconds)
        return ""

    def close(self) -> None:
        os.close(self.ended)


def _program(does: str) -> list[str]:
    """A program that has the two ends of its pipes as `asked` and `answer`."""
    return [sys.executable, "-S", "-c", f"import os, time; asked, answer = {{request}}, {{answer}}; {does}"]


@pytest.mark.parametrize(
    ("command", "reason", "because"),
    [
        (["sleep", "60"], "startup", "not done after 2 s"),
        (["true"], "startup", "exit code 0"),
        (["yes"], "startup", "printed more than"),
        (_program("os.write(answer, b'R'); time.sleep(60)"), "startup", "not done after 2 s"),
        (_program("os.close(answer); os.close(asked); time.sleep(60)"), "startup", "closed its answer"),
        (
            _program("os.write(answer, b'R'); os.write(answer, b'B' + os.read(asked, 9)); time.sleep(60)"),
            "output",
            "no answer",
        ),
        (_program("os.write(answer, b'RB'); time.sleep(60)"), "time", "not done after 2 s"),
        (_program("[os.write(answer, bytes(9)) for _ in range(1 << 40)]"), "startup", "no answer"),
        (_program("os.write(answer, b'RB='); [os.write(answer, b'~' * 9) for _ in range(9)]"), "output", "announced"),
        (_program("os.write(answer, b'RB=' + (9).to_bytes(8, 'big')); time.sleep(60)"), "time", "not done after 2 s"),
    ],
)
def test_whatever_it_is_it_is_ended(command, reason, because):
    """A program that never reads, never answers, answers nonsense or hangs half-way is ended; nobody waits for it."""
    needs.linux()
    stop = Stop()
    policy = SandboxPolicy(output=MB)
    ending = converse("plain", policy, bytes(8 * MB), lambda pipes: _Plain(command, pipes), seconds=2, stop=stop)
    stop.close()

    assert because in ending.because
    assert (ending.outcome.reason, ending.outcome.status) == (reason, "stopped")


def test_what_cannot_be_started_is_unavailable():
    """A program that is not there is no sandbox: nothing ran."""
    stop = Stop()
    with pytest.raises(SandboxUnavailable, match="could not start"):
        converse("plain", SandboxPolicy(), b"", lambda pipes: _Plain(["/nowhere"], pipes), seconds=1, stop=stop)
    stop.close()


# Other users


OTHER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from suites import captives
from ledger_core.governance.sandbox import Sandboxes, SandboxStopped
found = {"uid": os.getuid()}
for name, policy in (("bubblewrap", {}), ("process", eval(sys.argv[2]))):
    executor = Sandboxes.of().executors[name]
    ability = executor.inspect()
    found[name] = [ability.available, ability.reason, ability.as_json()]
    plan = Sandboxes.of().plan("t", {**policy, "executor": name, "processes": 40, "time": 20})
    found[name + " echo"] = plan.run(captives.echo, (1,), {})[0]
    found[name + " leaves"] = plan.run(captives.daemonize, (sys.argv[3],), {})[0]
    try:
        plan.run(captives.bomb_forks, (150,), {})
    except SandboxStopped as error:
        found[name + " bomb"] = error.reason
try:
    plan.run(captives.kill_parent, (), {})
except SandboxStopped as error:
    found["killed"] = [error.reason, str(error)]
print(json.dumps(found))
"""


def test_another_user_than_root_has_sandboxes_too(tmp_path):
    """Run by a user without rights, both executors keep what they say, and nothing is left of their tools."""
    needs.bubblewrap()
    needs.root()
    marked = mark()
    command = [_python_of_others(), "-c", OTHER, str(Path(__file__).parent), str(HOST), marked]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/", **_OTHERS)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)

    assert found["uid"] == 65534
    assert found["bubblewrap"][:2] == found["process"][:2] == [True, ""]
    assert "no" not in found["bubblewrap"][2].values()
    assert (found["process"][2]["time"], found["process"][2]["environment"]) == ("yes", "yes")
    for name in ("bubblewrap", "process"):
        assert found[f"{name} echo"] == [1, [], {}]
        assert found[f"{name} leaves"] is True
        assert found[f"{name} bomb"] == "processes"
    assert found["killed"][0] == "killed"
    assert "its keeper was killed, and what it started may still run" in found["killed"][1]
    assert not _sleeps(marked)


_OTHERS: dict[str, Any] = {
    "user": 65534,
    "group": 65534,
    "extra_groups": [],
    "env": {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *(p for p in sys.path if "-packages" in p)]),
    },
}


@functools.cache
def _python_of_others() -> str:
    """An interpreter of this version that others may run, with the packages of this one."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    check = f"import sys, ledger_core.codec; assert sys.version_info[:2] == {sys.version_info[:2]}"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            if subprocess.run([python, "-c", check], cwd="/", capture_output=True, **_OTHERS).returncode == 0:
                return python
        except OSError:
            continue
    needs._need("", f"a Python {version} that others than root may run")
    raise AssertionError


# The command


def _inspected(capsys: Any, *arguments: str) -> tuple[int, str]:
    """The exit code of the command, and what it says."""
    settings = Settings(root=Path("/nonexistent"))
    code = sandbox_command.main(["inspect", *arguments], obj=settings, standalone_mode=False)
    return code, capsys.readouterr().out


def test_the_command_shows_every_executor(capsys):
    """`sandbox inspect` shows both executors with what each can keep, on one screen, and as JSON."""
    needs.bubblewrap()
    (code, shown), (_, said) = _inspected(capsys), _inspected(capsys, "--json")
    told = json.loads(said)

    assert code == 0
    assert "bubblewrap (default)" in shown
    assert len(shown.splitlines()) < 24
    assert told["default"] == "bubblewrap"
    assert [one["name"] for one in told["executors"]] == ["bubblewrap", "process"]
    for one in told["executors"]:
        assert set(one) == {"name", "available", "enabled", "abilities", "reason", "notes"}
        assert list(one["abilities"]) == ["network", "filesystem", "time", "memory", "processes", "environment"]
        assert (one["available"], one["enabled"], one["reason"]) == (True, True, "")
    assert [one["abilities"]["network"] for one in told["executors"]] == ["yes", "no"]


def test_the_command_says_what_is_missing(tmp_path, monkeypatch, capsys):
    """Where the default executor is disabled, to come or missing, the command says so, and exits with 1."""
    for text, said in (
        ('{"executors": {"bubblewrap": {"enabled": false}}}', '"enabled": false'),
        ('{"default": "docker"}', '"default": "docker"'),
    ):
        (tmp_path / "c.json").write_text(text)
        code, shown = _inspected(capsys, "--json", "--sandbox-config", str(tmp_path / "c.json"))
        assert code == 1
        assert said in shown
    monkeypatch.setenv("PATH", str(tmp_path))
    code, shown = _inspected(capsys)
    assert code == 1
    assert "there is no bwrap on the path" in shown
