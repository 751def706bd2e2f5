"""Durable waits: for a time, a signal, a person's answer, a child run.

Rules: what is waited for is recorded, so that nobody has to be there while it does not come: a step whose every branch
waits is given back. Answers come from elsewhere and stand in the log before the code sees them; `wait_answered` and
`timer_fired` record in which order it did. A child is created in the commit that records its intent, and names it. This
file does not know loops, threads, or who owns the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ledger_core import chain, codec, secret
from ledger_core.clock import NS
from ledger_core.errors import BadInput, ChildFailed, EffectFailed, KeyConflict, WaitTimedOut
from ledger_core.events import Body
from ledger_core.events.run import RunCreated
from ledger_core.events.wait import (
    ApprovalAwaited,
    ApprovalRequested,
    ChildAwaited,
    ChildRunRequested,
    SignalAwaited,
    TimerFired,
    TimerStarted,
    WaitAnswered,
)
from ledger_core.ids import check_id, check_name, new_id
from ledger_core.log.log import Draft, Event, Later
from ledger_core.run import decide
from ledger_core.run.journal import TIMED_OUT, Entry, Intent, Standing, answer_of
from ledger_core.run.state import RunState
from ledger_core.runtime.asked import duration
from ledger_core.runtime.driver import HOLD_NS, StepStopped, Suspended
from ledger_core.runtime.effect import Effects, Place, failure, replayed
from ledger_core.runtime.folds import Runs

_PUBLIC: Final = bytes(32)
_FAILURES: Final[dict[str, type[EffectFailed]]] = {"join": ChildFailed}
Answer = Callable[[RunState], int | None]
"""Seq of the event that answers a wait, in a state of the run; None before there is one."""


class WaitEffects(Effects):
    """The waits of a step."""

    _taken: set[int]
    """Answers that a wait of this execution has taken; their events may still ride."""
    _given: dict[str, int]

    async def sleep(self, place: Place, wake_ns: int | None, seconds: float | None) -> None:
        """Wait until a time, or for a time; the code that says "for" is compared by it, not by when it was."""
        self._check_open()
        asked = {"until_ns": wake_ns} if seconds is None else {"seconds": seconds}
        intent = self._intent(place, "sleep", "", asked)
        entry = self._compared(intent)
        work = self._sleep(intent, entry, lambda: wake_ns if seconds is None else self._now_ns() + int(seconds * NS))
        await self.driver.effect(work, lambda: self._left(intent))

    async def _sleep(self, intent: Intent, entry: Entry | None, wake: Callable[[], int | None]) -> None:
        entry = await self._turn(intent, entry)
        if entry is not None and entry.final:
            return
        wake_ns = wake() if entry is None else entry.wake_ns
        assert wake_ns is not None
        if entry is None:
            self._begin(TimerStarted(path=intent.path, request=intent.request, wake_ns=wake_ns, asked=intent.document))
            if wake_ns - self._now_ns() > HOLD_NS:
                self._flush()
        await self._until(intent.path, wake_ns)
        await self._outcome(TimerFired(path=intent.path), durable=False)

    async def yield_(self, place: Place) -> None:
        """Give the step back, so that others have a turn; it goes on here when it is claimed again."""
        self._check_open()
        intent = self._intent(place, "sleep", "", {"yield": True})
        entry = self._compared(intent)
        await self.driver.effect(self._yield(intent, entry), lambda: self._left(intent))

    async def _yield(self, intent: Intent, entry: Entry | None) -> None:
        entry = await self._turn(intent, entry)
        if entry is not None and entry.final:
            return
        if entry is None:
            now = self._now_ns()
            self._begin(TimerStarted(path=intent.path, request=intent.request, wake_ns=now, asked=intent.document))
            raise self._stopped(Suspended())
        await self._outcome(TimerFired(path=intent.path), durable=False)

    async def wait_signal(self, place: Place, name: str, timeout: float | None) -> Any:
        """The payload of the next signal of a name; raises `WaitTimedOut`."""
        self._check_open()
        check_name(name, "signal")
        intent = self._intent(place, "signal", name, {"timeout": duration(timeout)})

        def body(wake_ns: int | None) -> Body:
            return SignalAwaited(
                path=intent.path, name=name, request=intent.request, wake_ns=wake_ns, asked=intent.document
            )

        def first(state: RunState) -> int | None:
            return next((seq for seq in state.signals.get(name, ()) if seq not in self._taken), None)

        return await self._wait(intent, timeout, body, first)

    async def request_approval(self, place: Place, question: Any, timeout: float | None) -> Any:
        """A person's answer: `{"approved", "by", "reason"}`; raises `WaitTimedOut`."""
        self._check_open()
        asked = {"question": secret.plain(question), "timeout": duration(timeout)}
        intent = self._intent(place, "approval", "", asked)
        approval = self._approval(intent.path)

        def body(wake_ns: int | None) -> Body:
            tag = approval_tag(approval)
            return ApprovalRequested(
                path=intent.path, approval=approval, tag=tag, request=intent.request, wake_ns=wake_ns, asked=asked
            )

        return await self._wait(intent, timeout, body, lambda state: state.approvals.get(approval))

    async def ask_approval(self, place: Place, question: Any, timeout: float | None) -> str:
        """The id of a request that a person is to answer, while the code goes on."""
        self._check_open()
        asked = {"question": secret.plain(question), "timeout": duration(timeout)}
        intent = self._intent(place, "question", "", asked)
        entry = self._compared(intent)
        return str(await self.driver.effect(self._put(intent, entry, timeout), lambda: self._abandoned(intent)))

    async def _put(self, intent: Intent, entry: Entry | None, timeout: float | None) -> str:
        entry = await self._turn(intent, entry)
        if entry is not None and entry.final:
            return str(entry.value)
        approval = self._approval(intent.path)
        requested = ApprovalRequested(
            path=intent.path,
            approval=approval,
            tag=approval_tag(approval),
            request=intent.request,
            wake_ns=None if timeout is None else self._now_ns() + int(timeout * NS),
            pending=True,
            asked=intent.document,
        )
        turn = self.driver.drafted()
        await self._append(lambda *_: (requested,), begins=True)
        await self.driver.deliver(turn)
        return approval

    async def await_approval(self, place: Place, approval: str, timeout: float | None) -> Any:
        """A person's answer to a request that was made before; raises `WaitTimedOut`."""
        self._check_open()
        intent = self._intent(place, "answer", approval, {"timeout": duration(timeout)})

        def body(wake_ns: int | None) -> Body:
            expires = self._state.pending.get(approval)
            times = [time for time in (wake_ns, expires) if time is not None]
            return ApprovalAwaited(
                path=intent.path,
                approval=approval,
                request=intent.request,
                wake_ns=min(times, default=None),
                asked=intent.document,
            )

        def decided(state: RunState) -> int | None:
            if approval not in state.approvals and state.ancestor is not None:
                raise self._not_come(state, approval, "a question of a run that it was forked from: nobody answered it")
            return state.approvals.get(approval)

        return await self._wait(intent, timeout, body, decided)

    def _not_come(self, state: RunState, awaited: str, what: str) -> StepStopped:
        """A fork waits for what was under way in its line: it is told of it when it is gone on with."""
        return self._stopped(
            BadInput(
                f"Run {state.run} waits for {awaited}, {what}.",
                hint=f"When it has come: agentledger resume {state.run}",
            )
        )

    def _approval(self, path: str) -> str:
        """The id of a request: the recorded one, or a new one for this attempt. An answer holds for one request."""
        journal = self.driver.journal
        entry = journal.entries.get(path)
        if entry is not None and entry.intent.kind == "approval" and not entry.final:
            return str(entry.value)
        return new_id("appr", chain.tag(self._seed, f"approval:{path}:{journal.attempt}".encode()))

    async def join(self, place: Place, run_id: str, timeout: float | None) -> Any:
        """A child's output; raises `ChildFailed`, `WaitTimedOut`, and `BadInput` for what is no child of this run."""
        self._check_open()
        intent = self._intent(place, "join", run_id, {"timeout": duration(timeout)})

        def body(wake_ns: int | None) -> Body:
            return ChildAwaited(
                path=intent.path, run=run_id, request=intent.request, wake_ns=wake_ns, asked=intent.document
            )

        def ended(state: RunState) -> int | None:
            child = state.children.get(run_id)
            if child is None and state.ancestor is not None:
                raise self._not_come(state, run_id, "a child of a run that it was forked from: it goes on")
            if child is None:
                raise self._stopped(
                    BadInput(
                        f"Run {state.run} waits for {run_id}, which is no child of it.",
                        hint="Wait for what ctx.spawn returned: nobody can wait for its own parent, or for itself.",
                    )
                )
            return child.ended

        return await self._wait(intent, timeout, body, ended)

    async def _wait(
        self, intent: Intent, timeout: float | None, body: Callable[[int | None], Body], find: Answer
    ) -> Any:
        entry = self._compared(intent)
        work = self._waiting(intent, entry, timeout, body, find)
        return await self.driver.effect(work, lambda: self._left(intent))

    async def _waiting(
        self,
        intent: Intent,
        entry: Entry | None,
        timeout: float | None,
        body: Callable[[int | None], Body],
        find: Answer,
    ) -> Any:
        kind = _FAILURES.get(intent.kind, WaitTimedOut)
        entry = await self._turn(intent, entry)
        if entry is not None and entry.final:
            return replayed(entry, WaitTimedOut if entry.error_type == TIMED_OUT else kind)
        if entry is None:
            begun: Any = body(None if timeout is None else self._now_ns() + int(timeout * NS))
            wake_ns = begun.wake_ns
            if find(self._state) is None and intent.kind == "approval":
                await self._append(lambda *_: (begun,), begins=True)
            else:
                self._begin(begun)
        else:
            wake_ns = entry.wake_ns
        while (found := find(self._state)) is None:
            if wake_ns is not None and self._now_ns() >= wake_ns:
                await self._outcome(TimerFired(path=intent.path), durable=False)
                raise failure(WaitTimedOut(intent.name, TIMED_OUT, "it did not come in time"), intent.path)
            self._flush()
            await self.driver.park(intent.path, wake_ns)
        self._taken.add(found)
        self._given[intent.path] = found
        assert self._recorder is not None
        answer: Any = self._recorder.log.event(found).body
        await self._outcome(WaitAnswered(path=intent.path, answer=found), durable=False)
        standing, value, error_type = answer_of(answer)
        if standing is Standing.FAILED:
            raise failure(kind(intent.name, error_type or "Error", str(value)), intent.path)
        return codec.roundtrip(value)

    # Children

    async def spawn(self, place: Place, agent: Any, options: Mapping[str, Any]) -> str:
        """Start a child run; its id. Raises `BadInput` before anything was recorded."""
        self._check_open()
        spec = self._around.known(agent)
        name: str = spec if isinstance(spec, str) else spec.name
        if options.get("budget") is not None:
            raise BadInput("A child has no budget of its own.", hint="It draws on that of the run that began it all.")
        state = secret.plain(dict(options.get("initial_state") or {}))
        chosen = options.get("run_id")
        asked = {"agent": name, "initial_state": state, "run_id": chosen}
        intent = self._intent(place, "child", name, asked)
        drawn = chain.tag(self._seed, f"child:{intent.path}".encode())
        run_id = new_id("run", drawn) if chosen is None else check_id(chosen, "run")
        entry = self._compared(intent)
        work = self._spawn(intent, entry, run_id, spec, state, options)
        return str(await self.driver.effect(work, lambda: self._abandoned(intent)))

    async def _spawn(
        self, intent: Intent, entry: Entry | None, run_id: str, spec: Any, state: Any, options: Mapping[str, Any]
    ) -> str:
        entry = await self._turn(intent, entry)
        if entry is not None and entry.final:
            self._around.spawned(str(entry.value))
            return str(entry.value)
        requested = ChildRunRequested(
            path=intent.path, run=run_id, agent=intent.name, request=intent.request, asked=intent.document
        )
        seed = chain.tag(self._seed, f"child seed:{intent.path}".encode())

        def family(runs: Runs, parent: RunState) -> Iterator[Draft | Later]:
            if runs.state(run_id) is not None:
                raise KeyConflict(
                    f"Run {parent.run} cannot start {run_id} as its child: there is a run of that id.",
                    hint="A child cannot be its own parent, nor another's; leave the id out, or choose a new one.",
                )
            step = new_id("step", chain.tag(seed, b"step"))
            yield from _created(runs, parent, intent.path, run_id, seed, step, spec, state, options)

        turn = self.driver.drafted()
        await self._append(lambda *_: (requested,), begins=True, family=family)
        await self.driver.deliver(turn)
        self._around.spawned(run_id)
        return run_id

    def _left(self, intent: Intent) -> None:
        """The code stopped waiting: it takes nothing more, and what it was to be given is there for the next."""
        self._abandoned(intent)
        self._taken.discard(self._given.pop(intent.path, 0))
        self.driver.leave(intent.path)


