"""Devices that are full, that fail, and that lose bytes: every append ends known, and nothing kills who asks."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import needs
import pytest
from suites.forging import fill, note

from ledger_core.errors import LedgerError
from ledger_core.log.log import STORE, Log
from ledger_core.log.verify_jobs import verify_ledger

PROLOGUE = f"""
import json, os, subprocess, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from suites.forging import note
from ledger_core.errors import *
from ledger_core.log.log import Log
from ledger_core.log.verify_jobs import verify_ledger

value = lambda n: os.urandom(300 + n % 700)
"""


def on_device(size: str, place: Path) -> tuple[str, ...]:
    """The command that runs another with a small device mounted at `place`, seen by nobody else."""
    place.mkdir()
    mount = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh", size, str(place))


FULL = (
    PROLOGUE
    + """
root, batch = Path(sys.argv[1]) / "ledger", int(sys.argv[2])
log, kept, refused = Log.open(root), [1], 0
def fill_up():
    global refused
    for n in range(3000):
        try:
            kept.extend(event.seq for event in log.append(*[note(f"s{n % 5}", value(n)) for _ in range(batch)]))
        except StoreFull as error:
            refused += 1
            assert "the log is as it was" in str(error)
            if refused % 3 == 0:
                return
fill_up()
before = len(kept)
assert log.head().seq == kept[-1] and verify_ledger(root).ok
subprocess.run(["mount", "-o", "remount,size=3m", sys.argv[1]], check=True)
fill_up()
assert len(kept) > before > 10, (len(kept), before)
log.close()
report = verify_ledger(root)
assert report.ok, report
with Log.open(root) as log:
    assert [event.seq for event in log.read()] == kept == list(range(1, len(kept) + 1))
print(refused)
"""
)


@pytest.mark.parametrize("batch", [1, 25])
def test_a_full_device_refuses_and_goes_on(tmp_path: Path, python: Any, batch: int) -> None:
    """On a full device appends are refused whole; when there is room again they go on, and all is as acknowledged."""
    needs.small_device()

    assert "6" == python.run(FULL, tmp_path / "device", batch, before=on_device("700k", tmp_path / "device")).strip()


TOO_SMALL = (
    PROLOGUE
    + """
endings = {}
for size in range(4, 300, 4):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", sys.argv[1]], check=True)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code = 9
        try:
            with Log.open(Path(sys.argv[1]) / "ledger") as log:
                log.append(note("s", value(1)))
            code = 0
        except LedgerError:
            code = 1
        finally:
            os._exit(code)
    endings[size] = os.waitpid(child, 0)[1]
    subprocess.run(["umount", sys.argv[1]], check=True)
print(json.dumps(endings))
"""
)


def test_a_device_too_small_for_a_ledger_says_so(tmp_path: Path, python: Any) -> None:
    """On a device of any size a ledger is created, or refused with an error of ours; nobody dies of a missing page."""
    needs.small_device()

    endings = json.loads(python.run(TOO_SMALL, tmp_path / "device", before=on_device("4k", tmp_path / "device")))

    wrong = {size: ending for size, ending in endings.items() if ending not in {0, 1 << 8}}
    assert {} == wrong
    assert {0, 1 << 8} == set(endings.values())


KEY_PAGE = (
    PROLOGUE
    + """
root = Path(sys.argv[1]) / "ledger"
log = Log.open(root)
log.append(*[note(f"s{n}", n) for n in range(1023)])
room = os.statvfs(root).f_bavail * 4096
(root.parent / "ballast").write_bytes(bytes(room - 20_000))
try:
    log.append(note("one/more", 1), note("and/more", 1))
    print("appended")
except StoreFull:
    print("full")
(root.parent / "ballast").unlink()
print(log.append(note("one/more", 1))[0].seq)
assert verify_ledger(root).ok and not list(root.glob("keys/*.new"))
"""
)


def test_a_device_too_full_for_keys_refuses(tmp_path: Path, python: Any) -> None:
    """Where the next page of keys finds no room, the append is refused as full, and leaves no half a page."""
    needs.small_device()

    said = python.run(KEY_PAGE, tmp_path / "device", before=on_device("2m", tmp_path / "device"))

    assert ["full", "1025"] == said.split()


LIMITED = (
    PROLOGUE
    + """
import resource
root = Path(sys.argv[1])
log = Log.open(root)
kept = [1]
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limit[1]))
refused = 0
for n in range(2000):
    try:
        kept.extend(event.seq for event in log.append(note("s", value(n)), note("t", value(n))))
    except OutcomeUnknown:
        raise
    except LedgerError as error:  # a write that was cut off, not refused, is an I/O error to LMDB
        assert "the log is as it was" in str(error).lower()
        refused += 1
        if refused == 3:
            break
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
kept.extend(event.seq for event in log.append(note("s", 1)))
assert refused == 3 and kept == [event.seq for event in log.read()] == list(range(1, len(kept) + 1))
assert verify_ledger(root).ok
print("fine")
"""
)


def test_a_limit_on_file_size_is_a_full_device(tmp_path: Path, python: Any) -> None:
    """Where the file may not grow, appends are refused whole; when it may again they go on."""
    assert "fine" == python.run(LIMITED, tmp_path).strip()


FAILING = (
    PROLOGUE
    + """
