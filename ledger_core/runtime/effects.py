"""What happens at an effect: the same steps for a fresh run, a recovery and a replay, in a loop or in a thread.

Rules: an intent is compared with the journal before anything else. An outside write, and anything that spends, is
durable before it starts and when it ends: two syncs. A read rides. What the code is given is always
`decode(encode(value))`, or a failure of a type name and a message, so that live and replayed cannot differ. An outside
write whose outcome is not known is settled by its tool's `verify` hook, or stops the step: never retried silently.
This file does not know loops, threads, or who owns the step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from ledger_core import chain, codec
from ledger_core.errors import BadInput, InDoubt, ModelFailed, NoEffect, ToolFailed
from ledger_core.events import Body
from ledger_core.events.effect import (
    EffectAbandoned,
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
from ledger_core.run.journal import UNKNOWN, Entry, Intent, Standing
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
        self._check_open()
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
            return _replayed(entry, ToolFailed)
        if spec is None:
            raise self._stopped(self._no_tool(intent.name))
        key, attempt = self._key(intent.path), 1 if entry is None else entry.attempt
        writes = spec.side_effect == "external_write"
        if entry is not None and (writes or entry.writes):
            settled = await self._settled_write(spec, entry, key)
            if settled is not None:
                return _replayed(settled, ToolFailed)
            attempt += 1
        if entry is None or writes or entry.writes:
            requested = ToolCallRequested(
                path=intent.path,
                attempt=attempt,
                tool=spec.name,
                tool_version=spec.version,
                side_effect=spec.side_effect,
                request=intent.request,
                arguments=intent.document["arguments"],
            )
            await self._record(requested, durable=writes)
        return await self._called(spec, intent, attempt, key)

    async def _called(self, spec: ToolSpec, intent: Intent, attempt: int, key: str) -> Any:
        writes = spec.side_effect == "external_write"
        reach("effect-before")
        try:
            positional, keywords = spec.bind(spec.function, codec.roundtrip(intent.document["arguments"]), key)
            result = codec.roundtrip(await self.driver.call(spec.function, *positional, **keywords))
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the tool's outcome
            _unless_cancelled(error)
            reach("effect-after")
            return await self._tool_failed(spec, intent, attempt, error, key)
        reach("effect-after")
        await self._outcome(ToolCallCompleted(path=intent.path, attempt=attempt, result=result), durable=writes)
        return codec.roundtrip(result)

    async def _tool_failed(self, spec: ToolSpec, intent: Intent, attempt: int, error: BaseException, key: str) -> Any:
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
        standing = Standing.IN_DOUBT
        entry = Entry(intent=intent, seq=0, attempt=attempt, standing=standing, value=message, error_type=kind)
        settled = await self._settled_write(spec, entry, key)
        assert settled is not None
        return _replayed(settled, ToolFailed)

    async def _settled_write(self, spec: ToolSpec, entry: Entry, key: str) -> Entry | None:
        """Find out what became of an outside write: its settled entry, or None if it may be done again.

        Where nobody can tell, the step stops and waits for a person.
        """
        if entry.no_effect:
            return None
        outcome, value = await self._verified(spec, entry.intent.document["arguments"], key)
        if outcome is None:
            raise self._in_doubt(spec, entry, value)
        if outcome == "no_effect" and not (entry.standing is Standing.IN_DOUBT and entry.told):
            self._ride(_settled(entry, "no_effect"))
            return None
        await self._outcome(_settled(entry, outcome, value), durable=True)
        if outcome == "succeeded":
            return Entry(intent=entry.intent, seq=entry.seq, standing=Standing.DONE, value=codec.roundtrip(value))
        entry.standing = Standing.FAILED
        return entry

    async def _verified(self, spec: ToolSpec, arguments: Any, key: str) -> tuple[SettledAs | None, Any]:
        if spec.verify is None:
            return None, f"tool {spec.name} has no verify hook"
        reach("verify-before")
        try:
            positional, keywords = spec.bind(spec.verify, codec.roundtrip(arguments), key)
            return "succeeded", codec.roundtrip(await self.driver.call(spec.verify, *positional, **keywords))
        except NoEffect:
            return "no_effect", None
        except (Exception, asyncio.CancelledError) as error:  # the hook could not tell, whatever its reason
            _unless_cancelled(error)
            return None, "its verify hook could not tell: {}: {}".format(*normalised(error))

    def _in_doubt(self, spec: ToolSpec, entry: Entry, why: str) -> StepStopped:
        """Stop the step with the doubt on record."""
        happened = f"{entry.error_type}: {entry.value}" if entry.error_type else "its process ended during the call"
        if entry.standing is Standing.OPEN:
            self._ride(
                ToolCallFailed(
                    path=entry.intent.path,
                    attempt=entry.attempt,
                    category=UNKNOWN,
                    error_type="InDoubt",
                    in_doubt=True,
                    message=f"The process ended between intent and outcome; {why}.",
                )
            )
        hint = "When the other system can be asked again, resume the run."
        return self._stopped(
            InDoubt(
                f"Whether {spec.name} at effect {entry.intent.path} happened is not known ({happened}): {why}.",
                hint=hint if spec.verify else "Find out, give the tool a verify hook, and resume the run.",
                path=entry.intent.path,
                tool=spec.name,
            )
        )

    # Models

    async def call_model(self, place: Place, request: Mapping[str, Any]) -> Any:
        """A model's response; raises `ModelFailed`, and `BadInput` before anything was recorded."""
        self._check_open()
        document = _model_document(request)
        intent = self._intent(place, "model", document["model"], document)
        entry = self._compared(intent)
        return await self.driver.effect(self._ask_model(intent, entry), lambda: self._abandoned(intent))

    async def _ask_model(self, intent: Intent, entry: Entry | None) -> Any:
        entry = await self._turn(intent, entry)
        if entry is not None and entry.final:
            return _replayed(entry, ModelFailed)
        document, attempt = intent.document, 1 if entry is None else entry.attempt + 1
        try:
            provider = self._model(document["model"])
        except BadInput as missing:
            raise self._stopped(missing) from None
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
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the model's outcome
            _unless_cancelled(error)
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
        return codec.roundtrip(response)

    # Values that answer at the call itself

    def value(self, place: Place, source: Literal["now", "capture"], name: str, make: Callable[[], Any]) -> Any:
        """A local value, recorded once; what `make` raises is recorded as well, and raised as `ToolFailed`."""
        intent = Intent(path=place[0], kind=source, name=name, request=b"", line=place[1])
        entry = self._immediate(intent)
        if entry is not None:
            return _replayed(entry, ToolFailed)
        error_type = None
        try:
            value = codec.roundtrip(make())
        except Exception as error:  # the function's outcome, as for tools; also a value that cannot be stored
            error_type, value = normalised(error)
        captured = ValueCaptured(path=place[0], source=source, name=name, error_type=error_type, value=value)
        self._ride(captured)
        if error_type is not None:
            raise ToolFailed(name, error_type, value)
        return codec.roundtrip(value)

    def patch(self, place: Place, patch: dict[str, Any]) -> dict[str, Any]:
        """A proposed change of the state; returns it as it is recorded."""
        self._check_open()
        plain: dict[str, Any] = codec.roundtrip(patch)
        tag = self._tag(codec.canonical_trusted(plain))
        intent = Intent(path=place[0], kind="patch", name="", request=tag, document=plain, line=place[1])
        if self._immediate(intent) is None:
            self._ride(StatePatchProposed(path=place[0], request=tag, patch=plain))
        return dict(codec.roundtrip(plain))

    def derived(self, path: str, purpose: str) -> bytes:
        """32 bytes that depend on the run's seed and the path alone: randomness that needs no event."""
        self._check_open()
        return chain.tag(self._seed, f"{purpose}:{path}".encode())

    # What all effects share

    @property
    def compares(self) -> bool:
        """Whether there is a record that what is asked for may differ from."""
        return self._recorder is None or not self.driver.journal.exhausted

    def _check_open(self) -> None:
        if self.driver.closed:
            raise StepStopped("The step has ended or was stopped: its context can no longer be used.")

    def _no_tool(self, name: str) -> BadInput:
        known = ", ".join(sorted(self._tools)) or "none"
        return BadInput(
            f"There is no tool {name!r}.", hint=f"Pass it in @agent(tools=[…]) or register it; known are: {known}."
        )

    def _intent(self, place: Place, kind: str, name: str, document: Any) -> Intent:
        tag = self._tag(codec.canonical_trusted([kind, name, document]))
        return Intent(path=place[0], kind=kind, name=name, request=tag, document=document, line=place[1])

    def _compared(self, intent: Intent) -> Entry | None:
        """The intent's entry; stops the step if another effect is recorded there."""
        found = self.driver.journal.request(intent)
        if isinstance(found, Divergence):
            self.driver.stop(found)
            return None
        return found

    async def _turn(self, intent: Intent, entry: Entry | None) -> Entry | None:
        """The intent's entry when it is its turn: final if its outcome is recorded."""
        released = await self.driver.turn(intent)
        if released is None and self._recorder is None:
            found: Any = self.driver.journal.beyond(intent)
            if entry is None and intent.kind == "tool" and intent.name not in self._tools:
                found = self._no_tool(intent.name)
            raise self._stopped(found)
        return released or entry

    def _immediate(self, intent: Intent) -> Entry | None:
        """The entry of an effect that answers at the call; None if it is live, and may be."""
        self._check_open()
        found = self._compared(intent)
        if self.driver.stopped is None and found is None and not self.driver.journal.all_requested:
            self.driver.stop(self.driver.journal.stuck(ended=False))
        elif found is None and self._recorder is None:
            self.driver.stop(self.driver.journal.beyond(intent))
        if self.driver.stopped is not None:
            raise StepStopped
        return found

    def _stopped(self, why: Any) -> StepStopped:
        self.driver.stop(why)
        return StepStopped()

    def _abandoned(self, intent: Intent) -> None:
        """The code stopped waiting for an effect: recorded, because what it does next depends on it."""
        if not self.driver.journal.give_up(intent.path) and not self.compares:
            self._ride(EffectAbandoned(path=intent.path))

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
            raise self._stopped(error) from error

    async def _outcome(self, body: Body, *, durable: bool) -> None:
        """Record an outcome, and wait until it is the code's turn to have it."""
        turn = self.driver.drafted()
        await self._record(body, durable=durable)
        await self.driver.deliver(turn)

    def _key(self, path: str) -> str:
        """The default idempotency key: two calls are two effects."""
        return chain.tag(self._seed, f"key:{path}".encode()).hex()[:32]


def normalised(error: BaseException) -> tuple[str, str]:
    """An error as a type name and a message: what replays, unlike objects and stack traces."""
    if isinstance(error, (ToolFailed, ModelFailed)):
        return error.error_type, error.message
    try:
        text = str(error)
    except Exception as worse:  # an error's own __str__ is the user's code
        text = f"<its text cannot be had: {type(worse).__name__}>"
    return type(error).__name__, text[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()


def _model_document(request: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(request, Mapping) or not isinstance(request.get("messages", []), (list, tuple)):
        raise BadInput("A model is called with a dict that has `model` and a list of `messages`.")
    model = check_name(request.get("model", "default"), "model")
    messages = codec.roundtrip(list(request.get("messages", [])))
    parameters = codec.roundtrip({name: value for name, value in request.items() if name not in ("model", "messages")})
    return {"model": model, "messages": messages, "parameters": parameters}


def _unless_cancelled(error: BaseException) -> None:
    """Go on being cancelled, if it is this effect that is: a tool's own CancelledError is the tool's outcome."""
    if isinstance(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is not None and task.cancelling():
            raise error


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
