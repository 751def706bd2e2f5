"""Rebuilding projections from nothing, over several cores, and comparing what is kept with what the log gives.

Rules: a rebuild works beside what is read, and is adopted in one step when it is whole; killed, it leaves nothing but
a directory that the next one takes away. Streams are dealt out among processes by their numbers, because rows belong
to one stream; what they fold is then merged in the order of its keys, which is the same however it was dealt. Memory
does not grow with the ledger. A check changes nothing. This file folds nothing itself.
"""

from __future__ import annotations

import heapq
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import attrs

from ledger_core import codec, own_process
from ledger_core.errors import CannotOpen, LedgerError
from ledger_core.ids import Hash
from ledger_core.log.log import Log
from projections import batch, store
from projections.batch import Cursor, States
from projections.code import code_digests, code_name
from projections.store import Store, Writer
from projections.table import Projection
from projections.tables import ALL
from projections.views import Progress, Views, chosen, digest_of, keepable, trees

_MERGE: Final = 20_000
"""Rows merged in one commit."""
_SHOWN: Final = 10
_TAKEN_AWAY: Final = "What a process of the rebuild had folded was taken away while it worked."


@attrs.frozen(kw_only=True)
class Rebuilt:
    """What a rebuild did."""

    seq: int
    seconds: float
    jobs: int
    rows: dict[str, int]
    parked: int


@attrs.frozen(kw_only=True)
class Checked:
    """What is kept of one projection, beside what the log gives."""

    name: str
    seq: int
    kept: Hash
    folded: Hash
    different: tuple[str, ...] = ()
    """The first rows that differ: the stream's number and the row's key."""

    @property
    def same(self) -> bool:
        return self.kept == self.folded


def rebuild(
    log: Log, names: Iterable[str] | None = None, *, jobs: int | None = None, progress: Progress | None = None
) -> Rebuilt:
    """Make projections from nothing: all of them beside what is read, or the named ones in their place."""
    began = time.monotonic()
    wanted = chosen(names)
    if log.root is not None and not keepable(log.root):
        raise CannotOpen(
            f"Nothing can be kept in {log.root / store.VIEWS} by this user: it would be made for nothing.",
            hint="Check its owner; `agentledger views` makes what it shows in a temporary place.",
        )
    if len(wanted) < len(ALL) or log.root is None:
        jobs = 1
        with Views.open(log) as views:
            views.drop(wanted)
            seq = views.catch_up(names=[one.name for one in wanted], progress=progress)
            found = views.standing()
    else:
        with store.building(log.root) as built:
            jobs = jobs or _cores()
            seq = fold_all(log, built, stop=log.head().seq, jobs=jobs, progress=progress)
            store.adopt(log.root, code_name(), built)
        with Views.open(log) as views:
            seq = max(seq, views.catch_up())
            found = views.standing()
    rows = {one.name: one.rows for one in found if one.name in {w.name for w in wanted}}
    parked = sum(one.parked for one in found if one.name in rows)
    return Rebuilt(seq=seq, seconds=time.monotonic() - began, jobs=jobs, rows=rows, parked=parked)


def check(
    log: Log, views: Views | None = None, *, jobs: int | None = None, progress: Progress | None = None
) -> Iterator[Checked]:
    """Compare what is kept with rows folded from nothing up to the same event; nothing is changed."""
    with ExitStack() as held:
        if views is None:
            views = held.enter_context(Views.open(log))
            if views.is_temporary and log.root is not None:
                raise CannotOpen(
                    f"What is kept in {log.root / store.VIEWS} cannot be opened by this user.",
                    hint="Copy the ledger to a place of your own, and check the copy.",
                )
        stands: dict[int, list[str]] = {}
        for one in views.standing():
            if one.seq:
                stands.setdefault(one.seq, []).append(one.name)
        for seq, names in sorted(stands.items()):
            with folded(log, seq, jobs=jobs, progress=progress) as fresh:
                for name in names:
                    yield _compared(views, fresh, name, seq)


@contextmanager
def folded(log: Log, seq: int, *, jobs: int | None = None, progress: Progress | None = None) -> Iterator[Store]:
    """All projections behind an event, folded from nothing, in a temporary place."""
    with tempfile.TemporaryDirectory(prefix="agentledger-rebuild-") as place:
        path = Path(place) / "g"
        fold_all(log, path, stop=seq, jobs=jobs or _cores(), progress=progress)
        fresh = store.opened(path, trees(), fast=True)
        try:
            yield fresh
        finally:
            fresh.close()


def fold_all(log: Log, place: Path, *, stop: int, jobs: int, progress: Progress | None = None) -> int:
    """Fold all projections up to an event into a new environment; gives that event's seq."""
    if stop == 0:
        store.opened(place, trees(), fast=True).close()
        return 0
    jobs = 1 if log.root is None or stop < 4 * batch.SIZE else max(1, min(jobs, 16))
    if jobs == 1:
        fold_share(log, place, (0, 1), stop, progress or _quiet)
        return stop
    parts = [place / f"part-{number}" for number in range(jobs)]
    assert log.root is not None
    _in_children(log.root, parts, stop, progress or _quiet)
    merge(log, parts, place, stop)
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    return stop


