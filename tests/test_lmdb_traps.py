"""LMDB's own rules, each broken on purpose: forks, maps that grow, readers that stay.

What lies where a ledger should is in `test_opening.py`; devices that are full, fail or lose bytes in `test_devices.py`.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import needs
from suites.forging import note

from ledger_core.log.log import Log
from ledger_core.log.verify_jobs import verify_ledger

TESTS = Path(__file__).parent
PROLOGUE = f"""
import os, sys, threading, time
sys.path.insert(0, {str(TESTS)!r})
from suites.forging import note
from ledger_core.errors import *
from ledger_core.log.log import Log
"""

FORK = (
    PROLOGUE
    + """
log = Log.open(sys.argv[1])
log.append(note("s", 1))
child = os.fork()
if child == 0:
    try:
        for use in (lambda: log.append(note("s", 2)), log.head, lambda: list(log.read()), lambda: next(log.follow())):
            try:
                use()
                os._exit(2)
            except Forked as error:
                assert "Open it again in the child" in str(error)
        log.close()
        with Log.open(sys.argv[1]) as mine:
            assert mine.append(note("s", "child"))[0].seq == 3
        os._exit(0)
    finally:
        os._exit(3)
assert os.waitpid(child, 0)[1] == 0
assert log.append(note("s", "parent"))[0].seq == 4
log.close()
with Log.open(sys.argv[1]) as again:
    print([event.body.value for event in again.stream("s")])
"""
)


def test_a_fork_leaves_parent_and_child_whole(tmp_path: Path, python: Any) -> None:
    """In a forked child the parent's log raises `Forked`, a log opened anew works, and the parent goes on."""
    needs.linux()

    assert "[1, 'child', 'parent']" == python.run(FORK, tmp_path).strip()
    assert verify_ledger(tmp_path).ok


FORK_IN_COMMIT = (
    PROLOGUE
    + """
log = Log.open(sys.argv[1])
inside, go = threading.Event(), threading.Event()
def slow(view):
    inside.set()
    go.wait(20)
    return [note("s", 1)]
thread = threading.Thread(target=log.decide, args=(slow,))
thread.start()
inside.wait(20)
child = os.fork()
if child == 0:
    import signal
    signal.alarm(5)
    try:
        log.append(note("s", 2))
    except Forked:
        os._exit(0)
    os._exit(2)
status = os.waitpid(child, 0)[1]
go.set()
thread.join()
print(status, log.append(note("s", 3))[0].seq)
"""
)


def test_a_fork_amid_a_commit_does_not_hang_the_child(tmp_path: Path, python: Any) -> None:
    """A child forked while another thread commits is told `Forked` too, instead of waiting for that thread for ever."""
    needs.linux()

    assert "0 3" == python.run(FORK_IN_COMMIT, tmp_path).strip()


GROW = (
    PROLOGUE
    + """
log = Log.open(sys.argv[1], map_size=1 << 17)
done, wrong = threading.Event(), []
def read():
    while not done.is_set():
        try:
            seqs = [event.seq for event in log.read()]
            assert seqs == list(range(1, len(seqs) + 1))
            log.head()
            log._store.version()
        except BaseException as error:
            wrong.append(error)
            return
readers = [threading.Thread(target=read) for _ in range(3)]
for reader in readers:
    reader.start()
for n in range(int(sys.argv[2])):
    log.append(*[note(f"s{m}", f"{n} {m} " * 400) for m in range(10)])
done.set()
for reader in readers:
    reader.join()
assert wrong == [], wrong
print(log._store._environment().info()["map_size"])
"""
)


def test_a_map_grows_under_readers_in_threads(tmp_path: Path, python: Any) -> None:
    """A map that is too small grows while threads of the same process read, and no append is lost or refused."""
    assert int(python.run(GROW, tmp_path, 100)) > 1 << 20
    assert (True, 1001) == ((report := verify_ledger(tmp_path)).ok, report.sums.events)


def test_a_map_grows_under_other_processes(tmp_path: Path, python: Any) -> None:
    """Two processes that both outgrow their maps, and both read, adopt each other's."""
    children = [python.start(GROW, tmp_path, 50) for _ in range(2)]
    for child in children:
        python.ends(child)

    report = verify_ledger(tmp_path)
    assert (True, 1001) == (report.ok, report.sums.events)


MOVE = (
    PROLOGUE
    + """
from pathlib import Path
from ledger_core.log.lmdb_store import open_store
done = threading.Event()
for n in range(40):
    store = open_store(Path(sys.argv[1]) / str(n), map_size=1 << 20)
    done.clear()
    def ask():
        while not done.is_set():
            store.version()
    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in range(14):
        store.grow()
    done.set()
    for asker in askers:
        asker.join()
    store.close()
print("lived")
"""
)


def test_a_version_is_asked_for_while_the_map_moves(tmp_path: Path, python: Any) -> None:
    """Followers ask for the version at any time, also while a thread of their process moves the map."""
    assert "lived" == python.run(MOVE, tmp_path).strip()


def test_a_reader_left_open_pins_no_pages(tmp_path: Path) -> None:
    """Generators that somebody began to read and holds on to keep no old pages: the file grows as without them."""
    sizes = []
    for held in (False, True):
        with Log.open(tmp_path / str(held)) as log:
            log.append(*[note("s", n) for n in range(600)])
            readers = [log.read(), log.newest_first(), log.stream("s"), log.follow(), log.streams_newest_first()]
            if held:
                for reader in readers:
                    next(reader)
            for n in range(300):
                log.append(note("s", n))
            sizes.append(log._store._environment().info()["last_pgno"])

    assert sizes[1] <= sizes[0] * 1.1


STAY = (
    PROLOGUE
    + """
log = Log.open(sys.argv[1])
with log._store.read() as reader:
    reader.count(0)
    print("reading", flush=True)
    time.sleep(60)
"""
)


def _kill_a_reader(root: Path, python: Any) -> None:
    child = python.start(STAY, root)
    assert "reading\n" == child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait(20)


def test_a_killed_readers_slot_is_cleared(lmdb_log: Log, python: Any) -> None:
    """The slot of a reader that was killed, which would pin its pages for ever, is cleared on asking and at opening."""
    _kill_a_reader(lmdb_log.root, python)
    assert 1 == lmdb_log._store.clear_readers()

    _kill_a_reader(lmdb_log.root, python)
    python.run(PROLOGUE + "Log.open(sys.argv[1]).head()", lmdb_log.root)
    assert 0 == lmdb_log._store.clear_readers()
