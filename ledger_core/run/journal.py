"""A step's effects and their final outcomes, by path: what recovery and replay answer from.

Rules: pure, and the same machine for a fresh run, a recovery and a replay. The code requests effects; an effect that
is in the journal must be the same one. Recorded outcomes are released in the order in which they were recorded, one
at a time, when the code can do nothing more without one: so racing code takes the same way again. What is not in the
journal waits until everything in it has been requested and released, and is live then; if the journal holds
something that a code which can do no more has not asked for, the code has diverged.

This file does not know how events are recorded (`recording`), loops, threads, the log, or what effects do.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

from ledger_core.events import Body, Missing
from ledger_core.run import divergence
from ledger_core.run.divergence import Divergence, differences
from ledger_core.run.entry import UNKNOWN, Entry, Intent, Standing
from ledger_core.run.recording import TIMED_OUT, Recording, answer_of


class Journal(Recording):
    """The recorded effects of one step, and how far the code has come through them."""

    def placed(self, path: str, kind: str, name: str) -> str:
        """The path of an effect: its own, or one beside it, where a dropped part made another outside write there."""
        before = self._written.get(path)
        if before is None or (before.intent.kind, before.intent.name) == (kind, name):
            return path
        return f"{path}~{self.attempt}"

    def knows(self, path: str) -> bool:
        """Whether an effect is recorded at a path."""
        return path in self.entries or path in self._written

    def kept_writes(self) -> Iterable[Entry]:
        """The outside writes of dropped parts that succeeded."""
        return self._written.values()

    def was_given_up(self, path: str) -> bool:
        """Whether it is recorded that the code stopped waiting for an effect."""
        return path in self._abandoned

    def kept(self, entry: Entry) -> bool:
        """Whether an entry is an outside write of a dropped part: it is answered out of order."""
        return self._written.get(entry.intent.path) is entry

    def request(self, intent: Intent) -> Entry | Divergence | None:
        """The entry at the intent's path, None if there is none; a divergence if another effect is recorded there."""
        entry = self.entries.get(intent.path)
        written = None if entry is not None else self._written.get(intent.path)
        if written is not None:
            return _compare(written, intent) or written
        if entry is None:
            if not self.exhausted and intent.path not in self._abandoned:
                self._ahead.append(intent)
            return None
        self._requested.add(intent.path)
        self._pass(intent.path)
        return _compare(entry, intent) or entry

    @property
    def exhausted(self) -> bool:
        """Whether everything recorded was requested and released: what is asked for now is live."""
        return len(self._requested) == len(self.entries) and self._released == len(self._order)

    def _pass(self, path: str) -> None:
        for one in self._forks:
            one.paths.discard(path)

    def forks_passed(self) -> Iterator[Any]:
        """Patches of the state that forks of its line put in force here, each once: the code has come so far."""
        while self._forks and not self._forks[0].paths and self._behind(self._forks[0].order):
            yield self._forks.pop(0).patch

    def _behind(self, order: int) -> bool:
        return self._released >= order

    @property
    def all_requested(self) -> bool:
        """Whether the code has asked for everything recorded: what it asks for now may have been lost with a crash."""
        return len(self._requested) == len(self.entries)

    def release(self, waiting: Container[str] | None = None) -> Entry | None:
        """The next recorded outcome, if the code has asked for it; to be called only when it can do no more.

        `waiting` holds the paths of those who can be given one just now; everybody, if it is None.

        Where the code stopped waiting for an effect, it has to do so again before anything else is released. What it
        has stopped waiting for, and no work of its own waits for either, is passed over.
        """
        while self._released < len(self._order):
            path, abandoned = self._order[self._released]
            if path not in (self._given_up if abandoned else self._requested):
                return None
            entry = self.entries.get(path)  # none, where the code gave up before anything was recorded
            given = entry is not None and (not abandoned or entry.final)
            if given and waiting is not None and path not in waiting:
                if not self._left(path):
                    return None
                given = False
            self._released += 1
            if given and entry is not None:
                return entry
        return None

    def late(self, waiting: Container[str]) -> Entry | None:
        """An outcome that comes where nothing else does; there is none here: what is open stays open."""
        del waiting
        return None

    def recorded(self, paths: Iterable[str]) -> bool:
        """Whether all of these are recorded, or given up: nothing that asks for them is new."""
        return all(path in self.entries or path in self._given_up for path in paths)

    def idle(self, path: str, *, live: bool) -> bool:
        """Whether nobody waits for an open effect any more; where it may be `live`, nor anything outside."""
        entry = self.entries.get(path)
        return path in self._given_up and not (live and entry is not None and (entry.writes or entry.holds))

    def held_up(self) -> Divergence | None:
        """The divergence of code that can do no more, and asks for nothing that it could be given next."""
        if self._released < len(self._order):
            path, abandoned = self._order[self._released]
        else:
            path, abandoned = next((path for path in self.entries if path not in self._requested), ""), False
        if not path:
            return None
        entry = self.entries.get(path)
        words = "an effect" if entry is None else entry.intent.words()
        what = f"that it stopped waiting for {words}" if abandoned else words
        seq = None if entry is None else entry.seq
        return Divergence(kind=divergence.MISSING, path=path, recorded=what, attempted="", seq=seq)

    @property
    def given_up(self) -> Container[str]:
        """Paths of the effects that the code has stopped waiting for."""
        return self._given_up

    def give_up(self, path: str) -> bool:
        """The code stops waiting for an effect; False if that is news, and to be recorded."""
        self._given_up.add(path)
        # what came of a stream by then may never have reached the code: it need not ask for it again
        self._requested.update(one for one, entry in self._chunks() if entry.intent.name == path)
        return path in self._abandoned

    def _chunks(self) -> Iterable[tuple[str, Entry]]:
        return ((path, entry) for path, entry in self.entries.items() if entry.intent.kind == "chunk")

    def _left(self, path: str) -> bool:
        """Whether the code has stopped waiting for an effect, or for the stream that a chunk is of."""
        intent = self.entries[path].intent
        return (intent.name if intent.kind == "chunk" else path) in self._given_up

    @staticmethod
    def beyond(intent: Intent) -> Divergence:
        """The divergence of code that goes on where the record ends."""
        return Divergence(
            kind=divergence.EXTRA, path=intent.path, recorded="", attempted=intent.words(), line=intent.line
        )

    def stuck(self, *, ended: bool) -> Divergence | None:
        """The divergence of code that can do no more: it asked for what is not recorded, or `ended` too early."""
        ahead = next((one for one in self._ahead if one.path not in self._given_up), None)
        if self.exhausted or not (ahead or ended):
            return None
        if ended and self.all_requested:
            return None  # what was not released is an outcome that only a task left behind was waiting for
        missing = next((entry for path, entry in self.entries.items() if path not in self._requested), None)
        if ahead is not None:
            return Divergence(
                kind=divergence.EXTRA,
                path=ahead.path,
                recorded=f"{missing.intent.words()} at effect {missing.intent.path}" if missing else "",
                attempted=ahead.words(),
                seq=missing.seq if missing else None,
                line=ahead.line,
            )
        if missing is None:
            return None
        return Divergence(
            kind=divergence.MISSING,
            path=missing.intent.path,
            recorded=missing.intent.words(),
            attempted="",
            seq=missing.seq,
        )


