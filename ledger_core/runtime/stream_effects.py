"""Answers of models that come in chunks: given to the code as they come, and kept whole.

Rules: a stream is one effect: its intent is durable before the first chunk, its outcome, with all chunks, when it has
ended, was closed, or was left. What the code does with a chunk may be recorded before that: then the chunk is recorded
in front of it, and so comes back in its order. Replayed, chunks come from their own records, the rest from the answer.
A stream that broke off, or was lost, after its first chunk has failed: another answer would be another call. This file
does not know providers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

from ledger_core import codec, secret
from ledger_core.errors import ModelFailed
from ledger_core.events import Missing
from ledger_core.events.effect import ModelChunkReceived
from ledger_core.failpoints import reach
from ledger_core.governance.prices import usage_of_chunks
from ledger_core.governance.proposals import proposed_in_chunks
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.run.retry import DEFAULT
from ledger_core.runtime.doubt import unless_cancelled
from ledger_core.runtime.driver import run_blocking
from ledger_core.runtime.effect import Place, replayed
from ledger_core.runtime.model_effects import ModelEffects, model_request

_END: Final = object()


class StreamEffects(ModelEffects):
    """The streams of a step."""

    def open_stream(self, place: Place, request: Mapping[str, Any], timeout: float | None) -> ChunkSource:
        """A model's answer in chunks; raises `BadInput` before anything was recorded."""
        self._check_open()
        streamed = {**request, "stream": True} if isinstance(request, Mapping) else request
        raw, document = model_request(streamed)
        intent = self._intent(place, "model", document["model"], document)
        return ChunkSource(self, intent, self._compared(intent), raw, timeout)


