"""Sandboxes: policies, plans, configuration, both executors under the one suite, and what is left when we die."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import needs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites import captives
from suites.executors import ExecutorSuite, mark, running, until

from cli.commands.sandbox import sandbox as sandbox_command
from cli.output import Settings
from ledger_core.errors import BadInput, Damaged
from ledger_core.governance.sandbox import (
    Outcome,
    Sandboxes,
    SandboxPolicy,
    SandboxStopped,
    SandboxUnavailable,
    Stop,
    policy_of,
)
from ledger_core.governance.sandbox.built_in import built_in
from ledger_core.governance.sandbox.local import converse
from ledger_core.governance.sandbox.naming import job_of
from ledger_core.governance.sandbox.policy import LIMITS
from ledger_core.governance.sandbox.reply import Reply
from ledger_core.runtime import target

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


# Policies


def test_a_policy_is_checked_when_it_is_made():
    """A policy of nonsense is refused in a sentence with the name of what is wrong."""
    for wrong in (
        {"time": 0},
        {"time": float("nan")},
        {"time": True},
        {"time": "1"},
        {"memory": 1},
        {"memory": 1e9},
        {"processes": 0},
        {"processes": True},
        {"file_size": -1},
        {"output": 1 << 40},
        {"network": 1},
        {"filesystem": "public"},
    ):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            SandboxPolicy(**wrong)
    for wrong in (
        {"executor": ""},
        {"executor": "../x"},
        {"executor": 1},
        {"read": "/tmp"},
        {"read": ["relative"]},
        {"read": ["/up/../there"]},
        {"read": ["/nul\0"]},
        {"write": [1]},
        {"write": None},
        {"environment": {"A=B": "1"}},
        {"environment": {"A": 1}},
        {"environment": {"": "1"}},
        {"environment": ["A"]},
        {"environment": {"A": "\0"}},
        {"pass_environment": "PATH"},
        {"pass_environment": ["A B"]},
        {"filesystem": "host", "read": ["/usr"]},
        {"filesystem": "host", "write": ["/srv"]},
    ):
        with pytest.raises(BadInput):
            SandboxPolicy(**wrong)
    for wrong in ({"tme": 1}, 5, "fast", {1: 2}):
        with pytest.raises(BadInput):
            policy_of(wrong)


def test_a_policy_is_plain_data_with_a_digest():
    """A policy is what its JSON says; its digest is the same for the same policy, and another for another."""
    policy = SandboxPolicy(
        read=("/b/", "/a//x", "/b"), write=[Path("/c")], environment={"B": "2", "A": "1"}, pass_environment=["Z", "Y"]
    )
    assert (policy.read, policy.write, policy.pass_environment) == (("/a/x", "/b"), ("/c",), ("Y", "Z"))
    assert policy_of(json.loads(json.dumps(policy.as_json()))) == policy
    assert policy_of(None) == policy_of({}) == SandboxPolicy()

    again = SandboxPolicy(
        read=("/b", "/a/x"), write=("/c",), environment={"A": "1", "B": "2"}, pass_environment=("Y", "Z"), time=60
    )
    assert len(policy.digest) == 32
    assert policy.digest == again.digest
    others = [
        {"time": 61.0},
        {"network": True},
        {"executor": "process"},
        {"read": ()},
        {"environment": {"A": "2"}},
        {"filesystem": "host"},
    ]
    assert len({SandboxPolicy(**other).digest for other in [{}, *others]}) == 7


_PATHS = st.lists(st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab", "/d"]), max_size=3)
_FIELDS = {
    "network": st.booleans(),
    "read": st.none() | _PATHS,
    "write": _PATHS,
    "environment": st.dictionaries(st.sampled_from("AB"), st.sampled_from("12")),
    "pass_environment": st.lists(st.sampled_from("AB")),
    "filesystem": st.sampled_from(["private", "host"]),
    **{
        name: st.sampled_from([max(least, 1 << 24), 1 << 25])
        for name, (least, _, _) in LIMITS.items()
        if name != "time"
    },
    "time": st.sampled_from([1, 2.5]),
    "processes": st.sampled_from([1, 9]),
}


def _lies_in(path: str, trees: Any) -> bool:
    return trees is None or any(path == tree or path.startswith(tree.rstrip("/") + "/") for tree in trees)


@given(st.fixed_dictionaries({}, optional=_FIELDS), st.fixed_dictionaries({}, optional=_FIELDS))
def test_a_rule_makes_a_policy_tighter(asked, rule):
    """A policy under a rule allows nothing that either of the two forbids."""
    try:
        asked, ruled = policy_of(asked), policy_of(rule)
    except BadInput:
        return
    found = asked.tightened(rule)

    for limit in (asked, ruled):
        named = limit is asked
        assert all(getattr(found, name) <= getattr(limit, name) for name in LIMITS if named or name in rule)
        if named or "network" in rule:
            assert found.network <= limit.network
        if named or "filesystem" in rule:
            assert found.filesystem == "private" or limit.filesystem == "host"
        if limit.filesystem == "private" and (named or "read" in rule):
            assert found.read is not None or limit.read is None
            assert all(_lies_in(path, limit.read) for path in found.read or ())
        if limit.filesystem == "private" and (named or "write" in rule):
            assert all(_lies_in(path, limit.write) for path in found.write)
            assert found.filesystem == "private" or not named
        if named or "environment" in rule:
            assert found.environment.items() <= limit.environment.items()
        if named or "pass_environment" in rule:
            assert set(found.pass_environment) <= set(limit.pass_environment)


# Names


def test_what_has_no_name_cannot_go(tmp_path):
    """A lambda, a closure, a bound method, a partial, and what is not found under its name are refused with a hint."""

    def local():
        return 1

    renamed = functools.partial(captives.echo, 1)
    stolen = type(captives.echo)(captives.echo.__code__, vars(captives), "nothing")
    for function in (lambda: 1, local, captives.Box().hold, renamed, captives.Box(), stolen, 5):
        with pytest.raises(SandboxUnavailable, match="another process|sandbox|found under") as found:
            job_of(function, (), {})
        assert "top level" in found.value.hint
    assert job_of(captives.Box.make, (), {}).qualname == "Box.make"
    assert job_of(os.getpid, (), {}).module == "posix"
    assert job_of(captives.decorated.__wrapped__, (), {}).wrappers == 1


PROGRAM = """
import sys
from ledger_core.governance.sandbox import Sandboxes, SandboxUnavailable

