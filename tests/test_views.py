"""Rows of projections: the same however the log was read, whoever folded it, and whatever was forgotten since."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites import histories

from ledger_core.errors import BadInput
from ledger_core.events import REGISTRY
from ledger_core.events.ledger import ProjectionCertified
from ledger_core.log.log import Log
from ledger_core.log.record import Draft
from ledger_core.run.state import RunState
from projections import batch, certificates, folding, rebuild, snapshots, store, views
from projections.rebuild import fold_share, merge
from projections.table import RUN, Projection, of_path, of_stream
from projections.tables import ALL
from projections.views import Views, trees


@contextmanager
def written(drafts: list[Draft], *, forget: bool = False) -> Iterator[Log]:
    """A log in memory of these drafts."""
    with Log.in_memory() as log:
        for at in range(0, len(drafts), 7):
            log.append(*drafts[at : at + 7])
        if forget:
            for stream in log.streams(RUN)[::2]:
                log.forget(stream)
        yield log


def digests(rows: Views) -> dict[str, bytes]:
    return {name: rows.digest(name) for name in ALL}


def folded_at(log: Log, seq: int) -> folding.Folded:
    return folding.of_events(log.read(stop=seq, contents=False))


@pytest.mark.invariant(5)
@given(drafts=histories.drafts(), seed=st.integers(0, 1 << 32), forget=st.booleans())
@settings(max_examples=60)
def test_any_batching_gives_the_same_rows(drafts, seed, forget):
    """However many events are taken at a time, and in whatever order projections catch up, the rows are the same."""
    draw = random.Random(seed)
    with written(drafts, forget=forget) as log, Views.temporary(log) as once, Views.temporary(log) as slowly:
        once.catch_up()
        head = log.head().seq
        stop = 0
        while stop < head:
            stop = min(head, stop + draw.randint(1, 9))
            names = draw.sample(list(ALL), draw.randint(1, len(ALL)))
            slowly._states.known.clear() if draw.random() < 0.5 else None
            slowly.catch_up(names=names, stop=stop)
        slowly.catch_up()

        assert digests(slowly) == digests(once)
        assert slowly.parked() == once.parked()
        assert [one.seq for one in slowly.standing()] == [head] * len(ALL)


@pytest.mark.invariant(5)
@given(drafts=histories.drafts(), parts=st.integers(1, 4), forget=st.booleans())
@settings(max_examples=40)
def test_a_rebuild_in_shares_gives_the_same_rows(drafts, parts, forget, tmp_path_factory):
    """Streams dealt out among any number of processes, and merged, come to what one reader folds, digest for digest."""
    place = tmp_path_factory.mktemp("shares")
    with written(drafts, forget=forget) as log, Views.temporary(log) as once:
        once.catch_up()
        stop = log.head().seq
        made = [place / str(number) for number in range(parts)]
        for number, part in enumerate(made):
            fold_share(log, part, (number, parts), stop, lambda *_: None)
        merge(log, made, place / "whole", stop)
        whole = store.opened(place / "whole", trees())
        with whole.read() as reader:
            assert {name: views.digest_of(reader, name) for name in ALL} == digests(once)
        whole.close()


@pytest.mark.invariant(5)
@given(drafts=histories.drafts(), data=st.data())
@settings(max_examples=40)
def test_rows_at_a_seq_are_a_fold_of_what_came_before(drafts, data):
    """What the views say of a past event is what its first events give; and of a run, what its own stream gives."""
    with written(drafts) as log:
        seq = data.draw(st.integers(0, log.head().seq))
        whole = folded_at(log, seq)
        with views.at(log, seq) as then:
            for name in ALL:
                assert list(then.rows(name)) == list(whole.rows(name))
                groups = {group for _, row in whole.tables[name] for _, at in ALL[name].sums(row) for group, _ in at}
                for group in groups:
                    assert then.sums(name, group) == whole.sums(name, group)
        for stream in log.streams(RUN):
            before = sum(event.seq <= seq for event in log.stream(stream))
            alone = views.of_run(log, stream[4:], stop=before)
            number = (log.number(stream) or 0).to_bytes(8, "big")
            for name in ALL:
                wanted = [row for key, row in whole.tables[name] if key.startswith(number)]
                assert [row for _, row in alone.tables[name]] == wanted


@given(drafts=histories.drafts(("run/r1", "run/r1", "run/r1")))
@settings(max_examples=60)
def test_a_state_survives_its_snapshot(drafts):
    """A run's state that was written down and read again is the same, and goes on the same."""
    with written(drafts) as log:
        state = RunState()
        for event in log.stream("run/r1", contents=False):
            thawed = snapshots.thaw(snapshots.freeze(state))
            assert thawed == state
            try:
                state.apply(event.seq, event.time_ns, event.type, event.body)
            except Exception as error:
                pytest.fail(f"{event.type} cannot be folded: {error!r}")


