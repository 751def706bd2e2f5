"""Calls of tools: attempts, retries, outages, doubt.

Rules: an outside write is durable before it starts and when it ends: two syncs. A read rides. An attempt that failed
without an effect is made again as its tool's policy says; an outage is waited for and counts as no attempt. An outside
write whose outcome is not known is settled by its tool's `verify` hook, or stops the step: never retried silently. "No
effect" is believed only when nothing can arrive any more: not before `settle_after`, and not while whoever made the
call may still be making it, because its process is stopped, not gone. A worker that lost the step says what it knows of
its own call as late evidence, and nothing else. This file does not know loops, threads, or who owns the step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ledger_core import codec
from ledger_core.clock import NS
from ledger_core.errors import BadInput, Fenced, InDoubt, NoEffect, ToolFailed, Unavailable
from ledger_core.events import Body
from ledger_core.events.effect import SettledAs, ToolCallCompleted, ToolCallFailed, ToolCallRequested, ToolCallSettled
from ledger_core.failpoints import reach
from ledger_core.governance.tool import ToolSpec
from ledger_core.ids import check_name
from ledger_core.log.batch import View
from ledger_core.run import answer, decide
from ledger_core.run.journal import UNKNOWN, Entry, Intent, Standing
from ledger_core.run.retry import OUTAGE
from ledger_core.run.state import UNSETTLED
from ledger_core.runtime.driver import StepStopped, TookTooLong
from ledger_core.runtime.effect import Effects, Place, error_types, normalised, replayed
from ledger_core.runtime.folds import Folds, Runs
from ledger_core.runtime.recorded import RunRecord

log = logging.getLogger("agentledger")


class ToolEffects(Effects):
    """The tool calls of a step."""

    async def call_tool(self, place: Place, name: str, arguments: Mapping[str, Any]) -> Any:
        """A tool's result; raises `ToolFailed`, and `BadInput` before anything was recorded."""
        self._check_open()
        check_name(name, "tool")
        plain = codec.roundtrip(dict(arguments))
        spec = self._tools.get(name)
        if spec is not None:
            spec.check(plain)  # refused before it is requested, live and replayed
        intent = self._intent(place, "tool", name, {"arguments": plain})
        entry = self._compared(intent)
        return await self.driver.effect(self._tool(spec, intent, entry), lambda: self._abandoned(intent))

    async def _tool(self, spec: ToolSpec | None, intent: Intent, entry: Entry | None) -> Any:
        entry = await self._turn(intent, entry)
        if entry is not None and entry.final:
            return replayed(entry, ToolFailed)
        if spec is None:
            raise self._stopped(self._no_tool(intent.name))
        entry = entry or Entry(intent=intent, seq=0, attempt=0, no_effect=True)
        entry.writes = entry.writes or spec.side_effect == "external_write"
        while not entry.final:
            if entry.wake_ns is not None:
                await self._look_again(entry)
            elif entry.writes and not entry.no_effect:
                await self._settle(spec, entry)
            else:
                await self._attempt(spec, entry)
        return replayed(entry, ToolFailed)

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

    async def _attempt(self, spec: ToolSpec, entry: Entry) -> None:
        intent, key = entry.intent, self._key(entry.intent.path)
        writes = spec.side_effect == "external_write"
        if entry.attempt == 0 or entry.writes or entry.failures or entry.outages:
            entry.attempt += 1
            await self._request(spec, entry)
        entry.standing = Standing.OPEN
        call = (self._state.run, intent.path, entry.attempt)
        reach("effect-before")
        if entry.writes:
            self._around.under_way.add(call)
        try:
            positional, keywords = spec.bind(spec.function, codec.roundtrip(intent.document["arguments"]), key)
            given = await self.driver.call(spec.function, *positional, timeout=spec.timeout, **keywords)
            result = codec.roundtrip(given)
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the tool's outcome
            unless_cancelled(error)
            reach("effect-after")
            if not isinstance(error, TookTooLong):  # one that did not end in time is under way until its process ends
                self._around.under_way.discard(call)
            await self._failed(spec, entry, error)
            return
        reach("effect-after")
        self._around.under_way.discard(call)
        completed = ToolCallCompleted(path=intent.path, attempt=entry.attempt, result=result)
        await self._said(spec, entry, completed, durable=writes)
        entry.standing, entry.value = Standing.DONE, codec.roundtrip(result)

    async def _request(self, spec: ToolSpec, entry: Entry) -> None:
        """Record the intent: durable before an outside write starts."""
        requested = ToolCallRequested(
            path=entry.intent.path,
            attempt=entry.attempt,
            tool=spec.name,
            tool_version=spec.version,
            side_effect=spec.side_effect,
            request=entry.intent.request,
            arguments=entry.intent.document["arguments"],
        )
        if spec.side_effect == "external_write":
            await self._append(lambda *_: (requested,), begins=True)
        else:
            self._begin(requested)

    async def _failed(self, spec: ToolSpec, entry: Entry, error: BaseException) -> None:
        """Record how an attempt failed, and what follows."""
        writes = spec.side_effect == "external_write"
        outage = isinstance(error, (Unavailable, *spec.outage))
        doubt = writes and not outage and not isinstance(error, NoEffect)
        kind, message = normalised(error)
        category = (
            "outage"
            if outage
            else "no_effect"
            if isinstance(error, NoEffect)
            else "timeout"
            if isinstance(error, TookTooLong)
            else "tool"
        )
        if isinstance(error, TookTooLong):
            kind = "TimeoutError"
        retry_ns = None if doubt else self._next_ns(spec, entry, category, error)
        if outage:
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
            message=message,
        )
        entry.value, entry.error_type, entry.told, entry.wake_ns = message, kind, True, retry_ns
        if doubt:
            entry.standing, entry.no_effect = Standing.IN_DOUBT, False
            self._ride(failed)
        elif retry_ns is None:
            await self._said(spec, entry, failed, durable=writes)
            entry.standing = Standing.FAILED
        else:
            entry.standing, entry.no_effect = Standing.OPEN, True
            if writes:
                await self._append(lambda *_: (failed,))
            else:
                self._ride(failed)

    def _next_ns(self, spec: ToolSpec, entry: Entry, category: str, error: BaseException) -> int | None:
        """When a failed attempt without an effect is made again; None if it is not."""
        path, now = entry.intent.path, self._now_ns()
        if category == "outage":
            return now + OUTAGE.pause_ns(entry.outages + 1, self._seed, path)
        attempt = entry.failures + 1
        if spec.retry is None or not spec.retry.again(attempt, category, error_types(error), default=("*",)):
            return None
        return now + spec.retry.pause_ns(attempt, self._seed, path)

    # Doubt

    async def _settle(self, spec: ToolSpec, entry: Entry) -> None:
        """Find out what became of an outside write; where nobody can tell, the step stops and waits for a person."""
        outcome, value = await self._verified(spec, entry.intent.document["arguments"], self._key(entry.intent.path))
        row = self._state.ledger.get(entry.intent.path)
        if row is not None and row.attempt == entry.attempt and row.status == "SUCCEEDED":
            await self._settled_elsewhere(entry)
            return
        if outcome is None:
            raise self._in_doubt(spec, entry, value)
        pause_ns, why = (max(NS, _pause(entry)), value) if outcome == "unsure" else (0, "")
        if outcome == "no_effect":
            pause_ns, why = self._may_still_come(spec, entry)
        if pause_ns:
            self._ask_later(entry, pause_ns, why)
            return
        if outcome == "no_effect":
            await self._settle_as(spec, entry, "no_effect", None)
        else:
            await self._settle_as(spec, entry, "succeeded", value)

    async def _settle_as(self, spec: ToolSpec, entry: Entry, outcome: SettledAs, value: Any) -> None:
        """Record what was found out; if somebody else did so first, `entry` becomes theirs."""
        told = entry.standing is Standing.IN_DOUBT and entry.told
        policy, failed = spec.retry, (entry.error_type or "",)
        again = told and policy is not None and policy.again(entry.failures, "tool", failed, default=("*",))
        final = outcome == "succeeded" or (told and not again)
        settled = ToolCallSettled(
            path=entry.intent.path,
            attempt=entry.attempt,
            outcome=outcome,
            by="verify",
            again=(again and outcome == "no_effect") or None,
            result=value,
            reason="",
        )
        assert self._recorder is not None
        turn = self.driver.drafted() if final else None
        try:
            await self.driver.commit(self._recorder, lambda *_: (settled,))
        except decide.Settled:
            await self._settled_elsewhere(entry)
        except Exception as error:
            raise self._stopped(error) from error
        else:
            if outcome == "succeeded":
                entry.standing, entry.value = Standing.DONE, codec.roundtrip(value)
            elif final:
                entry.standing = Standing.FAILED
            else:
                entry.standing, entry.no_effect = Standing.OPEN, True
        if turn is not None:
            await self.driver.deliver(turn)

    async def _settled_elsewhere(self, entry: Entry) -> None:
        """Take what somebody else recorded of the call: its late worker, or a person."""
        assert self._recorder is not None
        found = RunRecord.read(self._recorder.log, self._state.run).journal.entries[entry.intent.path]
        entry.standing, entry.value, entry.error_type = found.standing, found.value, found.error_type
        entry.no_effect, entry.wake_ns, entry.told = found.no_effect, None, found.told

    def _may_still_come(self, spec: ToolSpec, entry: Entry) -> tuple[int, str]:
        """For how long "no effect" cannot be believed yet, in ns, and why; 0 if it can."""
        row = self._state.ledger.get(entry.intent.path)
        if row is None:
            return 0, ""
        left = row.requested_ns + int(spec.settle_after * NS) - self._now_ns()
        if left > 0:
            return left, "a request that was sent may still arrive"
        if (self._state.run, entry.intent.path, entry.attempt) in self._around.under_way:
            return _pause(entry), "the call is still under way in this process"
        mine = row.worker == self._state.worker
        if not mine and row.worker is not None and self._around.life(row.worker) != "gone":
            return _pause(entry), f"{row.worker}, which made the call, is stopped or hangs, and may still be making it"
        return 0, ""

    def _ask_later(self, entry: Entry, pause_ns: int, why: str) -> None:
        entry.wake_ns = self._now_ns() + pause_ns
        entry.outages += 1
        if entry.standing is not Standing.IN_DOUBT:
            entry.told = False
        entry.standing = Standing.IN_DOUBT
        self._ride(_unknown(entry, f"It is asked for again later: {why}."))

    async def _verified(self, spec: ToolSpec, arguments: Any, key: str) -> tuple[SettledAs | str | None, Any]:
        """What the hook says: `succeeded`, `no_effect`, `unsure` (later it may know), or None with its reason."""
        if spec.verify is None:
            return None, f"tool {spec.name} has no verify hook"
        reach("verify-before")
        try:
            positional, keywords = spec.bind(spec.verify, codec.roundtrip(arguments), key)
            found = await self.driver.call(spec.verify, *positional, timeout=spec.timeout, **keywords)
            return "succeeded", codec.roundtrip(found)
        except (Unavailable, TookTooLong) as error:
            return "unsure", "its verify hook could not ask: {}: {}".format(*normalised(error))
        except NoEffect:
            return "no_effect", None
        except (Exception, asyncio.CancelledError) as error:  # the hook could not tell, whatever its reason
            unless_cancelled(error)
            if isinstance(error, spec.outage):
                return "unsure", "its verify hook could not ask: {}: {}".format(*normalised(error))
            return None, "its verify hook could not tell: {}: {}".format(*normalised(error))

    def _in_doubt(self, spec: ToolSpec, entry: Entry, why: str) -> StepStopped:
        """Stop the step with the doubt on record."""
        happened = f"{entry.error_type}: {entry.value}" if entry.error_type else "its process ended during the call"
        if entry.standing is Standing.OPEN:
            self._ride(_unknown(entry, f"The process ended between intent and outcome; {why}."))
        hint = "When the other system can be asked again, resume the run."
        return self._stopped(
            InDoubt(
                f"Whether {spec.name} at effect {entry.intent.path} happened is not known ({happened}): {why}.",
                hint=hint if spec.verify else "Find out, give the tool a verify hook, and resume the run.",
                path=entry.intent.path,
                tool=spec.name,
            )
        )

    # Outcomes, and what a worker may still say that has lost the step

    async def _said(self, spec: ToolSpec, entry: Entry, body: Body, *, durable: bool) -> None:
        try:
            await self._outcome(body, durable=durable)
        except StepStopped:
            if isinstance(self.driver.stopped, Fenced) and spec.side_effect == "external_write":
                await self._late(spec, entry, body)
            raise

    async def _late(self, spec: ToolSpec, entry: Entry, body: Body) -> None:
        """Say what became of a call of this worker's, though the step is another's by now."""
        assert self._recorder is not None
        run_id, ledger = self._state.run, self._recorder.log
        result = body.result if isinstance(body, ToolCallCompleted) else None
        settled = ToolCallSettled(
            path=entry.intent.path,
            attempt=entry.attempt,
            outcome="succeeded" if isinstance(body, ToolCallCompleted) else "no_effect",
            by="late",
            result=result,
            reason="its worker had lost the step when the call ended",
        )

        def decision(view: View) -> Any:
            runs = Runs(view, Folds(), ledger.clock.now_ns())
            state = runs.state(run_id)
            return () if state is None else runs.drafts(state, answer.settle_late(state, settled), actor="late worker")

        added = await self.driver.decide(ledger, decision)
        log.warning(
            "Lost the step of run %s while %s ran at effect %s: its outcome %s, and nothing else was changed.",
            run_id,
            spec.name,
            entry.intent.path,
            "was added as late evidence" if added else "was settled already",
        )

    def _no_tool(self, name: str) -> BadInput:
        known = ", ".join(sorted(self._tools)) or "none"
        return BadInput(
            f"There is no tool {name!r}.", hint=f"Pass it in @agent(tools=[…]) or register it; known are: {known}."
        )

    def _beyond(self, intent: Intent, entry: Entry | None) -> Any:
        if entry is None and intent.kind == "tool" and intent.name not in self._tools:
            return self._no_tool(intent.name)
        return super()._beyond(intent, entry)


def unless_cancelled(error: BaseException) -> None:
    """Go on being cancelled, if it is this effect that is: a tool's own CancelledError is the tool's outcome."""
    if isinstance(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is not None and task.cancelling():
            raise error


def _unknown(entry: Entry, words: str) -> ToolCallFailed:
    """The word for not knowing, until the entry's time to ask again, if it has one."""
    return ToolCallFailed(
        path=entry.intent.path,
        attempt=entry.attempt,
        category=UNKNOWN,
        error_type="InDoubt",
        in_doubt=True,
        retry_ns=entry.wake_ns,
        message=words,
    )


def _pause(entry: Entry) -> int:
    """How long to wait before asking again, in ns: 0.25 s, and twice that each time, up to a minute."""
    return int(min(60.0, 0.25 * 2 ** min(entry.outages, 10)) * NS)