def double(value):
    import __main__
    return [value * 2, __name__, "double" in vars(__main__)]

class Kind:
    @classmethod
    def make(cls, value):
        return cls.__name__ * value

if __name__ == "__main__":
    plan = Sandboxes.of().plan("t", %r)
    try:
        print(plan.run(double, (4,), {})[0], plan.run(Kind.make, (2,), {})[0])
    except SandboxUnavailable as error:
        print(error)
"""


def test_functions_of_a_program_are_loaded_from_its_file(tmp_path, python):
    """Functions of `__main__` are called, without the program being run again; those of a prompt are refused."""
    needs.linux()
    tmp_path.chmod(0o755)
    (tmp_path / "package").mkdir(mode=0o755)
    for name in ("program.py", "package/__main__.py", "package/tools.py"):
        (tmp_path / name).write_text(PROGRAM % HOST)
    where = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True, "timeout": 60}
    said = [
        subprocess.run([sys.executable, *arguments], **where).stdout.strip()
        for arguments in (["program.py"], ["-m", "package"], ["-m", "package.tools"])
    ]

    assert said == [
        "[8, '__agentledger_main__', False] KindKind",
        "[8, 'package.__main__', False] KindKind",
        "[8, 'package.tools', False] KindKind",
    ]
    assert "no other process can read" in python.run(PROGRAM % HOST)


def test_functions_of_a_file_that_was_loaded_by_its_path(tmp_path):
    """A tool of a file that `agentledger run file.py` loaded is found in that file."""
    needs.linux()
    tmp_path.chmod(0o755)
    path = tmp_path / "agent_file.py"
    path.write_text(
        "from agentledger import agent, tool\n"
        "@tool\ndef f(n):\n    return [n, __name__]\n"
        "@agent(tools=[f])\ndef a(ctx): ...\n"
    )
    function = target.load(str(path)).tools["f"].function
    job = job_of(function, (3,), {})

    assert (job.file, job.qualname) == (str(path), "f")
    assert Sandboxes.of().plan("f", HOST).run(function, (3,), {})[0] == [3, "agentledger_file_agent_file"]


def test_a_module_that_cannot_be_imported_there_stops_before_the_call(tmp_path, monkeypatch):
    """Where a tool's module cannot be loaded in the sandbox, it is stopped at its start: nothing was called."""
    needs.linux()
    tmp_path.chmod(0o755)
    module = tmp_path / "vanishing.py"
    module.write_text("def tool(path):\n    open(path, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import vanishing

    plan = Sandboxes.of().plan("t", HOST)
    for text in (
        None,
        "import nowhere_at_all",
        "raise SystemExit(3)",
        "import os; os._exit(0)",
        "x = bytearray(1 << 40)",
    ):
        module.unlink()
        if text is not None:
            module.write_text(text)
        with pytest.raises(SandboxStopped) as found:
            plan.run(vanishing.tool, (str(tmp_path / "called"),), {})
        assert found.value.reason == "startup"
        module.touch()


# Plans and configurations


def test_without_an_executor_nothing_is_called(tmp_path, monkeypatch):
    """A tool whose executor is missing, disabled, unknown or to come is not called; the sentence says why."""
    with pytest.raises(SandboxUnavailable, match="disables"):
        Sandboxes.of({"executors": {"bubblewrap": {"enabled": False}}}).plan("t", None)
    for name in ("docker", "kubernetes", "e2b"):
        with pytest.raises(SandboxUnavailable, match="later, as an adapter"):
            Sandboxes.of().plan("t", {"executor": name})
        with pytest.raises(SandboxUnavailable, match="later, as an adapter"):
            Sandboxes.of({"default": name}).plan("t", None)
    with pytest.raises(SandboxUnavailable, match="no executor nowhere"):
        Sandboxes.of().plan("t", {"executor": "nowhere"})

    needs.bubblewrap()
    plan = Sandboxes.of().plan("t", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="no bwrap on the path"):
        Sandboxes.of().plan("t", None)
    with pytest.raises(SandboxUnavailable, match="no bwrap on the path"):
        plan.run(captives.nothing, (), {})


def test_arguments_that_cannot_be_stored_are_refused():
    """Arguments that are no plain data are refused before anything runs."""
    needs.linux()
    plan = Sandboxes.of().plan("t", HOST)
    for wrong in (object(), {1: 2}, float("nan"), 2**70):
        with pytest.raises(BadInput):
            plan.run(captives.echo, (wrong,), {})


def test_another_system_fails_closed(python):
    """Where there is no Linux, everything is imported, and every executor says that it is not available."""
    said = python.run("""
        import os, sys
        sys.platform = "darwin"
        del os.pidfd_open
        from ledger_core.governance.sandbox import Sandboxes, SandboxUnavailable
        for name in ("process", "bubblewrap"):
            try:
                Sandboxes.of().plan("t", {"executor": name, "network": True})
            except SandboxUnavailable as error:
                print(error)
    """)

    assert said.count("is not available here: it needs Linux, and this is darwin") == 2


CONFIGURATIONS = {
    "a.yaml": """
        executors:
          process: {enabled: false}
        default: bubblewrap
        limits: {time: 7, memory: 100000000}
        hide: [/srv/secret]
        tools:
          "shell.*": {network: false, time: 5}
          "shell.run": {processes: 3, read: [/usr]}
    """,
    "a.toml": """
        default = "bubblewrap"
        hide = ["/srv/secret"]
        [executors.process]
        enabled = false
        [limits]
        time = 7
        memory = 100000000
        [tools."shell.*"]
        network = false
        time = 5
        [tools."shell.run"]
        processes = 3
        read = ["/usr"]
    """,
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_has_limits_and_rules(tmp_path, name):
    """Limits are for what a policy does not say, rules make it tighter: in YAML, TOML, JSON and Python the same."""
    (tmp_path / name).write_text(textwrap.dedent(CONFIGURATIONS[name]))
    found = Sandboxes.of(tmp_path / name)

    assert found.policy("other", None) == SandboxPolicy(time=7, memory=100_000_000)
    assert found.policy("other", {"time": 60}).time == 60
    assert found.policy("other", SandboxPolicy(time=61)).time == 61
    assert found.policy("other", SandboxPolicy(network=True)) == SandboxPolicy(network=True, time=7, memory=100_000_000)
    run = found.policy("shell.run", SandboxPolicy(time=99, network=True))
    assert run == SandboxPolicy(time=5, memory=100_000_000, processes=3, read=("/usr",))
    assert found.policy("shell.x", {"time": 1}).time == 1
    assert found.configuration.hide == ("/srv/secret",)
    assert (found.enabled("process"), found.enabled("bubblewrap")) == (False, True)
    assert Sandboxes.of(found) == found
    assert Sandboxes.of(found, hide=["/x"]).hide == ("/x",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("executors: {proces: {}}", "line 1.*proces.*Did you mean process"),
        ("executors:\n  process: {enabled: maybe}", r"line 2.*executors\.process\.enabled"),
        ("executors:\n  process: {on: true}", "line 2.*'on'"),
        ("default: nowhere", "line 1.*default"),
        ("limits:\n  time: fast", r"line 2.*limits\.time.*seconds"),
        ("limits: {network: true}", "network"),
        ("tools:\n  a: {time: 1}\n  b: {tme: 1}", "line 3.*tme.*Did you mean time"),
        ("tools:\n  a:\n    read: [x]", r"line 3.*tools\.a\.read.*absolute"),
        ("tools: {a: {filesystem: host, read: [/x]}}", "leave read and write out"),
        ("tools: [a]", "tools is a list"),
        ("tools: {'': {}}", "matches no tool"),
        ("hide: /x", "list of paths"),
        ("hide:\n - x", r"line 2.*hide\[0\]"),
        ("colour: red", "colour"),
        ("- a", "list"),
        ("a: [", "YAML"),
    ],
)
def test_a_bad_configuration_says_where(tmp_path, text, said):
    """What is wrong in a configuration is said with its field, and its line."""
    (tmp_path / "c.yaml").write_text(text)

    with pytest.raises(BadInput) as found:
        Sandboxes.of(tmp_path / "c.yaml")
    assert __import__("re").search(said, f"{found.value.sentence} {found.value.hint}"), str(found.value)


def test_what_is_no_configuration(tmp_path):
    """A file that is not there, and a value that is none, are refused; an empty file says nothing."""
    for wrong in (tmp_path / "none.yaml", 5, [1]):
        with pytest.raises(BadInput):
            Sandboxes.of(wrong)
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert Sandboxes.of(tmp_path / "empty.yaml").policy("t", None) == SandboxPolicy()
    assert Sandboxes.of({"tools": {"*": {"read": ("/a",)}}}).policy("t", None).read == ("/a",)
    with pytest.raises(BadInput):
        Sandboxes.of().policy("t", 5)


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


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"R", b"B", b"=", b"!", b"?", b"M", b"O", bytes(7) + b"\x02\xa1x"])
    )
)
def test_any_bytes_can_be_said(parts):
    """Whatever comes, in whatever parts, is read to the same end, without an error, and kept within bounds."""
    replies = [Reply(most=64), Reply(most=64), Reply(most=64)]
    whole = b"".join(parts)
    for reply, pieces in zip(replies, ([whole], parts, [whole[n : n + 1] for n in range(len(whole))]), strict=True):
        for piece in pieces:
            if not reply.finished:
                reply.feed(piece)
    seen = {(reply.ready, reply.began, reply.kind if not reply.wrong else "") for reply in replies if reply.finished}
    assert len({reply.began for reply in replies if not reply.wrong}) <= 1
    for reply in replies:
        if reply.finished and not reply.wrong and reply.kind in "=!?":
            try:
                reply.value() if reply.kind == "=" else reply.raised()
            except Damaged:
                continue
    assert len(seen) <= 2


def test_an_outcome_is_facts():
    """An outcome is plain facts, and what was printed is not among them."""
    outcome = Outcome(executor="e", status="stopped", reason="time", seconds=1.5, stderr="secret")

    assert outcome.as_facts() == {
        "executor": "e",
        "status": "stopped",
        "reason": "time",
        "exit_code": None,
        "signal": None,
        "seconds": 1.5,
        "memory_peak": None,
    }
    assert "secret" not in repr(outcome)
    with pytest.raises(ValueError):
        Outcome(executor="e", status="gone", seconds=0)
    with pytest.raises(BadInput):
        Outcome(executor="e", status="stopped", reason="boredom", seconds=0)


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