@given(drafts=histories.drafts())
@settings(max_examples=60)
def test_every_fold_is_total(drafts):
    """No order of events, known or not, makes a fold raise: nothing is parked."""
    with written(drafts) as log:
        assert folded_at(log, log.head().seq).parked == ()


def test_every_projection_is_listed_by_its_file():
    """A projection is one file that bears its name, and the test of all of them finds it."""
    files = {path.stem for path in Path(views.__file__).parent.joinpath("tables").glob("*.py")} - {"__init__"}
    assert files == set(ALL)
    for name, one in ALL.items():
        assert one.name == name
        assert one.version >= 1
        if not callable(one.keys):
            assert all(body.kind.name in REGISTRY for body in one.keys)


# What is kept is not trusted


def events(log: Log, runs: int = 3) -> None:
    for number in range(runs):
        log.append(*histories.beginning(f"run/r{number}"))


@pytest.fixture
def ledger(tmp_path) -> Iterator[Log]:
    with Log.open(tmp_path / "ledger") as log:
        events(log)
        yield log


def test_views_may_be_deleted(ledger):
    """A deleted directory of views is made again by whoever asks next."""
    with views.open_caught_up(ledger) as first:
        before = digests(first)
    shutil.rmtree(ledger.root / store.VIEWS)
    with views.open_caught_up(ledger) as again:
        assert digests(again) == before


