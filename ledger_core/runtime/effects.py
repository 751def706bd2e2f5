"""What happens at an effect: the same steps for a fresh run, a recovery and a replay, in a loop or in a thread.

Rules: an intent is compared with the journal before anything else. An outside write, and anything that spends, is
durable before it starts and when it ends: two syncs. A read rides. What the code is given is always
`decode(encode(value))`, or a failure of a type name and a message, so that live and replayed cannot differ. An outside
write whose outcome is not known is settled by its tool's `verify` hook, or stops the step: never retried silently.
This file does not know loops, threads, or who owns the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ledger_core import chain, codec
from ledger_core.errors import BadInput, InDoubt, ModelFailed, NoEffect, NotStorable, ToolFailed
from ledger_core.events import Body
from ledger_core.events.effect import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    SettledAs,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
    ValueCaptured,
)
from ledger_core.events.step import StatePatchProposed
from ledger_core.failpoints import reach
from ledger_core.governance.tool import ToolSpec
from ledger_core.ids import check_name
from ledger_core.run.divergence import Divergence
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.runtime.agent import Provider
from ledger_core.runtime.driver import Driver, StepStopped
from ledger_core.runtime.recorder import Recorder

LONGEST_MESSAGE: Final = 10_000
Place = tuple[str, str | None]
"""An effect's path, and the line of agent code that asked for it."""


