"""The views of a ledger: every projection's rows, kept beside the log, brought up to it, and asked.

Rules: whoever asks catches up first, so that an answer is of the log's head, or of a seq that he names. What is kept is
never trusted over the log: other code, another history, damage, and it is made again. Where nothing can be kept (a
ledger in memory, a directory of somebody else's) it is made in a temporary place. This file folds nothing.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from ledger_core import chain, codec
from ledger_core.errors import BadInput, Closed, LedgerError, NotFound, Refused
from ledger_core.ids import Hash, Seq
from ledger_core.log.log import Log
from projections import batch, folding, store
from projections.batch import States
from projections.code import code_digests, code_name
from projections.folding import Folded, Parked
from projections.store import Broken, Reader, Store
from projections.table import RUN, Projection, Row
from projections.tables import ALL

Progress = Callable[[int, int], None]
"""Told what is done, and all."""
_TRIES: Final = 5


@attrs.frozen(kw_only=True)
class Standing:
    """How a projection stands."""

    name: str
    version: int
    code: Hash
    seq: Seq
    """The event that it stands behind."""
    hash: bytes
    rows: int
    parked: int


class Views:
    """Rows that are kept of a ledger. Open with `Views.open`; safe for threads."""

    def __init__(self, log: Log, root: Path, temporary: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self._log = log
        self._root = root
        self._temporary = temporary
        self._lock = threading.Lock()
        self._reached: dict[str, int] = {}
        """How far each projection was brought, at least: an answer that stands on less is not given."""
        self._closed = False
        self._store = self._opened()
        self._states = States(log)

    @classmethod
    def open(cls, log: Log) -> Views:
        """The views beside a log, as they were left; `catch_up` brings them to the head."""
        return cls(log, log.root) if log.root is not None and keepable(log.root) else cls.temporary(log)

    @classmethod
    def temporary(cls, log: Log) -> Views:
        """Views of their own, from nothing, gone when they are closed."""
        place = tempfile.TemporaryDirectory(prefix="agentledger-views-")
        return cls(log, Path(place.name), place)

    def __enter__(self) -> Views:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; closing twice is nothing. Who reads still reads to the end."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._store.close()
            if self._temporary is not None:
                self._temporary.cleanup()

    # Catching up

    def catch_up(
        self, *, names: Iterable[str] | None = None, stop: int | None = None, progress: Progress | None = None
    ) -> int:
        """Bring projections (all, if none is named) to the log's head, or to `stop`; gives the seq they stand at."""
        wanted = chosen(names)
        with self._lock:
            self._renew()
            for again in (True, False):
                try:
                    target = self._caught_up(wanted, stop, progress)
                    break
                except Broken:
                    if not again:
                        raise
                    self._throw_away()
            self._reached |= {one.name: max(target, self._reached.get(one.name, 0)) for one in wanted}
            return target

    def _caught_up(self, wanted: list[Projection], stop: int | None, progress: Progress | None) -> int:
        target = self._log.head().seq if stop is None else min(stop, self._log.head().seq)
        with self._store.read() as reader:
            at = batch.cursors(reader, wanted, code_digests(), self._log)
        while min(cursor.seq for cursor in at.values()) < target:
            with self._store.write() as writer:  # another process may have come further meanwhile
                at = batch.cursors(writer, wanted, code_digests(), self._log)
                low = min(cursor.seq for cursor in at.values())
                if low < target:
                    low = batch.advance(writer, self._log, wanted, at, self._states, stop=target)
            if progress is not None:
                progress(low, target)
            with self._store.read() as reader:
                at = batch.cursors(reader, wanted, code_digests(), self._log)
        return target

    # Asking

    def rows(self, name: str, run: str | None = None, *, newest_first: bool = False) -> Iterator[Row]:
        """Rows of a projection, by stream and key; only those of one run, if it is named: of one version.

        Raises `BadInput`.
        """
        known(name)
        prefix = b""
        if run is not None:
            number = self._log.number(RUN + run)
            if number is None:
                return
            prefix = number.to_bytes(8, "big")
        with self.reading(name) as reader:
            backwards = newest_first and run is None
            for _, data in reader.backwards(name) if backwards else reader.scan(name, prefix=prefix):
                yield codec.decode_trusted(data)

    def sums(self, name: str, group: str) -> dict[str, dict[str, int]]:
        """Counters summed over the rows of a projection, by the keys of a group."""
        known(name)
        with self.reading(name) as reader:
            found = [batch.read_sum(data) for _, data in reader.scan("sums", prefix=f"{name}\0{group}\0".encode())]
        return dict(sorted(found))

    def groups(self, name: str) -> list[str]:
        """The groups that rows of a projection are summed by."""
        with self.reading(name) as reader:
            keys = [key for key, _ in reader.scan("sums", prefix=f"{known(name).name}\0".encode())]
        return sorted({key.split(b"\0")[1].decode() for key in keys})

    def parked(self, name: str | None = None) -> list[Parked]:
        """Events that a projection could not take."""
        prefix = b"" if name is None else f"{name}\0".encode()
        with self.reading() as reader:
            return [
                Parked(
                    projection=key[:-9].decode(),
                    seq=int.from_bytes(key[-8:], "big"),
                    error=codec.decode_trusted(data)["error"],
                )
                for key, data in reader.scan("parked", prefix=prefix)
            ]

    def standing(self) -> list[Standing]:
        """How each projection stands, as it was left: nothing is caught up."""
        parked = self.parked()
        with self.reading() as reader:
            return [_standing(reader, one, sum(p.projection == one.name for p in parked)) for one in ALL.values()]

    def digest(self, name: str) -> Hash:
        """The digest of a projection's rows and sums: equal for equal rows, whoever folded them, and how."""
        with self.reading(known(name).name) as reader:
            return digest_of(reader, name)

    @contextmanager
    def reading(self, name: str | None = None) -> Iterator[Reader]:
        """A snapshot of what is kept, as bytes; of a projection that is named, as far as it was brought, at least."""
        kept = self._held()
        try:
            for _ in range(_TRIES):
                with kept.read() as reader:
                    cursor = None if name is None else batch.read_cursor(reader, name)
                    if name is None or (cursor.seq if cursor else 0) >= self._reached.get(name, 0):
                        yield reader
                        return
                self.catch_up(names=name and [name], stop=self._reached[str(name)])  # somebody has just dropped it
                kept.close()
                kept = self._held()
            raise Refused(f"{name} is made anew again and again by others.", hint="Ask again when they are done.")
        finally:
            kept.close()

    # Keeping

    def drop(self, wanted: Iterable[Projection]) -> None:
        """Forget projections; the next catching up makes them from nothing."""
        with self._lock, self._store.write() as writer:
            for one in wanted:
                batch.drop(writer, one.name)
                self._reached.pop(one.name, None)

    @property
    def is_temporary(self) -> bool:
        """Whether nothing of it is kept."""
        return self._temporary is not None

    def _held(self) -> Store:
        with self._lock:
            if self._closed:
                raise Closed("These views were closed.", hint="Open them again.")
            return self._store.held()

    def _opened(self) -> Store:
        """The generation that is read; one that is broken is thrown away, once."""
        generation = store.current(self._root, code_name())
        try:
            return store.opened(generation, trees())
        except Broken:
            store.discard(self._root, code_name(), generation)
            return store.opened(store.current(self._root, code_name()), trees())

    def _renew(self) -> None:
        """Go over to another generation, if a rebuild has made one since."""
        if self._closed:
            raise Closed("These views were closed.", hint="Open them again.")
        if store.current(self._root, code_name()) != self._store.path:
            self._store.close()
            self._store, self._states = self._opened(), States(self._log)

    def _throw_away(self) -> None:
        self._store.close()
        store.discard(self._root, code_name(), self._store.path)
        self._store, self._states = self._opened(), States(self._log)


