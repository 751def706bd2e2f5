"""The tool ledger: statuses from events, logical keys, people who settle, hooks that undo, and what is kept besides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from suites.runs import bodies, replayed
from suites.workers import kinds

from agentledger import (
    BadInput,
    Budget,
    InDoubt,
    NoEffect,
    NotFound,
    Refused,
    RetryPolicy,
    Runtime,
    ToolFailed,
    agent,
    tool,
)
from ledger_core.errors import LedgerError
from ledger_core.log import audit
from projections import ledger as tool_ledger


class Shop:
    """A shop outside, which may lose its answers, and can be asked only if it wants to."""

    def __init__(self) -> None:
        self.sold: dict[str, str] = {}
        self.lost = 0
        self.undone: list[tuple[str, Any]] = []

        @tool(name="order", side_effect="external_write", compensate=self.undo)
        def order(what: str, idempotency_key: str) -> dict[str, Any]:
            return self.sell(what, idempotency_key)

        @tool(name="put", side_effect="external_write", idempotency="key", retry=RetryPolicy(max_attempts=3, initial=0))
        def put(what: str, idempotency_key: str) -> dict[str, Any]:
            return self.sell(what, idempotency_key)

        self.order, self.put = order, put

    def sell(self, what: str, key: str) -> dict[str, Any]:
        if what == "nothing":
            raise NoEffect("sold out")
        self.sold[key] = what
        if self.lost:
            self.lost -= 1
            raise ConnectionResetError("the answer was lost")
        return {"key": key, "what": what}

    def undo(self, what: str, idempotency_key: str, result: Any) -> None:
        self.undone.append((what, result))
        self.sold.pop(idempotency_key)

    def buyer(self, *orders: dict[str, Any], name: str = "order", told: bool = True) -> Any:
        @agent(name="buyer", tools=[self.order, self.put])
        def buyer(ctx: Any) -> Any:
            said: list[Any] = []
            for order in orders:
                try:
                    said.append(ctx.call_tool(name, order))
                except ToolFailed as failed:
                    if not told:
                        raise
                    said.append([failed.error_type, failed.message])
            return said

        return buyer


@pytest.fixture
def shop() -> Shop:
    return Shop()


def _status(runtime: Runtime, run: str = "r") -> list[str]:
    return [row.status for row in runtime.state(run).ledger.values()]


# Statuses, and people


@pytest.mark.parametrize("outcome", ["succeeded", "no_effect", "compensated"])
def test_a_person_settles_what_is_in_doubt(tmp_path: Path, shop: Shop, outcome: Any) -> None:
    """Each word of a person's leads to its status, the code is told what follows, and the run ends and replays."""
    shop.lost = 1
    buyer = shop.buyer({"what": "tea"})
    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(InDoubt, match="ledger settle r:1"):
            runtime.run(buyer, run_id="r")
        assert _status(runtime) == ["PENDING_VERIFICATION"]
        assert [row.call for row in tool_ledger.in_doubt(runtime.log)] == ["r:1"]
        for bad in ({"because": " "}, {"because": "x", "outcome": "resent"}):
            with pytest.raises(BadInput):
                runtime.settle("r:1", bad.pop("outcome", outcome), **bad)
        runtime.settle("r:1", outcome, because="I looked", by="Ada", result={"key": "k", "what": "tea"})
        assert tool_ledger.in_doubt(runtime.log) == []
        result = runtime.run(buyer, run_id="r")
        replayed(runtime, buyer)
        (settled,) = bodies(runtime, "tool_call_settled")
        with pytest.raises(Refused):
            runtime.settle("r:1", "no_effect", because="again")

    assert (settled.by, settled.reason) == ("person", "Ada: I looked")
    if outcome == "succeeded":
        assert (_status_of(result), result.output) == ("completed", [{"key": "k", "what": "tea"}])
    else:
        assert result.output == [["ConnectionResetError", "the answer was lost"]]
    assert len(shop.sold) == 1  # nobody called it again


def _status_of(result: Any) -> str:
    return str(result.status)


def test_a_call_is_named_by_its_place_its_event_or_its_key(tmp_path: Path, shop: Shop) -> None:
    """RUN:PATH, the seq of the intent, and the idempotency key name the same call; what names none is said."""
    shop.lost = 1
    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(InDoubt):
            runtime.run(shop.buyer({"what": "tea"}), run_id="r")
        row = runtime.state("r").ledger["1"]
        (key,) = shop.sold
        assert runtime.call("r:1") == runtime.call(str(row.seq)) == runtime.call(key)
        for name in ("nothing", "", "1", "99999", "r"):
            with pytest.raises((NotFound, BadInput)):
                runtime.call(name)
        with pytest.raises(NotFound):
            runtime.settle("r:7", "succeeded", because="x")