class ChunkSource:
    """One stream: asked for its next chunk, each time as an effect of its own, which is the same effect."""

    def __init__(
        self, effects: StreamEffects, intent: Intent, entry: Entry | None, raw: Any, timeout: float | None
    ) -> None:
        self.open = True
        """Whether there may be more: until it has ended, was closed, left, or failed."""
        self._effects = effects
        self._intent = intent
        self._found = entry
        self._raw = raw
        self._timeout = timeout
        self._entry: Entry | None = None
        """The stream's own, since it was its turn."""
        self._given: list[Any] = []
        self._next: Callable[[], Any] | None = None
        self._over = False
        self._left = False

    async def next(self) -> Any:
        """The next chunk, or the end (`_END`); raises `ModelFailed`."""
        return await self._effects.driver.effect(self._pull(), self.leave)

    async def close(self) -> None:
        """Read no further: what has come is kept."""
        begun = self._entry is not None or self._given
        if self.open and begun:
            self.open = False
            await self._effects.driver.effect(self._closed(), lambda: self._effects._abandoned(self._intent))
        self.open = False

    def leave(self) -> None:
        """The code stopped waiting, or let the stream go: it gets no more of it."""
        known = self._found is not None or self._entry is not None
        if self.open and not self._left and (known or self._given):
            self._left, self.open = True, False
            self._effects._left_at_gate(self._intent)

    def dropped(self) -> None:
        """Nobody can read on: it does not come to an end by itself."""
        self._effects._departed.discard(self._intent.path)

    async def _pull(self) -> Any:
        chunk = await self._chunk()
        if self._left and self._entry is not None and not self._entry.final:
            await self._ended(self._entry)
        return chunk

    async def _chunk(self) -> Any:
        if (known := await self._recorded_chunk()) is not _END:
            return known
        entry = await self._own_turn()
        if entry.final:
            return self._replayed(entry)
        return await self._live(entry)

    async def _recorded_chunk(self) -> Any:
        """The next chunk, if it has a record of its own."""
        effects, path = self._effects, f"{self._intent.path}@{len(self._given) + 1}"
        if not effects.driver.journal.knows(path):
            return _END
        intent = Intent(path=path, kind="chunk", name=self._intent.path, request=b"")
        entry = await effects._turn(intent, effects._compared(intent))
        assert entry is not None
        self._given.append(entry.value)
        return codec.roundtrip(entry.value)

    async def _own_turn(self) -> Entry:
        if self._entry is None:
            found = await self._effects._turn(self._intent, self._found)
            self._entry = found or Entry(intent=self._intent, seq=0, attempt=0)
            self._entry.intent = self._intent
        return self._entry

    def _replayed(self, entry: Entry) -> Any:
        chunks = _chunks(entry)
        if len(self._given) < len(chunks):
            self._given.append(chunks[len(self._given)])
            return codec.roundtrip(self._given[-1])
        self.open = False
        replayed(entry, ModelFailed)
        return _END

    async def _live(self, entry: Entry) -> Any:
        effects = self._effects
        while not entry.final:
            if entry.wake_ns is not None:
                await effects._until(self._intent.path, entry.wake_ns)
                entry.wake_ns = None
            if self._next is None and self._given:  # its worker was lost, and the code has seen the beginning
                await effects._unanswered(entry, ConnectionError("the stream was lost"), DEFAULT, self._given)
                continue
            if self._next is None and not await self._begin(entry):
                continue
            assert self._next is not None
            try:
                chunk = await effects.driver.call(self._next, timeout=self._timeout)
                chunk = _END if chunk is _END else secret.plain(chunk)
            except (Exception, asyncio.CancelledError) as error:  # whatever it is, it is the model's outcome
                unless_cancelled(error)
                self._next = None
                self._let_go()
                await effects._unanswered(entry, error, DEFAULT, self._given)
                continue
            if chunk is _END or self._over:
                reach("effect-after")
                await self._ended(entry)
                return _END
            return await self._give(chunk)
        self.open = False
        replayed(entry, ModelFailed)
        return _END

    async def _give(self, chunk: Any) -> Any:
        """Give a chunk in the order in which outcomes are drafted; recorded if anything else is, before the end."""
        effects, turn = self._effects, self._effects.driver.drafted()
        self._given.append(chunk)
        if not self._left:
            assert effects._recorder is not None
            path = self._intent.path
            received = ModelChunkReceived(path=f"{path}@{len(self._given)}", of=path, chunk=chunk)
            effects._recorder.hold(path, received)
        await effects.driver.deliver(turn)
        return codec.roundtrip(chunk)

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
            unless_cancelled(error)
            await effects._unanswered(entry, error, DEFAULT, self._given)
            return False
        return True

    async def _closed(self) -> None:
        entry = await self._own_turn()
        if not entry.final:
            await self._ended(entry)

    async def _ended(self, entry: Entry) -> None:
        """Record the answer, once, with all that came of it."""
        self.open = False
        if self._over or entry.final:
            return
        self._over = True
        if not self._left:
            self._let_go()
        chunks = list(self._given)
        await self._effects._answered(entry, chunks, usage_of_chunks(chunks), proposed_in_chunks(chunks), streamed=True)
        entry.standing = Standing.DONE

    def _let_go(self) -> None:
        """What follows holds all chunks: those without a record need none."""
        assert self._effects._recorder is not None
        self._effects._recorder.let_go(self._intent.path)


class ModelStream:
    """Chunks for async code: `async for chunk in ctx.stream_model(…)`; left early with `aclose`, or `async with`."""

    def __init__(self, source: ChunkSource) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._source.open:
            raise StopAsyncIteration
        chunk = await self._source.next()
        if chunk is _END:
            raise StopAsyncIteration
        return chunk

    def __del__(self) -> None:
        self._source.dropped()

    async def aclose(self) -> None:
        """Read no further; what has come is kept."""
        await self._source.close()

    async def __aenter__(self) -> ModelStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class SyncModelStream:
    """Chunks for sync code: `for chunk in ctx.stream_model(…)`; left early with `close`, or `with`."""

    def __init__(self, source: ChunkSource) -> None:
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._source.open:
            raise StopIteration
        chunk = run_blocking(self._source.next())
        if chunk is _END:
            raise StopIteration
        return chunk

    def __del__(self) -> None:
        self._source.dropped()

    def close(self) -> None:
        """Read no further; what has come is kept."""
        run_blocking(self._source.close())

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


__all__ = ["ChunkSource", "ModelStream", "StreamEffects", "SyncModelStream"]