def merge(log: Log, parts: list[Path], place: Path, stop: int) -> None:
    """One environment of what was folded of all shares up to an event; raises `LedgerError` if a share is not there."""
    with ExitStack() as held:
        sources = []
        for part in parts:
            if not part.is_dir():
                raise LedgerError(_TAKEN_AWAY, hint="What was kept is as it was. Try again.")
            sources.append(store.opened(part, trees(), fast=True))
            held.callback(sources[-1].close)
            with sources[-1].read() as reader:
                stands = [batch.read_cursor(reader, name) for name in ALL]
            if any(cursor is None or cursor.seq != stop for cursor in stands):
                raise LedgerError(_TAKEN_AWAY, hint="What was kept is as it was. Try again.")
        target = store.opened(place, trees(), fast=True)
        held.callback(target.close)
        _merge(sources, target)
        with target.write() as writer:
            for one in ALL.values():
                batch.put_cursor(writer, one.name, _cursor(log, one, stop))
        target.sync()


def fold_share(log: Log, place: Path, share: tuple[int, int], stop: int, told: Progress) -> None:
    """Fold the streams of a share into an environment of their own."""
    kept, states = store.opened(place, trees(), fast=True), States(log)
    try:
        at = {one.name: Cursor(version=one.version, code=code_digests()[one.name]) for one in ALL.values()}
        low = 0
        while low < stop:
            with kept.write() as writer:
                low = batch.advance(writer, log, ALL.values(), at, states, stop=stop, share=share)
                at = {name: attrs.evolve(cursor, seq=low) for name, cursor in at.items()}
            told(low, stop)
        kept.sync()
    finally:
        kept.close()


def _compared(views: Views, fresh: Store, name: str, seq: int) -> Checked:
    with views.reading() as kept, fresh.read() as folded_:
        digests = digest_of(kept, name), digest_of(folded_, name)
        different: list[str] = []
        if digests[0] != digests[1]:
            for key in _differing(kept.scan(name), folded_.scan(name)):
                different.append(f"{int.from_bytes(key[:8], 'big')}/{key[8:].decode(errors='replace')}")
                if len(different) == _SHOWN:
                    break
    return Checked(name=name, seq=seq, kept=digests[0], folded=digests[1], different=tuple(different))


def _differing(kept: Iterable[tuple[bytes, bytes]], fresh: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Keys of rows that are on one side only, or other on the other, in order."""
    merged = heapq.merge(((key, value, 0) for key, value in kept), ((key, value, 1) for key, value in fresh))
    before: tuple[bytes, bytes, int] | None = None
    for row in merged:
        if before is not None and before[0] == row[0]:
            if before[1] != row[1]:
                yield row[0]
            before = None
            continue
        if before is not None:
            yield before[0]
        before = row
    if before is not None:
        yield before[0]


# Merging what processes folded


def _merge(sources: list[Store], target: Store) -> None:
    """Rows of disjoint streams, in the order of their keys; sums added up."""
    with ExitStack() as held:
        readers = [held.enter_context(source.read()) for source in sources]
        for tree in (*ALL, "states", "parked"):
            rows = heapq.merge(*(reader.scan(tree) for reader in readers))
            while _put(target, tree, rows):
                pass
        with target.write() as writer:
            for reader in readers:
                for key, value in reader.scan("sums"):
                    _add(writer, key, value)


def _put(target: Store, tree: str, rows: Iterator[tuple[bytes, bytes]]) -> bool:
    """Write some rows; False when there are no more."""
    with target.write() as writer:
        return writer.put_all(tree, islice(rows, _MERGE), above=True) == _MERGE


def _add(writer: Writer, key: bytes, value: bytes) -> None:
    name = key.partition(b"\0")[0].decode()
    group = codec.decode_trusted(value)[0]
    batch.move(writer, name, group, *batch.read_sum(value))


# Processes


def _in_children(root: Path, parts: list[Path], stop: int, told: Progress) -> None:
    """Fold every share in a process of its own; raises if one of them ends badly, and ends the others."""
    command = [*own_process.command("projections.rebuild_worker"), str(root), str(stop), str(len(parts))]
    children: dict[IO[str], subprocess.Popen[str]] = {}
    done: dict[IO[str], int] = {}
    with selectors.DefaultSelector() as selector:
        try:
            for number, part in enumerate(parts):
                child = subprocess.Popen(
                    [*command, str(number), str(part)], stdout=subprocess.PIPE, text=True, env=own_process.environment()
                )
                assert child.stdout is not None
                children[child.stdout] = child
                selector.register(child.stdout, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    pipe: Any = key.fileobj
                    line = pipe.readline()
                    if line.strip().isdigit():
                        done[pipe] = int(line)
                        told(sum(done.values()) // len(parts), stop)
                    elif line:
                        raise LedgerError(line.strip())
                    else:
                        selector.unregister(pipe)
                        _ended(children[pipe])
        finally:
            for pipe, child in children.items():
                child.kill()
                child.wait()
                pipe.close()


def _ended(child: subprocess.Popen[str]) -> None:
    code = child.wait()
    if code != 0:
        raise LedgerError(
            f"A process of the rebuild ended with {code}.",
            hint="What was kept is as it was. Look at `agentledger verify`, or try again with --jobs 1.",
        )


def _cursor(log: Log, projection: Projection, seq: int) -> Cursor:
    last = bytes(log.event(seq, contents=False).hash)
    return Cursor(version=projection.version, code=code_digests()[projection.name], seq=seq, hash=last)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quiet(_: int, __: int) -> None:
    return
