"""Many processes at one ledger: nothing is lost, nothing comes twice, and whoever is killed leaves a whole log."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ledger_core.log.log import Log
from ledger_core.log.verify_jobs import verify_ledger

PROLOGUE = f"""
import itertools, os, random, sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from suites.forging import note
from ledger_core.errors import *
from ledger_core.log.log import Log
"""

WRITE = (
    PROLOGUE
    + """
name, sizes, left = sys.argv[2], random.Random(sys.argv[2]), 5000
with Log.open(sys.argv[1]) as log:
    sys.stdin.readline()
    while left:
        size = min(left, sizes.choice([1, 2, 7, 50, 400]))
        events = log.append(*[note(f"{name}/{n % 3}", [name, 5000 - left + n]) for n in range(size)])
        assert [event.seq for event in events] == list(range(events[0].seq, events[0].seq + size))
        left -= size
"""
)

TAIL = (
    PROLOGUE
    + """
seqs, values = [], {}
with Log.open(sys.argv[1]) as log:
    print("open", flush=True)
    for event in log.follow(timeout=60):
        seqs.append(event.seq)
        if event.seq > 1:
            name, number = event.body.value
            assert values.get(name, -1) + 1 == number, (event.seq, name, number)
            values[name] = number
        if event.seq == 20001:
            break
assert seqs == list(range(1, 20002))
print(sorted(values.values()))
"""
)


@pytest.mark.invariant(1)
def test_four_writers_a_tail_and_a_verifier(tmp_path: Path, python: Any) -> None:
    """Four processes append, one tails, one verifies: 20,001 gapless events, each seen once, in order; no finding."""
    tail = python.start(TAIL, tmp_path)
    assert "open\n" == tail.stdout.readline()
    writers = [python.start(WRITE, tmp_path, name) for name in "abcd"]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()

    verified = []
    while any(writer.poll() is None for writer in writers):
        report = verify_ledger(tmp_path)
        assert report.ok, report.findings
        verified.append(report.sums.events)
    for writer in writers:
        python.ends(writer)

    assert "[4999, 4999, 4999, 4999]" == python.ends(tail).strip()
    assert verified == sorted(verified)
    report = verify_ledger(tmp_path, jobs=2)
    assert (True, 20_001, 13) == (report.ok, report.sums.events, report.sums.streams)


ACKNOWLEDGE = (
    PROLOGUE
    + """
with Log.open(sys.argv[1]) as log:
    for n in itertools.count():
        events = log.append(*[note(sys.argv[2], [n, m, "x" * (n % 9 * 200)]) for m in range(n % 4 + 1)])
        os.write(1, f"{n} {events[-1].seq} {events[-1].hash.hex()}\\n".encode())
"""
)


@pytest.mark.invariant(12)
def test_killed_writers_lose_nothing_acknowledged(tmp_path: Path, python: Any) -> None:
    """Writers killed at random moments: what each had acknowledged is there, whole, and the next goes on at once."""
    moments = random.Random(7)
    acknowledged: dict[int, str] = {}
    for round_ in range(8):
        children = [python.start(ACKNOWLEDGE, tmp_path, f"r{round_}/{n}") for n in range(2)]
        first = [child.stdout.readline() for child in children]
        time.sleep(moments.random() * 0.15)
        for child in children:
            child.send_signal(signal.SIGKILL)
            time.sleep(moments.random() * 0.02)
        for child, line in zip(children, first, strict=True):
            for said in [line, *child.stdout.read().splitlines()]:
                _, seq, hash_ = said.split()
                acknowledged[int(seq)] = hash_
            child.wait(20)

    with Log.open(tmp_path) as log:
        there = {event.seq: event for event in log.read()}
    assert acknowledged == {seq: there[seq].hash.hex() for seq in acknowledged}
    assert len(acknowledged) > 50
    commands: dict[tuple[str, int], int] = {}
    for event in list(there.values())[1:]:
        commands[event.stream, event.body.value[0]] = commands.get((event.stream, event.body.value[0]), 0) + 1
    assert all(count == n % 4 + 1 for (_, n), count in commands.items())
    assert verify_ledger(tmp_path).ok


INTERRUPTED = (
    PROLOGUE
    + """
import signal
log, main, kept, asked, done = Log.open(sys.argv[1]), threading.get_ident(), [], 0, threading.Event()

def interrupt():
    moments = random.Random(3)
    while not done.is_set():
        time.sleep(moments.random() * 0.02)
        if armed:
            signal.pthread_kill(main, signal.SIGINT)

def beside():
    for n in range(200):
        log.append(note("beside", n))

armed = False
threads = [threading.Thread(target=work, daemon=True) for work in (interrupt, beside)]
for thread in threads:
    thread.start()
while asked < 400:
    try:
        try:
            armed = True
            log.append(note("main", asked))
            kept.append(asked)
        finally:
            armed = False
    except KeyboardInterrupt:
        pass
    try:
        time.sleep(0)
        asked += 1
    except KeyboardInterrupt:
        asked += 1
done.set()
for thread in threads:
    thread.join(30)
there = [event.body.value for event in log.stream("main")]
assert there == sorted(set(there)) and set(kept) <= set(there), (set(kept) - set(there))
assert [event.body.value for event in log.stream("beside")] == list(range(200))
print(len(kept))
"""
)


@pytest.mark.parametrize("again", range(2))
def test_interrupted_appends_leave_the_log_whole(tmp_path: Path, python: Any, again: int) -> None:
    """Ctrl-C at random moments of appends: what returned is there, others lose nothing, and the log goes on."""
    assert int(python.run(INTERRUPTED, tmp_path, timeout=60)) > 50
    assert verify_ledger(tmp_path).ok


CLOSED = (
    PROLOGUE
    + """
import asyncio
log = Log.open(sys.argv[1])

async def main():
    tasks = [asyncio.create_task(log.adecide(lambda _, n=n: time.sleep(0.01) or [note("s", n)])) for n in range(30)]
    await asyncio.sleep(0.005)
    log.close()
    done, pending = await asyncio.wait(tasks, timeout=5)
    print(len(pending), {type(task.exception()).__name__ for task in done if task.exception()} <= {"Closed"})
    os._exit(0)

asyncio.run(main())
"""
)


def test_closing_settles_what_was_asked_of_it(tmp_path: Path, python: Any) -> None:
    """A log closed under tasks that wait for a commit leaves none waiting: committed, or told that it is closed."""
    assert "0 True" in python.run(CLOSED, tmp_path)
    assert verify_ledger(tmp_path).ok
