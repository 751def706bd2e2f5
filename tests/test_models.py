"""Models: conversations that cost what they grow by, prices, streams, proposals, and failures as evidence."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites.runs import bodies, replayed
from test_codec import VALUES

from agentledger import BadInput, Budget, BudgetExceeded, ModelFailed, RetryPolicy, Runtime, Unavailable, agent, tool
from ledger_core.governance.prices import Usage, prices_of, usage_of
from ledger_core.governance.proposals import proposed, proposed_in_chunks
from ledger_core.log.store import Tree
from projections.chunks import message_of
from projections.transcript import of_run

PRICES = {"m": {"input": 2, "output": 10, "cached": 0.5}, "cheap-*": {"input": 0.1, "output": 0.4}}


def _stored(runtime: Runtime) -> int:
    """Bytes of everything that the log's trees hold."""
    with runtime.log._store.read() as reader:
        return sum(len(key) + len(value) for tree in Tree for key, value in reader.scan(tree))


@tool(name="search")
def search(query: str) -> dict[str, Any]:
    """Search for something."""
    return {"found": [f"{query} {number}" for number in range(8)], "text": query * 20}


def _tools_of_a_model() -> list[dict[str, Any]]:
    return [
        {"name": f"tool_{number}", "description": "does something " * 20, "input_schema": {"type": "object"}}
        for number in range(20)
    ]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_conversation_of_n_turns_adds_bytes_in_proportion(tmp_path: Path, is_async: bool) -> None:
    """100 turns with tools: the second half of the conversation costs no more than 1.2 times its first half."""
    sizes: list[int] = []

    def model(request: Any) -> Any:
        turn = len(request["messages"])
        call = {"type": "tool_use", "id": f"call_{turn}", "name": "search", "input": {"query": f"question {turn}"}}
        usage = {"input_tokens": turn, "output_tokens": 1}
        return {"role": "assistant", "content": [{"type": "text", "text": f"step {turn} " * 30}, call], "usage": usage}

    def body(ctx: Any, turns: int) -> Any:
        messages: list[Any] = [{"role": "user", "content": "Find out. " * 50}]
        for turn in range(turns):
            if turn in (0, 50):
                sizes.append(_stored(runtime))
            answer = yield ctx.call_model({"model": "m", "messages": messages, "tools": _tools_of_a_model()})
            call = answer["content"][1]
            found = yield ctx.call_tool("search", **call["input"])
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": json.dumps(found)}
            messages += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": [result]}]

    @agent(name="talks", tools=[search])
    def sync(ctx: Any) -> int:
        steps = body(ctx, 100)
        value = None
        while True:
            try:
                value = steps.send(value)
            except StopIteration:
                return 100

    @agent(name="talks", tools=[search])
    async def talks(ctx: Any) -> int:
        steps = body(ctx, 100)
        value = None
        while True:
            try:
                value = await steps.send(value)
            except StopIteration:
                return 100

    with Runtime.local(tmp_path, models=model) as runtime:
        runtime.run(talks if is_async else sync, run_id="r")
        sizes.append(_stored(runtime))
        before, half, whole = sizes
        replayed(runtime, talks if is_async else sync, "r")
        assert len(bodies(runtime, "tool_calls_proposed")) == 100
        state = runtime.state("r")
        assert (state.model_calls, state.output_tokens) == (100, 100)

    assert whole - half <= 1.2 * (half - before)


def test_a_price_is_computed_with_its_table_on_record(tmp_path: Path) -> None:
    """Usage and cost stand in the event, with the digest of the prices; a cost that the answer says counts first."""
    usage = {"input_tokens": 1000, "output_tokens": 100, "input_tokens_details": {"cached_tokens": 400}}
    answers = iter([{"usage": usage}, {"usage": usage | {"cost_usd": 0.5}}, {"usage": usage}, {"no": "usage"}])

    @agent
    def asks(ctx: Any) -> None:
        for model in ("m", "m", "unknown", "m"):
            ctx.call_model({"model": model, "messages": []})

    with Runtime.local(tmp_path, models=lambda _: next(answers), prices=PRICES) as runtime:
        runtime.run(asks, run_id="r")
        answered = bodies(runtime, "model_call_completed")
        state = runtime.state("r")

    nano = 600 * 2000 + 400 * 500 + 100 * 10_000
    assert [one.usd_nano for one in answered] == [nano, 500_000_000, None, None]
    assert [one.prices is not None for one in answered] == [True, False, False, False]
    assert answered[0].prices == prices_of(PRICES).digest != prices_of({}).digest
    assert [one.cached_tokens for one in answered] == [400, 400, 400, None]
    assert (state.usd_nano, state.cached_tokens) == (nano + 500_000_000, 1200)


