"""The gate: whether a call may happen, asked before it does, and recorded whichever way it goes.

Rules: the policy in force is asked each time something is about to go out, so that a right that was taken away does not
live on in a run that slept. A person's answer holds for one path, one request, one version of the tool and one attempt
of the step; the policy is asked again when it has come. What is refused never began: one event is the end of it, and
the code is told the same, live and replayed. Who stops waiting at the gate does not pass it later.

This file does not know how calls are made, nor what they cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import attrs

from ledger_core import chain, codec
from ledger_core.clock import NS
from ledger_core.errors import InDoubt
from ledger_core.events import Body
from ledger_core.events.govern import (
    EffectHeld,
    EffectRefused,
    PolicyAdopted,
    Refusal,
    ToolApprovalRequired,
    ToolPermissionDecided,
)
from ledger_core.events.ledger import STREAM
from ledger_core.events.wait import ApprovalDecided
from ledger_core.governance.policy import DEFAULT, Asked, Decision, Risk, strictest
from ledger_core.governance.sandbox import Plan, SandboxUnavailable
from ledger_core.governance.tool import ToolSpec
from ledger_core.ids import new_id
from ledger_core.log.log import Draft
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.runtime.driver import HOLD_NS
from ledger_core.runtime.effect import Effects
from ledger_core.runtime.folds import Runs
from ledger_core.runtime.wait_effects import approval_tag

ENGINE_TIMEOUT: Final = 10.0
"""Seconds that an outside policy engine may take; then it denies."""
_PUBLIC: Final = bytes(32)
_BY_RISK: Final[dict[str, Decision]] = {
    risk: DEFAULT.decide(Asked(agent="", tool="", risk_level=risk)) for risk in get_args(Risk)
}
"""What is decided where no policy was given: of nothing but the risk."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 10.0


@attrs.frozen(kw_only=True)
class Passed:
    """With what a tool call leaves: what was decided of it, whose answer it stands on, and where it runs."""

    decision: Decision
    recorded: bool
    """Whether the decision is put on record: not where nothing was configured, and nothing forbids."""
    approval: str | None = None
    plan: Plan | None = None

    def bodies(self, entry: Entry, spec: ToolSpec) -> list[Body]:
        """What the log says of it, in front of the intent."""
        return [permission(self.decision, entry, spec, self.approval)] if self.recorded else []


_BLOCKED: Final = "A fork makes no outside writes, unless it is made with --live."


