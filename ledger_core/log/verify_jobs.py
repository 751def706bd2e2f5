"""Verifying a ledger with child processes: over several cores, and without dying of damaged pages.

Rules: this process opens nothing. Children take ranges of records as they become free; what they answer is added up,
and one of them compares the sums with the trees. A child that dies is a finding, what it was checking is named as not
checked, and another takes its place. This file does not know terminals.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, Final

import attrs

from ledger_core import own_process
from ledger_core.errors import CannotOpen, Damaged
from ledger_core.ids import Hash, Head, Seq
from ledger_core.log.disk import DATA
from ledger_core.log.keys import KeyDirectory
from ledger_core.log.log import KEYS, STORE, refuse_emptied
from ledger_core.log.verify import Finding, Sums

_RANGE: Final = 16_384
"""Records in a task: small enough to share evenly, large enough to forget the asking."""

Progress = Callable[[int, int], None]
"""Called with the number of records checked, and of all."""


@attrs.define(kw_only=True)
class Report:
    """What verification found, what it checked, and what it could not."""

    sums: Sums = attrs.field(factory=Sums)
    head: Head | None = None
    findings: list[Finding] = attrs.field(factory=list)
    not_checked: list[str] = attrs.field(factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings and not self.not_checked

    @property
    def exit_code(self) -> int:
        """3 where something was found, 6 where something could not be checked, else 0."""
        return 3 if self.findings else 6 if self.not_checked else 0

    def as_json(self) -> dict[str, Any]:
        """The object that `agentledger verify --json` prints."""
        checked = {name: getattr(self.sums, name) for name in ("events", "streams", "contents", "blobs")}
        head = self.head and {"seq": self.head.seq, "hash": self.head.hash.hex()}
        findings = [attrs.asdict(finding) for finding in self.findings]
        return {
            "ok": self.ok,
            "checked": checked,
            "head": head,
            "findings": findings,
            "not_checked": self.not_checked,
        }


def verify_ledger(
    root: Path,
    *,
    jobs: int = 1,
    against: Head | None = None,
    deep: bool = False,
    progress: Progress | None = None,
    most: int = 1000,
) -> Report:
    """Verify a ledger's directory; keeps at most `most` findings. Raises `CannotOpen` where there is none.

    A ledger that is there and cannot be read (a newer format, no permission) is reported as not checked.

    With `deep`, the facts of every event are decoded as well, and must be in their canonical encoding.
    """
    report = Report()
    try:
        refuse_emptied(root / STORE, KeyDirectory(root / KEYS))
    except Damaged as lost:
        report.findings.append(Finding(kind="store", detail=lost.sentence))
        return report
    if not (root / STORE / DATA).is_file():
        raise CannotOpen(f"There is no ledger in {root}.", hint="Name another with --root, or: agentledger init.")
    with _Pool(root / STORE, jobs, report, most) as pool:
        held = {"held": against.hash.hex(), "seq": against.seq} if against else {}
        opened = pool.ask({"task": "opening", **held})
        if opened is None:
            report.not_checked.append("the ledger could not be opened: nothing in it was checked")
            return report
        last = int(opened["seq"])
        _records(pool, last, report, progress, deep=deep)
        closed = pool.ask({"task": "closing", "sums": attrs.asdict(report.sums), "checked": last})
        if closed is None:
            report.not_checked.append("the totals of the trees")
        else:
            report.sums = Sums(**closed["sums"])
            report.head = Head(Seq(closed["head"]["seq"]), Hash(bytes.fromhex(closed["head"]["hash"])))
    return report


def verify_stream(root: Path, stream: str) -> Report:
    """Verify one stream: its records, chain, contents and blobs. Raises `CannotOpen`."""
    report = Report()
    with _Pool(root / STORE, 1, report, 1000) as pool:
        sums = pool.ask({"task": "stream", "name": stream})
        if sums is None:
            report.not_checked.append(f"{stream} could not be read to its end")
        else:
            report.sums = Sums(**sums)
    return report


def _records(pool: _Pool, last: int, report: Report, progress: Progress | None, *, deep: bool) -> None:
    """Check all records."""
    tasks = [
        {"task": "records", "first": first, "last": min(last, first + _RANGE - 1), "deep": deep}
        for first in range(1, last + 1, _RANGE)
    ]
    reached: dict[int, int] = {}
    for task, answer in pool.share(tasks):
        if "reached" in answer:
            reached[task["first"]] = answer["reached"] - task["first"] + 1
            if progress is not None:
                progress(sum(reached.values()), last)
        elif "done" in answer:
            report.sums.add(Sums(**answer["done"]))
        else:
            report.not_checked.append(f"records {task['first']:,} to {task['last']:,}")


class _Pool:
    """Children, and the findings that they report."""

    def __init__(self, directory: Path, jobs: int, report: Report, most: int) -> None:
        self._directory = directory
        self._jobs = jobs
        self._report = report
        self._most = most
        self._children: list[_Child] = []

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.end()

    def ask(self, task: dict[str, Any]) -> Any:
        """Have one task done; None if it could not be."""
        for _, answer in self.share([task]):
            if "done" in answer:
                return answer["done"]
        return None

    def share(self, tasks: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Have tasks done side by side; yields answers that are no findings; `{}` for a task that was given up."""
        waiting = deque(tasks)
        answers: SimpleQueue[tuple[_Child, dict[str, Any] | None]] = SimpleQueue()
        busy = 0
        while busy or waiting:
            while waiting and busy < self._jobs:
                self._free().begin(waiting.popleft(), answers)
                busy += 1
            child, answer = answers.get()
            task = child.task
            assert task is not None
            if answer is None:
                self._died(child, task)
            elif "finding" in answer:
                self._found(Finding(**answer["finding"]))
                continue
            elif "failed" in answer:
                self._failed(answer, task)
            else:
                yield task, answer
                if "done" not in answer:
                    continue
            if answer is None or "failed" in answer:
                yield task, {}
            child.task = None
            busy -= 1

    def _free(self) -> _Child:
        for child in self._children:
            if child.task is None:
                return child
        child = _Child(self._directory)
        self._children.append(child)
        return child

    def _found(self, finding: Finding) -> None:
        if len(self._report.findings) < self._most:
            self._report.findings.append(finding)
        elif len(self._report.findings) == self._most:
            self._report.findings.append(Finding(kind="more", detail=f"more than {self._most:,} findings"))

    def _failed(self, answer: dict[str, Any], task: dict[str, Any]) -> None:
        if answer["exit"] == Damaged.exit_code:
            self._found(Finding(kind="store", detail=f"{answer['failed']} (while checking {_words(task)})"))
        else:
            self._report.not_checked.append(f"{_words(task)}: {answer['failed']}")

    def _died(self, child: _Child, task: dict[str, Any]) -> None:
        self._children.remove(child)
        self._found(Finding(kind="store", detail=f"the data file killed its reader ({child.end()}) in {_words(task)}"))


