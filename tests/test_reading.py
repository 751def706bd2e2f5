"""Reading the log, and following it while others write, also from another process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import needs
import pytest

from ledger_core.errors import NotFound
from ledger_core.events import REGISTRY
from ledger_core.log.log import Log
from ledger_core.log.record import Draft

ValueCaptured: Any = REGISTRY["value_captured"].cls


def note(stream: str, value: object = None) -> Draft:
    return Draft(stream=stream, body=ValueCaptured(path="0", source="capture", name="note", value=value))


PROLOGUE = """
import sys, time, threading, asyncio, resource
from ledger_core.events import REGISTRY
from ledger_core.log.log import Log
from ledger_core.log.record import Draft
ValueCaptured = REGISTRY["value_captured"].cls

def note(stream, value):
    return Draft(stream=stream, body=ValueCaptured(path="0", source="capture", name="n", value=value))

def usage():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_nvcsw, used.ru_utime + used.ru_stime
"""


def test_reads_go_on_across_their_batches(log: Log) -> None:
    """Readers read in short batches: in both directions, from a cursor, to a stop, and a stream, nothing twice."""
    log.append(*[note(f"s{n % 2}", n) for n in range(700)])

    forward = log.read()
    first = [next(forward).seq for _ in range(3)]
    log.append(note("late"))

    assert list(range(1, 703)) == first + [e.seq for e in forward]
    assert list(range(702, 0, -1)) == [e.seq for e in log.newest_first(contents=False)]
    assert [300, 301] == [e.seq for e in log.read(299, stop=301)]
    assert list(range(1, 700, 2)) == [e.body.value for e in log.stream("s1")]
    assert ([], []) == (list(log.stream("none")), list(log.read(702)))
    with pytest.raises(NotFound):
        log.event(703)


def test_streams_by_name_and_by_age(log: Log) -> None:
    """Streams are listed by name under a prefix, and youngest first across the batches they are read in."""
    log.append(*[note(f"{'run' if n % 2 else 'session'}/{n:03}") for n in range(200)], note("run/000001"))

    assert [f"session/{n:03}" for n in range(0, 200, 2)] == log.streams("session/")
    assert [f"run/{n:03}" for n in range(199, 0, -2)] == [name for name, _ in log.streams_newest_first("run/")][1:]
    assert 202 == len(log.streams())


WRITER = (
    PROLOGUE
    + """
log = Log.open(sys.argv[1])
sys.stdin.readline()
for n in range(150):
    log.append(*[note("s", [n, m]) for m in range(n % 3 + 1)])
    time.sleep(0.002 * (n % 2))
"""
)


def test_follow_hears_another_process(tmp_path: Path, python: Any) -> None:
    """A follower gets every event of another process's commits once and in order, and ends when told to."""
    with Log.open(tmp_path) as log:
        writer = python.start(WRITER, tmp_path)
        writer.stdin.write("go\n")
        writer.stdin.flush()

        got = []
        for event in log.follow(1, timeout=20):
            got.append((event.seq, event.body.value))
            if len(got) == 300:
                break
        python.ends(writer)

        assert [(n + 2, value) for n, value in enumerate([k, m] for k in range(150) for m in range(k % 3 + 1))] == got
        assert [] == list(log.follow(301, timeout=0.1))


def test_afollow_hears_another_process(tmp_path: Path, python: Any) -> None:
    """So does a follower in an event loop, which goes on meanwhile."""

    async def main(log: Log) -> tuple[list[int], int]:
        ticks, got = 0, []

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with asyncio.timeout(30):
            async for event in log.afollow(1):
                got.append(event.seq)
                if len(got) == 300:
                    break
        ticking.cancel()
        return got, ticks

    with Log.open(tmp_path) as log:
        writer = python.start(WRITER, tmp_path)
        writer.stdin.write("go\n")
        writer.stdin.flush()
        got, ticks = asyncio.run(main(log))
        python.ends(writer)

    assert list(range(2, 302)) == got
    assert ticks > 10


def test_follow_hears_threads_of_its_own_process(log: Log) -> None:
    """A follower hears what its own process appends, on every store."""
    thread = threading.Thread(target=lambda: [log.append(note("s", n)) for n in range(50)])
    following = log.follow(1, timeout=20)
    thread.start()

    assert list(range(50)) == [next(following).body.value for _ in range(50)]
    thread.join()


IDLE = (
    PROLOGUE
    + """
log = Log.open(sys.argv[1])
assert len(list(log.follow(timeout=0.1))) == 1
threading.Timer(0.3, lambda: log.append(note("s", 1))).start()  # a follower that was woken sleeps again
switches, seconds = usage()
if sys.argv[2] == "thread":
    assert len(list(log.follow(1, timeout=2))) == 1
else:
    async def main():
        try:
            async with asyncio.timeout(2):
                async for _ in log.afollow(1):
                    pass
        except TimeoutError:
            pass
    asyncio.run(main())
later = usage()
print(later[0] - switches, later[1] - seconds)
"""
)


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_an_idle_follower_sleeps(tmp_path: Path, python: Any, where: str) -> None:
    """Two seconds with one commit of another thread take a few wake-ups and next to no processor time."""
    needs.linux()

    switches, seconds = python.run(IDLE, tmp_path, where).split()

    assert int(switches) <= 40
    assert float(seconds) < 0.1


LATE = (
    PROLOGUE
    + """
log = Log.open(sys.argv[1])
print("open", flush=True)
for line in sys.stdin:
    log.append(note("s", int(line)))
    print("written", flush=True)
"""
)


def test_a_commit_that_is_slow_at_its_end_is_heard(tmp_path: Path, python: Any) -> None:
    """A follower that looks while the meta page of a commit is being synced still gets the commit's event soon after.

    The page is visible to all from the moment it is written; readers get its version only when the commit is done.
    """
    needs.strace()
    slow = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", "inject=pwrite64:delay_exit=300000")
    with Log.open(tmp_path) as log:
        writer = python.start(LATE, tmp_path, before=slow)
        assert writer.stdout.readline() == "open\n"
        writer.stdin.write("1\n2\n3\n")
        writer.stdin.flush()

        got = [event.body.value for event, _ in zip(log.follow(1, timeout=4), range(3), strict=False)]

        writer.stdin.close()
        writer.wait(30)

    assert [1, 2, 3] == got