__all__ = ["TIMED_OUT", "UNKNOWN", "Entry", "Intent", "Journal", "Standing", "answer_of", "read_journal"]


def read_journal(events: Iterable[tuple[int, Body]]) -> Journal:
    """The journal of a step's events, `(seq, body)` in order."""
    journal = Journal()
    for seq, body in events:
        journal.record(seq, body)
    return journal


def _compare(entry: Entry, attempted: Intent) -> Divergence | None:
    recorded = entry.intent
    if recorded.kind != attempted.kind:
        kind = divergence.OTHER_KIND
    elif recorded.name != attempted.name:
        kind = divergence.OTHER_NAME
    elif recorded.request != attempted.request:
        kind = divergence.OTHER_STATE if recorded.kind == "patch" else divergence.OTHER_REQUEST
    else:
        return None
    readable = recorded.kind == attempted.kind and not _holds_missing(recorded.document)
    return Divergence(
        kind=kind,
        path=attempted.path,
        recorded=recorded.words(),
        attempted=attempted.words(),
        seq=entry.seq,
        differences=tuple(differences(recorded.document, attempted.document)) if readable else (),
        line=attempted.line,
    )


def _holds_missing(document: Any) -> bool:
    values = document.values() if isinstance(document, dict) else (document,)
    return any(isinstance(value, Missing) for value in values)
