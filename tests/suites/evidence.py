"""Runs worth proving: with everything in them that a bundle of evidence shows, and forgeries of their bundles."""

from __future__ import annotations

import base64
import copy
import json
from functools import cache
from typing import Any

from agentledger import ToolFailed, agent, tool
from ledger_core import chain
from ledger_core.chain import FACTS_AT, HASH_SIZE, HEADER
from ledger_core.log.cipher import Cipher
from ledger_core.runtime.runtime import Runtime
from projections.evidence import bundle, derived
from projections.evidence_json import digest, of_hex
from projections.evidence_records import SEALED, Words, events_of
from projections.evidence_sealed import parse
from projections.wire import event_json

Bundle = dict[str, Any]


def ask(request: dict[str, Any]) -> dict[str, Any]:
    if request["messages"][-1] == {"role": "user", "content": "break"}:
        raise ValueError("no answer")
    return {"content": f"answer {len(request['messages'])}", "usage": {"input_tokens": 5, "output_tokens": 2}}


@tool(side_effect="external_write")
def post(text: str) -> dict[str, Any]:
    return {"id": 7, "text": text}


@tool
def broken(text: str) -> None:
    raise ValueError(f"cannot {text}")


@tool(side_effect="external_write", approval_required=True)
def sign(text: str) -> str:
    return f"signed {text}"


@agent(name="kid", tools=[post])
async def kid(ctx: Any) -> str:
    await ctx.call_tool("post", text="from the kid")
    return "grown"


@agent(name="rich", tools=[post, broken, sign], models=ask)
async def rich(ctx: Any) -> dict[str, Any]:
    ctx.write_state_patch({"seen": {"ünï": 1, "float": 0.1}, "raw": b"\x00\xff"})
    turns = [{"role": "user", "content": f"turn {number} of a talk"} for number in range(70)]
    first = await ctx.call_model({"model": "m", "messages": turns, "temperature": 0.5})
    turns += [{"role": "assistant", "content": first["content"]}, {"role": "user", "content": "a" * 3000}]
    await ctx.call_model({"model": "m", "messages": turns})
    await ctx.call_model({"model": "m", "messages": [turns[0], *turns[5:9], *turns[70:]]})
    await ctx.call_tool("post", text="x" * 2000)
    try:
        await ctx.call_tool("broken", text="go on")
    except ToolFailed:
        ctx.write_state_patch({"seen": {"broken": True}})
    signed = await ctx.call_tool("sign", text="a paper")
    grown = await (await ctx.spawn(kid, {}, run_id="kid")).join()
    ctx.create_artifact("small", b"few bytes", lineage=["nothing"])
    ctx.create_artifact("large", b"many bytes" * 20_000)
    ctx.create_artifact("page", "text" * 20_000)
    ctx.create_media_artifact("video", "s3://bucket/v.mp4", mime_type="video/mp4")
    ctx.create_stream_checkpoint("orders", "me", 42, watermark="2026-01-01")
    ctx.record_cost("search", usd=0.25, input_tokens=10, metadata={"engine": "x"})
    return {"signed": signed, "grown": grown, "none": None}


def run_rich(runtime: Runtime) -> None:
    """The run `r` and its child `kid`, to their ends, and another run `s` that failed."""
    assert runtime.run(rich, run_id="r").status == "waiting"
    runtime.approve(next(iter(runtime.state("r").approvals)), by="Ada", reason="seen")
    assert runtime.run(rich, run_id="r").ok

    @agent(name="fails")
    def fails(ctx: Any) -> None:
        ctx.now()
        raise ValueError("a failure in words")

    runtime.run(fails, run_id="s")


def as_read(made: Bundle) -> Bundle:
    """A bundle as whoever reads its file has it."""
    return dict(json.loads(json.dumps(made, ensure_ascii=False)))


@cache
def _rich_bundles() -> tuple[str, ...]:
    with Runtime.in_memory() as runtime:
        log = runtime.log
        run_rich(runtime)
        made = [bundle(log, "r"), bundle(log, "r", sealed=True), bundle(log, "kid"), bundle(log, "s")]
    return tuple(json.dumps(one) for one in made)


def rich_bundle(*, sealed: bool = False) -> Bundle:
    """The evidence of the run `r`, anew for each who asks."""
    return dict(json.loads(_rich_bundles()[sealed]))


def kid_bundle() -> Bundle:
    return dict(json.loads(_rich_bundles()[2]))


def failed_bundle() -> Bundle:
    return dict(json.loads(_rich_bundles()[3]))


def signed(forged: Bundle) -> Bundle:
    """A forgery with a digest that fits."""
    return {**forged, "bundle_digest": digest(forged)}


def changed(made: Bundle, path: list[Any], value: Any) -> Bundle:
    """A copy with another value at a place."""
    made = copy.deepcopy(made)
    at: Any = made
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return made


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all that is no object and no array."""
    if isinstance(value, dict) and value:
        return [place for key, item in value.items() for place in places(item, (*path, key))]
    if isinstance(value, list) and value:
        return [place for number, item in enumerate(value) for place in places(item, (*path, number))]
    return [path]


def resealed(made: Bundle, edit: Any) -> Bundle:
    """A forgery whose records are edited, and hashed and linked anew as one who owns the file can: `edit(n, header,
    facts, content)` gives the three of record `n` as they are to be."""
    made = copy.deepcopy(made)
    before, number, last_prev = chain.NO_HASH, 0, chain.NO_HASH
    for place, row in enumerate(made["records"], 1):
        sealed, content = base64.b64decode(row["sealed"]), base64.b64decode(row["content"])
        header = chain.Sealed._make(HEADER.unpack_from(sealed))
        header, facts, content = edit(place, header, sealed[FACTS_AT - HASH_SIZE :], content)
        digest_ = chain.content_digest(content)
        header = header._replace(stream_prev_hash=before, facts_size=len(facts), content_size=len(content))
        header = header._replace(content_digest=digest_)
        if place > 1 and header.seq == number + 1:
            header = header._replace(prev_hash=last_prev)
        hash_, sealed = chain.seal(header, facts)
        row["hash"], row["sealed"] = hash_.hex(), base64.b64encode(sealed).decode()
        row["content"] = base64.b64encode(content).decode()
        before = last_prev = hash_
        number = header.seq
    made["stream_head"] = {"seq": number, "stream_seq": len(made["records"]), "hash": before.hex()}
    if made["head"]["seq"] == number:
        made["head"]["hash"] = before.hex()
    return made


def rebuilt(made: Bundle) -> Bundle:
    """A forgery in which all that is shown follows from its sealed bytes, as one who has the program can make it."""
    held, wrong = parse(made)
    assert wrong == []
    key = of_hex(made["stream"]["key"], 32)
    events = list(events_of(held, None if key is None else Words(held, Cipher(key)), SEALED))
    last = events[-1]
    made = {**made, **derived(events), "events": [event_json(event) for event in events]}
    made["stream_head"] = {"seq": last.seq, "stream_seq": last.stream_seq, "hash": last.hash.hex()}
    return as_read(signed(made))
