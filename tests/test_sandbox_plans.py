"""Sandboxes before anything runs: policies, names of functions, plans, configurations, and what is made of answers."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import needs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites import captives

from ledger_core.errors import BadInput, Damaged
from ledger_core.governance.sandbox import (
    Outcome,
    Sandboxes,
    SandboxPolicy,
    SandboxStopped,
    SandboxUnavailable,
    policy_of,
)
from ledger_core.governance.sandbox.naming import job_of
from ledger_core.governance.sandbox.policy import LIMITS
from ledger_core.governance.sandbox.reply import Reply
from ledger_core.runtime import target

HOST: dict[str, Any] = {"executor": "process", "network": True, "filesystem": "host"}


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


def test_a_shortage_that_passes_is_not_the_machines_nature(python):
    """A trial that cannot be held for want of descriptors is held again, and its failure is not believed for good."""
    needs.linux()
    said = python.run("""
        import resource, threading
        from ledger_core.governance.sandbox import probe
        from ledger_core.governance.sandbox.process import EXECUTOR
        few, many = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, many))
        plenty = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, many))
        timer = threading.Timer(0.5, plenty)
        timer.start()
        print(EXECUTOR.inspect().available)
        timer.join()

        found = probe.Findings()
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, many))
        inspect = lambda: probe.tried(probe_run, host=True, notes={})
        from ledger_core.governance.sandbox.process import run as probe_run
        first = found.of(None, inspect)
        print(first.available, first.reason)
        plenty()
        print(found.of(None, inspect).available)
        probe._BELIEVED = 0
        print(found.of(None, inspect).available)
    """).split("\n")

    assert said[0] == "True"
    assert said[1].startswith("False") and "Too many open files" in said[1]
    assert said[2:4] == ["False", "True"]


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
    assert re.search(said, f"{found.value.sentence} {found.value.hint}"), str(found.value)


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


def test_the_front_door_pays_for_no_executor(python):
    """Who imports the runtime imports no executor, nor what only they need."""
    said = python.run("""
        import sys, agentledger
        print([name for name in sys.modules if name.startswith("ledger_core.governance.sandbox.")])
    """)

    for name in ("bubblewrap", "process", "probe", "local", "users", "view"):
        assert f"sandbox.{name}'" not in said
    assert "sandbox.sandboxes'" in said


# What is made of answers


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"R", b"B", b"=", b"!", b"?", b"M", b"O", bytes(7) + b"\x02\xa1x"])
    )
)
def test_any_bytes_can_be_said(parts):
    """Whatever comes, in whatever parts, is read to the same end, without an error, and kept within bounds."""
    whole = b"".join(parts)
    replies = [Reply(most=64) for _ in range(3)]
    for reply, pieces in zip(replies, ([whole], parts, [whole[n : n + 1] for n in range(len(whole))]), strict=True):
        for piece in pieces:
            reply.feed(piece)
            assert len(reply._data) <= len(whole)

    assert replies[0] == replies[1] == replies[2]
    if replies[0].finished and not replies[0].wrong and replies[0].kind in "=!?":
        try:
            replies[0].value() if replies[0].kind == "=" else replies[0].raised()
        except Damaged:
            pass


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
