"""What was said to models and by them, with a result for every tool call: a transcript that providers accept.

A process that ends inside a tool call leaves a call without a result in the conversation, and the provider refuses
every later request that shows it. Here each call that a model proposed is paired with its result: the one that was
said, else the one that stands in the record, else an invented one that says so. The log stays as it is.

Rules: pure folds over events in order; no odd document raises. A request that begins with all that was said so far
goes on with that conversation, any other begins one; an answer that its agent said again in another shape counts as
said. A missing result is looked for among the run's calls of that tool with equal arguments that were requested after
the model's response; each stands for one call. A call that failed has no result: the invented one says why.

This file does not know the shapes of messages (`messages`), nor what tools do.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from ledger_core.errors import NotFound
from ledger_core.events import Missing
from ledger_core.events.effect import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
)
from ledger_core.log.log import Log
from ledger_core.log.record import Event
from ledger_core.run.journal import Entry, Journal, Standing
from ledger_core.runtime.recorded import stream_of
from projections.chunks import message_of
from projections.messages import (
    INVENTED,
    NEVER_BEGUN,
    Answer,
    Call,
    Message,
    Pair,
    calls_of,
    comparable,
    compose,
    documents_of,
    paired,
    response_message,
    says_the_same,
    text_of,
)
from projections.wire import plain


@attrs.frozen(kw_only=True)
class Conversation:
    """The messages of one conversation, as the next request may send them."""

    model: str
    """The model that was asked last; empty where the request is not among the events."""
    messages: list[Message]
    invented: tuple[str, ...] = ()
    """Ids of the tool calls whose result was invented, in order."""
    restored: tuple[str, ...] = ()
    """Ids of the tool calls whose result was taken from the record, in order."""
    dropped: tuple[Any, ...] = ()
    """Documents that are not shown: results of no call, second results, calls without an id of their own."""
    unread: str = ""
    """Why what was said cannot be read (`forgotten`, `not read`); empty where it can."""
    seqs: tuple[int, int]
    """Seqs of its first and its last model event."""

    def as_json(self) -> dict[str, Any]:
        """The conversation as the command line prints it."""
        return {name: plain(value) for name, value in attrs.asdict(self, recurse=False).items()}


@attrs.frozen(kw_only=True)
class Transcript:
    """The conversations of a run or of a session, in the order in which they began."""

    conversations: tuple[Conversation, ...]

    def as_json(self) -> dict[str, Any]:
        """The transcript as the command line prints it."""
        return {"conversations": [conversation.as_json() for conversation in self.conversations]}


def of_run(log: Log, run_id: str) -> Transcript:
    """The transcript of one run; raises `NotFound`."""
    return of_session(log, [run_id])


def of_session(log: Log, run_ids: Iterable[str]) -> Transcript:
    """The transcript of several runs, their events joined in the log's order: a later run may go on with what an
    earlier one said. Raises `NotFound`.
    """
    streams = []
    for run_id in dict.fromkeys(run_ids):
        if log.stream_head(stream_of(run_id)) is None:
            raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
        streams.append(log.stream(stream_of(run_id)))
    return of_events(heapq.merge(*streams, key=lambda event: event.seq))


def of_events(events: Iterable[Event]) -> Transcript:
    """The transcript of events in order, with their contents; events of other kinds are passed over."""
    reading = Reading()
    for event in events:
        reading.take(event)
    return reading.transcript()


def answer_of(entry: Entry | None) -> Answer:
    """What is shown for a call by what the record knows of it: its result, or the truth about why there is none."""
    if entry is None:
        return NEVER_BEGUN
    if entry.standing is Standing.DONE and not isinstance(entry.value, Missing):
        return Answer(text=text_of(entry.value), invented=False)
    return Answer(text=_invented(entry), invented=True)


def _invented(entry: Entry) -> str:
    why = f"{entry.error_type}: {text_of(entry.value)}"
    if entry.standing is Standing.DONE:
        return f"{INVENTED} that can still be read: it returned, and its result is {plain(entry.value)}."
    if entry.standing is Standing.FAILED:
        return f"{INVENTED}: it failed ({why})."
    if entry.standing is Standing.IN_DOUBT:
        return f"{INVENTED}: it is in doubt, because nobody knows whether it happened ({why})."
    if entry.no_effect:
        return f"{INVENTED}: it was begun, and was found to have had no effect that lasts."
    if entry.writes:
        return f"{INVENTED}: it is in doubt, because it was begun and nobody knows whether it happened."
    return f"{INVENTED}: it was begun and did not end; it is a call that changes nothing outside."


# Reading events


@attrs.frozen(kw_only=True)
class _Origin:
    """Where a message was first said: an event, which is the model's response or a request."""

    stream: str
    seq: int
    response: bool


