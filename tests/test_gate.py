"""What an agent may do, decided before it happens: policies in force, outside engines, and people's answers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from suites.runs import replayed
from suites.workers import Moved, kinds

from agentledger import ApprovalDenied, BadInput, NoEffect, PermissionDenied, Refused, RetryPolicy, Runtime, agent, tool
from ledger_core.events.govern import EffectRefused, PolicyAdopted, ToolPermissionDecided
from ledger_core.events.ledger import STREAM

DAY = 86_400


class Outside:
    """A world outside, and tools that write to it."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.failing = 0

        @tool(name="pay", side_effect="external_write", verify=self.find)
        def pay(amount: float, to: str = "shop") -> dict[str, Any]:
            return self.write(amount)

        @tool(name="wire", side_effect="external_write", risk_level="high")
        def wire(amount: float) -> dict[str, Any]:
            return self.write(amount)

        @tool(name="sign", side_effect="external_write", approval_required=True, approval_timeout=3600)
        def sign(text: str) -> dict[str, Any]:
            return self.write(text)

        self.pay, self.wire, self.sign = pay, wire, sign

    def write(self, what: Any) -> dict[str, Any]:
        if self.failing:
            self.failing -= 1
            raise NoEffect("not now")
        self.written.append(what)
        return {"number": len(self.written)}

    def find(self, **_: Any) -> Any:
        raise NoEffect


@pytest.fixture
def outside() -> Outside:
    return Outside()


def _calls(outside: Outside, name: str, **arguments: Any) -> Any:
    @agent(name="caller", role="Buyer", tools=[outside.pay, outside.wire, outside.sign])
    def caller(ctx: Any) -> Any:
        try:
            return ctx.call_tool(name, **arguments)
        except PermissionDenied as denied:
            return [type(denied).__name__, denied.error_type, denied.message]

    return caller


def _policy(*rules: dict[str, Any]) -> dict[str, Any]:
    named = [{"name": f"rule {number}", **rule} for number, rule in enumerate(rules, 1)]
    return {"version": 1, "rules": named}


def test_high_risk_is_denied_unless_a_rule_allows_it(tmp_path: Path, outside: Outside) -> None:
    """A tool of high risk does not run by itself, without any policy; a rule opens it, to whom it names."""
    with Runtime.local(tmp_path / "a") as runtime:
        said = runtime.run(_calls(outside, "wire", amount=5), run_id="r").output
        assert said[:2] == ["PermissionDenied", "PermissionDenied"]
        assert "high risk" in said[2]
        assert outside.written == []
    rule = {"verdict": "allow", "tools": ["wi*"], "roles": ["Buyer"]}
    with Runtime.local(tmp_path / "b", policy=_policy(rule)) as runtime:
        assert runtime.run(_calls(outside, "wire", amount=5)).output == {"number": 1}
    with Runtime.local(tmp_path / "c", policy=_policy(rule | {"roles": ["Seller"]})) as runtime:
        assert runtime.run(_calls(outside, "wire", amount=5)).output[0] == "PermissionDenied"


def test_a_decision_is_on_record_with_its_rule_and_its_policy(tmp_path: Path, outside: Outside) -> None:
    """Allowed or denied, the log says by which rule of which policy, and keeps the policy's text once."""
    rules = _policy(
        {"verdict": "allow", "tools": ["pay"], "amount": {"argument": "amount", "at_most": 100}},
        {"verdict": "deny", "tools": ["pay"], "reason": "too much"},
    )
    with Runtime.local(tmp_path, policy=rules) as runtime:
        assert runtime.run(_calls(outside, "pay", amount=100), run_id="small").output == {"number": 1}
        assert runtime.run(_calls(outside, "pay", amount=100.01), run_id="large").output[0] == "PermissionDenied"
        decided = [e.body for e in runtime.log.read() if isinstance(e.body, ToolPermissionDecided)]
        adopted = [e.body for e in runtime.log.stream(STREAM) if isinstance(e.body, PolicyAdopted)]
        refused = [e.body for e in runtime.log.read() if isinstance(e.body, EffectRefused)]

    assert [(one.verdict, one.rule) for one in decided] == [("allow", "rule 1"), ("deny", "rule 2")]
    assert [one.policy for one in adopted] == [decided[0].policy] == [decided[1].policy]
    assert adopted[0].document["rules"][1]["reason"] == "too much"
    assert [(one.category, one.document["arguments"]) for one in refused] == [("policy", {"amount": 100.01})]
    assert outside.written == [100]


