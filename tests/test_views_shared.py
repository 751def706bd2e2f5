"""Views that others have in their hands too: hostile links, copies, other code, readers under a rebuild, threads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from suites import histories

from ledger_core.errors import Closed, LedgerError, Refused
from ledger_core.events.govern import CostRecorded
from ledger_core.log.log import STORE, Log
from ledger_core.log.record import Draft
from projections import batch, certificates, code, rebuild, store, views
from projections.folding import Parked
from projections.tables import ALL
from projections.views import Views


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Log]:
    """A ledger of forty runs."""
    with Log.open(tmp_path / "ledger") as log:
        for number in range(40):
            log.append(*histories.beginning(f"run/r{number}"))
        yield log


def link(log: Log) -> Path:
    assert log.root is not None
    return log.root / store.VIEWS / f"current-{code.code_name()}"


@pytest.mark.parametrize("target", ["../agentledger.lmdb", "..", "../..", "/tmp", "g-000000000000", "."])
def test_a_link_elsewhere_is_not_followed(ledger, target):
    """A name that points to anything but a generation of ours is taken away, and what it points to is not touched."""
    with views.open_caught_up(ledger):
        pass
    (ledger.root / "g-000000000000").mkdir()
    link(ledger).unlink()
    os.symlink(target, link(ledger))
    before = sorted(path.name for path in ledger.root.rglob("*") if store.VIEWS not in str(path))
    with views.open_caught_up(ledger) as rows:
        assert rows.sums("runs", "ledger")[""]["runs"] == 40
    assert sorted(path.name for path in ledger.root.rglob("*") if store.VIEWS not in str(path)) == before
    assert (ledger.root / STORE / "data.mdb").exists()


def test_a_generation_that_is_a_link_is_not_removed(ledger, tmp_path):
    """A generation that is itself a link to a directory is no generation: that directory stays as it was."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "data.mdb").write_bytes(b"mine")
    with views.open_caught_up(ledger):
        pass
    link(ledger).unlink()
    os.symlink(victim, ledger.root / store.VIEWS / "g-0123456789ab")
    os.symlink("g-0123456789ab", link(ledger))
    with views.open_caught_up(ledger) as rows:
        assert len(list(rows.rows("runs"))) == 40
    rebuild.rebuild(ledger)
    assert (victim / "data.mdb").read_bytes() == b"mine"


def test_a_copy_that_followed_links_is_mended(ledger, tmp_path):
    """A ledger copied with its links followed makes its views again."""
    with views.open_caught_up(ledger):
        pass
    shutil.copytree(ledger.root, tmp_path / "copy", symlinks=False)
    with Log.open(tmp_path / "copy") as copy, views.open_caught_up(copy) as rows:
        assert len(list(rows.rows("runs"))) == 40
        rebuild.rebuild(copy)


@pytest.mark.parametrize("gone", ["part", "rows"])
def test_a_rebuild_whose_work_is_taken_away_adopts_nothing(ledger, gone, monkeypatch):
    """Where what a process folded is gone, or is not whole, the rebuild fails, and what was kept is read on."""
    with views.open_caught_up(ledger) as rows:
        before = rows.digest("runs")
    monkeypatch.setattr(batch, "SIZE", 8)
    folded = rebuild._in_children

    def sabotaged(root, parts, stop, told):
        folded(root, parts, stop, told)
        shutil.rmtree(parts[1])
        if gone == "rows":
            parts[1].mkdir()

    monkeypatch.setattr(rebuild, "_in_children", sabotaged)
    with pytest.raises(LedgerError, match="taken away"):
        rebuild.rebuild(ledger, jobs=2)
    with Views.open(ledger) as rows:
        assert rows.digest("runs") == before
    assert list((ledger.root / store.VIEWS).glob("b-*")) == []


def test_a_build_is_alive_while_its_lock_is_held(ledger):
    """What another builds is not taken away, whatever its process's number means here; what is let go is."""
    with store.building(ledger.root) as mine, store.building(ledger.root) as other:
        assert mine.is_dir()
        assert other.is_dir()
    left = ledger.root / store.VIEWS / "b-left"
    left.mkdir()
    with store.building(ledger.root):
        assert not left.exists()


def test_sums_are_wider_than_a_row(ledger):
    """Numbers that fit into rows, and whose sum fits into no 64 bits, are summed all the same, and taken away again."""
    huge = (1 << 62) - 1
    for number in range(9):
        cost = CostRecorded(path="1", name="c", spent={"input_tokens": huge}, request=bytes(32))
        ledger.append(Draft(stream=f"run/r{number}", body=cost))
    with views.open_caught_up(ledger) as rows:
        assert rows.sums("costs", "ledger")[""]["input_tokens"] == 9 * huge
        assert rows.parked() == []
        for number in range(9):
            cost = CostRecorded(path="2", name="c", spent={"input_tokens": huge}, request=bytes(32))
            ledger.append(*(Draft(stream=f"run/r{number}", body=cost) for _ in range(9)))
        rows.catch_up()
        with Views.temporary(ledger) as fresh:
            fresh.catch_up()
            assert {name: fresh.digest(name) for name in ALL} == {name: rows.digest(name) for name in ALL}
            assert {one.projection for one in rows.parked()} <= {"runs", "costs"}


