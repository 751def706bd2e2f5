"""The log: one total order of events, appended by decisions, read strictly after a cursor. It joins bytes and meanings.

Rules: a decision is a function of what the log says that returns drafts, or raises to refuse; it may be run again. An
append ends committed, refused (nothing was written), or unknown (the device failed and could not be asked). After an
error at commit the log opens itself again, commits once to settle which of LMDB's two meta pages holds, and asks for
the hash of the batch's first event: an event's hash is the best command id there is. This file knows neither runs
nor agents.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

from ledger_core import __version__, chain
from ledger_core.clock import SYSTEM, Clock
from ledger_core.errors import BadInput, CannotOpen, Damaged, LedgerError, NotFound, OutcomeUnknown, StoreFull
from ledger_core.events.ledger import STREAM, ContentForgotten, LedgerCreated
from ledger_core.failpoints import reach
from ledger_core.ids import Head, LedgerId, Seq, StreamNo
from ledger_core.log import follow, index, queue, raw
from ledger_core.log.batch import Batch, View
from ledger_core.log.follow import Bell
from ledger_core.log.group import Group, Ticket
from ledger_core.log.index import StreamHead
from ledger_core.log.keys import KeyDirectory, Keys, MemoryKeys
from ledger_core.log.lmdb_store import MAP_SIZE, LmdbStore, open_store
from ledger_core.log.memory_store import MemoryStore
from ledger_core.log.reading import Reading
from ledger_core.log.record import Draft, Event, Later, Placement, Queued
from ledger_core.log.store import CommitUncertain, NeedsRoom, Store, Tree

STORE = "agentledger.lmdb"
KEYS = "keys"
Decision = Callable[[View], Iterable[Draft | Later]]
_Ticket = Ticket[Decision, list[Event]]


class Log:
    """One ledger's events. Open with `Log.open` or `Log.in_memory`; safe for threads, loops and processes."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        root: Path | None = None,
        clock: Clock = SYSTEM,
        readonly: bool = False,
    ) -> None:
        self.root = root
        self.clock = clock
        self._store = store
        self._keys = keys
        self._reading = Reading(store, keys)
        self._group: Group[Decision, list[Event]] = Group(self._commit)
        self._closed = False
        self.id = self._begin(readonly=readonly)

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        *,
        readonly: bool = False,
        keys: Keys | None = None,
        clock: Clock = SYSTEM,
        map_size: int = MAP_SIZE,
    ) -> Log:
        """The ledger in a directory, created if it is not there and not `readonly`.

        Raises `CannotOpen`, `Damaged`. `keys` may lie elsewhere; an auditor passes those that he was handed.
        """
        path = Path(root)
        key_directory = KeyDirectory(path / KEYS)
        refuse_emptied(path / STORE, key_directory)
        store = open_store(path / STORE, readonly=readonly, map_size=map_size)
        try:
            return cls(store, keys or key_directory, root=path, clock=clock, readonly=readonly)
        except BaseException:
            store.close()
            raise

    @classmethod
    def in_memory(cls, *, clock: Clock = SYSTEM) -> Log:
        """A ledger that ends with its process."""
        return cls(MemoryStore(), MemoryKeys(), clock=clock)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is under way and let go; closing twice is nothing."""
        if not self._closed:
            self._closed = True
            self._group.close()
            self._store.close()

    # Appending

    def append(self, *drafts: Draft | Later) -> list[Event]:
        """Append drafts, all or none, durable when this returns."""
        return self._group.run(lambda _: drafts)

    def decide(self, decision: Decision) -> list[Event]:
        """Append what a decision returns on seeing the log; raises what it raises, and then nothing was written."""
        return self._group.run(decision)

    async def adecide(self, decision: Decision) -> list[Event]:
        """`decide`, in an event loop that goes on meanwhile."""
        return await self._group.arun(decision)

    def forget(self, stream: str, reason: str = "") -> bool:
        """Destroy the key of a stream, for ever; False if it was gone already.

        The event comes first: a crash before the key is destroyed is finished when the ledger is opened again.
        """
        with self._store.read() as reader:
            number = index.find_stream(reader, stream)
        if number is None:
            raise NotFound(f"There is no stream {stream!r}.", hint="`agentledger runs` lists the runs.")
        if stream == STREAM:
            raise BadInput(
                "The ledger's own stream cannot be forgotten: it says what was.", hint="Name a run's stream."
            )
        if self._keys.get(number) is None:
            return False
        self.append(Draft(stream=STREAM, body=ContentForgotten(stream=number, reason=reason)))
        return self._destroy(number)

    # Reading

    def head(self) -> Head:
        """The last event of the log; seq 0 and the genesis hash in an empty one."""
        with self._store.read() as reader:
            for key, value in reader.scan(Tree.EVENTS, reverse=True):
                return Head(index.parse_seq(key), chain.stored_hash(value))
        return Head(Seq(0), chain.genesis(self.id))

    def stream_head(self, stream: str) -> StreamHead | None:
        """The last event of a stream; None if there is no such stream."""
        with self._store.read() as reader:
            number = index.find_stream(reader, stream)
            return None if number is None else index.read_head(reader, number)

    def number(self, stream: str) -> StreamNo | None:
        """The number of a stream; None if there is no such stream."""
        with self._store.read() as reader:
            return index.find_stream(reader, stream)

    def has_any(self, streams: Iterable[str]) -> bool:
        """Whether one of these streams has an event: one look."""
        with self._store.read() as reader:
            return any(index.find_stream(reader, name) is not None for name in streams)

    def streams(self, prefix: str = "") -> list[str]:
        """Names of the streams that begin with `prefix`, in order."""
        with self._store.read() as reader:
            return [name for name, _ in index.names(reader, prefix)]

    def streams_newest_first(self, prefix: str = "") -> Iterator[tuple[str, StreamHead]]:
        """Streams with their heads, the youngest first; read in short batches."""
        below: int | None = None
        while True:
            with self._store.read() as reader:
                rows = [row for _, row in zip(range(64), index.streams_newest_first(reader, below), strict=False)]
                named = [(self._reading.info(reader, number).name, head) for number, head in rows]
            yield from (row for row in named if row[0].startswith(prefix))
            if not rows:
                return
            below = rows[-1][0]

    def queued(self, prefix: bytes = b"", start: bytes = b"", limit: int = 64) -> list[Queued]:
        """Streams in the queue whose key begins with `prefix`, by key, from the first that is not below `start`.

        One snapshot, and at most `limit` of them.
        """
        with self._store.read() as reader:
            rows = islice(queue.scan(reader, prefix, start), limit)
            return [Queued(key, self._reading.info(reader, number).name, seq, note) for key, number, seq, note in rows]

    def read(
        self,
        after: int = 0,
        *,
        stop: int | None = None,
        contents: bool = True,
        share: tuple[int, int] | None = None,
    ) -> Iterator[Event]:
        """Events strictly after a cursor, up to `stop`; facts only where `contents` is False.

        With `share = (k, n)` only those of streams whose number leaves k when it is divided by n: the others cost next
        to nothing, and are not checked either.
        """
        return self._reading.log(after, contents=contents, stop=stop, share=share)

    def newest_first(self, *, contents: bool = True) -> Iterator[Event]:
        """Events from the last backwards."""
        return self._reading.newest(contents=contents)

    def stream(self, name: str, after: int = 0, *, contents: bool = True) -> Iterator[Event]:
        """A stream's events behind its `after`th."""
        return self._reading.stream(name, after, contents=contents)

    def nth(self, stream: str, number: int, *, contents: bool = True) -> Event:
        """A stream's `number`th event, from 1; raises `NotFound`."""
        with self._store.read() as reader:
            found = self._reading.nth(reader, stream, number, contents=contents)
        if found is None:
            raise NotFound(f"Stream {stream} has no event {number}.", hint="Events of a stream are counted from 1.")
        return found

    def records(self, stream: str) -> Iterator[tuple[Seq, bytes]]:
        """A stream's records as they are stored, with their seqs; unchecked."""
        return raw.records(self._store, stream)

    def blob_chunks(self, stream: str) -> Iterator[raw.BlobRow]:
        """The rows of a stream's blobs as they are stored; unchecked."""
        return raw.blob_rows(self._store, stream)

    def event(self, seq: int, *, contents: bool = True) -> Event:
        """The event at a seq; raises `NotFound`."""
        with self._store.read() as reader:
            return self._reading.event(reader, Seq(seq), contents=contents)

    def follow(self, after: int = 0, *, contents: bool = True, timeout: float | None = None) -> Iterator[Event]:
        """Events after a cursor, then new ones as they come, from any process; ends after `timeout` s without one."""
        with follow.bell(self._store) as bell:
            while True:
                seen = self._store.version()
                for event in self.read(after, contents=contents):
                    after = event.seq
                    yield event
                if not bell.wait(seen, timeout):
                    return

    async def afollow(self, after: int = 0, *, contents: bool = True) -> AsyncIterator[Event]:
        """`follow`, in an event loop, without an end."""
        with follow.bell(self._store) as bell:
            while True:
                seen = self._store.version()
                for event in self.read(after, contents=contents):
                    after = event.seq
                    yield event
                await bell.await_(seen)

    def find_key(self, tag: bytes) -> Seq | None:
        """The first event that carries a key tag."""
        with self._store.read() as reader:
            return index.find_key(reader, tag)

    def commits(self) -> int:
        """Number of the last commit, of any process: what a bell compares with."""
        return self._store.version()

    def bell(self) -> AbstractContextManager[Bell]:
        """What rings after commits, of any process; for one thread."""
        return follow.bell(self._store)

    def tagger(self, stream: str) -> Callable[[bytes], bytes] | None:
        """What makes the stream's keyed tags; None if its key is gone or the stream is not there."""
        with self._store.read() as reader:
            number = index.find_stream(reader, stream)
            cipher = None if number is None else self._reading.cipher(reader, number, {})
        return None if cipher is None else cipher.tag

    def key(self, stream: str) -> tuple[StreamNo, bytes] | None:
        """Number and key of a stream, to hand to somebody who may read it; None if the key is gone."""
        with self._store.read() as reader:
            number = index.find_stream(reader, stream)
            cipher = None if number is None else self._reading.cipher(reader, number, {})
        return None if number is None or cipher is None else (number, cipher.key)

    # Committing

    def _begin(self, *, readonly: bool) -> LedgerId:
        """The ledger's id; an empty store gets its first event."""
        with self._store.read() as reader:
            found = index.read_format(reader, chain.FORMAT)
        if found is not None:
            self._finish_forgetting(readonly=readonly)
            return found
        if readonly:
            raise CannotOpen(f"There is no ledger in {self.root} yet.", hint="Create one: agentledger init.")
        try:
            return self._create()
        except CommitUncertain as error:
            raise CannotOpen(f"The device failed while the ledger was created: {error}.") from error
        except NeedsRoom:
            self._store.grow()
            return self._create()

    def _create(self) -> LedgerId:
        with self._store.write() as writer:
            found = index.read_format(writer, chain.FORMAT)
            if found is None:
                found = LedgerId(self.clock.random(16))
                index.write_format(writer, chain.FORMAT, found)
                batch = Batch(writer, self._reading, self.clock, found)
                batch.seal(
                    [Draft(stream=STREAM, body=LedgerCreated(ledger=found, created_by=f"agentledger {__version__}"))]
                )
                batch.finish()
        return found

    def _commit(self, tickets: list[_Ticket]) -> None:
        """Settle a batch: one transaction, begun anew without those whose drafts turn out unfit."""
        waiting = tickets
        while waiting:
            waiting = self._attempt(waiting)

    def _attempt(self, tickets: list[_Ticket]) -> list[_Ticket]:
        """One transaction; returns the tickets that need another."""
        batch: Batch | None = None
        results: list[tuple[_Ticket, list[Event]]] = []
        try:
            with self._store.write() as writer:
                batch = Batch(writer, self._reading, self.clock, self.id)
                for ticket in tickets:
                    if (drafts := _drafts(ticket, batch)) is not None:
                        results.append((ticket, _sealed(ticket, batch, drafts)))
                if batch.first is None:
                    raise _NothingToWrite
                batch.finish()
                reach("commit-before")
            reach("commit-after")
        except (_NothingToWrite, _Unfit):
            self._reading.reset()
        except NeedsRoom:
            self._reading.reset()
            self._store.grow()
        except CommitUncertain as uncertain:
            self._find_out(batch, results, uncertain)
        except LedgerError as error:  # no room, or damage: nothing was written, and everybody is told the same
            self._reading.reset()
            _settle(tickets, error)
        except BaseException:  # Ctrl-C somewhere in the block: ask what became of it, then obey
            self._find_out(batch, results, None)
            raise
        else:
            _finish(results)
        return [ticket for ticket in tickets if not ticket.finished]

    def _find_out(
        self, batch: Batch | None, results: list[tuple[_Ticket, list[Event]]], why: CommitUncertain | None
    ) -> None:
        """After a failed commit: is the batch's first event in the log, or not? Interrupted, others try again."""
        self._reading.reset()
        try:
            self._store.reopen()
            self._settle_meta_pages()
            committed = batch is not None and batch.first is not None and self._holds(batch.first)
        except (LedgerError, CommitUncertain, NeedsRoom) as error:
            unknown = OutcomeUnknown(
                f"The device failed at a commit ({why}), and the outcome could not be found out: {error}",
                hint="Check the disk, open the ledger again, and look whether the append is there before repeating it.",
            )
            _settle([ticket for ticket, _ in results], unknown)
            return
        if committed:
            _finish(results)
        elif why is not None:
            _settle([ticket for ticket, _ in results], _not_written(self._store, why))

    def _settle_meta_pages(self) -> None:
        """Commit something that changes nothing: afterwards only one of the two meta pages can be the newest."""
        with self._store.write() as writer:
            index.write_format(writer, chain.FORMAT, self.id)

    def _holds(self, first: StreamHead) -> bool:
        with self._store.read() as reader:
            data = reader.get(Tree.EVENTS, index.seq_key(first.seq))
        return data is not None and chain.stored_hash(data) == first.hash

    def _finish_forgetting(self, *, readonly: bool) -> None:
        for event in self._reading.stream(STREAM, 1, contents=False):
            if isinstance(event.body, ContentForgotten):
                self._reading.forget(StreamNo(event.body.stream))
                if not readonly:
                    self._keys.destroy(StreamNo(event.body.stream))

    def _destroy(self, number: StreamNo) -> bool:
        self._reading.forget(number)
        return self._keys.destroy(number)