def test_replay_uses_the_record_not_the_policy_of_today(tmp_path: Path, outside: Outside) -> None:
    """A run that was allowed replays under a policy that denies, and asks neither it nor its engines."""
    caller = _calls(outside, "pay", amount=1)
    with Runtime.local(tmp_path, policy=lambda asked: True) as runtime:
        runtime.run(caller, run_id="r")
    with Runtime.local(tmp_path, policy=lambda asked: pytest.fail("asked again")) as runtime:
        replayed(runtime, caller, "r")
    assert len(outside.written) == 1


def test_a_right_that_was_revoked_does_not_live_on_in_a_run_that_slept(tmp_path: Path, outside: Outside) -> None:
    """The policy that counts is the one in force when the call is about to leave."""
    file, moved = tmp_path / "policy.json", Moved()

    @agent(tools=[outside.pay])
    def later(ctx: Any) -> Any:
        ctx.call_tool("pay", amount=1)
        ctx.sleep(90 * DAY)
        try:
            return ctx.call_tool("pay", amount=2)
        except PermissionDenied as denied:
            return denied.message

    file.write_text('{"version": 1, "rules": [{"name": "may pay", "verdict": "allow", "tools": ["pay"]}]}')
    with Runtime.local(tmp_path / "ledger", policy=str(file), clock=moved.clock) as runtime:
        runtime.create_run(later, run_id="r")
        assert runtime.run_once(later) == 1
        assert outside.written == [1]
        file.write_text('{"version": 1, "rules": [{"name": "no more", "verdict": "deny", "tools": ["pay"]}]}')
        moved.on(91 * DAY)
        assert runtime.run_once(later) == 1
        assert "no more" in runtime.result("r").output
    assert outside.written == [1]


def test_a_policy_file_that_breaks_denies(tmp_path: Path, outside: Outside) -> None:
    """A file that is gone, or no policy any more, denies everything, and says so; mended, it decides again."""
    file = tmp_path / "policy.json"
    good = '{"version": 1, "rules": [{"name": "may pay", "verdict": "allow", "tools": ["pay"]}]}'
    file.write_text(good)
    with Runtime.local(tmp_path / "ledger", policy=str(file)) as runtime:
        file.write_text("{")
        assert runtime.run(_calls(outside, "pay", amount=1)).output[0] == "PermissionDenied"
        file.unlink()
        assert runtime.run(_calls(outside, "pay", amount=1)).output[0] == "PermissionDenied"
        file.write_text(good)
        assert runtime.run(_calls(outside, "pay", amount=1)).output == {"number": 1}
    assert outside.written == [1]


def test_a_policy_beside_the_log_is_in_force_for_everybody(tmp_path: Path, outside: Outside) -> None:
    """Whoever opens the ledger has its policy, without being told; two files that could be it are refused."""
    Runtime.local(tmp_path).close()
    rule = '{"name": "no", "verdict": "deny", "tools": ["*"]}'
    (tmp_path / "policy.json").write_text(f'{{"version": 1, "rules": [{rule}]}}')
    with Runtime.local(tmp_path) as runtime:
        assert runtime.run(_calls(outside, "pay", amount=1)).output[0] == "PermissionDenied"
    (tmp_path / "policy.toml").write_text("version = 1\n")
    with pytest.raises(BadInput, match="2 files"):
        Runtime.local(tmp_path)


