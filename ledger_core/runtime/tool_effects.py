"""Calls of tools: permitted, departed, made, tried again.

Rules: an outside write is durable before it starts and when it ends: two syncs. So is a read that spends, or has a
logical key; other reads ride. Input is checked before anything happens, output before it is kept. An attempt that
failed without an effect is made again as its tool's policy says, if it is still permitted; an outage is waited for and
counts as no attempt. What is recorded is without secrets; the tool itself is given them. This file does not know loops,
threads, or who owns the step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ledger_core import codec, secret
from ledger_core.errors import BadInput, NoEffect, ToolFailed, Unavailable
from ledger_core.events import Body
from ledger_core.events.effect import ToolCallCompleted, ToolCallFailed, ToolCallRequested
from ledger_core.events.govern import SandboxCompleted, SandboxStarted
from ledger_core.failpoints import reach
from ledger_core.governance.sandbox import Outcome, Plan, SandboxStopped, SandboxUnavailable, ToolRaised
from ledger_core.governance.tool import BadOutput, ToolSpec
from ledger_core.ids import check_name
from ledger_core.run.budget import USD
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.run.retry import OUTAGE
from ledger_core.run.state import UNSETTLED
from ledger_core.runtime.departure import Operation, Ticket, Wanted, operation_of
from ledger_core.runtime.doubt import Doubt, price, unless_cancelled
from ledger_core.runtime.driver import TookTooLong
from ledger_core.runtime.effect import Place, error_types, normalised, replayed
from ledger_core.runtime.gate import Passed, adopted


class ToolEffects(Doubt):
    """The tool calls of a step."""

    _operations: dict[str, Operation]
    """Logical keys of the calls under way, by path."""

    async def call_tool(self, place: Place, name: str, arguments: Mapping[str, Any]) -> Any:
        """A tool's result; raises `ToolFailed`, and `BadInput` before anything was recorded."""
        self._check_open()
        check_name(name, "tool")
        given = dict(arguments)
        operation = operation_of(given)
        raw, plain = secret.both(given)
        spec = self._tools.get(name)
        document = {"arguments": plain}
        if operation is not None:
            document["operation"] = [operation.scope, operation.name]
        intent = self._intent(place, "tool", name, document)
        if spec is not None and not self.driver.journal.knows(intent.path):
            spec.check(raw)  # refused before it is requested, live and replayed; what is recorded was right in its time
        entry = self._compared(intent)
        if operation is not None:
            self._operations[intent.path] = operation
        return await self.driver.effect(self._tool(spec, intent, entry, raw), lambda: self._left_at_gate(intent))

    async def _tool(self, spec: ToolSpec | None, intent: Intent, entry: Entry | None, raw: Any) -> Any:
        entry = await self._turn(intent, entry)
        if entry is not None and entry.final:
            return replayed(entry, ToolFailed)
        if spec is None:
            raise self._stopped(self._no_tool(intent.name))
        entry = entry or Entry(intent=intent, seq=0, attempt=0, no_effect=True)
        entry.intent = intent  # the same by its tag; what was held at the gate is recorded without its words
        entry.writes = entry.writes or spec.side_effect == "external_write"
        while not entry.final:
            if entry.wake_ns is not None:
                await self._look_again(entry)
            elif entry.writes and not entry.no_effect:
                await self._settle(spec, entry, raw)
            elif (passed := await self._pass(spec, entry)) is not None:
                await self._attempt(spec, entry, passed, raw)
        return replayed(entry, ToolFailed)

    async def begin_tool(self, spec: ToolSpec, intent: Intent) -> Any:
        """Record that a tool is about to be called elsewhere; raises `PermissionDenied`, `BudgetExceeded`.

        None if it is to be called; a value if it was, under the same logical key: that of the call that was made.
        """
        entry = Entry(intent=intent, seq=0, attempt=0, no_effect=True)
        while not entry.final:
            passed = await self._pass(spec, entry)
            if passed is not None and passed.plan is not None:
                await self._refuse(
                    entry, "sandbox", "SandboxUnavailable", "What is made elsewhere is in no sandbox here."
                )
            elif passed is not None and await self._request(spec, entry, passed, durable=True):
                return None
        return replayed(entry, ToolFailed)

    def result_body(self, entry: Entry, result: Any) -> ToolCallCompleted:
        """What the log says of a call that was made elsewhere."""
        spec = self._tools.get(entry.intent.name)
        amounts = price(spec, result) if spec is not None else {"calls": 1, "tool_calls": 1}
        spent = self._spent(entry, amounts)
        return ToolCallCompleted(path=entry.intent.path, attempt=entry.attempt, spent=spent, result=result)

    async def _look_again(self, entry: Entry) -> None:
        """Wait until an open call may be looked at again; somebody else may settle it meanwhile."""
        assert entry.wake_ns is not None
        path, wake_ns = entry.intent.path, entry.wake_ns
        while self._now_ns() < wake_ns:
            row = self._state.ledger.get(path)
            if row is not None and entry.standing is Standing.IN_DOUBT and row.status not in UNSETTLED:
                await self._settled_elsewhere(entry)
                return
            await self.driver.park(path, wake_ns)
        entry.wake_ns = None

    # One attempt

    async def _attempt(self, spec: ToolSpec, entry: Entry, passed: Passed, raw: Any) -> None:
        intent, writes = entry.intent, spec.side_effect == "external_write"
        if not await self._request(spec, entry, passed):
            return
        entry.standing = Standing.OPEN
        call = (self._state.run, intent.path, entry.attempt)
        reach("effect-before")
        if entry.writes:
            self._around.under_way.add(call)
        outcome: Outcome | None = None
        try:
            positional, keywords = spec.bind(spec.function, codec.roundtrip(raw), self._key_for(entry))
            if passed.plan is None:
                given = await self.driver.call(spec.function, *positional, timeout=spec.timeout, **keywords)
            else:
                given, outcome = await self._inside(passed.plan, spec, positional, keywords)
            result = secret.plain(given)
            spec.check_result(result)
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the tool's outcome
            unless_cancelled(error)
            reach("effect-after")
            if not isinstance(error, TookTooLong):  # one that did not end in time is under way until its process ends
                self._around.under_way.discard(call)
            await self._failed(spec, entry, passed, error, outcome)
            return
        reach("effect-after")
        self._around.under_way.discard(call)
        spent = self._spent(entry, price(spec, result))
        completed = ToolCallCompleted(path=intent.path, attempt=entry.attempt, spent=spent, result=result)
        kept, durable = self._kept(entry, passed, outcome), writes or self._pays(entry)
        if await self._said(spec, entry, kept, completed, durable=durable):
            entry.standing, entry.value = Standing.DONE, codec.roundtrip(result)

    async def _inside(
        self, plan: Plan, spec: ToolSpec, positional: Sequence[Any], keywords: Mapping[str, Any]
    ) -> tuple[Any, Outcome]:
        """Call the tool in its sandbox, which sees to the time that it takes."""
        try:
            return await self.driver.call(  # type: ignore[no-any-return]  # what Plan.run returns
                lambda: plan.run(spec.function, tuple(positional), dict(keywords), timeout=spec.timeout)
            )
        except asyncio.CancelledError:  # the loop ends, and the thread that waits for it would not hear of it
            plan.kill()
            raise

    async def _request(self, spec: ToolSpec, entry: Entry, passed: Passed, *, durable: bool = False) -> bool:
        """Record the intent: durable before an outside write starts, and before anything is spent."""
        intent, operation = entry.intent, self._operations.get(entry.intent.path)
        again = entry.attempt == 0 or entry.writes or entry.failures or entry.outages
        durable = durable or spec.side_effect == "external_write" or operation is not None or self._bounded()
        if not (again or durable):
            return True  # a read that was lost is made again as what it was
        number = entry.attempt + 1

        def bodies(ticket: Ticket) -> list[Body]:
            requested = ToolCallRequested(
                path=intent.path,
                attempt=number,
                tool=spec.name,
                tool_version=spec.version,
                side_effect=spec.side_effect,
                request=intent.request,
                approval=passed.approval,
                arguments=intent.document["arguments"],
                key=ticket.key,
                key_request=ticket.key_request,
                idempotency=ticket.idempotency,
                reserved=ticket.reserved,
                unbounded=ticket.unbounded,
            )
            return [*passed.bodies(entry, spec), requested, *_started(entry, number, passed.plan)]

        news = list(self._adoption(passed))
        if durable or news:
            besides = (lambda runs: adopted(runs, iter(news))) if news else None
            if not await self._depart(entry, _wanted(spec), bodies, operation=operation, besides=besides):
                return False
            if news:
                self._around.adopted.add(passed.decision.policy)
        else:
            for body in bodies(Ticket()):
                self._begin(body)
        entry.attempt = number
        return True

    def _kept(self, entry: Entry, passed: Passed, outcome: Outcome | None) -> list[Body]:
        """What the log says of the sandbox's end."""
        if passed.plan is None or outcome is None:
            return []
        facts = outcome.as_facts()
        return [
            SandboxCompleted(
                path=entry.intent.path, attempt=entry.attempt, stderr=secret.plain(outcome.stderr), **facts
            )
        ]

    def _pays(self, entry: Entry) -> bool:
        """Whether a call holds something that its outcome gives back: it is durable."""
        row = self._state.ledger.get(entry.intent.path)
        return entry.intent.path in self._state.reservations or (row is not None and row.key is not None)

    async def _failed(
        self, spec: ToolSpec, entry: Entry, passed: Passed, error: BaseException, outcome: Outcome | None
    ) -> None:
        """Record how an attempt failed, and what follows."""
        writes = spec.side_effect == "external_write"
        category = _category(spec, error)
        doubt = writes and category not in ("outage", "no_effect", "sandbox")
        kind, message = normalised(error)
        if category == "timeout":
            kind = "TimeoutError"
        resent = doubt and spec.verify is None and spec.idempotency != "none"
        retry_ns = None if doubt and not resent else self._next_ns(spec, entry, category, error)
        if category == "outage":
            entry.outages += 1
        else:
            entry.failures, entry.outages = entry.failures + 1, 0
        failed = ToolCallFailed(
            path=entry.intent.path,
            attempt=entry.attempt,
            category=category,
            error_type=kind,
            in_doubt=doubt,
            retry_ns=retry_ns,
            spent=None if doubt else self._spent(entry, wasted(spec, category)),
            message=message,
        )
        entry.value, entry.error_type, entry.told, entry.wake_ns = message, kind, True, retry_ns
        kept = self._kept(entry, passed, outcome or getattr(error, "outcome", None))
        pays = self._pays(entry)
        if doubt:
            entry.standing, entry.no_effect = Standing.IN_DOUBT, False
            for body in (*kept, failed):
                self._ride(body)
        elif retry_ns is None:
            if await self._said(spec, entry, kept, failed, durable=writes or pays):
                entry.standing = Standing.FAILED
        else:
            entry.standing, entry.no_effect = Standing.OPEN, True
            if writes or pays:
                await self._append(lambda *_: (*kept, failed))
            else:
                for body in (*kept, failed):
                    self._ride(body)

    def _next_ns(self, spec: ToolSpec, entry: Entry, category: str, error: BaseException) -> int | None:
        """When a failed attempt without an effect is made again; None if it is not."""
        path, now = entry.intent.path, self._now_ns()
        if category == "outage":
            return now + OUTAGE.pause_ns(entry.outages + 1, self._seed, path)
        attempt = entry.failures + 1
        if spec.retry is None or not spec.retry.again(attempt, category, error_types(error), default=("*",)):
            return None
        return now + spec.retry.pause_ns(attempt, self._seed, path)

    def _no_tool(self, name: str) -> BadInput:
        known = ", ".join(sorted(self._tools)) or "none"
        return BadInput(
            f"There is no tool {name!r}.", hint=f"Pass it in @agent(tools=[…]) or register it; known are: {known}."
        )

    def _beyond(self, intent: Intent, entry: Entry | None) -> Any:
        if entry is None and intent.kind == "tool" and intent.name not in self._tools:
            return self._no_tool(intent.name)
        return super()._beyond(intent, entry)