def test_a_run_that_ended_in_doubt_is_still_settled(tmp_path: Path, shop: Shop) -> None:
    """A cancelled run keeps its doubt, and what it reserved, until somebody says what happened; the log is intact."""
    shop.lost = 1
    with Runtime.local(tmp_path) as runtime:
        with pytest.raises(InDoubt):
            runtime.run(shop.buyer({"what": "tea"}), run_id="r", budget=Budget(calls=5))
        runtime.cancel_run("r")
        assert runtime.state("r").status == "cancelled"
        assert runtime.budgets()[0].reserved == {"calls": 1}
        assert [row.call for row in tool_ledger.in_doubt(runtime.log)] == ["r:1"]
        runtime.settle("r:1", "succeeded", because="it is there")
        assert tool_ledger.in_doubt(runtime.log) == []
        (account,) = runtime.budgets()
        assert (account.reserved, account.spent["calls"]) == ({}, 1)
        assert runtime.state("r").status == "cancelled"
        assert list(audit.whole(runtime.log._store, None)) == []


def test_what_is_under_way_is_not_settled_by_others(tmp_path: Path) -> None:
    """While its worker makes the call, nobody says what became of it."""
    refused: list[str] = []

    @tool(name="slow", side_effect="external_write")
    def slow() -> str:
        assert _status(runtime) == ["RUNNING"]
        try:
            runtime.settle("r:1", "succeeded", because="I think so")
        except Refused as error:
            refused.append(error.sentence)
        return "done"

    @agent(tools=[slow])
    def calls(ctx: Any) -> Any:
        return ctx.call_tool("slow")

    with Runtime.local(tmp_path) as runtime:
        assert runtime.run(calls, run_id="r").output == "done"
    assert "under way" in refused[0]


def test_a_call_that_succeeded_is_undone_by_its_hook(tmp_path: Path, shop: Shop) -> None:
    """`compensate` is given the arguments, the key and the result; the ledger says so, and the run's record stays."""
    buyer = shop.buyer({"what": "tea"})
    with Runtime.local(tmp_path) as runtime:
        result = runtime.run(buyer, run_id="r")
        runtime.compensate("r:1", [shop.order], because="the wrong tea", by="Ada")
        assert _status(runtime) == ["COMPENSATED"]
        assert kinds(runtime)[-2:] == ["compensation_started", "tool_call_settled"]
        replayed(runtime, buyer)
        assert runtime.run(buyer, run_id="r").output == result.output
        with pytest.raises(Refused):
            runtime.compensate("r:1", [shop.order], because="again")
        with pytest.raises(BadInput, match="no compensate hook"):
            runtime.run(shop.buyer({"what": "x"}, name="put"), run_id="p")
            runtime.compensate("p:1", [shop.put], because="x")
    assert shop.undone == [("tea", result.output[0])]
    assert "tea" not in shop.sold.values()


def test_an_undoing_that_breaks_off_is_seen(tmp_path: Path, shop: Shop) -> None:
    """A hook that fails leaves the call as it was, marked; calling it again calls the hook again."""

    @tool(name="order", side_effect="external_write", compensate=lambda what: 1 / 0)
    def broken(what: str) -> None:
        pass

    with Runtime.local(tmp_path) as runtime:
        runtime.run(shop.buyer({"what": "tea"}), run_id="r")
        with pytest.raises(LedgerError, match="ZeroDivisionError"):
            runtime.compensate("r:1", [broken], because="the wrong tea")
        with pytest.raises(Refused, match="nobody has said that it ended"):
            runtime.compensate("r:1", [shop.order], because="once more")
        row = runtime.state("r").ledger["1"]
        assert (row.status, row.compensating) == ("SUCCEEDED", True)
        runtime.compensate("r:1", [shop.order], because="once more", again=True)
        assert _status(runtime) == ["COMPENSATED"]


# Tools that honour keys


@pytest.mark.invariant(16)
def test_a_tool_that_honours_keys_is_sent_the_same_key_again(tmp_path: Path, shop: Shop) -> None:
    """Its doubt is settled by making the call again with its key, as often as its policy says, and no more."""
    shop.lost = 2
    with Runtime.local(tmp_path) as runtime:
        result = runtime.run(shop.buyer({"what": "tea"}, name="put"), run_id="r")
        assert result.output[0]["what"] == "tea"
        assert len(shop.sold) == 1  # three arrivals of one key
        assert [one.outcome for one in bodies(runtime, "tool_call_settled")] == ["resent", "resent"]
        replayed(runtime, shop.buyer({"what": "tea"}, name="put"))
        shop.lost = 3
        with pytest.raises(InDoubt):
            runtime.run(shop.buyer({"what": "tea"}, name="put"), run_id="s")


