"""The runs of a ledger, newest first: a fold of each run's facts.

Rules: pure folds over what `Log` reads; nothing is stored. A run's short id is the shortest prefix that is its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger_core.errors import BadInput, NotFound
from ledger_core.log.log import Log
from ledger_core.run import schedule
from ledger_core.run.state import RunState, fold

_PREFIX = "run/"


def newest_first(log: Log) -> Iterator[RunState]:
    """The runs, the youngest first, each folded when it is asked for."""
    for name, _ in log.streams_newest_first(_PREFIX):
        yield of_stream(log, name)


def of_stream(log: Log, stream: str) -> RunState:
    """The state of one run, from facts alone."""
    return fold((event.seq, event.time_ns, event.type, event.body) for event in log.stream(stream, contents=False))


def resolve(log: Log, text: str) -> str:
    """The id of the run that a person means: a whole id, a unique prefix, with or without `run_`, or `latest`.

    Raises `NotFound`, and `BadInput` for a prefix of several.
    """
    if text == "latest":
        newest = next(log.streams_newest_first(_PREFIX), None)
        if newest is None:
            raise NotFound("There are no runs yet.", hint="Start one: agentledger run FILE.py")
        return newest[0].removeprefix(_PREFIX)
    if not text:
        raise BadInput("An empty text names no run.", hint="`agentledger runs` lists them; `latest` is the newest.")
    if log.stream_head(_PREFIX + text) is not None:
        return text
    found = sorted({name for prefix in ("", "run_") for name in log.streams(f"{_PREFIX}{prefix}{text}")})
    if len(found) == 1:
        return found[0].removeprefix(_PREFIX)
    if not found:
        raise NotFound(f"There is no run {text!r}.", hint="`agentledger runs` lists them; `latest` is the newest.")
    shown = ", ".join(name.removeprefix(_PREFIX) for name in found[:4]) + (", …" if len(found) > 4 else "")
    raise BadInput(f"{len(found)} runs begin with {text!r}: {shown}", hint="Write more letters.")


def waiting_for_people(log: Log) -> Iterator[RunState]:
    """Runs that ask a person something, the longest waiting first: found in the queue, without a look at any other."""
    for prefix in (schedule.WAITING, schedule.TIMER):
        start = prefix
        while rows := log.queued(prefix, start, limit=256):
            for row in rows:
                if isinstance(row.note, dict) and row.note.get("asks"):
                    yield of_stream(log, row.stream)
            start = rows[-1].key + b"\0"
    held = log.queued(schedule.HELD, b"", limit=4096)  # a branch may ask while another works
    for row in held:
        state = of_stream(log, row.stream)
        if state.pending or any(one.kind == "approval" for one in state.waits.values()):
            yield state
