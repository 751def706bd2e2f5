"""A process that replays runs, one at a time, and says what came of each.

    python -m replay.many_worker TASKS ANSWERS

TASKS and ANSWERS are descriptors of pipes, one JSON object a line (`many.Task`, `many.Outcome`).

Rules: whatever a run's code does is that run's outcome; only what ends the process ends this loop. Nothing is appended.
Secrets of agents are known here and not where answers go, so answers are cleaned here. When whoever asks is gone, this
process ends at once, in the middle of anything. What its death means is its parent's to say.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast

import attrs

from ledger_core.errors import BadInput, Diverged, LedgerError, NotFound
from ledger_core.events.run import RunCreated
from ledger_core.log.log import Log
from ledger_core.run.state import RunState
from ledger_core.runtime import target as targets
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.runtime import Runtime
from ledger_core.secret import VAULT
from projections.wire import plain
from replay import replaying
from replay.many import Outcome, Task

_FORGOTTEN = "What it said was forgotten, or its key is not here: its code cannot be replayed."
_NOWHERE = "It does not say where its code is."
_LONGEST = 2_000


class Desk:
    """Ledgers and code that are open here."""

    def __init__(self) -> None:
        self._runtimes: dict[str, Runtime] = {}
        self._specs: dict[str, AgentSpec | str] = {}

    def done(self, task: Task) -> Outcome:
        """Replay a run; nothing is raised."""
        found = Outcome(run_id=task.run_id, status="failed")
        runtime = None
        try:
            runtime = self._runtime(task)
            log = runtime.log
            head = log.stream_head(stream_of(task.run_id))
            if head is None:
                raise NotFound(f"There is no run {task.run_id!r}.")
            state = runtime.state(task.run_id)
            found = attrs.evolve(found, seq=head.seq, hash=head.hash.hex(), agent=state.agent)
            if log.key(stream_of(task.run_id)) is None:
                return attrs.evolve(found, status="skipped", why=_FORGOTTEN)
            return self._replayed(runtime, state, task, found)
        except LedgerError as error:
            return attrs.evolve(found, why=error.sentence)
        except BaseException as error:  # of an agent's own, which may do anything
            return attrs.evolve(found, why=f"{type(error).__name__}: {error}"[:_LONGEST])
        finally:
            if task.bundled and runtime is not None:
                runtime.close()

    def _replayed(self, runtime: Runtime, state: RunState, task: Task, found: Outcome) -> Outcome:
        if state.driver == "external":
            made, digest = replaying.refold(runtime, task.run_id), state.code_digest
        else:
            head = runtime.log.stream_head(stream_of(task.run_id))
            first = None if head is None else runtime.log.event(head.first).body
            origin = first.origin if isinstance(first, RunCreated) and isinstance(first.origin, str) else None
            target = task.target or targets.recorded(state.entry_point, origin)
            if target is None:
                return attrs.evolve(found, status="skipped", why=_NOWHERE)
            spec = self._spec(target)
            digest = spec.code_digest
            try:
                made = replaying.replay(runtime, task.run_id, spec, mode=cast(replaying.Mode, task.mode))
            except Diverged as diverged:
                said = (_said(diverged.divergence),)
                return attrs.evolve(found, status="diverged", divergences=said, code_digest=_hex(digest))
        return attrs.evolve(
            found,
            status="same" if made.ok else "diverged",
            divergences=tuple(_said(one) for one in made.divergences),
            effects=made.effects,
            complete=made.complete,
            same_code=made.same_code,
            code_digest=_hex(digest),
        )

    def _runtime(self, task: Task) -> Runtime:
        if task.bundled:
            from replay.unpacked import ledger_of_file  # noqa: PLC0415  # evidence is much to import, and seldom asked for

            return Runtime(ledger_of_file(Path(task.place)), policy=[], sandbox={})
        if task.place not in self._runtimes:
            log = Log.open(task.place, readonly=True)
            self._runtimes[task.place] = Runtime(log, policy=[], sandbox={})
        return self._runtimes[task.place]

    def _spec(self, target: str) -> AgentSpec:
        """The code that a target names; raises `BadInput`, each time it is asked for."""
        if target not in self._specs:
            try:
                self._specs[target] = targets.load(target)
            except LedgerError as error:
                self._specs[target] = error.sentence
            except BaseException as error:  # of the agent's module, which may do anything
                self._specs[target] = f"{target} cannot be imported: {type(error).__name__}: {error}"[:_LONGEST]
        found = self._specs[target]
        if isinstance(found, str):
            raise BadInput(found)
        return found


def main() -> None:
    """Do tasks until nobody asks."""
    tasks, answers = int(sys.argv[1]), int(sys.argv[2])
    sys.argv[1:] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked hears Ctrl-C as well, and ends this process
    for descriptor in (tasks, answers):
        os.set_inheritable(descriptor, False)
    asked: SimpleQueue[Task] = SimpleQueue()
    Thread(target=_listen, args=(tasks, asked), name="agentledger-tasks", daemon=True).start()
    desk = Desk()
    while True:
        _say(answers, desk.done(asked.get()))


def _listen(tasks: int, asked: SimpleQueue[Task]) -> None:
    with suppress(OSError), os.fdopen(tasks) as lines:
        for line in lines:
            asked.put(Task(**json.loads(line)))
    os._exit(0)


def _say(answers: int, outcome: Outcome) -> None:
    value = outcome.as_json()
    try:
        value = VAULT.clean(value)
    except LedgerError:  # values that no log could hold: what they are called is enough
        short = [{**one, "differences": []} for one in value["divergences"]]
        value = VAULT.clean({**value, "divergences": short})
    data = b"\n" + json.dumps(value).encode() + b"\n"  # a line of its own, whatever agent code has written there
    while data:
        data = data[os.write(answers, data) :]


def _said(divergence: Any) -> dict[str, Any]:
    said: dict[str, Any] = plain(divergence.as_json())
    return said


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()


if __name__ == "__main__":
    main()