# Logical keys


@pytest.mark.invariant(15)
@pytest.mark.parametrize("scope", ["run", "session", "ledger"])
def test_a_logical_key_collapses_repeats_within_its_scope(tmp_path: Path, shop: Shop, scope: str) -> None:
    """Within its scope the same key is one effect, with one result; beyond it, it is another key."""
    order = {"what": "tea", "_logical_operation": "tea for two", "_scope": scope}
    buyer = shop.buyer(order, order)
    with Runtime.local(tmp_path) as runtime:
        results = [
            runtime.run(buyer, run_id=run, session_id=session).output
            for run, session in (("a", "s"), ("b", "s"), ("c", "t"))
        ]
        replayed(runtime, buyer, "b")
        assert all(one[0] == one[1] for one in results)
        assert len(shop.sold) == {"run": 3, "session": 2, "ledger": 1}[scope]
        assert kinds(runtime, "b").count("tool_call_joined") == (1 if scope == "run" else 2)


@pytest.mark.invariant(15)
def test_a_key_passes_on_only_without_an_effect(tmp_path: Path, shop: Shop) -> None:
    """A call that had no effect frees its key for another; one that succeeded never; one in doubt is waited for."""
    key = {"_logical_operation": "k", "_scope": "ledger"}
    with Runtime.local(tmp_path) as runtime:
        assert runtime.run(shop.buyer({"what": "nothing", **key}), run_id="a").output == [["NoEffect", "sold out"]]
        assert runtime.run(shop.buyer({"what": "tea", **key}), run_id="b").output[0]["what"] == "tea"
        conflict = runtime.run(shop.buyer({"what": "coffee", **key}), run_id="c").output
        assert conflict[0][0] == "KeyConflict"
        runtime.compensate("b:1", [shop.order], because="spilled")
        undone = runtime.run(shop.buyer({"what": "tea", **key}), run_id="d").output
        assert "undone" in undone[0][1]

        other = {"_logical_operation": "other", "_scope": "ledger"}
        shop.lost = 1
        with pytest.raises(InDoubt):
            runtime.run(shop.buyer({"what": "tea", **other}), run_id="e")
        again = shop.buyer({"what": "tea", **other})
        runtime.create_run(again, run_id="f")
        assert runtime.run_once(again) == 1
        assert [one.kind for one in runtime.state("f").waits.values()] == ["key"]
        runtime.settle("e:1", "no_effect", because="it never came")
        runtime.run(shop.buyer({"what": "tea", **other}), run_id="e")
        assert runtime.run(shop.buyer({"what": "tea", **other}), run_id="f").output[0]["what"] == "tea"


def test_a_logical_key_has_words(tmp_path: Path, shop: Shop) -> None:
    """A scope without a key, an unknown scope, an empty key are refused before anything is recorded."""
    for bad in ({"_scope": "run"}, {"_logical_operation": ""}, {"_logical_operation": "k", "_scope": "world"}):
        with Runtime.local(tmp_path) as runtime, pytest.raises(LedgerError):
            result = runtime.run(shop.buyer({"what": "tea", **bad}))
            result.raise_for_status()
    assert shop.sold == {}


# What is kept besides


