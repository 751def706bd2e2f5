"""The log: appending, deciding and group commit. Reading is in `test_reading.py`, contents in `test_contents.py`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import reduce
from typing import Any

import attrs
import pytest

from ledger_core import codec
from ledger_core.clock import Clock
from ledger_core.errors import BadInput, Closed, Refused
from ledger_core.events import REGISTRY, Unknown
from ledger_core.log.log import Log
from ledger_core.log.record import Draft, Event

ValueCaptured: Any = REGISTRY["value_captured"].cls
RunCompleted: Any = REGISTRY["run_completed"].cls
ToolCallRequested: Any = REGISTRY["tool_call_requested"].cls
ModelCallRequested: Any = REGISTRY["model_call_requested"].cls


def note(stream: str, value: object = None) -> Draft:
    return Draft(stream=stream, body=ValueCaptured(path="0", source="capture", name="note", value=value))


def call(stream: str, key: bytes | None) -> Draft:
    said: dict[str, Any] = {"tool_version": "1", "side_effect": "external_write", "request": b"r" * 32, "arguments": {}}
    return Draft(stream=stream, body=ToolCallRequested(path="0", attempt=1, tool="t", key=key, **said))


def _refuse(_: Any) -> list[Draft]:
    raise Refused("No.")


def test_append_returns_the_events_that_are_read(log: Log) -> None:
    """Appended drafts get the next seqs of the log and of their streams, and read back as they were returned."""
    drafts = [note("a", {"b": [1, 2.5, "ü", b"\xff", None]}), note("b", "other"), note("a")]
    drafts.append(attrs.evolve(note("b"), actor="worker", step="s1", epoch=3, causation=2))

    events = log.append(*drafts)

    assert [(2, 1), (3, 1), (4, 2), (5, 2)] == [(e.seq, e.stream_seq) for e in events]
    assert events == list(log.read(1))
    assert events[-1].hash == log.head().hash
    assert [4] == [e.seq for e in log.stream("a", 1)]
    head = log.stream_head("a")
    assert (4, 2, events[2].hash) == (head.seq, head.stream_seq, head.hash)


def test_what_an_abandoned_batch_named_is_named_anew(tmp_path) -> None:
    """The numbers that an abandoned append gave to its streams go to other streams, whoever names them next."""
    with Log.open(tmp_path) as one, Log.open(tmp_path) as two:
        with pytest.raises(BadInput):
            one.append(note("a", 1), note("b", 2), note("c", object()))
        two.append(note("b", 3))
        one.append(note("a", 4), note("b", 5))

        for log in (one, two):
            assert [("b", 1, 3), ("a", 1, 4), ("b", 2, 5)] == [
                (e.stream, e.stream_seq, e.body.value) for e in log.read(1)
            ]


def test_a_refusal_writes_nothing(log: Log) -> None:
    """A decision that refuses, or has nothing to say, makes no commit."""
    before = log.head(), log._store.version()

    with pytest.raises(Refused, match="No"):
        log.decide(_refuse)

    assert [] == log.decide(lambda _: [])
    assert [] == log.append()
    assert before == (log.head(), log._store.version())


UNFIT: dict[str, Callable[[], Draft]] = {
    "an object": lambda: note("new", object()),
    "not a number": lambda: note("new", {"deep": [float("nan")]}),
    "a large integer": lambda: note("new", 2**64),
    "a number as key": lambda: note("new", {1: 1}),
    "a lone surrogate": lambda: note("new", "\ud800"),
    "too deep": lambda: note("new", reduce(lambda inner, _: [inner], range(70), 1)),
    "large facts": lambda: Draft(stream="new", body=RunCompleted(counts={"x" * 70_000: 1}, tools={})),
    "a fact with numbers as keys": lambda: Draft(stream="new", body=RunCompleted(counts={1: 1}, tools={})),
    "a fact that is no number": lambda: Draft(stream="new", body=RunCompleted(counts={"a": float("nan")}, tools={})),
    "a stream's name without end": lambda: note("n" * 600),
    "a stream's name without beginning": lambda: note(""),
    "a stream's name with a surrogate": lambda: note("\ud800"),
    "a long key": lambda: call("new", b"k" * 600),
    "an unknown type with a known name": lambda: Draft(
        stream="new", body=Unknown(type="run_created", version=1, facts={})
    ),
    "a forged reference": lambda: Draft(
        stream="new",
        body=ModelCallRequested(
            path="0", attempt=1, model="m", request=b"", messages=[], parameters=codec.Ref(1, b"x" * 16)
        ),
    ),
}


@pytest.mark.invariant(10)
@pytest.mark.parametrize("what", UNFIT)
def test_an_append_is_all_or_nothing(log: Log, what: str) -> None:
    """A draft that cannot be stored is a `BadInput`, and takes the drafts beside it with it: nothing is written."""
    log.append(note("old", 1))
    before = log.head()

    with pytest.raises(BadInput):
        log.append(note("old", 2), note("new", "first"), UNFIT[what]())

    assert before == log.head()
    assert log.stream_head("new") is None
    assert [2, 3] == [log.append(note("old", 3))[0].stream_seq, log.append(note("old", 4))[0].stream_seq]


@pytest.mark.parametrize("what", ["an object", "large facts", "a stream's name without end", "a long key"])
def test_an_unfit_command_hurts_nobody_else(batch: Any, log: Log, what: str) -> None:
    """In a batch, what cannot be stored fails alone; those before and after it are committed, in order, together."""
    version = log._store.version()

    first, unfit, last = batch.run(
        lambda _: [note("a", 1)], lambda _: [note("new", 0), UNFIT[what]()], lambda _: [note("a", 2), note("c", 3)]
    )

    assert isinstance(unfit, BadInput)
    assert [2] == [e.seq for e in first]
    assert [3, 4] == [e.seq for e in last]
    assert version + 1 == log._store.version()


def test_a_refusal_hurts_nobody_else(batch: Any, log: Log) -> None:
    """A refusing command fails alone; those behind it see what those before it wrote, in new streams too."""
    log.append(note("a", 0))
    seen = []

    def see(view: Any) -> list[Draft]:
        seen[:] = [e.body.value for s in "ab" for e in view.events(s, contents=True)]
        seen.append(view.head("a").stream_seq)
        return [note("a", 2)]

    first, refused, last = batch.run(lambda _: [note("a", 1), note("b", 9)], _refuse, see)

    assert isinstance(refused, Refused)
    assert [0, 1, 9, 2] == seen
    assert ([3, 4], [5]) == ([e.seq for e in first], [e.seq for e in last])


def test_a_batch_of_refusals_makes_no_commit(batch: Any, log: Log) -> None:
    """Where every command of a batch refuses there is no commit and no sync."""
    version = log._store.version()

    assert all(isinstance(outcome, Refused) for outcome in batch.run(_refuse, _refuse))
    assert version == log._store.version()


def test_a_decision_finds_keys_of_its_own_batch(log: Log) -> None:
    """The first event that carries a key tag is found, also by a decision in the batch that writes it."""
    log.append(call("a", b"k" * 32), call("b", b"k" * 32))
    found: list[int | None] = []

    def look(view: Any) -> list[Draft]:
        found[:] = view.find_key(b"k" * 32), view.find_key(b"n" * 32)
        return []

    assert [] == log.decide(look)
    assert [2, None] == found


def test_64_threads_share_one_commit(batch: Any, log: Log) -> None:
    """What 64 threads append while a commit is under way is one commit, and each gets its own event."""
    version = log._store.version()

    outcomes = batch.run(*[lambda _, n=n: [note(f"s{n % 7}", n)] for n in range(64)])

    assert version + 1 == log._store.version()
    assert list(range(64)) == [events[0].body.value for events in outcomes]
    assert set(range(2, 66)) == {events[0].seq for events in outcomes}


def test_64_tasks_share_one_commit(log: Log) -> None:
    """What 64 tasks of a loop append while a commit is under way is one commit, and the loop goes on meanwhile."""
    version = log._store.version()
    inside, go, ticks = threading.Event(), threading.Event(), 0

    def lead(_: Any) -> list[Draft]:
        inside.set()
        assert go.wait(20)
        return []

    async def main() -> list[list[Event]]:
        nonlocal ticks
        first = asyncio.create_task(log.adecide(lead))
        tasks = [asyncio.create_task(log.adecide(lambda _, n=n: [note("s", n)])) for n in range(64)]
        while not (inside.is_set() and len(log._group._queue) == 64):
            await asyncio.sleep(0.001)
            ticks += 1
        go.set()
        return (await asyncio.gather(first, *tasks))[1:]

    outcomes = asyncio.run(main())

    assert ticks > 0
    assert version + 1 == log._store.version()
    assert list(range(64)) == [events[0].body.value for events in outcomes]


def test_a_cancelled_task_leaves_its_command(log: Log) -> None:
    """Who is cancelled while waiting for a commit does not take the command back, and disturbs nobody."""

    async def main() -> None:
        task = asyncio.create_task(log.adecide(lambda _: time.sleep(0.05) or [note("s", 1)]))
        other = asyncio.create_task(log.adecide(lambda _: [note("s", 2)]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await other

    asyncio.run(main())

    assert [1, 2] == [e.body.value for e in log.stream("s")]


def test_an_interrupted_decision_raises_what_interrupted_it(log: Log) -> None:
    """Ctrl-C inside a decision comes out as itself, nothing was written, and the log goes on."""

    def interrupted(_: Any) -> list[Draft]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log.decide(interrupted)

    assert 2 == log.append(note("s", 1))[0].seq


def test_threads_that_append_and_read_meanwhile(log: Log) -> None:
    """Eight threads that append at will lose nothing, and each finds its own event at once."""
    wrong: list[object] = []

    def work(name: str) -> None:
        for n in range(25):
            event = log.append(note(name, n))[0]
            read = log.event(event.seq)
            if (read.body, read.stream_seq) != (event.body, n + 1):
                wrong.append(read)

    threads = [threading.Thread(target=work, args=(f"s{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [] == wrong
    assert 201 == log.head().seq


def test_time_never_goes_back(tmp_path) -> None:
    """A clock that is set back dates no event before the one before it, in this process or the next."""
    times = iter([5_000, 9_000, 2_000, 1_000, 3_000, 10_000])
    clock = Clock(now_ns=lambda: next(times))
    with Log.open(tmp_path, clock=clock) as log:
        log.append(note("s"), note("s"))
    with Log.open(tmp_path, clock=clock) as log:
        log.append(note("s"))
        log.append(note("s"), note("s"))

        assert [5_000, 9_000, 9_000, 9_000, 9_000, 10_000] == [e.time_ns for e in log.read()]


def test_a_closed_log_says_so(log: Log) -> None:
    """After `close`, which may be called twice, every use raises `Closed`."""
    log.append(note("s"))
    log.close()
    log.close()

    uses = [lambda: log.append(note("s")), log.head, lambda: list(log.read()), lambda: next(log.follow(1, timeout=1))]
    for use in uses:
        with pytest.raises(Closed):
            use()