def _category(spec: ToolSpec, error: BaseException) -> str:
    """What kind of end an attempt came to, in one word."""
    raised = set(error.types) if isinstance(error, ToolRaised) else set()
    if isinstance(error, (Unavailable, *spec.outage)) or raised.intersection(one.__name__ for one in spec.outage):
        return "outage"
    if isinstance(error, NoEffect):
        return "no_effect"
    if isinstance(error, TookTooLong) or (isinstance(error, SandboxStopped) and error.reason == "time"):
        return "timeout"
    if isinstance(error, SandboxUnavailable) or (isinstance(error, SandboxStopped) and error.reason == "startup"):
        return "sandbox"
    return "output" if isinstance(error, BadOutput) else "tool"


def _wanted(spec: ToolSpec) -> Wanted:
    """The most that one call takes; None of what nobody knows."""
    usd: Any = spec.cost_bound if spec.cost_bound is not None else spec.cost or 0
    return {"calls": 1, "tool_calls": 1, "usd_nano": None if callable(usd) else round(usd * USD)}


def wasted(spec: ToolSpec, category: str) -> dict[str, int]:
    """What an attempt is charged that failed: nothing where nothing happened, else what it can have cost."""
    if category in ("outage", "no_effect", "sandbox"):
        return {}
    wanted = _wanted(spec)
    return {name: amount for name, amount in wanted.items() if amount}


def _limits(plan: Plan) -> dict[str, Any]:
    """What a sandbox allows; of its environment the names alone: values may be anything."""
    limits = dict(plan.policy.as_json())
    limits["environment"] = sorted(limits.get("environment") or ())
    return dict(secret.plain(limits))


def _started(entry: Entry, attempt: int, plan: Plan | None) -> list[Body]:
    if plan is None:
        return []
    return [
        SandboxStarted(
            path=entry.intent.path,
            attempt=attempt,
            executor=plan.executor.name,
            policy=plan.digest,
            limits=_limits(plan),
        )
    ]