def test_artifacts_are_kept_and_found(tmp_path: Path) -> None:
    """Bytes, texts and data come back from the log by their id; media and streams are references, never bytes."""
    kept: list[dict[str, Any]] = []

    @agent
    def keeps(ctx: Any) -> Any:
        kept[:] = [
            ctx.create_artifact("report.bin", b"\0" * 200_000, metadata={"pages": 2}),
            ctx.create_artifact("words.txt", "häuser", lineage=["artifact_x"]),
            ctx.create_artifact("data", {"a": [1, 2]}),
            ctx.create_media_artifact("video", "s3://bucket/v.mp4", mime_type="video/mp4", metadata={"seconds": 12.5}),
            ctx.create_stream_checkpoint("orders", "me", 42, watermark="2026-01-01", chunk={"id": "c"}),
        ]
        return [one["artifact_id"] for one in kept]

    @agent
    def raw(ctx: Any, state: dict[str, Any]) -> Any:
        if state["how"] == "kind":
            ctx.create_media_artifact("hologram", "s3://x")
        elif state["how"] == "data":
            ctx.create_media_artifact("image", "data:image/png;base64,AAAA")
        elif state["how"] == "bytes":
            ctx.create_media_artifact("image", "s3://x", metadata={"pixels": b"\0"})
        elif state["how"] == "long":
            ctx.create_stream_checkpoint("s", "c", 1, chunk="x" * 10_000)
        else:
            ctx.create_stream_checkpoint("s", "c", -1)

    with Runtime.local(tmp_path) as runtime:
        ids = runtime.run(keeps, run_id="r").output
        replayed(runtime, keeps)
        assert [one["schema"].split(".")[1] for one in kept] == ["artifact"] * 3 + ["media", "stream"]
        assert [one.get("size") for one in kept] == [200_000, 7, 6, None, None]
        for how in ("kind", "data", "bytes", "long", "offset"):
            assert runtime.run(raw, initial_state={"how": how}).error_type == "BadInput"

    def command(*words: str) -> bytes:
        line = [sys.executable, "-m", "agentledger", "--root", str(tmp_path), *words]
        return subprocess.run(line, capture_output=True, check=True).stdout

    assert command("artifacts", "get", ids[0]) == b"\0" * 200_000
    assert command("artifacts", "get", ids[1]).decode() == "häuser"
    assert json.loads(command("artifacts", "get", ids[3]))["ref"] == "s3://bucket/v.mp4"
    listed = json.loads(command("--json", "artifacts", "r"))["artifacts"]
    assert [one["artifact_id"] for one in listed] == ids[::-1]
    assert len(tmp_path.joinpath("agentledger.lmdb", "data.mdb").read_bytes()) > 200_000


def test_a_changed_artifact_is_a_divergence(tmp_path: Path) -> None:
    """Code that keeps something else than it kept has diverged."""
    data = [b"one"]

    @agent
    def keeps(ctx: Any) -> None:
        ctx.create_artifact("a", data[0])

    from ledger_core.runtime.agent import agent_of
    from replay import replaying

    with Runtime.local(tmp_path) as runtime:
        runtime.run(keeps, run_id="r")
        data[0] = b"two"
        found = replaying.replay(runtime, "r", agent_of(keeps))
        assert found.divergence is not None
        assert found.divergence.path == "1"


# The command line


def test_a_person_answers_from_the_command_line(tmp_path: Path, shop: Shop) -> None:
    """`ledger --in-doubt` shows what is in doubt and what to do, `ledger settle` settles it; scripts get JSON."""
    shop.lost = 1
    with Runtime.local(tmp_path) as runtime, pytest.raises(InDoubt):
        runtime.run(shop.buyer({"what": "tea"}), run_id="r")

    def command(*words: str, code: int = 0) -> tuple[str, str]:
        line = [sys.executable, "-m", "agentledger", "--root", str(tmp_path), *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "120"})
        assert done.returncode == code, done
        return done.stdout, done.stderr

    shown, said = command("ledger", "--in-doubt")
    assert "r:1" in shown
    assert "ledger settle" in said
    (row,) = json.loads(command("ledger", "--in-doubt", "--json")[0])["ledger"]
    assert (row["status"], row["tool"], row["arguments"]["what"]) == ("PENDING_VERIFICATION", "order", "tea")
    assert "ledger settle r:1" in command("status", "r")[0]
    assert command("ledger", "settle", "r:1", "--as", "succeeded", code=2)
    assert command("ledger", "settle", "nobody", "--as", "succeeded", "--because", "x", code=1)
    settled = command("ledger", "settle", row["idempotency_key"], "--as", "succeeded", "--because", "seen", "--json")
    assert json.loads(settled[0])["status"] == "SUCCEEDED"
    assert command("ledger", "settle", "r:1", "--as", "no-effect", "--because", "x", code=1)
    assert "Nothing is in doubt" in command("ledger", "--in-doubt")[1]
    assert [one["status"] for one in json.loads(command("ledger", "--json")[0])["ledger"]] == ["SUCCEEDED"]
    assert json.loads(command("ledger", "r", "--status", "reserved", "--json")[0])["ledger"] == []


def test_budgets_from_the_command_line(tmp_path: Path, shop: Shop) -> None:
    """A bound is set, shown with what is left, and raised; a person reads dollars, a script the log's units."""
    with Runtime.local(tmp_path) as runtime:
        runtime.run(shop.buyer({"what": "tea"}), run_id="r", budget=Budget(calls=1))

    def command(*words: str) -> Any:
        line = [sys.executable, "-m", "agentledger", "--root", str(tmp_path), "budget", *words]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    assert json.loads(command("--json"))["budgets"][0]["left"] == {"calls": 0}
    command("set", "--run", "r", "--calls", "3", "--usd", "2.5", "--because", "more is needed")
    assert "$2.5" in command("r")
    assert json.loads(command("r", "--json"))["budgets"][0]["left"] == {"calls": 2, "usd_nano": 2_500_000_000}
