"""Answers of models that come in chunks: given to the code as they come, and kept whole.

Rules: a stream is one effect. Its intent is durable before the first chunk, its outcome, with all chunks, when it has
ended, or was closed: until then the part of the code that reads it may begin no other effect, so that nothing that is
recorded stands on chunks that are not. Replayed, the same chunks come from the record. A stream that broke off after
its first chunk has failed: another answer would be another call. This file does not know providers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

from ledger_core import codec, secret
from ledger_core.errors import ModelFailed
from ledger_core.events import Missing
from ledger_core.failpoints import reach
from ledger_core.governance.prices import Usage, usage_of
from ledger_core.governance.proposals import proposed_in_chunks
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.run.retry import DEFAULT
from ledger_core.runtime.driver import run_blocking
from ledger_core.runtime.effect import Place, replayed
from ledger_core.runtime.model_effects import ModelEffects, model_request

_END: Final = object()


class StreamEffects(ModelEffects):
    """The streams of a step."""

    def open_stream(self, place: Place, request: Mapping[str, Any], timeout: float | None) -> ChunkSource:
        """A model's answer in chunks; raises `BadInput` before anything was recorded."""
        self._check_open()
        raw, document = model_request({**request, "stream": True})
        intent = self._intent(place, "model", document["model"], document)
        return ChunkSource(self, intent, self._compared(intent), raw, timeout)


class ChunkSource:
    """One stream: asked for its next chunk, each time as an effect of its own, which is the same effect."""

    def __init__(
        self, effects: StreamEffects, intent: Intent, entry: Entry | None, raw: Any, timeout: float | None
    ) -> None:
        self.open = True
        """Whether there may be more: until it has ended, was closed, or failed."""
        self._effects = effects
        self._intent = intent
        self._entry = entry
        self._raw = raw
        self._timeout = timeout
        self._begun = False
        self._given: list[Any] = []
        self._recorded: Iterator[Any] | None = None
        self._next: Callable[[], Any] | None = None

    async def next(self) -> Any:
        """The next chunk, or the end (`_END`); raises `ModelFailed`."""
        effects = self._effects
        return await effects.driver.effect(self._pull(), lambda: effects._left_at_gate(self._intent))

    async def close(self) -> None:
        """Read no further: what has come is kept."""
        if self.open and self._begun and self._recorded is None and self._entry is not None:
            effects = self._effects
            await effects.driver.effect(self._ended(self._entry), lambda: effects._abandoned(self._intent))
        self.open = False

    async def _pull(self) -> Any:
        if not self._begun:
            self._begun = True
            self._entry = await self._effects._turn(self._intent, self._entry)
            if self._entry is not None and self._entry.final:
                self._recorded = iter(_chunks(self._entry))
        if self._recorded is not None:
            return self._replayed()
        self._entry = self._entry or Entry(intent=self._intent, seq=0, attempt=0)
        self._entry.intent = self._intent
        return await self._live(self._entry)

    def _replayed(self) -> Any:
        assert self._recorded is not None
        assert self._entry is not None
        chunk = next(self._recorded, _END)
        if chunk is _END:
            self.open = False
            replayed(self._entry, ModelFailed)
        return codec.roundtrip(chunk) if chunk is not _END else _END

    async def _live(self, entry: Entry) -> Any:
        effects = self._effects
        while not entry.final:
            if entry.wake_ns is not None:
                await effects._until(self._intent.path, entry.wake_ns)
                entry.wake_ns = None
            if self._next is None and not await self._begin(entry):
                continue
            assert self._next is not None
            try:
                chunk = await effects.driver.call(self._next, timeout=self._timeout)
                chunk = _END if chunk is _END else secret.plain(chunk)
            except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the model's outcome
                self._next = None
                await effects._unanswered(entry, error, DEFAULT, self._given)
                continue
            if chunk is _END:
                reach("effect-after")
                await self._ended(entry)
                return _END
            self._given.append(chunk)
            return codec.roundtrip(chunk)
        self.open = False
        replayed(entry, ModelFailed)
        return _END

    async def _begin(self, entry: Entry) -> bool:
        """Ask for the stream; False if it did not come to that, or not yet."""
        effects = self._effects
        provider = await effects._ask_for(entry)
        if provider is None:
            return False
        try:
            given = await effects.driver.call(provider, codec.roundtrip(self._raw), timeout=self._timeout)
            self._next = _puller(given)
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the model's outcome
            await effects._unanswered(entry, error, DEFAULT, self._given)
            return False
        return True

    async def _ended(self, entry: Entry) -> None:
        self.open = False
        entry_chunks = list(self._given)
        calls = proposed_in_chunks(entry_chunks)
        await self._effects._answered(entry, entry_chunks, _usage(entry_chunks), calls, streamed=True)
        entry.standing = Standing.DONE


class ModelStream:
    """Chunks for async code: `async for chunk in ctx.stream_model(…)`; left early with `aclose`, or `async with`."""

    def __init__(self, source: ChunkSource, left: Callable[[], None]) -> None:
        self._source = source
        self._left = left

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._source.open:
            raise StopAsyncIteration
        try:
            chunk = await self._source.next()
        finally:
            if not self._source.open:
                self._left()
        if chunk is _END:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Read no further; what has come is kept."""
        await self._source.close()
        self._left()

    async def __aenter__(self) -> ModelStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class SyncModelStream:
    """Chunks for sync code: `for chunk in ctx.stream_model(…)`; left early with `close`, or `with`."""

    def __init__(self, source: ChunkSource, left: Callable[[], None]) -> None:
        self._source = source
        self._left = left

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._source.open:
            raise StopIteration
        try:
            chunk = run_blocking(self._source.next())
        finally:
            if not self._source.open:
                self._left()
        if chunk is _END:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Read no further; what has come is kept."""
        run_blocking(self._source.close())
        self._left()

    def __enter__(self) -> SyncModelStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _puller(given: Any) -> Callable[[], Any]:
    """What gives the next chunk of what a provider returned: an iterator, sync or async, a list, or one answer."""
    if hasattr(given, "__aiter__"):
        chunks = given.__aiter__()

        async def pull() -> Any:
            try:
                return await chunks.__anext__()
            except StopAsyncIteration:
                return _END

        return pull
    if isinstance(given, (str, bytes, Mapping)) or not hasattr(given, "__iter__"):
        given = [given]
    each = iter(given)
    return lambda: next(each, _END)


def _chunks(entry: Entry) -> list[Any]:
    """What the record holds of a stream."""
    found = entry.partial if entry.standing is Standing.FAILED else entry.value
    if isinstance(found, Missing):
        return []
    return found if isinstance(found, list) else [] if found is None else [found]


def _usage(chunks: list[Any]) -> Usage:
    """What chunks say that the answer took: the last word on each count."""
    found: dict[str, int] = {}
    for chunk in chunks:
        if isinstance(chunk, dict):
            for said in (chunk, chunk.get("message"), chunk.get("response")):
                usage = usage_of(said)
                for name in ("input_tokens", "output_tokens", "cached_tokens", "usd_nano"):
                    if (value := getattr(usage, name)) is not None:
                        found[name] = value
    return Usage(**found)


__all__ = ["ChunkSource", "ModelStream", "StreamEffects", "SyncModelStream"]