@pytest.mark.parametrize("damage", ["cut", "zeros", "garbage", "empty"])
def test_broken_views_are_made_again(ledger, damage):
    """Views that were cut short, overwritten or emptied are thrown away and made anew; nobody sees an error."""
    with views.open_caught_up(ledger) as first:
        before = digests(first)
        file = first._store.path / "data.mdb"
    size = file.stat().st_size
    if damage == "cut":
        os.truncate(file, size // 2)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.write_bytes((b"\0" if damage == "zeros" else b"\x5a") * size)
    with views.open_caught_up(ledger) as again:
        assert digests(again) == before


def test_another_history_is_found_by_its_hash(ledger, tmp_path):
    """Views of one ledger beside another's log, as after a restore, are made anew from the log that is there."""
    with views.open_caught_up(ledger):
        pass
    with Log.open(tmp_path / "other") as other:
        events(other, 7)
        shutil.copytree(ledger.root / store.VIEWS, other.root / store.VIEWS, symlinks=True)
        with views.open_caught_up(other) as rows, Views.temporary(other) as fresh:
            fresh.catch_up()
            assert rows.sums("runs", "ledger")[""]["runs"] == 7
            assert digests(rows) == digests(fresh)


def test_a_changed_version_rebuilds_by_itself(ledger, monkeypatch):
    """A projection of a new version is made from nothing, and only that one."""
    with views.open_caught_up(ledger):
        pass
    other = Projection(
        name="steps", version=2, keys=lambda *_: ["x"], fold=lambda row, event, state: {"run": state.run, "new": True}
    )
    monkeypatch.setitem(ALL, "steps", other)
    with Views.open(ledger) as rows:
        assert {one.name for one in rows.standing() if one.seq == 0} == {"steps"}
        rows.catch_up()
        assert all(row["new"] for row in rows.rows("steps"))
        assert len(list(rows.rows("steps"))) == 3


def test_changed_code_rebuilds_by_itself(ledger, monkeypatch):
    """The code of a projection is part of what its rows stand on: other code, other rows."""
    with views.open_caught_up(ledger):
        pass
    monkeypatch.setattr(views, "code_digests", lambda: {name: bytes(32) for name in ALL})
    with Views.open(ledger) as rows:
        assert [one.seq for one in rows.standing()] == [0] * len(ALL)
        rows.catch_up()
        assert [one.seq for one in rows.standing()] == [ledger.head().seq] * len(ALL)


def test_a_projection_that_raises_parks_the_event(ledger, monkeypatch):
    """An event that a projection cannot take is parked with its error; its row stays, and the others go on."""

    def fold(row, event, state):
        if event.seq % 2:
            raise ValueError(f"not {event.seq}")
        return {"seq": event.seq}

    bad = Projection(name="bad", version=1, keys=lambda event, _: ["x"], fold=fold)
    monkeypatch.setitem(ALL, "bad", bad)
    for module in (views, batch, rebuild):
        if hasattr(module, "code_digests"):
            monkeypatch.setattr(module, "code_digests", lambda: {name: bytes(32) for name in ALL})
    with views.open_caught_up(ledger) as rows, Views.temporary(ledger) as slowly:
        for stop in range(ledger.head().seq + 1):
            slowly.catch_up(stop=stop)
        parked = rows.parked()
        assert {one.projection for one in parked} == {"bad"}
        assert [one.seq for one in parked] == [seq for seq in range(2, ledger.head().seq + 1) if seq % 2]
        assert parked[0].error == f"ValueError: not {parked[0].seq}"
        assert slowly.parked() == parked
        assert digests(slowly) == digests(rows)
        assert len(list(rows.rows("runs"))) == 3


def test_a_fold_that_raises_half_way_changes_nothing(monkeypatch):
    """A row that a fold had changed before it raised is as it was."""

    def fold(row, event, state):
        row = row or {"paths": 0}
        row["paths"] += 1
        if row["paths"] == 3:
            raise ValueError("three")
        return row

    kind = REGISTRY["effect_abandoned"].cls
    monkeypatch.setitem(ALL, "bad", Projection(name="bad", version=1, keys={kind: of_path}, fold=fold))
    with Log.in_memory() as log:
        log.append(*(Draft(stream="run/r1", body=kind(path="1")) for _ in range(5)))
        found = folded_at(log, log.head().seq)
        assert list(found.rows("bad")) == [{"paths": 2}]
        assert len(found.parked) == 3


def test_a_sum_that_raises_adds_nothing(monkeypatch):
    """A row that cannot be summed adds nothing, is parked, and is a row all the same."""

    def sums(row):
        if row["seq"] > 2:
            raise ValueError("no")
        yield {"rows": 1}, (("all", ""),)

    one = Projection(name="bad", version=1, keys=of_stream, fold=lambda _, event, __: {"seq": event.seq}, sums=sums)
    with Log.in_memory() as log:
        events(log)
        monkeypatch.setitem(ALL, "bad", one)
        monkeypatch.setattr(views, "code_digests", lambda: {name: bytes(32) for name in ALL})
        with Views.temporary(log) as rows:
            for stop in range(log.head().seq + 1):
                rows.catch_up(stop=stop)
                assert rows.sums("bad", "all") == ({"": {"rows": 1}} if stop == 2 else {})
            assert len(list(rows.rows("bad"))) == 3
            assert [one.seq for one in rows.parked()] == list(range(3, log.head().seq + 1))


def test_two_openers_share_one_environment(ledger):
    """Views opened twice in a process are one environment: closing one leaves the other usable."""
    with views.open_caught_up(ledger) as first:
        with views.open_caught_up(ledger) as second:
            assert digests(first) == digests(second)
        events(ledger, 5)
        first.catch_up()
        assert first.sums("runs", "ledger")[""]["events"] == ledger.head().seq - 1


def test_unknown_names_are_refused(ledger):
    """A name that is no projection's is a sentence that lists them."""
    with Views.open(ledger) as rows, pytest.raises(BadInput, match="no projection 'x'") as refused:
        list(rows.rows("x"))
    assert "tool_ledger" in refused.value.hint


def test_an_empty_ledger_has_no_rows(tmp_path):
    """A ledger with nothing in it catches up, rebuilds and checks."""
    with Log.open(tmp_path) as log:
        with views.open_caught_up(log) as rows:
            assert all(not list(rows.rows(name)) for name in ALL)
        assert rebuild.rebuild(log).rows == dict.fromkeys(ALL, 0)
        assert all(one.same for one in rebuild.check(log))
        with views.at(log, 0) as rows:
            assert not list(rows.rows("runs"))


# Rebuilding


def test_a_rebuild_of_several_processes_is_adopted(ledger, monkeypatch):
    """Processes fold their shares, and what they come to is what is read from then on; the one before is gone."""
    for _ in range(60):
        log_runs(ledger)
    with views.open_caught_up(ledger) as rows:
        before, place = digests(rows), rows._store.path
        assert ledger.head().seq > 4 * 4096
        done = rebuild.rebuild(ledger, jobs=2)
        assert done.jobs == 2
        assert done.rows["runs"] == rows.sums("runs", "ledger")[""]["runs"]
        rows.catch_up()
        assert rows._store.path != place
        assert digests(rows) == before
    assert len(list((ledger.root / store.VIEWS).glob("[gb]-*"))) == 1


def log_runs(log: Log, runs: int = 25) -> None:
    made = [REGISTRY["tool_call_requested"].cls, REGISTRY["tool_call_completed"].cls]
    for _ in range(runs):
        name = f"run/r{log.head().seq}"
        drafts = histories.beginning(name)
        for path in map(str, range(5)):
            call = made[0](
                path=path,
                attempt=1,
                tool="pay",
                tool_version="1",
                side_effect="external_write",
                request=bytes(32),
                arguments={},
            )
            drafts += [Draft(stream=name, body=call), Draft(stream=name, body=made[1](path=path, attempt=1, result=1))]
        log.append(*drafts)


def test_a_check_finds_a_row_that_was_changed(ledger):
    """A row changed, added or taken away behind our back is found and named; nothing is repaired by a check."""
    with views.open_caught_up(ledger) as rows:
        with rows._store.write() as writer:
            key, value = next(writer.scan("runs"))
            writer.put("runs", key, value.replace(b"triage", b"trIage"))
            writer.put("steps", bytes(8) + b"new", b"\x80")
            writer.put("sums", b"costs\0day\0x", b"\x93\xa3day\xa1x\x80")
        found = {one.name: one for one in rebuild.check(ledger)}
        assert {name for name, one in found.items() if not one.same} == {"runs", "steps", "costs"}
        assert found["runs"].different == (f"{int.from_bytes(key[:8], 'big')}/",)
        assert found["steps"].different == ("0/new",)
        assert {name for name, one in {o.name: o for o in rebuild.check(ledger)}.items() if not one.same} != set()
    rebuild.rebuild(ledger)
    assert all(one.same for one in rebuild.check(ledger))


def test_a_certificate_is_compared_by_another_copy(ledger, tmp_path):
    """What one certifies, another finds in his own copy; other code or a changed digest is said."""
    made = certificates.certify(ledger)
    assert {event.body.projection for event in made} == set(ALL)
    events(ledger, 5)
    shutil.copytree(ledger.root, tmp_path / "copy")
    with Log.open(tmp_path / "copy", readonly=True) as copy:
        assert {one.outcome for one in certificates.compare(copy)} == {"same"}
    body = made[0].body
    assert isinstance(body, ProjectionCertified)
    ledger.append(
        Draft(stream="ledger", body=attrs.evolve(made[0].body, rows=bytes(32))),
        Draft(stream="ledger", body=attrs.evolve(made[1].body, code=bytes(32))),
        Draft(stream="ledger", body=attrs.evolve(made[2].body, head=bytes(32))),
    )
    outcomes = {one.certified.projection: one.outcome for one in certificates.compare(ledger)}
    assert outcomes.pop(made[0].body.projection) == "different"
    assert outcomes.pop(made[1].body.projection) == "other code"
    assert outcomes.pop(made[2].body.projection) == "other log"
    assert set(outcomes.values()) == {"same"}
