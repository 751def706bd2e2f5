"""Calls of models: asked, answered, tried again.

Rules: a model spends, so its intent is durable before it is asked, with what it holds of budgets, and its answer when
it came, with what it took: two syncs. A provider that is not there (`Unavailable`) is waited for; one that says
`RetryableAgentError`, or does not answer in time, is asked again as the call's policy says. Tool calls that the model
proposed are recorded behind its answer. This file does not know providers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger_core import codec, secret
from ledger_core.errors import BadInput, ModelFailed, RetryableAgentError, Unavailable
from ledger_core.events import Body
from ledger_core.events.effect import ModelCallCompleted, ModelCallFailed, ModelCallRequested, ToolCallsProposed
from ledger_core.failpoints import reach
from ledger_core.governance.prices import Usage, usage_of, usage_of_chunks
from ledger_core.governance.proposals import proposed
from ledger_core.ids import check_name
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.run.retry import DEFAULT, OUTAGE, RetryPolicy
from ledger_core.runtime.agent import Provider
from ledger_core.runtime.departure import Departure, Ticket, Wanted
from ledger_core.runtime.doubt import unless_cancelled
from ledger_core.runtime.driver import TookTooLong
from ledger_core.runtime.effect import Place, error_types, normalised, replayed

_RETRYABLE: Final = ("retryable", "timeout")
CALL: Final = {"calls": 1, "model_calls": 1}


class ModelEffects(Departure):
    """The model calls of a step."""

    async def call_model(
        self, place: Place, request: Mapping[str, Any], *, timeout: float | None, retry: RetryPolicy | None
    ) -> Any:
        """A model's response; raises `ModelFailed`, and `BadInput` before anything was recorded."""
        self._check_open()
        raw, document = model_request(request)
        intent = self._intent(place, "model", document["model"], document)
        entry = self._compared(intent)
        work = self._ask(intent, entry, raw, timeout, retry or DEFAULT)
        return await self.driver.effect(work, lambda: self._left_at_gate(intent))

    async def _ask(
        self, intent: Intent, entry: Entry | None, raw: Any, timeout: float | None, policy: RetryPolicy
    ) -> Any:
        entry = await self._turn(intent, entry) or Entry(intent=intent, seq=0, attempt=0)
        if not entry.final:
            entry.intent = intent  # the same by its tag; what was held is recorded without its words
        while not entry.final:
            if entry.wake_ns is not None:
                await self._until(intent.path, entry.wake_ns)
                entry.wake_ns = None
            if (provider := await self._ask_for(entry)) is not None:
                await self._ask_once(entry, provider, raw, timeout, policy)
        return replayed(entry, ModelFailed)

    async def _ask_for(self, entry: Entry) -> Provider | None:
        """Who to ask, when the intent is recorded; None if there was no room for it just now, or for good."""
        try:
            provider = self._model(entry.intent.document["model"])
        except BadInput as missing:
            raise self._stopped(missing) from None
        if not await self._request_model(entry):
            return None
        reach("effect-before")
        return provider

    async def _request_model(self, entry: Entry) -> bool:
        """Record the intent; False if there was no room for it just now, or for good."""
        document, intent = entry.intent.document, entry.intent

        def bodies(ticket: Ticket) -> list[Body]:
            return [
                ModelCallRequested(
                    path=intent.path,
                    attempt=entry.attempt + 1,
                    model=document["model"],
                    request=intent.request,
                    reserved=ticket.reserved,
                    unbounded=ticket.unbounded,
                    messages=document["messages"],
                    parameters=document["parameters"],
                )
            ]

        if not await self._depart(entry, self._model_wants(document), bodies):
            return False
        entry.attempt += 1
        return True

    async def _ask_once(
        self, entry: Entry, provider: Provider, raw: Any, timeout: float | None, policy: RetryPolicy
    ) -> None:
        try:
            given = await self.driver.call(provider, codec.roundtrip(raw), timeout=timeout)
            response = secret.plain(given)
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the model's outcome
            unless_cancelled(error)
            await self._unanswered(entry, error, policy)
            return
        reach("effect-after")
        await self._answered(entry, response, usage_of(response), proposed(response))

    async def _answered(
        self, entry: Entry, response: Any, usage: Usage, calls: Sequence[Any], *, streamed: bool = False
    ) -> None:
        """Record an answer, and behind it what it proposes."""
        bodies = self.answer_bodies(entry, response, usage, calls, streamed=streamed)
        await self._outcome(*bodies, durable=True)
        entry.standing, entry.value = Standing.DONE, codec.roundtrip(response)

    async def begin_model(self, intent: Intent) -> None:
        """Record that a model is about to be asked elsewhere; raises `BudgetExceeded`."""
        entry = Entry(intent=intent, seq=0, attempt=0)
        while not entry.final:
            if await self._request_model(entry):
                return
        replayed(entry, ModelFailed)

    def answer_bodies(
        self, entry: Entry, response: Any, usage: Usage, calls: Sequence[Any], *, streamed: bool = False
    ) -> list[Body]:
        """What the log says of an answer, and behind it what it proposes."""
        usd = self._around.prices.cost(entry.intent.name, usage)
        completed = ModelCallCompleted(
            path=entry.intent.path,
            attempt=entry.attempt,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            usd_nano=usd,
            prices=self._around.prices.digest if usd is not None and usage.usd_nano is None else None,
            proposed=len(calls) or None,
            streamed=streamed or None,
            spent=self._model_spent(entry, usage, usd),
            response=response,
        )
        told = [ToolCallsProposed(path=entry.intent.path, count=len(calls), calls=list(calls))] if calls else []
        return [completed, *told]

    async def _unanswered(
        self, entry: Entry, error: BaseException, policy: RetryPolicy, partial: list[Any] | None = None
    ) -> None:
        outage, late = isinstance(error, Unavailable), isinstance(error, TookTooLong)
        retryable = isinstance(error, RetryableAgentError)
        kind, message = normalised(error)
        category = "outage" if outage else "timeout" if late else "retryable" if retryable else "model"
        path, now = entry.intent.path, self._now_ns()
        retry_ns: int | None = None
        if partial:
            pass  # the code has seen the beginning of an answer: another one is another call
        elif outage:
            entry.outages += 1
            retry_ns = now + OUTAGE.pause_ns(entry.outages, self._seed, path)
        else:
            entry.failures, entry.outages = entry.failures + 1, 0
            again = policy.again(entry.failures, category, error_types(error), default=_RETRYABLE)
            retry_ns = now + policy.pause_ns(entry.failures, self._seed, path) if again else None
        failed = ModelCallFailed(
            path=path,
            attempt=entry.attempt,
            category=category,
            error_type="TimeoutError" if late else kind,
            retry_ns=retry_ns,
            spent=self._model_wasted(entry, category, partial),
            message=message,
            partial=partial or None,
        )
        entry.wake_ns = retry_ns
        if retry_ns is None:
            await self._outcome(failed, durable=True)
            entry.standing, entry.value, entry.error_type = Standing.FAILED, message, failed.error_type
        else:
            await self._append(lambda *_: (failed,))

    # What it costs

    def _model_wants(self, document: Mapping[str, Any]) -> Wanted:
        return {**CALL, **self._around.prices.bounds(document)}

    def _model_spent(self, entry: Entry, usage: Usage, usd: int | None) -> dict[str, int] | None:
        """What an answer is charged where its call holds something; what it does not say is charged at its bound."""
        held = self._state.reservations.get(entry.intent.path)
        if held is None:
            return {"usd_nano": usd} if usd else None
        bounds = self._around.prices.bounds(entry.intent.document)
        sent, got = usage.input_tokens, usage.output_tokens
        said = {
            "input_tokens": sent,
            "output_tokens": got,
            "cached_tokens": usage.cached_tokens or (0 if sent is not None else None),
            "tokens": None if sent is None or got is None else sent + got,
            "usd_nano": usd,
        }
        charged = {name: bounds[name] if value is None else value for name, value in said.items()}
        return {**CALL, **{name: value for name, value in charged.items() if value}}

    def _model_wasted(self, entry: Entry, category: str, partial: list[Any] | None = None) -> dict[str, int] | None:
        """What a call without an answer is charged: nothing if it never came to it, its bounds if it may be billed."""
        if (category == "outage" and not partial) or entry.intent.path not in self._state.reservations:
            return None
        if partial:
            usage = usage_of_chunks(partial)
            return self._model_spent(entry, usage, self._around.prices.cost(entry.intent.name, usage))
        bounds = self._around.prices.bounds(entry.intent.document) if category == "timeout" else {}
        return {**CALL, **{name: value for name, value in bounds.items() if value}}


def model_request(request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request as the provider is given it, and as it is recorded; raises `BadInput`."""
    if not isinstance(request, Mapping) or not isinstance(request.get("messages", []), (list, tuple)):
        raise BadInput("A model is called with a dict that has `model` and a list of `messages`.")
    model = check_name(request.get("model", "default"), "model")
    messages, plain_messages = secret.both(list(request.get("messages", [])))
    rest = {name: value for name, value in request.items() if name not in ("model", "messages")}
    parameters, plain_parameters = secret.both(rest)
    raw = {"model": model, "messages": messages, **parameters}
    return raw, {"model": model, "messages": plain_messages, "parameters": plain_parameters}
