"""What the contract promises of runs and workers, in plain values: the model that the real decisions are held against.

Written from the words of the contract, without a line of `ledger_core.run`. Every method is one command: it returns
the events, `(run, type)`, that the log must have grown by, or raises `No` with the error that the command must raise,
and then nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ledger_core.errors import Cancelled, Fenced, KeyConflict, NotFound, Refused
from ledger_core.run.decide import Settled

Said = list[tuple[str, str]]
Word = tuple[Any, ...]
"""What a body says, for the model: its type, and what it changes."""
OVER = ("completed", "failed", "cancelled")
OPEN = ("RUNNING", "PENDING_VERIFICATION")


class No(Exception):
    """A refusal."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error


@dataclass
class Ran:
    """A run."""

    run: str
    agent: str
    priority: int = 0
    needs: frozenset[str] = frozenset()
    code: bytes | None = None
    driver: str = "code"
    parent: str | None = None
    most_losses: int = 5
    attempts: int = 3
    always_fresh: bool = False
    status: str = "pending"
    why: str | None = None
    cancelling: bool = False
    owner: str | None = None
    epoch: int = 0
    attempt: int = 1
    retry_ns: int | None = None
    losses: int = 0
    version: int = 0
    step: int = 1
    newer: bool = False
    waits: dict[str, tuple[str, str, int | None]] = field(default_factory=dict)
    inbox: dict[str, list[int]] = field(default_factory=dict)
    senders: set[tuple[str, str]] = field(default_factory=set)
    took: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The signal that a wait took, by path."""
    answers: dict[str, int | None] = field(default_factory=dict)
    children: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    calls: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return self.status in OVER

    def drop(self) -> None:
        """Its owner is gone: what it was just doing is in doubt."""
        self.owner = None
        self.calls = {
            path: ("PENDING_VERIFICATION" if status == "RUNNING" else status, attempt)
            for path, (status, attempt) in self.calls.items()
        }

    def answer(self, path: str) -> int | None:
        """Seq of what the wait at a path waits for, if it is there."""
        kind, name, _ = self.waits[path]
        if kind == "signal":
            return self.inbox[name][0] if self.inbox.get(name) else None
        if kind == "approval":
            return self.answers[name]
        return self.children[name][1] if kind == "child" else None

    def place(self) -> tuple[Any, ...] | None:
        """Where it must stand in the queue."""
        if self.over:
            doubts = any(status == "PENDING_VERIFICATION" for status, _ in self.calls.values())
            return ("attention",) if doubts else None
        if self.owner is not None:
            return ("held", self.owner)
        if self.status in ("parked", "diverged") or self.why in ("in doubt", "blocked"):
            return ("attention",)
        if self.driver != "code":
            return ("waiting",)
        if self.retry_ns is not None:
            return ("timer", self.retry_ns)
        if self.status == "pending" or any(self.answer(path) is not None for path in self.waits):
            return ("ready", self.priority)
        times = [wake for _, _, wake in self.waits.values() if wake is not None]
        return ("timer", min(times)) if times else ("waiting",)

    def seen(self) -> dict[str, Any]:
        """All that the fold of its events must agree with."""
        return {
            "status": self.status,
            "why": self.why if self.status == "waiting" else None,
            "cancelling": self.cancelling,
            "owner": self.owner,
            "epoch": self.epoch,
            "attempt": self.attempt,
            "retry_ns": self.retry_ns,
            "losses": self.losses,
            "version": self.version,
            "step": self.step,
            "code": self.code,
            "waits": self.waits,
            "inbox": {name: seqs for name, seqs in self.inbox.items() if seqs},
            "answers": self.answers,
            "children": self.children,
            "calls": self.calls,
            "newer": self.newer,
        }


@dataclass(eq=False)
class Pen:
    """A worker's right to append, as it thinks: of one claim, kept when it is long over."""

    worker: str
    run: str
    epoch: int
    recorder: Any = None
    riders: list[Word] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    """Its own outside writes that are under way: attempt by path."""

    def rides(self, *names: str) -> set[Any]:
        """What its riders of some types name first."""
        return {word[1] for word in self.riders if word[0] in names}