class _NothingToWrite(Exception):
    """Every decision refused, or had nothing to say: no commit, no sync."""


class _Unfit(Exception):
    """Drafts that cannot be sealed: the transaction holds parts of them and is begun anew without them."""


def _drafts(ticket: _Ticket, batch: Batch) -> list[Draft | Later] | None:
    try:
        drafts = list(ticket.command(batch))
    except Damaged:
        raise
    except Exception as refusal:
        ticket.error, ticket.finished = refusal, True
        return None
    if not drafts:
        ticket.result, ticket.finished = [], True
        return None
    return drafts


def _sealed(ticket: _Ticket, batch: Batch, drafts: list[Draft | Later]) -> list[Event]:
    try:
        return batch.seal(drafts)
    except (NeedsRoom, StoreFull, Damaged):
        raise
    except Exception as unfit:
        ticket.error, ticket.finished = unfit, True
        raise _Unfit from unfit


def _finish(results: list[tuple[_Ticket, list[Event]]]) -> None:
    for ticket, events in results:
        ticket.result, ticket.finished = events, True


def _settle(tickets: list[_Ticket], error: LedgerError) -> None:
    for ticket in tickets:
        if not ticket.finished:
            ticket.error, ticket.finished = error, True


def _not_written(store: Store, why: Any) -> LedgerError:
    if isinstance(store, LmdbStore) and os.statvfs(store.path).f_bavail == 0:
        return StoreFull("The append was refused whole: the device is full.", hint="Make room; the log is as it was.")
    return LedgerError(
        f"The append was not written: the device failed at the commit ({why}).",
        hint="The log is as it was, and open; check the disk before you go on.",
    )


def refuse_emptied(store: Path, keys: KeyDirectory) -> None:
    """Refuse to make a new ledger where one was: keys without a data file mean that the data was lost."""
    try:
        lost = not store.joinpath("data.mdb").exists() or store.joinpath("data.mdb").stat().st_size == 0
        if lost and not keys.empty():
            raise Damaged(
                f"{store} is gone or empty, but its keys are there: a ledger was lost here.",
                hint="Restore it from a backup, or choose another --root; nothing was changed.",
            )
    except (NotADirectoryError, PermissionError):
        return


__all__ = ["Decision", "Draft", "Event", "Later", "Log", "Placement", "Queued"]