def test_programs_of_other_code_have_their_own(ledger, monkeypatch):
    """Two versions of the code on one ledger each come to an end, and neither takes the other's rows away."""
    with views.open_caught_up(ledger) as ours:
        for module in (views, rebuild):
            monkeypatch.setattr(module, "code_name", lambda: "0123456789ab")
            monkeypatch.setattr(module, "code_digests", lambda: {name: bytes(32) for name in ALL})
        with views.open_caught_up(ledger) as theirs:
            assert theirs._store.path != ours._store.path
            rebuild.rebuild(ledger)
            theirs.catch_up()
        monkeypatch.undo()
        kept = ours._store.path
        ours.catch_up()
        assert ours._store.path == kept
        assert len(list(ours.rows("runs"))) == 40


def test_rows_of_old_code_go_after_a_while(ledger):
    """A generation of code that nobody has written with for a week is taken away with the next rebuild."""
    with views.open_caught_up(ledger):
        pass
    old = ledger.root / store.VIEWS / "g-aaaaaaaaaaaa"
    old.mkdir()
    (old / "data.mdb").write_bytes(b"")
    os.symlink(old.name, ledger.root / store.VIEWS / "current-bbbbbbbbbbbb")
    rebuild.rebuild(ledger)
    assert old.exists()
    long_ago = time.time() - 8 * 86_400
    os.utime(old / "data.mdb", (long_ago, long_ago))
    rebuild.rebuild(ledger)
    assert not old.exists()
    assert not (ledger.root / store.VIEWS / "current-bbbbbbbbbbbb").is_symlink()


def test_a_reader_has_all_or_waits(ledger):
    """While a projection is made anew in its place, whoever reads it gets all of its rows, never a part."""
    with views.open_caught_up(ledger) as reader, Views.open(ledger) as writer:
        half = reader.rows("runs")
        assert next(half)["run"] == "r0"
        writer.drop([ALL["runs"]])
        assert len(list(half)) == 39
        assert len(list(reader.rows("runs"))) == 40
        writer.drop([ALL["runs"]])
        assert reader.sums("runs", "ledger")[""]["runs"] == 40
        writer.drop([ALL["runs"]])
        assert len(reader.digest("runs")) == 32


def test_a_reader_outlives_an_adopted_rebuild(ledger):
    """A half-read answer goes on to its end over a rebuild, and over the end of the views themselves."""
    rows = views.open_caught_up(ledger)
    half, second = rows.rows("runs"), rows.rows("steps")
    next(half), next(second)
    rebuild.rebuild(ledger)
    rows.catch_up()
    assert len(list(half)) == 39
    rows.close()
    assert len(list(second)) == 39
    with pytest.raises(Closed):
        list(rows.rows("runs"))


def test_threads_share_views(ledger):
    """Threads that read and catch up while others rebuild are given whole answers, and no error."""
    errors: list[BaseException] = []
    counts: set[int] = set()
    stop = threading.Event()

    def reads(rows: Views) -> None:
        try:
            while not stop.is_set():
                rows.catch_up()
                counts.add(len(list(rows.rows("runs"))))
        except BaseException as error:
            errors.append(error)

    with views.open_caught_up(ledger) as rows:
        threads = [threading.Thread(target=reads, args=(rows,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            rebuild.rebuild(ledger)
            rebuild.rebuild(ledger, ["runs"])
        stop.set()
        for thread in threads:
            thread.join(30)
    assert errors == []
    assert counts == {40}


def test_nothing_is_certified_that_is_not_whole(ledger):
    """Where an event could not be folded, nothing is certified."""
    with views.open_caught_up(ledger) as rows, rows._store.write() as writer:
        batch.park(writer, Parked(projection="runs", seq=3, error="odd"))
    head = ledger.head()
    with pytest.raises(Refused, match="could not be folded"):
        certificates.certify(ledger)
    assert ledger.head() == head


def test_what_cannot_be_kept_is_not_made_for_nothing(ledger, monkeypatch):
    """Where this user can keep nothing, views are temporary, and a rebuild or a check says so in a sentence."""
    monkeypatch.setattr(views, "keepable", lambda root: False)
    monkeypatch.setattr(rebuild, "keepable", lambda root: False)
    with views.open_caught_up(ledger) as rows:
        assert rows.is_temporary
        assert len(list(rows.rows("runs"))) == 40
    for work in (lambda: rebuild.rebuild(ledger), lambda: list(rebuild.check(ledger))):
        with pytest.raises(LedgerError, match="by this user"):
            work()
    assert not (ledger.root / store.VIEWS).exists()


def test_the_command_says_what_it_leaves_out(ledger):
    """`views` says when there are more rows, sums one run if it is asked, and refuses groups that there are not."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agentledger", "--root", str(ledger.root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert f"{datetime.now(UTC):%Y-%m-%d} " in run("views", "runs", "r7").stdout
    shutil.rmtree(ledger.root / store.VIEWS)
    empty = run("rebuild", "--check")
    assert empty.returncode == 6
    shown = run("views", "runs", "--limit", "7")
    assert "more than 7 rows" in shown.stderr
    assert json.loads(run("--json", "views", "runs", "--limit", "7").stdout)["more"] is True
    assert json.loads(run("--json", "views", "runs", "--limit", "40").stdout)["more"] is False
    ours = json.loads(run("--json", "views", "runs", "r7", "--sums", "status").stdout)
    assert ours["sums"] == {"running": {"runs": 1}}
    odd = run("views", "runs", "--sums", "nonsense")
    assert odd.returncode == 1
    assert "It is by: agent, ledger, status." in odd.stderr
    assert run("views", "--sums", "status").returncode == 2