class Gate(Effects):
    """What every governed call of a step has to pass."""

    _at_gate: set[str]
    """Paths of effects that wait at the gate."""

    async def _pass(self, spec: ToolSpec, entry: Entry) -> Passed | None:
        """With what a tool call may leave; None if it was refused: then `entry` is at its end."""
        policy = self._around.policy
        if self._state.writes_blocked and spec.side_effect == "external_write":
            await self._refuse(entry, "policy", "PermissionDenied", _BLOCKED)
            return None
        decision = await self._decided(spec, entry)
        approval = None
        if decision.verdict != "deny" and (decision.verdict == "approve" or spec.approval_required):
            approval = await self._approved(spec, entry, decision)
            if approval is None:
                return None
            decision = await self._decided(spec, entry)  # a right may be gone by the time somebody answers
        if entry.attempt == 0 and entry.intent.path in self.driver.journal.given_up:
            await self._refuse(entry, "policy", "Abandoned", "The code had stopped waiting before it was decided.")
            return None
        if decision.verdict == "deny":
            message = f"{decision.reason} ({decision.rule})"
            await self._refuse(
                entry, "policy", "PermissionDenied", message, before=[permission(decision, entry, spec, approval)]
            )
            return None
        try:
            plan = await self._plan(spec, decision)
        except SandboxUnavailable as missing:
            await self._refuse(entry, "sandbox", "SandboxUnavailable", str(missing))
            return None
        recorded = policy.configured or approval is not None
        return Passed(decision=decision, recorded=recorded, approval=approval, plan=plan)

    async def _plan(self, spec: ToolSpec, decision: Decision) -> Plan | None:
        """Where the tool runs; None for here. Raises `SandboxUnavailable`.

        The first plan of a process tries its executor out, which takes a while: not in the loop.
        """
        if not (spec.sandbox_required or spec.sandbox is not None or decision.sandbox):
            return None
        found = await self.driver.call(self._around.sandboxes.plan, spec.name, spec.sandbox)
        assert isinstance(found, Plan)
        return found

    # The policy in force

    async def _decided(self, spec: ToolSpec, entry: Entry) -> Decision:
        policy, state = self._around.policy, self._state
        if not policy.configured:
            return _BY_RISK[spec.risk_level]
        asked = Asked(
            agent=state.step_agent or state.agent,
            role=state.role,
            tool=spec.name,
            version=spec.version,
            risk_level=spec.risk_level,
            side_effect=spec.side_effect,
            arguments=entry.intent.document["arguments"],
            run=state.run,
            session=state.session,
        )
        decisions = [policy.decide(asked)]
        for hook in policy.hooks:
            name = policy.name_of(hook)
            try:
                copy = attrs.evolve(asked, arguments=codec.roundtrip(asked.arguments))
                answer = await self.driver.call(hook, copy, timeout=ENGINE_TIMEOUT)
                decisions.append(policy.of_hook(answer, name))
            except Exception as error:  # an engine that fails, or is too slow, denies
                decisions.append(policy.failed(_as_timeout(error), name))
        return strictest(decisions)

    def _adoption(self, passed: Passed) -> Iterator[Draft]:
        """The texts in force, for the ledger's own stream, where this process has not put them there yet."""
        if passed.recorded and passed.decision.policy not in self._around.adopted:
            for digest, document in self._around.policy.documents().items():
                tag = chain.tag(_PUBLIC, b"policy:" + digest)
                yield Draft(stream=STREAM, body=PolicyAdopted(tag=tag, policy=digest, document=document))

    # A person's answer

    async def _approved(self, spec: ToolSpec, entry: Entry, decision: Decision) -> str | None:
        """The approval that the call stands on; None if it was refused."""
        path, journal = entry.intent.path, self.driver.journal
        words = f"tool approval:{path}:{journal.attempt}:{entry.intent.request.hex()}:{spec.version}"
        approval = new_id("appr", chain.tag(self._seed, words.encode()))
        if approval not in self._state.approvals:
            await self._require(spec, entry, decision, approval)
        self._at_gate.add(path)
        try:
            while (found := self._state.approvals.get(approval)) is None:
                waiting = self._state.waits.get(path)
                wake_ns = None if waiting is None else waiting.wake_ns
                if wake_ns is not None and self._now_ns() >= wake_ns:
                    await self._refuse(entry, "approval", "ApprovalExpired", f"Nobody answered {approval} in time.")
                    return None
                self._flush()
                await self.driver.park(path, wake_ns)
        finally:
            self._at_gate.discard(path)
        assert self._recorder is not None
        answer: Any = self._recorder.log.event(found).body
        assert isinstance(answer, ApprovalDecided)
        if answer.approved:
            return approval
        words = f"{answer.by or 'Somebody'} said no to {approval}" + (f": {answer.reason}" if answer.reason else ".")
        await self._refuse(entry, "approval", "ApprovalDenied", words)
        return None

    async def _require(self, spec: ToolSpec, entry: Entry, decision: Decision, approval: str) -> None:
        seconds = min((s for s in (decision.expires, spec.approval_timeout) if s is not None), default=None)
        by_rule = decision.verdict == "approve"
        required = ToolApprovalRequired(
            path=entry.intent.path,
            approval=approval,
            tag=approval_tag(approval),
            tool=spec.name,
            tool_version=spec.version,
            side_effect=spec.side_effect,
            request=entry.intent.request,
            rule=decision.rule if by_rule else None,
            wake_ns=None if seconds is None else self._now_ns() + int(seconds * NS),
            arguments=entry.intent.document["arguments"],
            reason=decision.reason if by_rule else "the tool asks for it",
        )
        await self._append(lambda *_: (required,), begins=True)

    # Refused, or held

    async def _refuse(
        self,
        entry: Entry,
        category: Refusal,
        error_type: str,
        message: str,
        *,
        before: list[Body] | None = None,
        where: Mapping[str, str] | None = None,
    ) -> None:
        """End an effect that has not begun, durably; one that may have happened, and may not go again, is in doubt."""
        intent = entry.intent
        row = self._state.ledger.get(intent.path)
        if row is not None and row.resend:
            settle = f"agentledger ledger settle {self._state.run}:{intent.path} --as succeeded|no-effect"
            raise self._stopped(
                InDoubt(
                    f"Whether {intent.name} at effect {intent.path} happened is not known, and it is not sent again: "
                    f"{message}",
                    hint=f"Find out, and say what happened: {settle}.",
                    path=intent.path,
                    tool=intent.name,
                )
            )
        refused = EffectRefused(
            path=intent.path,
            effect="model" if intent.kind == "model" else "tool",
            name=intent.name,
            request=intent.request,
            category=category,
            error_type=error_type,
            document=intent.document,
            message=message,
            **(where or {}),
        )
        await self._outcome(*(before or ()), refused, durable=True)
        entry.standing, entry.value, entry.error_type, entry.refusal = Standing.FAILED, message, error_type, category

    async def _hold(self, entry: Entry, why: Any, of: str) -> None:
        """Wait a little, and twice that the next time; what is longer than a moment is recorded, and holds nobody."""
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(entry.held, 20))
        now = self._now_ns()
        wake_ns = now + int(pause * NS)
        intent = entry.intent
        if entry.held == 0 or (pause * NS > HOLD_NS and now >= entry.held_until_ns):
            kind: Any = "model" if intent.kind == "model" else "tool"
            self._ride(
                EffectHeld(
                    path=intent.path,
                    effect=kind,
                    name=intent.name,
                    request=intent.request,
                    why=why,
                    of=of,
                    wake_ns=wake_ns,
                )
            )
            self._flush()
            entry.held_until_ns = wake_ns
        self._at_gate.add(intent.path)
        try:
            await self.driver.park(intent.path, wake_ns)
        finally:
            self._at_gate.discard(intent.path)
        late = self._now_ns() >= wake_ns  # not woken by what came free
        entry.held += late or entry.held == 0

    def _left_at_gate(self, intent: Intent) -> None:
        """The code stopped waiting: what is at the gate stays there."""
        self._abandoned(intent)
        if intent.path in self._at_gate:
            self.driver.leave(intent.path)


def permission(decision: Decision, entry: Entry, spec: ToolSpec, approval: str | None) -> ToolPermissionDecided:
    """The event of a decision."""
    return ToolPermissionDecided(
        path=entry.intent.path,
        attempt=entry.attempt + 1,
        tool=spec.name,
        tool_version=spec.version,
        verdict=decision.verdict,
        policy=decision.policy,
        rule=decision.rule,
        approval=approval,
        reason=decision.reason,
    )


def adopted(runs: Runs, drafts: Iterator[Draft]) -> Iterator[Draft]:
    """Those policies that the log has not seen."""
    for draft in drafts:
        assert isinstance(draft.body, PolicyAdopted)
        if runs.view.find_key(draft.body.tag) is None:
            yield draft


def _as_timeout(error: BaseException) -> BaseException:
    return TimeoutError() if type(error).__name__ == "TookTooLong" else error