def test_usage_is_read_as_the_usual_providers_say_it() -> None:
    """OpenAI counts what it had kept in the input, Anthropic beside it; nonsense is nothing."""
    openai = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    anthropic = {"input_tokens": 6, "output_tokens": 2, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 1}

    assert usage_of({"usage": openai}) == Usage(input_tokens=10, output_tokens=2, cached_tokens=4)
    assert usage_of({"usage": anthropic}) == Usage(input_tokens=11, output_tokens=2, cached_tokens=4)
    assert usage_of({"usage": {"input_tokens": -1, "output_tokens": True, "cost": "1"}}) == Usage()
    for bad in ({"m": {"input": 1}}, {"m": {"input": -1, "output": 1}}, {"m": 1}, [], {1: {"input": 1, "output": 1}}):
        with pytest.raises(BadInput):
            prices_of(bad)  # type: ignore[arg-type]


@given(VALUES)
def test_nothing_that_a_model_says_breaks_the_reader(value: Any) -> None:
    """Usage and proposals are read from any answer without raising; a proposal has its three fields."""
    usage_of(value)
    for found in (proposed(value), proposed_in_chunks([value, {"choices": [value]}, {"delta": value}])):
        assert all(set(one) == {"id", "name", "arguments"} for one in found)


def test_proposals_are_recorded_apart_from_their_execution(tmp_path: Path) -> None:
    """What a model wants to be called stands behind its answer, in one shape; only what the code calls is called."""
    calls = [
        {"id": "a", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}},
        {"id": "b", "type": "function", "function": {"name": "rm", "arguments": "{}"}},
    ]
    answers = iter(
        [
            {"choices": [{"message": {"role": "assistant", "tool_calls": calls}}]},
            {"output": [{"type": "function_call", "call_id": "c", "name": "search", "arguments": "{}"}]},
            {"content": "no calls"},
        ]
    )

    @agent(tools=[search])
    def asks(ctx: Any) -> Any:
        said = ctx.call_model({"model": "m", "messages": []})
        ctx.call_model({"model": "m", "messages": []})
        ctx.call_model({"model": "m", "messages": []})
        first = said["choices"][0]["message"]["tool_calls"][0]
        return ctx.call_tool(first["function"]["name"], json.loads(first["function"]["arguments"]))["text"]

    with Runtime.local(tmp_path, models=lambda _: next(answers)) as runtime:
        runtime.run(asks, run_id="r")
        told = bodies(runtime, "tool_calls_proposed")
        said = [(one.count, [call["name"] for call in one.calls]) for one in told]
        assert said == [(2, ["search", "rm"]), (1, ["search"])]
        assert [one.tool for one in bodies(runtime, "tool_call_requested")] == ["search"]
        assert [one.proposed for one in bodies(runtime, "model_call_completed")] == [2, 1, None]


def test_proposals_in_chunks_are_put_together() -> None:
    """Pieces of arguments become one text, in both shapes, each call at its place."""
    openai = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "x"}}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "y"}}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"q"'}}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}}]},
    ]
    anthropic = [
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "a", "name": "x"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"q"'}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ": 1}"}},
    ]
    assert [(one["name"], one["arguments"]) for one in proposed_in_chunks(openai)] == [("x", '{"q": 1}'), ("y", "")]
    assert proposed_in_chunks(anthropic) == [{"id": "a", "name": "x", "arguments": '{"q": 1}'}]


# Streams


CHUNKS = [{"text": word} for word in ("one", "two", "three")]


def _provider(kind: str) -> Any:
    last = {"usage": {"input_tokens": 7, "output_tokens": 3}}

    def listed(request: Any) -> Any:
        assert request["stream"] is True
        return [*CHUNKS, last]

    def generator(request: Any) -> Any:
        yield from [*CHUNKS, last]

    async def agenerator(request: Any) -> Any:
        for chunk in [*CHUNKS, last]:
            await asyncio.sleep(0)
            yield chunk

    async def returns_one(request: Any) -> Any:
        return agenerator(request)

    return {"list": listed, "generator": generator, "agenerator": agenerator, "coroutine": returns_one}[kind]