@pytest.mark.parametrize("answer", ["raise", "nonsense", "none", "slow"])
def test_an_outside_engine_fails_closed(
    tmp_path: Path, outside: Outside, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that raises, answers nonsense or nothing, or is too slow, denies."""
    monkeypatch.setattr("ledger_core.runtime.gate.ENGINE_TIMEOUT", 0.2)

    def engine(asked: Any) -> Any:
        assert (asked.tool, asked.role, asked.arguments) == ("pay", "Buyer", {"amount": 1})
        if answer == "raise":
            raise OSError("no route")
        if answer == "slow":
            time.sleep(1)
        return {"nonsense": 1} if answer == "nonsense" else None if answer == "none" else True

    with Runtime.local(tmp_path, policy=engine) as runtime:
        assert runtime.run(_calls(outside, "pay", amount=1)).output[0] == "PermissionDenied"
    assert outside.written == []


@pytest.mark.parametrize("is_async", [False, True])
def test_an_outside_engine_is_asked_beside_the_rules(tmp_path: Path, outside: Outside, is_async: bool) -> None:
    """The strictest of all answers counts; an engine may be async."""
    asked: list[str] = []

    def engine(what: Any) -> Any:
        asked.append(what.tool)
        return what.arguments["amount"] < 10

    async def aengine(what: Any) -> Any:
        return engine(what)

    rule = {"verdict": "deny", "tools": ["pay"], "amount": {"argument": "amount", "over": 5}}
    with Runtime.local(tmp_path, policy=[_policy(rule), aengine if is_async else engine]) as runtime:
        assert runtime.run(_calls(outside, "pay", amount=4)).output == {"number": 1}
        assert runtime.run(_calls(outside, "pay", amount=6)).output[0] == "PermissionDenied"
        assert runtime.run(_calls(outside, "pay", amount=12)).output[0] == "PermissionDenied"
    assert len(asked) == 3


# People's answers


@pytest.mark.invariant(17)
def test_an_approval_required_tool_waits_without_a_worker(tmp_path: Path, outside: Outside) -> None:
    """The step is given back; approved, the call is made, once, and replays without asking."""
    caller = _calls(outside, "sign", text="lease")
    with Runtime.local(tmp_path) as runtime:
        waiting = runtime.run(caller, run_id="r")
        state = runtime.state("r")
        assert (waiting.status, state.worker, outside.written) == ("waiting", None, [])
        assert [row.status for row in state.ledger.values()] == ["RESERVED"]
        (approval,) = state.approvals
        runtime.approve(approval, by="Ada", reason="seen")
        assert runtime.run(caller, run_id="r").output == {"number": 1}
        assert runtime.state("r").used == {approval}
        replayed(runtime, caller, "r")
        with pytest.raises(Refused):
            runtime.approve(approval)
    assert outside.written == ["lease"]


@pytest.mark.invariant(17)
@pytest.mark.parametrize("how", ["denied", "expired"])
def test_what_is_not_approved_does_not_run(tmp_path: Path, outside: Outside, how: str) -> None:
    """A no, and an answer that does not come in time, are the end of the call; a late yes changes nothing."""
    caller, moved = _calls(outside, "sign", text="lease"), Moved()
    with Runtime.local(tmp_path, clock=moved.clock) as runtime:
        runtime.run(caller, run_id="r")
        (approval,) = runtime.state("r").approvals
        if how == "denied":
            runtime.deny(approval, by="Ada", reason="not this one")
        else:
            moved.on(3601)
            with pytest.raises(Refused):
                runtime.approve(approval)
        said = runtime.run(caller, run_id="r").output
        assert said[0] == ApprovalDenied.__name__
        assert "not this one" in said[2] if how == "denied" else said[1] == "ApprovalExpired"
        assert [row.status for row in runtime.state("r").ledger.values()] == ["FAILED_NO_EFFECT"]
        replayed(runtime, caller, "r")
        with pytest.raises(Refused):
            runtime.approve(approval)
    assert outside.written == []


@pytest.mark.invariant(17)
def test_an_approval_holds_for_one_request_once(tmp_path: Path, outside: Outside) -> None:
    """Each call asks for itself: another place, another request, another version, another attempt of the step."""

    def asks(*texts: str, version: str = "1") -> Any:
        @tool(name="sign", side_effect="external_write", approval_required=True, version=version)
        def sign(text: str) -> dict[str, Any]:
            return outside.write(text)

        @agent(name="asks", tools=[sign])
        def asks(ctx: Any) -> Any:
            return [ctx.call_tool("sign", text=text) for text in texts]

        return asks

    with Runtime.local(tmp_path) as runtime:
        for place in (1, 2):
            assert runtime.run(asks("same", "same"), run_id="r").status == "waiting"
            approvals = runtime.state("r").approvals
            assert len(approvals) == place
            runtime.approve(list(approvals)[-1])
            assert len(outside.written) == place - 1
        assert runtime.run(asks("same", "same"), run_id="r").output == [{"number": 1}, {"number": 2}]

        runtime.run(asks("x"), run_id="v")
        runtime.approve(next(iter(runtime.state("v").approvals)))
        assert runtime.run(asks("x", version="2"), run_id="v").status == "waiting"  # the answer was for version 1
        assert len(outside.written) == 2
        first, second = runtime.state("v").approvals
        runtime.approve(second)
        assert runtime.run(asks("x", version="2"), run_id="v").ok
        assert runtime.state("v").used == {second}
    assert first != second


@pytest.mark.invariant(17)
def test_a_fresh_attempt_of_the_step_needs_a_new_approval(tmp_path: Path, outside: Outside) -> None:
    """An approval was for the attempt that asked; the tool's own tries of one call stand on one answer."""
    outside.failing = 1
    policy = RetryPolicy(max_attempts=2, initial=0, retry_on=("tool",))

    @agent(tools=[outside.sign])
    def caller(ctx: Any) -> Any:
        return ctx.call_tool("sign", text="lease")

    with Runtime.local(tmp_path) as runtime:
        runtime.run(caller, run_id="r", retry_policy=policy)
        runtime.approve(next(iter(runtime.state("r").approvals)))
        assert runtime.run(caller, run_id="r").status == "waiting"  # the call failed, and the step begins again
        assert outside.written == []
        old, new = runtime.state("r").approvals
        assert old != new
        runtime.approve(new)
        assert runtime.run(caller, run_id="r").output == {"number": 1}


def test_a_rule_may_ask_for_a_person_and_is_asked_again_when_one_has_answered(tmp_path: Path, outside: Outside) -> None:
    """A yes does not outlive the right: if the policy denies by then, the call is not made."""
    file = tmp_path / "policy.json"
    file.write_text('{"version": 1, "rules": [{"name": "ask", "verdict": "approve", "tools": ["wire"]}]}')
    caller = _calls(outside, "wire", amount=3)
    with Runtime.local(tmp_path / "ledger", policy=str(file)) as runtime:
        for run in ("yes", "revoked"):
            assert runtime.run(caller, run_id=run).status == "waiting"
            runtime.approve(next(iter(runtime.state(run).approvals)))
        assert runtime.run(caller, run_id="yes").output == {"number": 1}
        file.write_text('{"version": 1, "rules": [{"name": "closed", "verdict": "deny", "tools": ["wire"]}]}')
        assert runtime.run(caller, run_id="revoked").output[0] == "PermissionDenied"
    assert outside.written == [3]


def test_who_stops_waiting_for_an_approval_does_not_get_the_call_later(tmp_path: Path, outside: Outside) -> None:
    """A call that was given up at the gate is never made, whatever a person says afterwards, and replays so."""
    import asyncio

    @agent(tools=[outside.sign])
    async def impatient(ctx: Any) -> Any:
        try:
            async with asyncio.timeout(0.3):
                return await ctx.call_tool("sign", text="lease")
        except TimeoutError:
            await ctx.wait_signal("go on")
            return "left"

    with Runtime.local(tmp_path) as runtime:
        runtime.run(impatient, run_id="r")
        (approval,) = runtime.state("r").approvals
        with pytest.raises(Refused):
            runtime.approve(approval)
        runtime.signal("r", "go on")
        assert runtime.run(impatient, run_id="r").output == "left"
        replayed(runtime, impatient, "r")
    assert outside.written == []


@pytest.mark.parametrize("is_async", [False, True])
def test_a_pending_approval_is_waited_for_later(tmp_path: Path, is_async: bool) -> None:
    """`wait=False` hands back the request; the code goes on, and waits for the answer when it needs it."""
    did: list[str] = []

    @agent(name="asks")
    def sync(ctx: Any) -> Any:
        pending = ctx.request_approval({"spend": 5}, wait=False)
        ctx.capture("work", lambda: did.append("work"))
        return [pending.approval_id, pending.wait(timeout=1000)["approved"]]

    @agent(name="asks")
    async def awaits(ctx: Any) -> Any:
        pending = await ctx.request_approval({"spend": 5}, wait=False)
        ctx.capture("work", lambda: did.append("work"))
        return [pending.approval_id, (await pending.wait(timeout=1000))["approved"]]

    asks = awaits if is_async else sync
    with Runtime.local(tmp_path) as runtime:
        assert runtime.run(asks, run_id="r").status == "waiting"
        (approval,) = runtime.state("r").approvals
        assert did == ["work"]
        runtime.approve(approval)
        assert runtime.run(asks, run_id="r").output == [approval, True]
        replayed(runtime, asks, "r")
        assert kinds(runtime, "r").count("approval_requested") == 1
    assert did == ["work"]


def test_a_permission_costs_no_sync(tmp_path: Path, outside: Outside) -> None:
    """The decision goes with the intent: a governed outside write is two commits, with a policy as without."""
    caller = _calls(outside, "pay", amount=1)
    with Runtime.local(tmp_path, policy=_policy({"verdict": "allow", "tools": ["pay"]})) as runtime:
        runtime.run(caller, run_id="first")
        before = runtime.log.commits()
        runtime.run(caller, run_id="second")
        assert runtime.log.commits() - before == 4  # the claim, the intent, the outcome, the end
    assert os.path.isdir(tmp_path)
