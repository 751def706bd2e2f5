"""Calls of models: asked, answered, tried again.

Rules: a model spends, so its intent is durable before it is asked and its answer when it came: two syncs. A provider
that is not there (`Unavailable`) is waited for; one that says `RetryableAgentError`, or does not answer in time, is
asked again as the call's policy says. This file does not know providers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from ledger_core import codec
from ledger_core.errors import BadInput, ModelFailed, RetryableAgentError, Unavailable
from ledger_core.events.effect import ModelCallCompleted, ModelCallFailed, ModelCallRequested
from ledger_core.failpoints import reach
from ledger_core.ids import check_name
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.run.retry import DEFAULT, OUTAGE, RetryPolicy
from ledger_core.runtime.driver import TookTooLong
from ledger_core.runtime.effect import Effects, Place, error_types, normalised, replayed
from ledger_core.runtime.tool_effects import unless_cancelled

_RETRYABLE: Final = ("retryable", "timeout")


class ModelEffects(Effects):
    """The model calls of a step."""

    async def call_model(
        self, place: Place, request: Mapping[str, Any], *, timeout: float | None, retry: RetryPolicy | None
    ) -> Any:
        """A model's response; raises `ModelFailed`, and `BadInput` before anything was recorded."""
        self._check_open()
        document = model_document(request)
        intent = self._intent(place, "model", document["model"], document)
        entry = self._compared(intent)
        work = self._ask(intent, entry, timeout, retry or DEFAULT)
        return await self.driver.effect(work, lambda: self._abandoned(intent))

    async def _ask(self, intent: Intent, entry: Entry | None, timeout: float | None, policy: RetryPolicy) -> Any:
        entry = await self._turn(intent, entry) or Entry(intent=intent, seq=0, attempt=0)
        while not entry.final:
            if entry.wake_ns is not None:
                await self._until(intent.path, entry.wake_ns)
                entry.wake_ns = None
            entry.attempt += 1
            await self._ask_once(entry, timeout, policy)
        return replayed(entry, ModelFailed)

    async def _ask_once(self, entry: Entry, timeout: float | None, policy: RetryPolicy) -> None:
        intent = entry.intent
        document = intent.document
        try:
            provider = self._model(document["model"])
        except BadInput as missing:
            raise self._stopped(missing) from None
        requested = ModelCallRequested(
            path=intent.path,
            attempt=entry.attempt,
            model=document["model"],
            request=intent.request,
            messages=document["messages"],
            parameters=document["parameters"],
        )
        await self._append(lambda *_: (requested,), begins=True)
        reach("effect-before")
        request = {"model": document["model"], "messages": document["messages"], **document["parameters"]}
        try:
            given = await self.driver.call(provider, codec.roundtrip(request), timeout=timeout)
            response = codec.roundtrip(given)
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the model's outcome
            unless_cancelled(error)
            await self._unanswered(entry, error, policy)
            return
        reach("effect-after")
        input_tokens, output_tokens = usage(response)
        completed = ModelCallCompleted(
            path=intent.path,
            attempt=entry.attempt,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            response=response,
        )
        await self._outcome(completed, durable=True)
        entry.standing, entry.value = Standing.DONE, codec.roundtrip(response)

    async def _unanswered(self, entry: Entry, error: BaseException, policy: RetryPolicy) -> None:
        outage, late = isinstance(error, Unavailable), isinstance(error, TookTooLong)
        retryable = isinstance(error, RetryableAgentError)
        kind, message = normalised(error)
        category = "outage" if outage else "timeout" if late else "retryable" if retryable else "model"
        path, now = entry.intent.path, self._now_ns()
        if outage:
            entry.outages += 1
            retry_ns: int | None = now + OUTAGE.pause_ns(entry.outages, self._seed, path)
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
            message=message,
        )
        entry.wake_ns = retry_ns
        if retry_ns is None:
            await self._outcome(failed, durable=True)
            entry.standing, entry.value, entry.error_type = Standing.FAILED, message, failed.error_type
        else:
            await self._append(lambda *_: (failed,))


def model_document(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request as it is recorded; raises `BadInput`."""
    if not isinstance(request, Mapping) or not isinstance(request.get("messages", []), (list, tuple)):
        raise BadInput("A model is called with a dict that has `model` and a list of `messages`.")
    model = check_name(request.get("model", "default"), "model")
    messages = codec.roundtrip(list(request.get("messages", [])))
    parameters = codec.roundtrip({name: value for name, value in request.items() if name not in ("model", "messages")})
    return {"model": model, "messages": messages, "parameters": parameters}


def usage(response: Any) -> tuple[int | None, int | None]:
    """Token counts as the usual providers name them; None where they do not say."""
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return None, None

    def count(*names: str) -> int | None:
        return next((usage[name] for name in names if type(usage.get(name)) is int and usage[name] >= 0), None)

    return count("input_tokens", "prompt_tokens"), count("output_tokens", "completion_tokens")