outcomes, log = [], None
for n in range(int(sys.argv[2])):
    try:
        log = log or Log.open(sys.argv[1])
        outcomes.append([n, "kept", log.append(note("s", n), note("t", n))[0].seq])
    except OutcomeUnknown as error:
        outcomes.append([n, "unknown", str(error)])
    except LedgerError as error:
        outcomes.append([n, "refused", str(error)])
print(json.dumps(outcomes))
"""
)


def _fail(root: Path, python: Any, call: str, when: str, appends: int) -> list[list[Any]]:
    inject = f"inject={call}:error=EIO:when={when}"
    strace = ("strace", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
    outcomes: list[list[Any]] = json.loads(python.run(FAILING, root, appends, before=strace))
    with Log.open(root) as log:
        there = [event.body.value for event in log.stream("s")]
        assert there == [event.body.value for event in log.stream("t")]
    for n, outcome, _ in outcomes:
        assert outcome == "unknown" or (n in there) == (outcome == "kept"), (outcomes, there)
    assert verify_ledger(root).ok
    return outcomes


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_an_error_at_any_commit_is_found_out(tmp_path: Path, python: Any, call: str) -> None:
    """A write or sync that fails once: each append is truly kept or truly refused, and the log goes on."""
    needs.strace()

    def one(when: int) -> list[list[Any]]:
        return _fail(tmp_path / str(when), python, call, str(when), 6)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(one, range(1, 16, 1 if call == "fdatasync" else 2)))

    for outcomes in runs:
        kinds = [outcome for _, outcome, _ in outcomes]
        assert "unknown" not in kinds, outcomes
        assert kinds.count("refused") <= 1, outcomes
    assert any("refused" in [outcome for _, outcome, _ in outcomes] for outcomes in runs)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_a_device_that_keeps_failing_leaves_no_doubt_behind(tmp_path: Path, python: Any, call: str) -> None:
    """A device that fails from some commit on: every append says so, and what was acknowledged before is there."""
    needs.strace()

    kinds = [outcome for _, outcome, _ in _fail(tmp_path / call, python, call, "9+", 14)]

    assert "kept" == kinds[0]
    assert {"unknown", "refused"} >= set(kinds[-2:])


def _check(root: Path, true: list[bytes]) -> str:
    """What verification says of a damaged copy: `found`, `refused`, or `whole` where nothing was lost."""
    try:
        report = verify_ledger(root)
    except LedgerError as error:
        return "refused" if error.sentence else ""
    if not report.ok:
        assert report.findings
        return "found"
    with Log.open(root) as log:
        assert true == [event.hash for event in log.read()]
    return "whole"


@pytest.fixture
def ledger(tmp_path: Path) -> tuple[Path, list[bytes]]:
    with Log.open(tmp_path / "ledger") as log:
        fill(log)
        log.append(*[note(f"s{n % 3}", "x" * (n * 100)) for n in range(24)])
        return tmp_path / "ledger", [event.hash for event in log.read()]


def _copy(root: Path, name: str) -> tuple[Path, Path]:
    copy = root.parent / name
    shutil.copytree(root, copy)
    return copy, copy / STORE / "data.mdb"


def test_a_data_file_cut_short_is_found(ledger: tuple[Path, list[bytes]]) -> None:
    """A data file of any shorter length is found or refused, and never kills the process that asks."""
    root, true = ledger
    size = (root / STORE / "data.mdb").stat().st_size
    lengths = [0, 1, 100, 4095, 4096, 8191, 8192, 8193, 12_288, size // 2, size - 40_960, size - 4096, size - 1]

    def one(length: int) -> str:
        copy, data = _copy(root, f"cut-{length}")
        os.truncate(data, length)
        return _check(copy, true)

    with ThreadPoolExecutor(2) as pool:
        said = dict(zip(lengths, pool.map(one, lengths), strict=True))

    assert "whole" not in {said[length] for length in lengths[:-2]}, said


def test_every_zeroed_page_is_found(ledger: tuple[Path, list[bytes]]) -> None:
    """Each page zeroed in turn is found or refused, unless it held nothing; it never kills the process that asks."""
    root, true = ledger
    pages = (root / STORE / "data.mdb").stat().st_size // 4096

    def one(page: int) -> str:
        copy, data = _copy(root, f"zero-{page}")
        with open(data, "r+b") as file:
            file.seek(page * 4096)
            file.write(bytes(4096))
        said = _check(copy, true)
        shutil.rmtree(copy)
        return said

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(one, range(pages)))

    assert said.count("found") + said.count("refused") >= pages // 2, said
    assert "whole" not in said[:2]