def _reader(is_async: bool, use: Any, **keywords: Any) -> Any:
    @agent(name="reads", **keywords)
    def sync(ctx: Any) -> Any:
        said = []
        for chunk in ctx.stream_model({"model": "m", "messages": []}):
            said.append(chunk)
            use(ctx, chunk)
        return said

    @agent(name="reads", **keywords)
    async def reads(ctx: Any) -> Any:
        said = []
        async for chunk in ctx.stream_model({"model": "m", "messages": []}):
            said.append(chunk)
            use(ctx, chunk)
        return said

    return reads if is_async else sync


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", ["list", "generator", "agenerator", "coroutine"])
def test_a_stream_is_given_as_it_comes_and_kept_whole(tmp_path: Path, is_async: bool, kind: str) -> None:
    """The chunks come one by one, the outcome holds them all, with what they cost; replayed, they are the same."""
    shown: list[Any] = []
    reads = _reader(is_async, lambda _, chunk: shown.append(chunk))
    with Runtime.local(tmp_path, models=_provider(kind), prices=PRICES) as runtime:
        result = runtime.run(reads, run_id="r")
        (answered,) = bodies(runtime, "model_call_completed")
        assert result.output[:3] == CHUNKS == answered.response[:3]
        assert (answered.streamed, answered.input_tokens, answered.output_tokens) == (True, 7, 3)
        assert answered.usd_nano == 7 * 2000 + 3 * 10_000
        replayed(runtime, reads, "r")
        assert shown == 3 * shown[:4]  # replayed twice


@pytest.mark.parametrize("is_async", [False, True])
def test_what_stands_on_a_chunk_comes_back_with_it(tmp_path: Path, is_async: bool) -> None:
    """An effect in the middle of a stream has the chunks before it on record; the rest the answer holds alone."""
    times: list[Any] = []

    def use(ctx: Any, chunk: Any) -> None:
        if chunk == CHUNKS[1]:
            times.append(ctx.now())

    reads = _reader(is_async, use)
    with Runtime.local(tmp_path, models=_provider("generator")) as runtime:
        assert runtime.run(reads, run_id="r").output[:3] == CHUNKS
        assert [one.chunk for one in bodies(runtime, "model_chunk_received")] == CHUNKS[:2]
        assert bodies(runtime, "model_call_completed")[0].response[:3] == CHUNKS
        replayed(runtime, reads, "r")
        assert times[0] == times[1]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_is_left_early_keeps_what_came(tmp_path: Path, is_async: bool) -> None:
    """Closed after one chunk, it is settled with that chunk; the code goes on, and replays so."""

    @agent(name="leaves")
    def sync(ctx: Any) -> Any:
        with ctx.stream_model({"model": "m", "messages": []}) as stream:
            first = next(stream)
        return [first, ctx.random()]

    @agent(name="leaves")
    async def leaves(ctx: Any) -> Any:
        async with ctx.stream_model({"model": "m", "messages": []}) as stream:
            first = await anext(stream)
        return [first, ctx.random()]

    function = leaves if is_async else sync
    with Runtime.local(tmp_path, models=_provider("generator")) as runtime:
        result = runtime.run(function, run_id="r")
        assert result.output[0] == CHUNKS[0]
        assert bodies(runtime, "model_call_completed")[0].response == CHUNKS[:1]
        replayed(runtime, function, "r", once=True)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("after", [0, 2])
def test_a_stream_that_breaks_off_is_evidence(tmp_path: Path, is_async: bool, after: int) -> None:
    """Broken off before its first chunk it is asked again, behind it never: the code is told, and the chunks kept."""
    asked: list[int] = []

    def provider(_: Any) -> Any:
        asked.append(1)
        yield from CHUNKS[:after]
        raise Unavailable("gone") if not after and len(asked) == 1 else ValueError("broken")

    seen: list[Any] = []

    @agent(name="reads")
    def sync(ctx: Any) -> Any:
        try:
            for chunk in ctx.stream_model({"model": "m", "messages": []}):
                seen.append(chunk)  # noqa: PERF402 - what came before it broke off is kept
        except ModelFailed as failed:
            return [failed.error_type, failed.message]

    @agent(name="reads")
    async def reads(ctx: Any) -> Any:
        try:
            async for chunk in ctx.stream_model({"model": "m", "messages": []}):
                seen.append(chunk)
        except ModelFailed as failed:
            return [failed.error_type, failed.message]

    function = reads if is_async else sync
    with Runtime.local(tmp_path, models=provider) as runtime:
        assert runtime.run(function, run_id="r").output == ["ValueError", "broken"]
        assert len(asked) == (1 if after else 2)
        failed = bodies(runtime, "model_call_failed")
        assert failed[-1].partial == (CHUNKS[:after] or None)
        assert seen == CHUNKS[:after]
        replayed(runtime, function, "r", once=True)
        assert seen == CHUNKS[:after] * 2


def test_a_failure_of_a_model_is_evidence(tmp_path: Path) -> None:
    """Each attempt stands in the log with what the provider said, also those that were made again."""
    said = iter([OSError("reset"), TimeoutError("late"), {"ok": True}])

    def model(_: Any) -> Any:
        answer = next(said)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @agent
    def asks(ctx: Any) -> Any:
        retry = RetryPolicy(max_attempts=3, initial=0, retry_on=("*",))
        return ctx.call_model({"model": "m", "messages": []}, retry=retry)

    with Runtime.local(tmp_path, models=model) as runtime:
        assert runtime.run(asks, run_id="r").output == {"ok": True}
        failed = bodies(runtime, "model_call_failed")
        assert [(one.error_type, one.message) for one in failed] == [("OSError", "reset"), ("TimeoutError", "late")]


