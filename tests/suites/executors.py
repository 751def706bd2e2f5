"""What every executor owes: for adapter authors, who subclass `ExecutorSuite`, and give it an `executor` fixture and
the policy that it can keep. The tools are those of `captives`, real and hostile.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from suites import captives

from ledger_core.errors import NoEffect, Unavailable
from ledger_core.governance.sandbox import Executor, Plan, Sandboxes, SandboxPolicy, SandboxStopped, ToolRaised
from ledger_core.governance.sandbox.config import Configuration

MB = 1 << 20


def mark() -> str:
    """Seconds to sleep, as nobody else says them."""
    return f"{captives.LONGEST}.{secrets.randbelow(10**12):012}"


def running(marked: str) -> bool:
    """Whether a process of this machine has a mark in its command line, and is no zombie."""
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and marked.encode() in (process / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


class ExecutorSuite:
    """The promises of `ledger_core.governance.sandbox.executor`."""

    policy: ClassVar[dict[str, Any]] = {}
    """Fields of a policy that this executor can keep."""
    separate_processes = False
    """Its processes are not to be seen from here: what is left of them cannot be counted here."""

    def plan(self, executor: Executor, **fields: Any) -> Plan:
        sandboxes = Sandboxes(executors={executor.name: executor}, configuration=Configuration(default=executor.name))
        return sandboxes.plan("tool", SandboxPolicy(**{"time": 30, **self.policy, **fields}))

    def stopped(self, plan: Plan, function: Any, *args: Any, **kwargs: Any) -> SandboxStopped:
        with pytest.raises(SandboxStopped) as found:
            plan.run(function, args, {}, **kwargs)
        assert found.value.outcome.status == "stopped"
        assert found.value.outcome.executor == plan.executor.name
        return found.value

    def test_it_is_available(self, executor: Executor) -> None:
        """It says that it is there, and that it keeps time, environment, memory and processes."""
        ability = executor.inspect()

        assert ability.available, ability.reason
        assert "no" not in (ability.time, ability.environment, ability.memory, ability.processes)
        assert ability == executor.inspect()

    def test_values_come_back_as_they_went(self, executor: Executor) -> None:
        """Plain data goes in and out unchanged, by position and by name."""
        value = {"text": "ünïcödé \U0001f600", "bytes": bytes(range(256)), "all": [0, -1, 2**63, 0.1, None, True]}
        found, outcome = self.plan(executor).run(captives.echo, (value, [True]), {"named": {"": []}})

        assert found == [value, [[True]], {"named": {"": []}}]
        assert (outcome.status, outcome.reason, outcome.executor) == ("exited", None, executor.name)
        assert outcome.seconds > 0

    def test_functions_are_found_by_their_names(self, executor: Executor) -> None:
        """Async functions, decorated ones, what a decorator wraps, and methods of classes are called."""
        plan = self.plan(executor)

        assert plan.run(captives.later, (5,), {})[0] == 5
        assert plan.run(captives.decorated, (5,), {})[0] == ["wrapped", 5]
        assert plan.run(captives.decorated.__wrapped__, (5,), {})[0] == 5
        assert plan.run(captives.Box.put, (5,), {})[0] == ["put", 5]
        assert plan.run(captives.Box.make, (5,), {})[0] == ["Box", 5]

    def test_what_a_tool_raises_is_told(self, executor: Executor) -> None:
        """An exception comes with the names of its classes; `NoEffect` and `Unavailable` come as themselves."""
        plan = self.plan(executor)
        with pytest.raises(ToolRaised) as found:
            plan.run(captives.fail, ("key",), {})
        assert (found.value.error_type, found.value.message) == ("KeyError", "'because'")
        assert found.value.types == ("KeyError", "LookupError", "Exception", "BaseException")
        assert found.value.outcome.status == "exited"
        with pytest.raises(ToolRaised, match="SystemExit: because"):
            plan.run(captives.fail, ("leave",), {})
        with pytest.raises(ToolRaised, match=r"^Odd: <its text cannot be had: RuntimeError>$") as found:
            plan.run(captives.fail_oddly, (), {})
        assert found.value.types[:3] == ("Odd", "KeyError", "LookupError")
        with pytest.raises(NoEffect, match="because") as nothing:
            plan.run(captives.fail, ("none",), {})
        assert type(nothing.value) is NoEffect
        with pytest.raises(Unavailable, match="because"):
            plan.run(captives.fail, ("away",), {})

    def test_what_cannot_be_stored_is_the_tools_failure(self, executor: Executor) -> None:
        """A result that is no plain data, or too deep, is a failure of the tool's, with its place."""
        plan = self.plan(executor)

        with pytest.raises(ToolRaised, match=r"NotStorable: value\.deep\[0\] is a object"):
            plan.run(captives.give_object, (), {})
        with pytest.raises(ToolRaised, match="NotStorable.*nested more than"):
            plan.run(captives.give_deep, (100,), {})

    def test_a_result_has_a_size(self, executor: Executor) -> None:
        """A result of as many bytes as the policy allows comes back, a larger one stops the sandbox."""
        plan = self.plan(executor, output=2 * MB)

        assert len(plan.run(captives.give, (2 * MB - 5,), {})[0]) == 2 * MB - 5
        assert self.stopped(plan, captives.give, 2 * MB).reason == "output"
        assert self.stopped(plan, captives.give, 20 * MB).reason == "output"

    def test_large_arguments_arrive(self, executor: Executor) -> None:
        """Arguments that are larger than any pipe arrive whole."""
        text = "å" * (4 * MB)

        assert self.plan(executor).run(captives.echo, (text,), {})[0][0] == text

    @pytest.mark.parametrize(("code", "number"), [(0, None), (3, None), (None, signal.SIGKILL), (None, signal.SIGSEGV)])
    def test_a_tool_that_dies_has_given_nothing(self, executor: Executor, code: int | None, number: int | None) -> None:
        """A tool whose process ends without an answer was stopped, with its exit code or signal."""
        plan = self.plan(executor)
        error = (
            self.stopped(plan, captives.leave, code)
            if number is None
            else self.stopped(plan, captives.die, int(number))
        )

        assert (error.reason, error.outcome.exit_code, error.outcome.signal) == ("killed", code, number)

    @pytest.mark.parametrize(
        "text",
        [
            b"garbage",
            b"=",
            b"=\0\0\0\0\0\0\0\1\xc1",
            b"=\xff\xff\xff\xff\xff\xff\xff\xff",
            b"=\0\0\0\0\0\0\0\0",
            b"!\0\0\0\0\0\0\0\1\x80",
            b"!\x7f\0\0\0\0\0\0\0",
            b"RRRR",
            b"BB",
            b"?" + (1).to_bytes(8, "big") + b"\xc0",
            b"MM",
            b"=\0\0\0\0\0\0\0\2\x80\x80",
            b"=" + (2 * MB).to_bytes(8, "big") + b"\xdd\0\x1f\xff\xfb" + bytes([0x90]) * (2 * MB - 5),
        ],
    )
    def test_garbage_is_no_answer(self, executor: Executor, text: bytes) -> None:
        """A tool that writes what is no answer where its answer goes is stopped; it never makes us fail, or wait."""
        error = self.stopped(self.plan(executor), captives.write_answer, text)

        assert error.reason in ("output", "memory")

    def test_a_tool_can_forge_its_own_result_only(self, executor: Executor) -> None:
        """A tool that answers by itself and stays is ended; what it said is its result."""
        value, outcome = self.plan(executor).run(captives.answer_and_stay, (), {})

        assert (value, outcome.status) == ("x", "exited")

    def test_a_tool_that_closes_its_pipes_is_ended(self, executor: Executor) -> None:
        """A tool that closes every descriptor and stays is ended, long before its time."""
        assert self.stopped(self.plan(executor), captives.close_all).reason == "output"

    def test_an_answer_without_end_ends(self, executor: Executor) -> None:
        """A tool that writes its answer for ever is ended; what it announced is all that is read."""
        error = self.stopped(self.plan(executor), captives.write_for_ever)

        assert error.reason == "output"

    def test_a_tool_that_never_ends_is_ended(self, executor: Executor) -> None:
        """A tool that ignores every signal is ended when its time is over: the policy's, or the call's if less."""
        error = self.stopped(self.plan(executor, time=2), captives.stay)
        assert (error.reason, error.outcome.stderr) == ("time", "here\n")
        assert "2 s" in str(error)

        error = self.stopped(self.plan(executor, time=30), captives.stay, timeout=2)
        assert error.reason == "time"

    def test_what_a_tool_leaves_behind_is_gone(self, executor: Executor) -> None:
        """A process that a tool leaves in another session runs while the tool does, and not afterwards."""
        if self.separate_processes:
            pytest.skip("its processes cannot be seen from here")
        plan, marked = self.plan(executor), mark()

        assert plan.run(captives.daemonize, (marked,), {})[0] is True
        assert not running(marked)
        marked = mark()
        thread = threading.Thread(target=self.stopped, args=(plan, captives.daemonize_and_stay, marked))
        thread.start()
        until(lambda: running(marked))
        plan.kill()
        thread.join(20)
        assert not running(marked)

    def test_a_plan_can_be_killed(self, executor: Executor) -> None:
        """`kill` ends every call of a plan that is under way, from another thread; later calls are not concerned."""
        plan = self.plan(executor)
        ended: list[SandboxStopped] = []
        threads = [threading.Thread(target=lambda: ended.append(self.stopped(plan, captives.stay))) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(plan._running) == 3)
        time.sleep(0.5)
        plan.kill()
        for thread in threads:
            thread.join(20)

        assert {one.reason for one in ended} <= {"killed", "startup"}
        assert len(ended) == 3
        assert plan.run(captives.nothing, (), {})[0] is None

    def test_memory_has_a_limit(self, executor: Executor) -> None:
        """A tool that takes more memory than it may is stopped, alone and in several processes."""
        plan = self.plan(executor, memory=256 * MB)

        assert plan.run(captives.bomb_memory, (64 * MB,), {})[0] == 64 * MB
        assert self.stopped(plan, captives.bomb_memory, 512 * MB).reason == "memory"
        if executor.inspect().memory == "all together":
            assert self.stopped(plan, captives.bomb_memory_together, 4, 96 * MB).reason == "memory"

    def test_processes_have_a_limit(self, executor: Executor) -> None:
        """A tool has as many processes and threads as it may have; with more of them it is refused, or stopped."""
        plan = self.plan(executor, processes=12)

        assert plan.run(captives.bomb_forks, (6,), {})[0] == 7
        assert self.stopped(plan, captives.bomb_forks, 200).reason == "processes"
        with pytest.raises((ToolRaised, SandboxStopped), match=r"can't start new thread|\d+ processes and threads"):
            plan.run(captives.bomb_threads, (200,), {})

    def test_files_have_a_size(self, executor: Executor) -> None:
        """A file that grows beyond its limit is an error for the tool."""
        plan = self.plan(executor, file_size=4 * MB)

        assert plan.run(captives.fill, (4 * MB,), {})[0] == 4 * MB
        with pytest.raises(ToolRaised, match="File too large"):
            plan.run(captives.fill, (5 * MB,), {})

    def test_what_a_tool_prints_is_kept_apart(self, executor: Executor) -> None:
        """What a tool prints, on stdout and stderr, is evidence, decoded as it can be: its end is kept."""
        plan = self.plan(executor)
        value, outcome = plan.run(captives.say, ("hello \U0001f600", "world"), {})

        assert value is None
        assert outcome.stderr.splitlines() == ["hello \U0001f600", "world", "\ufffd\ufffd raw"]
        assert "stderr" not in outcome.as_facts()
        _, much = plan.run(captives.say_much, (MB,), {})
        assert much.stderr == "y" * (16 << 10)
        assert self.stopped(self.plan(executor, output=MB), captives.say_much, 1 << 40).reason == "output"

    def test_nothing_is_inherited(self, executor: Executor, monkeypatch: Any, tmp_path: Path) -> None:
        """A tool sees no variable but those it is given, no open file of ours, no input, and an empty directory."""
        monkeypatch.setenv("SECRET_KEY", "s3cret")
        monkeypatch.setenv("CHOSEN", "passed")
        with open(tmp_path / "open", "w", encoding="utf-8") as file:
            os.set_inheritable(file.fileno(), True)
            plan = self.plan(executor, environment={"GIVEN": "1"}, pass_environment=("CHOSEN", "MISSING"))
            found, _ = plan.run(captives.around, (), {})

        names = set(found["environment"])
        assert names == {"PATH", "LANG", "HOME", "TMPDIR", "GIVEN", "CHOSEN"}
        assert (found["environment"]["GIVEN"], found["environment"]["CHOSEN"]) == ("1", "passed")
        assert {one for one in found["descriptors"] if not one.startswith("/proc/")} <= {"", "pipe", "/dev/null"}
        assert (found["stdin"], found["entries"], found["core"]) == ("", [], 0)
        assert found["groups"] in ([], [os.getgid()]) or os.geteuid() != 0

    def test_many_at_once(self, executor: Executor) -> None:
        """Calls of many threads, well and ill, each get their own."""
        plan, found = self.plan(executor), {}

        def work(number: int) -> None:
            try:
                found[number] = plan.run(captives.fail if number % 4 == 0 else captives.echo, ("key", number), {})[0]
            except ToolRaised as error:
                found[number] = error.message

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert found == {n: str(n) if n % 4 == 0 else ["key", [n], {}] for n in range(16)}


def until(true: Any) -> None:
    """Wait for something that is to come."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