class _Child:
    """One verifying process; it may die."""

    def __init__(self, directory: Path) -> None:
        self.task: dict[str, Any] | None = None
        self._process = subprocess.Popen(
            [*own_process.command("ledger_core.log.verify_worker"), str(directory)],
            env=own_process.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def begin(self, task: dict[str, Any], answers: SimpleQueue[tuple[_Child, dict[str, Any] | None]]) -> None:
        """Send a task; its answers go into the queue, None at the end of a child that dies of it."""
        self.task = task
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        Thread(target=self._listen, args=(self._process.stdout, answers), daemon=True).start()

    def end(self) -> str:
        """Let the child go; returns how it ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except (BrokenPipeError, ValueError):
                    pass
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit {code}"

    def _listen(self, pipe: IO[str], answers: SimpleQueue[tuple[_Child, dict[str, Any] | None]]) -> None:
        for line in pipe:
            answer = json.loads(line)
            answers.put((self, answer))
            if "done" in answer or "failed" in answer:
                return
        answers.put((self, None))


def _words(task: dict[str, Any]) -> str:
    names = {"opening": "the ledger's own rows", "closing": "the totals"}
    if task["task"] == "records":
        return f"records {task['first']:,} to {task['last']:,}"
    return names.get(str(task["task"]), str(task["task"]))