# Budgets of models


def test_tokens_are_reserved_at_their_bound_and_settled_at_what_came(tmp_path: Path) -> None:
    """A request that names its limit holds so much while it is under way; settled, only what it took is spent."""
    held: list[Any] = []

    def model(_: Any) -> Any:
        held.append(runtime.budgets()[0])
        return {"usage": {"input_tokens": 5, "output_tokens": 7}}

    @agent
    def asks(ctx: Any) -> Any:
        done = 0
        try:
            while True:
                ctx.call_model({"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100})
                done += 1
        except BudgetExceeded as full:
            return [done, full.message]

    with Runtime.local(tmp_path, models=model, prices=PRICES) as runtime:
        done, message = runtime.run(asks, run_id="r", budget=Budget(output_tokens=121, usd=1)).output
        (account,) = runtime.budgets()
    assert done == 4  # 4 x 7 are spent, and 100 more do not fit into 121
    assert "121 output tokens" in message
    assert held[0].reserved["output_tokens"] == 100
    assert 100 * 10_000 < held[0].reserved["usd_nano"] < 100 * 10_000 + 500 * 2000
    assert account.spent["output_tokens"] == 28
    assert (account.reserved, account.open) == ({}, 0)
    assert account.spent["usd_nano"] == 4 * (5 * 2000 + 7 * 10_000)


def test_a_request_without_a_limit_goes_alone(tmp_path: Path) -> None:
    """Where nobody knows what a call takes, it holds all that is left: side by side calls go one after the other."""
    at_once: list[int] = []
    under_way = 0

    async def model(_: Any) -> Any:
        nonlocal under_way
        under_way += 1
        at_once.append(under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return {"usage": {"input_tokens": 5, "output_tokens": 5}}

    @agent
    async def asks(ctx: Any) -> Any:
        calls = (ctx.call_model({"model": "m", "messages": []}) for _ in range(6))
        return [type(one).__name__ for one in await asyncio.gather(*calls, return_exceptions=True)]

    with Runtime.local(tmp_path, models=model) as runtime:
        said = runtime.run(asks, run_id="r", budget=Budget(tokens=30)).output
        assert sorted(said) == ["BudgetExceeded"] * 3 + ["dict"] * 3
        assert max(at_once) == 1
        replayed(runtime, asks, "r")


@given(value=st.text(max_size=300), limit=st.integers(0, 1000))
def test_a_bound_is_a_bound(value: str, limit: int) -> None:
    """No request takes more input tokens than it has bytes; media have no bound."""
    document = {"model": "m", "messages": [{"role": "user", "content": value}], "parameters": {"max_tokens": limit}}
    bounds = prices_of(PRICES).bounds(document)
    assert bounds["input_tokens"] is not None
    assert bounds["input_tokens"] >= len(value.encode(errors="surrogatepass"))
    assert bounds["output_tokens"] == limit
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    document["messages"] = [{"role": "user", "content": [image]}]
    assert set(prices_of(PRICES).bounds(document).values()) == {None}


def test_the_transcript_of_a_stream_is_its_message(tmp_path: Path) -> None:
    """Chunks are put together, in the shape of their provider, tool calls included; others stand as they are."""
    openai = [
        {"choices": [{"index": 0, "delta": {"content": "hel"}}]},
        {"choices": [{"index": 0, "delta": {"content": "lo", "tool_calls": [{"index": 0, "id": "a"}]}}]},
    ]
    anthropic = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "a", "name": "x"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"q": 1}'}},
    ]
    chat = message_of(openai)
    assert (chat["content"], chat["tool_calls"][0]["id"]) == ("hello", "a")
    blocks = message_of(anthropic)["content"]
    assert blocks == [
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "a", "name": "x", "input": {"q": 1}},
    ]
    assert message_of([{"a": 1}, {"b": 2}]) == [{"a": 1}, {"b": 2}]
    assert message_of([{"text": "he"}, "llo"]) == {"role": "assistant", "content": "hello"}
    with Runtime.local(tmp_path, models=lambda _: openai[:1] + [{"choices": [{"delta": {"content": "p"}}]}]) as runtime:
        runtime.run(_reader(False, lambda *_: None), run_id="r")
        (talk,) = of_run(runtime.log, "r").conversations
        assert talk.messages[-1]["content"] == "help"


@given(VALUES)
def test_no_chunk_breaks_the_transcript(value: Any) -> None:
    """Whatever came as chunks is put together, or stands as it is."""
    message_of(value)
    message_of([value, {"delta": value}, {"choices": [value]}, {"choices": [{"delta": value}]}])
