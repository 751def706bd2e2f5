"""Replaying many recorded runs, over several processes, whatever their code does to the process that it runs in.

Rules: work is handed out a run at a time, so that a long one holds nobody up. A process has the code of one target at
most, for modules of two agents may have one name; runs of one target share what their code keeps in its modules, as
runs of one worker do. A process that dies (`os._exit`, SIGKILL, a segfault in somebody's C) is the end of the run that
it was at, and of no other. Nobody outlives the one who asked: not at Ctrl-C, not when it is killed. What agents print
is not shown. This file replays nothing itself, and does not know terminals.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, get_args

import attrs

from ledger_core import own_process
from ledger_core.errors import LedgerError
from ledger_core.events.run import RunCreated
from ledger_core.log.log import Log
from ledger_core.run.state import RunStatus
from ledger_core.runtime.folds import stream_of
from projections import runs

Status = Literal["same", "diverged", "skipped", "failed"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
Progress = Callable[[int, int], None]
"""Called with the number of runs that are done, and of all."""
_LOOK_S: Final = 0.25
"""How often it is asked whether a silent process still lives: one that a grandchild's pipe outlives says nothing."""
_PIECE: Final = 1 << 16
_LAST_WORDS: Final = 2_000
_LONGEST: Final = 300


@attrs.frozen(kw_only=True)
class Task:
    """A run to be replayed: of a ledger, or of a file with its evidence."""

    run_id: str
    place: str
    """The ledger's directory, or the file."""
    bundled: bool = False
    target: str | None = None
    """The code; the recorded one where it is None."""
    mode: str = "strict"
    group: str = ""
    """Tasks of one group may share a process."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of replaying one run."""

    run_id: str
    status: Status
    why: str = ""
    """Of what was skipped or failed: one sentence."""
    divergences: tuple[dict[str, Any], ...] = ()
    """As `Divergence.as_json` has them."""
    effects: int = 0
    """Effects answered from the record."""
    complete: bool = False
    """Whether the code came to its recorded end."""
    same_code: bool | None = None
    code_digest: str | None = None
    """Of the code that was executed, hex."""
    agent: str | None = None
    seq: int | None = None
    """Seq and hash (hex) of the run's last event that this is about."""
    hash: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The outcome as `--json` prints it, and processes hand it on."""
        return attrs.asdict(self) | {"divergences": list(self.divergences)}

    def words(self) -> str:
        """The outcome in a line, for a person."""
        if self.status == "same":
            return f"{self.effects:,} effects, the same to " + ("its end" if self.complete else "where it stops")
        if self.status != "diverged":
            return self.why
        first = self.divergences[0]
        more = f", and {len(self.divergences) - 1:,} more" if len(self.divergences) > 1 else ""
        was, now = first["recorded"] or "nothing", first["attempted"] or "nothing"
        now = "another one" if was == now else now
        line = f" ({first['line']})" if first.get("line") else ""
        return f"{first['code']} {first['kind']} at effect {first['path']}: recorded {was}, attempted {now}{line}{more}"


def outcome_of(value: Mapping[str, Any]) -> Outcome:
    """The inverse of `Outcome.as_json`."""
    return Outcome(**{**value, "divergences": tuple(value["divergences"])})


def chosen(
    log: Log, *, since_ns: int | None = None, agent: str | None = None, status: RunStatus | None = None
) -> list[str]:
    """Runs created since a time, of an agent, of a status: their ids, the youngest first."""
    found = []
    for name, head in log.streams_newest_first("run/"):
        first = log.event(head.first, contents=False)
        if since_ns is not None and first.time_ns < since_ns:
            break  # streams are numbered in the order of their first events
        if agent is not None and getattr(first.body, "agent", None) != agent:
            continue
        if status is None or runs.of_stream(log, name).status == status:
            found.append(name.removeprefix("run/"))
    return found


def replay_many(
    root: Path,
    run_ids: Sequence[str],
    *,
    target: str | None = None,
    mode: str = "strict",
    jobs: int = 1,
    limit_s: float | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Replay runs of a ledger; outcomes come as they are there. Raises `CannotOpen`, `Damaged` for the ledger itself.

    A run may take `limit_s` seconds, with the importing of its code. Closing the iterator ends all processes.
    """
    with Log.open(root, readonly=True) as log:
        tasks = [
            Task(
                run_id=run,
                place=str(root),
                target=target,
                mode=mode,
                group=target or _code_of(log, run),
            )
            for run in dict.fromkeys(run_ids)
        ]
    yield from replay_tasks(tasks, jobs=jobs, limit_s=limit_s, progress=progress)


def replay_tasks(
    tasks: Sequence[Task], *, jobs: int = 1, limit_s: float | None = None, progress: Progress | None = None
) -> Iterator[Outcome]:
    """Replay whatever tasks name, each in one of `jobs` processes."""
    if progress is not None:
        progress(0, len(tasks))
    for done, outcome in enumerate(_shared(_Waiting(tasks), max(1, min(jobs, len(tasks))), limit_s), 1):
        if progress is not None:
            progress(done, len(tasks))
        yield outcome


