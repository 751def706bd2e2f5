"""Opening: many at once, twice, where something else lies, and where one may not."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import lmdb
import needs
import pytest
from suites.forging import note

from ledger_core.errors import CannotOpen, Damaged, LedgerError
from ledger_core.log import index
from ledger_core.log.log import STORE, Log
from ledger_core.log.verify_jobs import verify_ledger

PROLOGUE = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from suites.forging import note
from ledger_core.errors import *
from ledger_core.log.log import Log
"""

CREATE = (
    PROLOGUE
    + """
sys.stdin.readline()
with Log.open(sys.argv[1]) as log:
    log.append(note(sys.argv[2], 1))
    print(log.id.hex())
"""
)


@pytest.mark.parametrize("count", [2, 8])
def test_processes_that_create_at_once_make_one_ledger(tmp_path: Path, python: Any, count: int) -> None:
    """Processes that open a ledger that is not there, at the same moment, all get the same one."""
    for again in range(3):
        root = tmp_path / str(again)
        children = [python.start(CREATE, root, f"s{n}") for n in range(count)]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        ids = {python.ends(child) for child in children}

        assert 1 == len(ids)
        with Log.open(root) as log:
            assert count + 1 == log.head().seq
        assert verify_ledger(root).ok


def test_one_log_per_directory_and_process(tmp_path: Path) -> None:
    """Logs opened twice in a process share one environment, and closing one leaves the other open."""
    one, two = Log.open(tmp_path), Log.open(tmp_path / "x" / "..")
    one.append(note("s", 1))
    one.close()

    assert 3 == two.append(note("s", 2))[0].seq
    two.close()
    with Log.open(tmp_path, readonly=True) as log, pytest.raises(CannotOpen, match="reading only"):
        assert 3 == log.head().seq
        log.append(note("s", 3))


def _store(root: Path) -> Path:
    (root / STORE).mkdir(parents=True)
    return root / STORE


def _foreign_lmdb(table: bytes | None) -> Any:
    def write(root: Path) -> None:
        with lmdb.open(str(_store(root)), max_dbs=4) as env, env.begin(write=True) as txn:
            txn.put(b"theirs", b"data", db=env.open_db(table, txn=txn))

    return write


def _format(row: bytes) -> Any:
    def write(root: Path) -> None:
        Log.open(root).close()
        with lmdb.open(str(root / STORE), max_dbs=8) as env, env.begin(write=True) as txn:
            txn.put(index.FORMAT_ROW, row, db=env.open_db(b"index", txn=txn))

    return write


def _lost(root: Path) -> None:
    Log.open(root).close()
    (root / STORE / "data.mdb").unlink()


def _emptied(root: Path) -> None:
    Log.open(root).close()
    os.truncate(root / STORE / "data.mdb", 0)


IN_THE_WAY: dict[str, tuple[Any, type[LedgerError], str]] = {
    "a file": (lambda root: root.write_text("mine"), CannotOpen, "file is in its way"),
    "a file for the store": (lambda root: (root.mkdir(), (root / STORE).write_text("mine")), CannotOpen, "file is in"),
    "a directory for the data": (lambda root: (_store(root) / "data.mdb").mkdir(), CannotOpen, "is a directory"),
    "a foreign file": (
        lambda root: (_store(root) / "data.mdb").write_text("mine " * 9999),
        Damaged,
        "no LMDB data file",
    ),
    "a short foreign file": (lambda root: (_store(root) / "data.mdb").write_text("mine"), Damaged, "no LMDB data file"),
    "a foreign LMDB file": (_foreign_lmdb(None), LedgerError, ""),
    "a foreign LMDB file with a table": (_foreign_lmdb(b"theirs"), LedgerError, ""),
    "a foreign LMDB file with our table": (_foreign_lmdb(b"index"), LedgerError, ""),
    "a newer format": (_format(b"AgentLedger\n\0\0\0\2" + bytes(16)), CannotOpen, "format 2"),
    "format 0": (_format(b"AgentLedger\n\0\0\0\0" + bytes(16)), Damaged, "format 0"),
    "another program's format": (_format(b"AgentLodger\n\0\0\0\1" + bytes(16)), Damaged, "not this program's"),
    "keys of a lost ledger": (_lost, Damaged, "a ledger was lost"),
    "keys of an emptied ledger": (_emptied, Damaged, "a ledger was lost"),
}


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_no_ledger_is_refused_and_left_alone(tmp_path: Path, what: str, readonly: bool) -> None:
    """What lies where the ledger should is refused with a sentence, twice alike, and not a byte of it changes."""
    make, kind, sentence = IN_THE_WAY[what]
    root = tmp_path / "ledger"
    make(root)
    before = _files(root)

    for _ in range(2):
        with pytest.raises(LedgerError if readonly else kind) as refused:
            Log.open(root, readonly=readonly)
        assert readonly or sentence in str(refused.value)
    assert before == _files(root)


def _files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in [root, *root.rglob("*")] if path.is_file() and path.name != "lock.mdb"}


AS_NOBODY = (
    PROLOGUE
    + """
with Log.open(sys.argv[2]) as log:  # all that is imported must be, while it can be read
    log.append(note("s", 1))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for readonly in (False, True):
    try:
        Log.open(sys.argv[1], readonly=readonly)
        print("open")
    except CannotOpen as error:
        print("refused:", error)
"""
)


@pytest.mark.parametrize(
    ("directory", "file"), [(0o555, 0o444), (0o555, 0o400), (0o700, 0o600), (0o755, 0o600)], ids=oct
)
def test_a_ledger_of_somebody_else_is_refused(tmp_path: Path, python: Any, directory: int, file: int) -> None:
    """Who may not write a ledger's files, or not even read them, is told so in a sentence, and leaves nothing there."""
    needs.root()
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's own directories are closed to others
        os.chmod(place, 0o755)
        root = Path(place) / "ledger"
        with Log.open(root) as log:
            log.append(note("s", 1))
        before = sorted(root.rglob("*"))
        for path in [*root.rglob("*"), root]:
            path.chmod(directory if path.is_dir() else file)

        said = python.run(AS_NOBODY, root, tmp_path / "other").splitlines()

        assert ["refused:"] * 2 == [line.split(" ")[0] for line in said], said
        assert before == sorted(root.rglob("*"))
