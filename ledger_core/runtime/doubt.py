"""Doubt: finding out what became of an outside write whose outcome nobody knows.

Rules: never retried silently. It is settled by its tool's `verify` hook; by sending the same key again to a tool that
says that this is safe; or by a person, until when the step stops. "No effect" is believed only when nothing can arrive
any more: not before `settle_after`, and not while whoever made the call may still be making it, because its process is
stopped, not gone. A worker that lost the step says what it knows of its own call as late evidence, and nothing else.
This file does not know loops, threads, or who owns the step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from ledger_core import codec, secret
from ledger_core.clock import NS
from ledger_core.errors import Fenced, InDoubt, NoEffect, Unavailable
from ledger_core.events import Body
from ledger_core.events.effect import SettledAs, ToolCallCompleted, ToolCallFailed, ToolCallSettled
from ledger_core.failpoints import reach
from ledger_core.governance.tool import ToolSpec
from ledger_core.log.batch import View
from ledger_core.run import answer, decide
from ledger_core.run.budget import USD
from ledger_core.run.journal import UNKNOWN, Entry, Standing
from ledger_core.run.rows import UNSETTLED
from ledger_core.runtime.departure import Departure
from ledger_core.runtime.driver import StepStopped, TookTooLong
from ledger_core.runtime.effect import normalised
from ledger_core.runtime.folds import Folds, Runs
from ledger_core.runtime.recorded import RunRecord

log = logging.getLogger("agentledger")


class Doubt(Departure):
    """How a step's calls in doubt are settled."""

    async def _settle(self, spec: ToolSpec, entry: Entry, raw: Any) -> None:
        """Find out what became of an outside write; where nobody can tell, the step stops and waits for a person."""
        if spec.verify is None and spec.idempotency != "none" and self._may_resend(spec, entry):
            await self._resend(entry)
            return
        outcome, value = await self._verified(spec, raw, self._key_for(entry))
        row = self._state.ledger.get(entry.intent.path)
        if row is not None and row.status not in UNSETTLED:
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

    def _may_resend(self, spec: ToolSpec, entry: Entry) -> bool:
        """Whether the same key is sent again: where a worker was lost, and as often as the tool's policy says."""
        if not (entry.standing is Standing.IN_DOUBT and entry.told):
            return True
        policy, failed = spec.retry, (entry.error_type or "",)
        return policy is not None and policy.again(entry.failures, "tool", failed, default=("*",))

    async def _resend(self, entry: Entry) -> None:
        """Let the call be made again with its key: the tool says that this is one effect."""
        resent = ToolCallSettled(
            path=entry.intent.path,
            attempt=entry.attempt,
            outcome="resent",
            by="key",
            again=True,
            result=None,
            reason="",
        )
        assert self._recorder is not None
        try:
            await self.driver.commit(self._recorder, lambda *_: (resent,))
        except decide.Settled:
            await self._settled_elsewhere(entry)
        except Exception as error:
            raise self._stopped(error) from error
        else:
            entry.standing, entry.no_effect = Standing.OPEN, True

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
            spent=self._spent(entry, price(spec, value)) if outcome == "succeeded" else None,
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
            result = secret.plain(found)
            spec.check_result(result)
        except (Unavailable, TookTooLong) as error:
            return "unsure", "its verify hook could not ask: {}: {}".format(*normalised(error))
        except NoEffect:
            return "no_effect", None
        except (Exception, asyncio.CancelledError) as error:  # the hook could not tell, whatever its reason
            unless_cancelled(error)
            if isinstance(error, spec.outage):
                return "unsure", "its verify hook could not ask: {}: {}".format(*normalised(error))
            return None, "its verify hook could not tell: {}: {}".format(*normalised(error))
        return "succeeded", result

    def _in_doubt(self, spec: ToolSpec, entry: Entry, why: str) -> StepStopped:
        """Stop the step with the doubt on record."""
        happened = f"{entry.error_type}: {entry.value}" if entry.error_type else "its process ended during the call"
        if entry.standing is Standing.OPEN:
            self._ride(_unknown(entry, f"The process ended between intent and outcome; {why}."))
        settle = f"agentledger ledger settle {self._state.run}:{entry.intent.path} --as succeeded|no-effect"
        hint = f"When the other system can be asked again, resume the run; or say what happened: {settle}."
        return self._stopped(
            InDoubt(
                f"Whether {spec.name} at effect {entry.intent.path} happened is not known ({happened}): {why}.",
                hint=hint if spec.verify else f"Find out, and say what happened: {settle}.",
                path=entry.intent.path,
                tool=spec.name,
            )
        )

    def _key_for(self, entry: Entry) -> str:
        """The idempotency key that the tool is given: of its place in the run, or of its logical key."""
        row = self._state.ledger.get(entry.intent.path)
        return row.idempotency if row is not None and row.idempotency else self._key(entry.intent.path)

    # Outcomes, and what a worker may still say that has lost the step

    async def _said(self, spec: ToolSpec, entry: Entry, before: Sequence[Body], body: Body, *, durable: bool) -> bool:
        """Record an outcome; False if somebody else had settled the call: then `entry` is theirs."""
        try:
            await self._outcome(*before, body, durable=durable)
        except decide.Settled:
            await self._settled_elsewhere(entry)
            return False
        except StepStopped:
            if isinstance(self.driver.stopped, Fenced) and spec.side_effect == "external_write":
                await self._late(spec, entry, body)
            raise
        return True

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
            spent=getattr(body, "spent", None),
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


def price(spec: ToolSpec, result: Any) -> dict[str, int]:
    """What a call that was made is charged, by dimension; a price that cannot be had is the bound."""
    amounts = {"calls": 1, "tool_calls": 1}
    usd: Any = spec.cost
    if callable(usd):
        try:
            usd = usd(result)
        except Exception as error:  # the user's function; the call itself was well
            log.warning("The cost of a call of %s cannot be told: %s", spec.name, type(error).__name__)
            usd = None
        if type(usd) not in (int, float) or not 0 <= usd < 1e9:
            usd = spec.cost_bound
    if usd:
        amounts["usd_nano"] = round(usd * USD)
    return amounts


def _pause(entry: Entry) -> int:
    """How long to wait before asking again, in ns: 0.25 s, and twice that each time, up to a minute."""
    return int(min(60.0, 0.25 * 2 ** min(entry.outages, 10)) * NS)