class Effects:
    """The effects of one step, carried by a driver."""

    def __init__(
        self,
        *,
        driver: Driver,
        recorder: Recorder | None,
        tag: Callable[[bytes], bytes],
        tools: Mapping[str, ToolSpec],
        model: Callable[[str], Provider],
        seed: bytes,
    ) -> None:
        self.driver = driver
        self._recorder = recorder
        self._tag = tag
        self._tools = tools
        self._model = model
        self._seed = seed

    # Tools

    async def call_tool(self, place: Place, name: str, arguments: Mapping[str, Any]) -> Any:
        """A tool's result; raises `ToolFailed`, and `BadInput` before anything was recorded."""
        spec = self._spec(name)
        document = {"arguments": codec.roundtrip(dict(arguments))}
        spec.bind(spec.function, document["arguments"], "")  # refused before it is requested, live and replayed
        intent = self._intent(place, "tool", name, document)
        entry = await self._matched(intent)
        if entry is not None and entry.final:
            return _replayed(entry, ToolFailed)
        return await self.driver.effect(self._tool_live(spec, intent, entry))

    async def _tool_live(self, spec: ToolSpec, intent: Intent, entry: Entry | None) -> Any:
        arguments = intent.document["arguments"]
        key = self._key(intent.path)
        attempt = 1 if entry is None else entry.attempt
        writes = spec.side_effect == "external_write"
        if entry is not None and writes:
            settled = await self._recover_write(spec, entry, arguments, key)
            if settled is not None:
                return _replayed(settled, ToolFailed)
            attempt += 1
        call = spec.bind(spec.function, arguments, key)
        if entry is None or writes:
            requested = ToolCallRequested(
                path=intent.path,
                attempt=attempt,
                tool=spec.name,
                tool_version=spec.version,
                side_effect=spec.side_effect,
                request=intent.request,
                arguments=arguments,
            )
            await self._record(requested, durable=writes)
        reach("effect-before")
        try:
            result = codec.roundtrip(await self.driver.call(spec.function, *call[0], **call[1]))
        except Exception as error:  # whatever it is, it is the tool's outcome
            reach("effect-after")
            return await self._tool_failed(spec, intent, attempt, error, arguments, key)
        reach("effect-after")
        await self._outcome(ToolCallCompleted(path=intent.path, attempt=attempt, result=result), durable=writes)
        return result

    async def _tool_failed(
        self, spec: ToolSpec, intent: Intent, attempt: int, error: BaseException, arguments: Any, key: str
    ) -> Any:
        writes = spec.side_effect == "external_write"
        doubt = writes and not isinstance(error, NoEffect)
        kind, message = normalised(error)
        failed = ToolCallFailed(
            path=intent.path,
            attempt=attempt,
            category="no_effect" if isinstance(error, NoEffect) else "tool",
            error_type=kind,
            in_doubt=doubt,
            message=message,
        )
        if not doubt:
            await self._outcome(failed, durable=writes)
            raise ToolFailed(spec.name, kind, message)
        self._ride(failed)
        entry = Entry(intent=intent, seq=0, attempt=attempt, standing=Standing.IN_DOUBT, value=message, error_type=kind)
        settled = await self._recover_write(spec, entry, arguments, key)
        assert settled is not None
        return _replayed(settled, ToolFailed)

    async def _recover_write(self, spec: ToolSpec, entry: Entry, arguments: Any, key: str) -> Entry | None:
        """Find out what became of an outside write: its settled entry, or None if it may be done again.

        Does not return where nobody can tell: the step stops and waits for a person.
        """
        if entry.no_effect:
            return None
        outcome, value = await self._verified(spec, arguments, key)
        if outcome is None:
            await self._in_doubt(spec, entry, value)
        told = entry.standing is Standing.IN_DOUBT
        if outcome == "no_effect" and not told:
            self._ride(_settled(entry, "no_effect"))
            return None
        await self._outcome(_settled(entry, outcome or "no_effect", value), durable=True)
        if outcome == "succeeded":
            return Entry(intent=entry.intent, seq=entry.seq, standing=Standing.DONE, value=value)
        entry.standing = Standing.FAILED
        return entry

    async def _verified(self, spec: ToolSpec, arguments: Any, key: str) -> tuple[SettledAs | None, Any]:
        if spec.verify is None:
            return None, f"tool {spec.name} has no verify hook"
        positional, keywords = spec.bind(spec.verify, arguments, key)
        reach("verify-before")
        try:
            return "succeeded", codec.roundtrip(await self.driver.call(spec.verify, *positional, **keywords))
        except NoEffect:
            return "no_effect", None
        except Exception as error:  # the hook could not tell, whatever its reason
            return None, "its verify hook could not tell: {}: {}".format(*normalised(error))

    async def _in_doubt(self, spec: ToolSpec, entry: Entry, why: str) -> None:
        """Stop the step with the doubt on record; does not return."""
        if entry.standing is Standing.OPEN:
            self._ride(
                ToolCallFailed(
                    path=entry.intent.path,
                    attempt=entry.attempt,
                    category="unknown",
                    error_type="InDoubt",
                    in_doubt=True,
                    message=f"The process ended between intent and outcome; {why}.",
                )
            )
        self.driver.stop(
            InDoubt(
                f"Whether {spec.name} at effect {entry.intent.path} happened is not known: {why}.",
                hint="Find out, give the tool a verify hook, and resume the run.",
                path=entry.intent.path,
                tool=spec.name,
            )
        )
        await self.driver.halt()

    # Models

    async def call_model(self, place: Place, request: Mapping[str, Any]) -> Any:
        """A model's response; raises `ModelFailed`, and `BadInput` before anything was recorded."""
        document = self._model_document(request)
        intent = self._intent(place, "model", document["model"], document)
        entry = await self._matched(intent)
        if entry is not None and entry.final:
            return _replayed(entry, ModelFailed)
        return await self.driver.effect(self._model_live(intent, 1 if entry is None else entry.attempt + 1))

    async def _model_live(self, intent: Intent, attempt: int) -> Any:
        document = intent.document
        provider = self._model(document["model"])
        requested = ModelCallRequested(
            path=intent.path,
            attempt=attempt,
            model=document["model"],
            request=intent.request,
            messages=document["messages"],
            parameters=document["parameters"],
        )
        await self._record(requested, durable=True)
        reach("effect-before")
        request = {"model": document["model"], "messages": document["messages"], **document["parameters"]}
        try:
            response = codec.roundtrip(await self.driver.call(provider, codec.roundtrip(request)))
        except Exception as error:  # whatever it is, it is the model's outcome
            kind, message = normalised(error)
            failed = ModelCallFailed(
                path=intent.path, attempt=attempt, category="model", error_type=kind, message=message
            )
            await self._outcome(failed, durable=True)
            raise ModelFailed(document["model"], kind, message) from None
        reach("effect-after")
        input_tokens, output_tokens = _usage(response)
        completed = ModelCallCompleted(
            path=intent.path,
            attempt=attempt,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            response=response,
        )
        await self._outcome(completed, durable=True)
        return response

    # Values that answer at the call itself

    def value(self, place: Place, source: str, name: str, make: Callable[[], Any]) -> Any:
        """A local value, recorded once; what `make` raises is recorded as well, and raised as `ToolFailed`."""
        intent = Intent(path=place[0], kind=source, name=name, request=b"", line=place[1])
        entry = self._request(intent)
        if entry is not None:
            return _replayed(entry, ToolFailed)
        self._must_be_live(intent)
        error_type = None
        try:
            value = codec.roundtrip(make())
        except NotStorable:
            raise
        except Exception as error:  # the function's outcome, as for tools
            error_type, value = normalised(error)
        self._ride(ValueCaptured(path=place[0], source=source, name=name, error_type=error_type, value=value))  # type: ignore[arg-type]  # checked when it is made
        if error_type is not None:
            raise ToolFailed(name, error_type, value)
        return value

    def patch(self, place: Place, patch: dict[str, Any]) -> dict[str, Any]:
        """A proposed change of the state; returns it as it is recorded."""
        plain: dict[str, Any] = codec.roundtrip(patch)
        intent = Intent(
            path=place[0],
            kind="patch",
            name="",
            request=self._tag(codec.canonical(plain)),
            document=plain,
            line=place[1],
        )
        if self._request(intent) is None:
            self._must_be_live(intent)
            self._ride(StatePatchProposed(path=place[0], request=intent.request, patch=plain))
        return plain

    def derived(self, path: str, purpose: str) -> bytes:
        """32 bytes that depend on the run's seed and the path alone: randomness that needs no event."""
        if self.driver.closed:
            raise StepStopped
        return chain.tag(self._seed, f"{purpose}:{path}".encode())

    # What all effects share

    def _spec(self, name: str) -> ToolSpec:
        spec = self._tools.get(name)
        if spec is None:
            known = ", ".join(sorted(self._tools)) or "none"
            raise BadInput(
                f"There is no tool {name!r}.", hint=f"Pass it in @agent(tools=[…]) or register it; known are: {known}."
            )
        return spec

    def _intent(self, place: Place, kind: str, name: str, document: Any) -> Intent:
        tag = self._tag(codec.canonical([kind, name, document]))
        return Intent(path=place[0], kind=kind, name=name, request=tag, document=document, line=place[1])

    def _request(self, intent: Intent) -> Entry | None:
        if self.driver.closed:
            raise StepStopped
        found = self.driver.journal.request(intent)
        if isinstance(found, Divergence):
            self.driver.stop(found)
            raise StepStopped
        return found

    async def _matched(self, intent: Intent) -> Entry | None:
        """The intent's entry when it is its turn; final, if its outcome is recorded. Never returns after a stop."""
        if self.driver.closed:
            raise StepStopped
        found = self.driver.journal.request(intent)
        if isinstance(found, Divergence):
            self.driver.stop(found)
            await self.driver.halt()
        released = await self.driver.turn(intent)
        if released is None and self._recorder is None:
            self.driver.stop(self.driver.journal.beyond(intent))
            await self.driver.halt()
        return released or (found if isinstance(found, Entry) else None)

    def _must_be_live(self, intent: Intent) -> None:
        if self._recorder is None:
            self.driver.stop(self.driver.journal.beyond(intent))
            raise StepStopped

    def _ride(self, body: Body) -> None:
        assert self._recorder is not None
        self._recorder.ride(body)
        if self._recorder.overdue and self.driver.journal.exhausted:
            self.driver.flush_soon(self._recorder)

    async def _record(self, body: Body, *, durable: bool) -> None:
        """Put a body into the log, or with what rides."""
        assert self._recorder is not None
        if not durable:
            self._ride(body)
            return
        try:
            await self.driver.commit(self._recorder, lambda *_: (body,))
        except Exception as error:  # fenced, no room, unknown: the code may not go on, and learns nothing
            self.driver.stop(error)
            await self.driver.halt()

    async def _outcome(self, body: Body, *, durable: bool) -> None:
        """Record an outcome, and wait until it is the code's turn to have it."""
        turn = self.driver.drafted()
        await self._record(body, durable=durable)
        await self.driver.deliver(turn)

    def _key(self, path: str) -> str:
        """The default idempotency key: two calls are two effects."""
        return chain.tag(self._seed, f"key:{path}".encode()).hex()[:32]

    @staticmethod
    def _model_document(request: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(request, Mapping) or not isinstance(request.get("messages", []), (list, tuple)):
            raise BadInput("A model is called with a dict that has `model` and a list of `messages`.")
        parameters = codec.roundtrip({k: v for k, v in request.items() if k not in ("model", "messages")})
        model = check_name(request.get("model", "default"), "model")
        return {
            "model": model,
            "messages": codec.roundtrip(list(request.get("messages", []))),
            "parameters": parameters,
        }


def normalised(error: BaseException) -> tuple[str, str]:
    """An error as a type name and a message: what replays, unlike objects and stack traces."""
    if isinstance(error, (ToolFailed, ModelFailed)):
        return error.error_type, error.message
    return type(error).__name__, str(error)[:LONGEST_MESSAGE]


def _settled(entry: Entry, outcome: SettledAs, result: Any = None) -> ToolCallSettled:
    return ToolCallSettled(
        path=entry.intent.path, attempt=entry.attempt, outcome=outcome, by="verify", result=result, reason=""
    )


def _replayed(entry: Entry, failure: type[ToolFailed] | type[ModelFailed]) -> Any:
    if entry.standing is Standing.FAILED:
        raise failure(entry.intent.name, entry.error_type or "Error", str(entry.value))
    return entry.value


def _usage(response: Any) -> tuple[int | None, int | None]:
    """Token counts as the usual providers name them; None where they do not say."""
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return None, None

    def count(*names: str) -> int | None:
        return next((usage[name] for name in names if type(usage.get(name)) is int and usage[name] >= 0), None)

    return count("input_tokens", "prompt_tokens"), count("output_tokens", "completion_tokens")