def keepable(root: Path) -> bool:
    """Whether this user can keep views beside a log."""
    views = root / store.VIEWS
    return os.access(views if views.exists() else root, os.W_OK | os.X_OK)


def digest_of(reader: Reader, name: str) -> Hash:
    """The digest of what is kept of a projection: each key and value with its length, rows first, then sums."""
    digest = chain.rows_digester()
    for tree, prefix in ((name, b""), ("sums", f"{name}\0".encode())):
        for key, value in reader.scan(tree, prefix=prefix):
            digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
        digest.update(bytes(4))
    return Hash(digest.digest())


def trees() -> tuple[str, ...]:
    """The trees of an environment of views."""
    return (*ALL, "sums", "states", "parked", "meta")


def chosen(names: Iterable[str] | None) -> list[Projection]:
    """The projections of these names, or all; raises `BadInput`."""
    return list(ALL.values()) if names is None else [known(name) for name in names]


def known(name: str) -> Projection:
    """The projection of a name; raises `BadInput`."""
    found = ALL.get(name)
    if found is None:
        raise BadInput(f"There is no projection {name!r:.60}.", hint=f"There are: {', '.join(ALL)}.")
    return found


def of_run(log: Log, run: str, stop: int | None = None) -> Folded:
    """The rows of one run after its first `stop` events, folded now, from its stream alone; raises `NotFound`."""
    stream = RUN + run
    if log.stream_head(stream) is None:
        raise NotFound(f"There is no run {run!r}.", hint="`agentledger runs` lists them.")
    events = log.stream(stream, contents=False)
    return folding.of_events(event for event in events if stop is None or event.stream_seq <= stop)


@contextmanager
def at(log: Log, seq: int, *, names: Iterable[str] | None = None, progress: Progress | None = None) -> Iterator[Views]:
    """The rows of the whole ledger as they were behind an event: folded from the beginning, in a temporary place."""
    head = log.head().seq
    if not 0 <= seq <= head:
        raise BadInput(f"There is no event at seq {seq:,}: the log's last is {head:,}.", hint="agentledger log head")
    with Views.temporary(log) as views:
        views.catch_up(names=names, stop=seq, progress=progress)
        yield views


def open_caught_up(log: Log, *, progress: Progress | None = None) -> Views:
    """The views beside a log, at its head."""
    views = Views.open(log)
    try:
        views.catch_up(progress=progress)
    except LedgerError:
        views.close()
        raise
    return views


def _standing(reader: Reader, projection: Projection, parked: int) -> Standing:
    cursor = batch.read_cursor(reader, projection.name)
    same = cursor is not None and (cursor.version, cursor.code) == (
        projection.version,
        code_digests()[projection.name],
    )
    return Standing(
        name=projection.name,
        version=projection.version,
        code=Hash(code_digests()[projection.name]),
        seq=Seq(cursor.seq if cursor is not None and same else 0),
        hash=cursor.hash if cursor is not None and same else b"",
        rows=reader.count(projection.name),
        parked=parked,
    )