class Model:
    """All runs."""

    def __init__(self, head: int) -> None:
        self.runs: dict[str, Ran] = {}
        self.head = head
        self.life: dict[str, str] = {}
        """`alive`, `overdue` or `gone`, by worker."""
        self._said: Said = []

    def alive(self, worker: str | None) -> bool:
        return self.life.get(worker or "") == "alive"

    def told(self) -> Said:
        """What was said since the last call."""
        said, self._said = self._said, []
        return said

    def _say(self, run: str, *types: str) -> int:
        for name in types:
            self._said.append((run, name))
            self.head += 1
        return self.head

    # From outside

    def create(self, ran: Ran) -> None:
        self.runs[ran.run] = ran
        self._say(ran.run, "run_created", "step_created")

    def claim(self, ran: Ran, worker: str, code: bytes | None) -> bool:
        """By name; False if there was nothing left to claim."""
        if ran.over:
            return False
        if ran.newer or (ran.owner is not None and self.alive(ran.owner)):
            raise No(Refused)
        if ran.owner is not None:
            self._lose(ran)
        if ran.cancelling:
            self._end(ran, "cancelled", "step_cancelled", "run_cancelled")
            return False
        self._say(ran.run, "step_claimed")
        ran.epoch, ran.owner, ran.status, ran.why, ran.retry_ns = ran.epoch + 1, worker, "running", None, None
        ran.code = code or ran.code
        return True

    def claimable(self, accepts: Callable[[Ran], bool], now_ns: int) -> list[Ran]:
        """What somebody who accepts so much may claim now."""
        found = []
        for ran in self.runs.values():
            place = ran.place()
            due = place is not None and (place[0] == "ready" or (place[0] == "timer" and place[1] <= now_ns))
            if due and accepts(ran) and not ran.newer:
                found.append(ran)
        return found

    def lost(self) -> list[Ran]:
        """What is held by workers that are gone or overdue."""
        return [ran for ran in self.runs.values() if ran.owner is not None and not self.alive(ran.owner)]

    def expire(self, ran: Ran) -> bool:
        """Free what lost its worker; False if a newer version must."""
        if ran.newer:
            return False
        self._lose(ran)
        if ran.cancelling:
            self._end(ran, "cancelled", "step_cancelled", "run_cancelled")
        elif ran.losses >= ran.most_losses and ran.driver == "code":
            self._say(ran.run, "run_parked")
            ran.status, ran.losses = "parked", 0
        return True

    def cancel(self, ran: Ran, *, top: bool = True) -> None:
        if ran.over:
            if top:
                raise No(Refused)
            return
        if ran.newer and top:
            raise No(Refused)
        for child, (_, ended) in ran.children.items():
            if ended is None:
                self.cancel(self.runs[child], top=False)
        if ran.newer:
            return
        if not ran.cancelling:
            self._say(ran.run, "run_cancel_requested")
            ran.cancelling = True
        if ran.owner is not None and self.alive(ran.owner):
            return
        if ran.owner is not None:
            self._lose(ran)
        self._end(ran, "cancelled", "step_cancelled", "run_cancelled")

    def signal(self, ran: Ran, name: str, sender: str | None) -> bool:
        if ran.newer:
            raise No(Refused)
        if sender is not None and (name, sender) in ran.senders:
            return False
        if ran.over:
            raise No(Refused)
        ran.inbox.setdefault(name, []).append(self._say(ran.run, "signal_received"))
        if sender is not None:
            ran.senders.add((name, sender))
        return True

    def approve(self, approval: str, now_ns: int) -> None:
        ran = next((one for one in self.runs.values() if approval in one.answers), None)
        if ran is None:
            raise No(NotFound)
        asks = any(
            (kind, name) == ("approval", approval) and (until is None or until > now_ns)
            for kind, name, until in ran.waits.values()
        )
        if ran.newer or ran.answers[approval] is not None or ran.over or not asks:
            raise No(Refused)
        ran.answers[approval] = self._say(ran.run, "approval_decided")

    def newer(self, ran: Ran) -> None:
        """A newer version writes what this one must not pass over."""
        self._say(ran.run, "from_the_future")
        ran.newer = True

    def late(self, pen: Pen, path: str, outcome: str) -> None:
        """A worker that lost its step says what became of its own call."""
        ran = self.runs[pen.run]
        if not ran.over and ran.calls.get(path, ("",))[0] in OPEN and ran.calls[path][1] == pen.calls[path]:
            self._apply(ran, ("tool_call_settled", path, outcome))

    # By whoever holds the step, or thinks so

    def commit(self, pen: Pen, words: Iterable[Word], *, begins: bool = False) -> None:
        """Riders, then words."""
        ran = self._fenced(pen, begins=begins)
        words = [*pen.riders, *words]
        for word in words:
            status = ran.calls.get(word[1], ("",))[0] if len(word) > 1 else ""
            if word[0] == "tool_call_requested" and status in ("SUCCEEDED", "COMPENSATED"):
                raise No(Settled)
            outcome = word[0] in ("tool_call_completed", "tool_call_failed", "tool_call_settled")
            if outcome and status not in (*OPEN, ""):
                raise No(Settled)  # somebody else knew, and was faster
        for word in words:
            self._apply(ran, word)
        pen.riders = []

    def end(self, pen: Pen, words: Iterable[Word]) -> None:
        """End the step or give it back; a run that is to be cancelled ends."""
        ran = self._fenced(pen)
        if ran.cancelling:
            words = [("step_cancelled",), ("run_cancelled",)]
        self.commit(pen, words)

    def look(self, pen: Pen) -> None:
        """Before something begins."""
        self._fenced(pen, begins=True)

    def spawn(self, pen: Pen, path: str, child: Ran) -> None:
        self._fenced(pen, begins=True)
        if child.run in self.runs:
            raise No(KeyConflict)
        self.commit(pen, [("child_run_requested", path, child.run)], begins=True)
        self.create(child)

    def _fenced(self, pen: Pen, *, begins: bool = False) -> Ran:
        ran = self.runs[pen.run]
        if ran.newer:
            raise No(Refused)
        if ran.epoch != pen.epoch or ran.owner is None or ran.over:
            raise No(Fenced)
        if begins and ran.cancelling:
            raise No(Cancelled)
        return ran

    # What becomes of a run

    def _lose(self, ran: Ran) -> None:
        self._say(ran.run, "lease_expired")
        ran.drop()
        ran.losses, ran.status, ran.why = ran.losses + 1, "pending", None

    def _end(self, ran: Ran, status: str, *types: str) -> None:
        self._say(ran.run, *types)
        ran.drop()
        ran.status, ran.why, ran.retry_ns, ran.waits = status, None, None, {}
        ran.cancelling = ran.cancelling and status != "cancelled"
        parent = self.runs.get(ran.parent or "")
        if parent is not None and not parent.over and parent.children[ran.run][1] is None:
            parent.children[ran.run] = (status, self._say(parent.run, "child_run_ended"))

    def _apply(self, ran: Ran, word: Word) -> None:
        name, *rest = word
        if name == "step_suspended":
            self._apply(ran, ("step_released", "waits" if ran.waits else "yield"))
            return
        if name == "not_known":
            self._tool_call_failed(ran, self._say(ran.run, "tool_call_failed"), rest[0], True, rest[1], guess=True)
            return
        if name in ("run_completed", "run_failed", "run_cancelled"):
            self._end(ran, name.removeprefix("run_"), name)
            return
        getattr(self, f"_{name}")(ran, self._say(ran.run, name), *rest)

    def _value_captured(self, ran: Ran, seq: int, path: str) -> None:
        ran.losses = 0

    def _tool_call_requested(self, ran: Ran, seq: int, path: str, attempt: int) -> None:
        ran.calls[path] = ("RUNNING", attempt)
        ran.waits.pop(path, None)

    def _tool_call_completed(self, ran: Ran, seq: int, path: str) -> None:
        ran.calls[path] = ("SUCCEEDED", ran.calls[path][1])
        ran.waits.pop(path, None)
        ran.losses = 0

    def _tool_call_failed(
        self, ran: Ran, seq: int, path: str, doubt: bool, wake_ns: int | None, *, guess: bool = False
    ) -> None:
        ran.losses = 0
        if guess and ran.calls[path][0] not in OPEN:
            return  # the word for not knowing came behind somebody who knew
        ran.calls[path] = ("PENDING_VERIFICATION" if doubt else "FAILED_NO_EFFECT", ran.calls[path][1])
        if wake_ns is not None:
            ran.waits[path] = ("settle" if doubt else "retry", "t", wake_ns)

    def _tool_call_settled(self, ran: Ran, seq: int, path: str, outcome: str) -> None:
        ran.calls[path] = ({"succeeded": "SUCCEEDED", "no_effect": "FAILED_NO_EFFECT"}[outcome], ran.calls[path][1])
        waited = ran.waits.pop(path, None)
        ran.losses = 0 if outcome == "succeeded" else ran.losses
        doubts = any(status == "PENDING_VERIFICATION" for status, _ in ran.calls.values())
        if ran.status == "waiting" and ((ran.why == "in doubt" and not doubts) or (ran.why == "waits" and waited)):
            ran.status, ran.why = "pending", None  # its code can go on

    def _timer_started(self, ran: Ran, seq: int, path: str, wake_ns: int) -> None:
        ran.waits[path] = ("sleep", "", wake_ns)

    def _timer_fired(self, ran: Ran, seq: int, path: str) -> None:
        del ran.waits[path]
        ran.losses = 0

    def _signal_awaited(self, ran: Ran, seq: int, path: str, name: str, wake_ns: int | None) -> None:
        ran.waits[path] = ("signal", name, wake_ns)
        ran.took.pop(path, None)  # by an earlier attempt, which saw it

    def _approval_requested(self, ran: Ran, seq: int, path: str, approval: str, wake_ns: int | None) -> None:
        ran.waits[path] = ("approval", approval, wake_ns)
        ran.answers[approval] = None

    def _child_awaited(self, ran: Ran, seq: int, path: str, child: str, wake_ns: int | None) -> None:
        ran.waits[path] = ("child", child, wake_ns)

    def _child_run_requested(self, ran: Ran, seq: int, path: str, child: str) -> None:
        ran.children[child] = ("running", None)

    def _wait_answered(self, ran: Ran, seq: int, path: str, answer: int) -> None:
        kind, name, _ = ran.waits.pop(path)
        ran.losses = 0
        if kind == "signal":
            assert ran.inbox[name][0] == answer, "first in, first out"
            del ran.inbox[name][0]
            ran.took[path] = (name, answer)

    def _effect_abandoned(self, ran: Ran, seq: int, path: str) -> None:
        ran.waits.pop(path, None)
        if path in ran.took:  # given back: the code never saw it
            name, answer = ran.took.pop(path)
            ran.inbox[name] = sorted([*ran.inbox[name], answer])

    def _agent_result_returned(self, ran: Ran, seq: int) -> None:
        pass

    def _state_patch_committed(self, ran: Ran, seq: int) -> None:
        ran.version += 1

    def _step_blocked(self, ran: Ran, seq: int) -> None:
        pass

    def _divergence_detected(self, ran: Ran, seq: int) -> None:
        ran.status = "diverged"

    def _step_released(self, ran: Ran, seq: int, why: str | None) -> None:
        ran.drop()
        if ran.status == "running":
            ran.status, ran.why = ("pending", None) if why in (None, "yield") else ("waiting", why)
            ran.losses = 0

    def _step_retry_scheduled(self, ran: Ran, seq: int, wake_ns: int, fresh: bool) -> None:
        ran.drop()
        ran.status, ran.why, ran.losses = "waiting", "retry", 0
        ran.attempt, ran.retry_ns = ran.attempt + 1, wake_ns
        ran.waits = {} if fresh else ran.waits

    def _step_completed(self, ran: Ran, seq: int) -> None:
        ran.drop()
        ran.waits, ran.losses = {}, 0

    def _step_failed(self, ran: Ran, seq: int) -> None:
        ran.drop()
        ran.waits = {}

    def _step_cancelled(self, ran: Ran, seq: int) -> None:
        ran.drop()
        ran.waits = {}

    def _step_created(self, ran: Ran, seq: int, agent: str, code: bytes | None) -> None:
        ran.step, ran.agent, ran.code = ran.step + 1, agent, code
        ran.status, ran.why, ran.attempt = "pending", None, 1