@attrs.define(kw_only=True)
class _Talk:
    """A conversation while it is read."""

    model: str = ""
    said: list[Message] = attrs.field(factory=list)
    origins: list[_Origin] = attrs.field(factory=list)
    unread: str = ""
    first: int = 0
    last: int = 0

    def goes_on_with(self, sent: Sequence[Message]) -> bool:
        """Whether `sent` begins with all that was said."""
        count = len(self.said)
        if count > len(sent) or self.unread:
            return False
        if count and self.origins[-1].response:
            return list(sent[: count - 1]) == self.said[:-1] and says_the_same(self.said[-1], sent[count - 1])
        return list(sent[:count]) == self.said


@attrs.frozen
class _Asked:
    """A proposed call by what makes it this one: equal in every conversation that shows it."""

    stream: str
    since: int
    """Seq of the model's response, or of the first request that shows the call."""
    call: Call


class Reading:
    """The fold."""

    def __init__(self) -> None:
        self._talks: list[_Talk] = []
        self._unread: dict[str, _Talk] = {}
        self._waiting: dict[tuple[str, str], tuple[_Talk, int, int]] = {}
        """Requests without an answer, by stream and path: their conversation, its length then, and their seq."""
        self._journals: dict[str, Journal] = defaultdict(Journal)
        self._proposed: dict[Call, list[tuple[str, int]]] = defaultdict(list)

    def take(self, event: Event) -> None:
        """Take the next event."""
        body = event.body
        if isinstance(body, ModelCallRequested):
            self._requested(event, body)
        elif isinstance(body, ModelCallCompleted):
            self._answered(event, body)
        elif isinstance(body, ModelCallFailed):
            if (event.stream, body.path) in self._waiting:
                self._waiting[event.stream, body.path][0].last = event.seq
        elif isinstance(body, ToolCallRequested):
            self._journals[event.stream].record(event.seq, body)
        elif isinstance(body, (ToolCallCompleted, ToolCallFailed, ToolCallSettled)):
            journal = self._journals[event.stream]
            if body.path in journal.entries:
                journal.record(event.seq, body)

    def transcript(self) -> Transcript:
        """What has been read."""
        talks = sorted(self._talks, key=lambda talk: talk.first)
        rows = [self._asked(talk) for talk in talks]
        found = self._found([(talk, *row) for talk, asked in zip(talks, rows, strict=True) for row in asked])
        return Transcript(
            conversations=tuple(_conversation(talk, asked, found) for talk, asked in zip(talks, rows, strict=True))
        )

    # Conversations

    def _requested(self, event: Event, body: ModelCallRequested) -> None:
        if isinstance(body.messages, Missing):
            talk, sent = self._unreadable(event, body.messages)
        else:
            sent = documents_of(body.messages)
            going = [talk for talk in self._talks if talk.goes_on_with(sent)]
            talk = max(reversed(going), key=lambda talk: len(talk.said)) if going else self._begun(event)
        origin = _Origin(stream=event.stream, seq=event.seq, response=False)
        talk.origins += [origin] * (len(sent) - len(talk.said))
        talk.said, talk.model, talk.last = sent, body.model, event.seq
        self._waiting[event.stream, body.path] = talk, len(sent), event.seq

    def _answered(self, event: Event, body: ModelCallCompleted) -> None:
        talk, count, asked = self._waiting.pop((event.stream, body.path), (None, 0, 0))
        if talk is None:
            talk = self._begun(event)
        elif len(talk.said) > count and not talk.unread:  # another request has gone on from the same messages
            fork = self._begun(event)
            fork.model, fork.first = talk.model, asked
            fork.said, fork.origins = talk.said[:count], talk.origins[:count]
            talk = fork
        message = response_message(message_of(body.response) if body.streamed else body.response)
        if isinstance(body.response, Missing):
            talk.unread = body.response.reason
        talk.last = event.seq
        if not talk.unread or talk.said[-1:] != [message]:
            talk.said.append(message)
            talk.origins.append(_Origin(stream=event.stream, seq=event.seq, response=True))
        for call in calls_of(message):
            self._proposed[call].append((event.stream, event.seq))

    def _begun(self, event: Event) -> _Talk:
        self._talks.append(_Talk(first=event.seq, last=event.seq))
        return self._talks[-1]

    def _unreadable(self, event: Event, why: Missing) -> tuple[_Talk, list[Message]]:
        """The one conversation of a stream whose messages cannot be read."""
        talk = self._unread.get(event.stream)
        if talk is None:
            talk = self._unread[event.stream] = self._begun(event)
            talk.unread = why.reason
        text = f"[agentledger] The messages of this conversation cannot be read: {why.reason}."
        return talk, talk.said or [{"role": "user", "content": text}]

    # Calls and the record

    def _asked(self, talk: _Talk) -> list[tuple[Pair, _Asked]]:
        """Each call of a conversation: its response is the one at hand, else the next that proposed such a call."""
        seen: dict[tuple[str, Call], int] = defaultdict(int)
        rows = []
        for pair in paired(talk.said):
            origin = talk.origins[pair.at]
            stream, since = origin.stream, origin.seq
            place = seen[stream, pair.call]
            seen[stream, pair.call] += 1
            if not origin.response:
                known = [where for where in self._proposed[pair.call] if where[1] < origin.seq]
                known = [where for where in known if where[0] == stream] or known
                if place < len(known):
                    stream, since = known[place]
            rows.append((pair, _Asked(stream, since, pair.call)))
        return rows

    def _found(self, rows: Sequence[tuple[_Talk, Pair, _Asked]]) -> dict[_Asked, Entry | None]:
        """What the record knows of each call, each recorded call once.

        What has been answered takes its own first, so that it is not given to another; and the latest call chooses
        first, so that an early one without a record leaves to a later one what was done for it.
        """
        free = self._recorded()
        shown = {
            asked: (talk.origins[pair.result.at].seq, pair.result.text)
            for talk, pair, asked in reversed(rows)
            if pair.result is not None
        }
        found: dict[_Asked, Entry | None] = {}
        for asked in sorted((asked for _, _, asked in rows), key=lambda asked: (asked not in shown, -asked.since)):
            if asked in found:
                continue
            entries = free[asked.stream, asked.call.name, asked.call.arguments]
            end, text = shown.get(asked, (None, None))
            fitting = [entry for entry in entries if asked.since < entry.seq and (end is None or entry.seq < end)]
            done = [entry for entry in fitting if entry.standing is Standing.DONE]
            best = done if text is None else [entry for entry in done if text_of(entry.value) == text]
            found[asked] = next(iter(best or fitting), None)
            free[asked.stream, asked.call.name, asked.call.arguments] = [e for e in entries if e is not found[asked]]
        return found

    def _recorded(self) -> dict[tuple[str, str, str], list[Entry]]:
        """The recorded calls in order, by stream, tool and arguments."""
        rows: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
        for stream, journal in self._journals.items():
            for entry in sorted(journal.entries.values(), key=lambda entry: entry.seq):
                arguments = entry.intent.document["arguments"]
                if not isinstance(arguments, Missing):
                    rows[stream, entry.intent.name, comparable(arguments)].append(entry)
        return rows


def _conversation(talk: _Talk, rows: Sequence[tuple[Pair, _Asked]], found: dict[_Asked, Entry | None]) -> Conversation:
    answers = {place: answer_of(found[asked]) for place, (_, asked) in enumerate(rows)}
    repaired = compose(talk.said, [pair for pair, _ in rows], answers)
    return Conversation(
        model=talk.model,
        messages=repaired.messages,
        invented=repaired.invented,
        restored=repaired.restored,
        dropped=repaired.dropped,
        unread=talk.unread,
        seqs=(talk.first, talk.last),
    )