def _created(
    runs: Runs,
    parent: RunState,
    path: str,
    run_id: str,
    seed: bytes,
    step: str,
    spec: Any,
    state: Any,
    options: Mapping[str, Any],
) -> Iterator[Draft | Later]:
    """A child's first events; the first names the hash of its parent's intent, which is sealed before it."""
    known = not isinstance(spec, str)

    def created(seq: int, hash_: bytes) -> RunCreated:
        return RunCreated(
            run=run_id,
            agent=spec.name if known else spec,
            role=spec.role if known else None,
            entry_point=spec.entry_point if known else None,
            code_digest=spec.code_digest if known else None,
            origin=spec.origin if known else None,
            session=parent.session,
            seed=seed,
            priority=options.get("priority", parent.priority) or None,
            capabilities=options.get("capabilities"),
            retry=options.get("retry"),
            timeout_ns=options.get("timeout_ns"),
            parent=parent.run,
            parent_path=path,
            parent_seq=seq,
            parent_hash=hash_,
            root=parent.root,
            writes_blocked=parent.writes_blocked or None,
            initial_state=state,
        )

    first, second = runs.drafts(RunState(), decide.create(created(0, bytes(32)), step))
    assert isinstance(first, Draft)

    def later(events: Any) -> Draft:
        intent: Event = next(
            one for one in events if isinstance(one.body, ChildRunRequested) and one.body.run == run_id
        )
        return Draft(stream=first.stream, body=created(intent.seq, intent.hash), causation=intent.seq, step=first.step)

    yield later
    yield second


def approval_tag(approval: str) -> bytes:
    """What finds a request for an approval by its id."""
    return chain.tag(_PUBLIC, f"approval:{approval}".encode())