def summary(outcomes: Iterable[Outcome], *, mode: str = "strict") -> dict[str, Any]:
    """What came of all, as `--json` prints it: how many of each status, and every outcome, by status and run."""
    found = sorted(outcomes, key=lambda one: (-STATUSES.index(one.status), one.run_id))
    counted: dict[str, int] = {status: sum(one.status == status for one in found) for status in STATUSES}
    return {
        "ok": counted["same"] == len(found),
        "mode": mode,
        "runs": len(found),
        **counted,
        "effects": sum(one.effects for one in found),
        "other_code": sum(one.same_code is False for one in found),
        "outcomes": [one.as_json() for one in found],
    }


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """4 where code diverged, 1 where it could not be executed, 6 where runs were skipped, else 0."""
    found = {one.status for one in outcomes}
    return 4 if "diverged" in found else 1 if "failed" in found else 6 if "skipped" in found else 0


def _code_of(log: Log, run_id: str) -> str:
    """What names the code of a run, well enough to tell one agent's from another's."""
    with suppress(LedgerError):  # whatever it is, it is that run's outcome, and its process will find it
        head = log.stream_head(stream_of(run_id))
        body = None if head is None else log.event(head.first).body
        if isinstance(body, RunCreated):
            return f"{body.origin}:{body.entry_point}"
    return ""


class _Waiting:
    """Tasks that nobody has taken, by group."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._groups: dict[str, deque[Task]] = {}
        for task in tasks:
            self._groups.setdefault(task.group, deque()).append(task)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def has(self, group: str | None) -> bool:
        """Whether there is anything for a process of that group."""
        return group in self._groups

    def take(self, group: str | None) -> Task:
        """The next task of a group; of the one with the most of them, if it has none."""
        if group not in self._groups:
            group = max(self._groups, key=lambda name: len(self._groups[name]))
        task = self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]
        return task


def _shared(waiting: _Waiting, jobs: int, limit_s: float | None) -> Iterator[Outcome]:
    """Have tasks done by up to `jobs` processes."""
    children: list[_Child] = []
    with selectors.DefaultSelector() as selector:

        def leave(child: _Child) -> str:
            children.remove(child)
            selector.unregister(child.answers)
            return child.end()

        try:
            while waiting or any(child.task for child in children):
                for child in [one for one in children if one.task is None]:
                    if waiting.has(child.group) and not child.gone():
                        child.begin(waiting.take(child.group))
                    else:
                        leave(child)
                while waiting and len(children) < jobs:
                    child = _Child()
                    children.append(child)
                    selector.register(child.answers, selectors.EVENT_READ)
                    child.begin(waiting.take(None))
                selector.select(_LOOK_S)
                for child in children.copy():
                    gone, task = child.gone(), child.task  # first whether it lives: what it said is then all there
                    outcome = child.heard()
                    if outcome is None and task is not None and (gone or child.late(limit_s)):
                        how = leave(child)
                        why = f"The process that replayed it ended: {how}."
                        if not gone:
                            why = f"It did not come to an end within {limit_s:g} s."
                        outcome = Outcome(run_id=task.run_id, status="failed", why=why)
                    if outcome is not None:
                        yield outcome
        finally:
            for child in children:
                child.end()


class _Child:
    """A process that replays; it may die of it."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.group: str | None = None
        self._heard = b""
        self._silent = False
        self._begun = 0.0
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # closed with the process
        fcntl.fcntl(self._errors, fcntl.F_SETFL, fcntl.fcntl(self._errors, fcntl.F_GETFL) | os.O_APPEND)
        theirs, self._tasks = os.pipe()
        self.answers, said = os.pipe()
        os.set_blocking(self.answers, False)
        try:
            self._process = subprocess.Popen(
                [*own_process.command("replay.many_worker"), str(theirs), str(said)],
                env=own_process.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs, said),
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(theirs)
            os.close(said)

    def begin(self, task: Task) -> None:
        """Hand it a task; whether it still lives is seen later."""
        self.task, self.group, self._begun = task, task.group, time.monotonic()
        self._errors.truncate(0)
        with suppress(BrokenPipeError):
            os.write(self._tasks, json.dumps(attrs.asdict(task)).encode() + b"\n")

    def gone(self) -> bool:
        """Whether it has ended, or will say nothing more."""
        return self._silent or self._process.poll() is not None

    def late(self, limit_s: float | None) -> bool:
        """Whether its task takes longer than it may."""
        return limit_s is not None and time.monotonic() - self._begun > limit_s

    def heard(self) -> Outcome | None:
        """What it said of its task, if it has; then it is free."""
        with suppress(BlockingIOError):
            while data := os.read(self.answers, _PIECE):
                self._heard += data
            self._silent = True
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            with suppress(ValueError, TypeError, LookupError):  # what agent code writes there is no answer
                outcome = outcome_of(json.loads(line))
                if self.task is not None and outcome.run_id == self.task.run_id:
                    self.task = None
                    return outcome
        return None

    def end(self) -> str:
        """Let it go, whatever it does; returns how it ended, if it had."""
        if self._silent:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
        ended = self._process.poll()
        self._process.kill()
        self._process.wait()
        words = "it was stopped" if ended is None else _signal(-ended) if ended < 0 else f"exit code {ended}"
        last = self._last_words()
        self._close()
        return words + (f" ({last})" if last else "")

    def _last_words(self) -> str:
        """The last line that it wrote to stderr."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_WORDS))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "".join(c if c.isprintable() else " " for c in lines[-1])[:_LONGEST].strip() if lines else ""

    def _close(self) -> None:
        self._errors.close()
        os.close(self._tasks)
        os.close(self.answers)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
