"""Many workers over several runs, with clocks, crashes and cancellations, against a plain model (`suites.machine`).

The decisions are the real ones, in a real log; who lives and what time it is are facts that the test sets. Workers that
lost a step keep their pens and go on trying. After every step the log's growth, the fold of every run, and every place
in the queue are compared with the model's, and what no model is needed for is read from the records themselves.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from suites.machine import OPEN, Model, No, Pen, Ran, Word

from ledger_core import chain
from ledger_core.clock import NS, Clock
from ledger_core.errors import KeyConflict
from ledger_core.events import Unknown
from ledger_core.events.effect import (
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
    ValueCaptured,
)
from ledger_core.events.run import RunCreated
from ledger_core.events.step import StepCreated
from ledger_core.events.wait import (
    ApprovalRequested,
    ChildAwaited,
    ChildRunRequested,
    SignalAwaited,
    TimerFired,
    TimerStarted,
    WaitAnswered,
)
from ledger_core.log import audit, index
from ledger_core.log.batch import View
from ledger_core.log.group import Ticket
from ledger_core.log.log import Draft, Event, Log
from ledger_core.log.store import Tree
from ledger_core.run import answer, decide, divergence, schedule
from ledger_core.run.decide import Failure
from ledger_core.run.divergence import Divergence
from ledger_core.run.schedule import Offer
from ledger_core.run.state import RunState, fold
from ledger_core.runtime import claims
from ledger_core.runtime.carry import _unless_cancelled
from ledger_core.runtime.claims import Asked, Desk, Opening
from ledger_core.runtime.folds import Fold, Folds, Runs, stream_of
from ledger_core.runtime.recorder import Recorder
from ledger_core.runtime.steering import Steering
from ledger_core.runtime.wait_effects import _created, approval_tag

STEPS = 10_000
"""At least so many commands are given, however long that takes."""
EXAMPLES = int(os.environ.get("AGENTLEDGER_MACHINE_EXAMPLES", "0")) or 110
STEPS_EACH = 120
MOST_RUNS, MOST_WORKERS = 6, 4
AGENTS, CODES, NEEDS = ("a", "b"), (None, b"1" * 32, b"2" * 32), ((), ("gpu",))
NAMES = ("go", "stop")

given = Counter[str]()
"""Commands that were given, by name, in all examples."""
refused = Counter[str]()
pick = st.integers(0, 63)
seldom = st.integers(0, 3).map(lambda n: n == 3)
rare = st.integers(0, 7).map(lambda n: n == 7)
times = st.none() | st.integers(-1, 4).map(lambda n: n * NS)


class Helm(Steering):
    """A process that only steers."""

    def __init__(self, log: Log, desk: Desk) -> None:
        self.log, self.desk = log, desk


class Crowd:
    """Stands where the log's group commit stands: puts a command into one batch with others that come to nothing.

    The one behind it reads all runs, the last cannot be sealed: so the batch is abandoned, and the command decides anew,
    on a log that is again what it was.
    """

    def __init__(self, log: Log, read: Any) -> None:
        self._log, self._read = log, read
        self.poisoned = False

    def run(self, decision: Any) -> list[Event]:
        tickets = [Ticket(decision)]
        if self.poisoned:
            bad = Draft(stream="run/bad", body=ValueCaptured(path="1", source="now", name="", value=0), epoch="x")  # type: ignore[arg-type]
            tickets += [Ticket(self._read), Ticket(lambda _: [bad])]
            self.poisoned = False
        self._log._commit(tickets)
        return tickets[0].outcome()

    def close(self) -> None:
        pass


class Machine(RuleBasedStateMachine):
    """One ledger."""

    @initialize()
    def begin(self) -> None:
        self.now_ns, self.drawn, self.ids = 1_000 * NS, 0, 0
        self.log = Log.in_memory(clock=Clock(now_ns=lambda: self.now_ns, random=self._draw))
        self.log._group.close()
        self.crowd = Crowd(self.log, self._read_all)
        self.log._group = self.crowd  # type: ignore[assignment]
        self.model = Model(self.log.head().seq)
        self.helm = Helm(self.log, Desk(log=self.log, folds=Folds(), alive=self._alive))
        self.desks: dict[str, Desk] = {}
        self.pens: list[Pen] = []
        self.folds: dict[str, RunState] = {}
        self.counts: dict[str, tuple[Counter[str], Counter[str]]] = {}
        self.births: dict[str, set[int]] = {}
        self.held: dict[str, tuple[int, int] | None] = {}
        self.final: set[tuple[str, str]] = set()
        self.checked = self.log.head()
        self.last: dict[int, tuple[int, int, bytes]] = {}
        for agent in AGENTS:
            self._hire()
            self.run_is_created(agent, 0, None, (), external=False, losses=2, fresh=False, worker=len(self.pens))
            self.log_and_model_agree()

    def teardown(self) -> None:
        if hasattr(self, "log") and self.checked == self.log.head():
            assert list(audit.whole(self.log._store)) == []
            for run, state in self.folds.items():
                events = self.log.stream(stream_of(run), contents=False)
                assert fold((one.seq, one.time_ns, one.type, one.body) for one in events) == state

    # Facts that the test sets

    def _alive(self, worker: str) -> bool:
        return self.model.alive(worker)

    def _draw(self, size: int) -> bytes:
        self.drawn += 1
        return chain.tag(bytes(32), b"%d" % self.drawn)[:size].ljust(size, b"\0")

    def _id(self, prefix: str) -> str:
        self.ids += 1
        return f"{prefix}{self.ids}"

    def _hire(self) -> None:
        worker = self._id("w")
        self.model.life[worker] = "alive"
        self.desks[worker] = Desk(log=self.log, folds=Folds(), alive=self._alive)

    def _read_all(self, view: View) -> list[Draft]:
        for desk in (self.helm.desk, *self.desks.values()):
            for run in self.model.runs:
                desk.folds.at(view, stream_of(run))
        for pen in self.pens:
            pen.recorder._fold.catch_up(view, stream_of(pen.run))
        return []

    @rule(seconds=st.integers(-3, 6))
    def clock_moves(self, seconds: int) -> None:
        self.now_ns += seconds * NS

    @rule(at=pick, really=seldom)
    def worker_dies(self, at: int, really: bool) -> None:
        if not really:
            return
        worker = self._worker(at)
        self.model.life[worker] = "gone"
        self.pens = [pen for pen in self.pens if pen.worker != worker]
        del self.desks[worker]
        self._hire()
        given["worker_dies"] += 1

    @rule(at=pick, overdue=seldom)
    def worker_stops_or_goes_on(self, at: int, overdue: bool) -> None:
        self.model.life[self._worker(at)] = "overdue" if overdue else "alive"
        given["worker_stops_or_goes_on"] += 1

    @rule()
    @precondition(lambda self: len(self.desks) < MOST_WORKERS)
    def worker_comes(self) -> None:
        self._hire()
        given["worker_comes"] += 1

    @rule()
    def batch_is_abandoned(self) -> None:
        """The next command is decided twice: once in a batch that comes to nothing."""
        self.crowd.poisoned = True

    def _worker(self, at: int) -> str:
        names = list(self.desks)
        return names[at % len(names)]

    def _ran(self, at: int) -> Ran:
        runs = list(self.model.runs.values())
        return runs[at % len(runs)]

    def _pen(self, at: int) -> tuple[Pen, Ran]:
        """A worker's pen: three times out of four one that still may write, if there is one."""
        runs, at, any_ = self.model.runs, at // 4, at % 4 == 0
        holds = [pen for pen in self.pens if any_ or (runs[pen.run].owner and runs[pen.run].epoch == pen.epoch)]
        pens = holds or self.pens
        pen = pens[at % len(pens)]
        return pen, runs[pen.run]

    # Commands

    def _does(self, name: str, wanted: Any, act: Any) -> Any:
        """Give a command to the model and to the log: the same refusal, or none."""
        given[name] += 1
        try:
            wanted()
        except No as no:
            refused[f"{name}: {no.error.__name__}"] += 1
            assert self.model.told() == []
            with pytest.raises(no.error) as caught:
                act()
            assert caught.type is no.error
            return None
        return act()

    @rule(
        agent=st.sampled_from(AGENTS),
        priority=st.integers(-1, 1),
        code=st.sampled_from(CODES),
        needs=st.sampled_from(NEEDS),
        external=rare,
        losses=st.integers(1, 3),
        fresh=st.booleans(),
        worker=st.none() | pick,
    )
    @precondition(lambda self: len(self.model.runs) < MOST_RUNS)
    def run_is_created(self, agent, priority, code, needs, *, external, losses, fresh, worker) -> None:
        ran = Ran(self._id("r"), agent, priority, frozenset(needs), code, "external" if external else "code")
        ran.most_losses, ran.always_fresh = losses, fresh
        created = RunCreated(
            run=ran.run,
            agent=agent,
            driver=ran.driver,
            code_digest=code,
            seed=self._draw(32),
            priority=priority or None,
            capabilities=list(needs) or None,
            retry=_policy(losses, fresh=fresh),
            initial_state={},
        )
        name = None if worker is None else self._worker(worker)
        desk = self.helm.desk if name is None else self.desks[name]
        opening = Opening(desk, Asked(created=created, given=True), worker=name, digest=lambda _: code)

        def wanted() -> None:
            self.model.create(ran)
            if name is not None:
                self.model.claim(ran, name, code)

        events = self._does("run_is_created", wanted, lambda: self.log.decide(opening.decide))
        self._born(ran.run)
        assert opening.fresh
        if name is not None:
            self._take(name, ran.run, events)

    def _born(self, run: str) -> None:
        born = next(event for event in self.log.stream(stream_of(run), contents=False))
        self.births[run] = {self.now_ns, born.time_ns}

    def _take(self, worker: str, run: str, events: list[Event]) -> None:
        """What a carrier does first: read the run, and get a pen."""
        stream = stream_of(run)
        own = [event for event in events if event.stream == stream]
        seen = Fold()
        seen.catch_up(self.log, stream)
        recorder = Recorder(self.log, stream, seen.state, own[-1].hash, self.desks[worker].folds)
        self.pens.append(Pen(worker, run, seen.state.epoch, recorder))
        self.pens = self.pens[-24:]

    @rule(at=pick, worker=pick, code=st.sampled_from(CODES))
    def run_is_claimed_by_name(self, at: int, worker: int, code: bytes | None) -> None:
        ran, name = self._ran(at), self._worker(worker)
        created = RunCreated(run=ran.run, agent=ran.agent, seed=bytes(32), initial_state={})
        asked, desk = Asked(created=created, given=False), self.desks[name]
        opening = Opening(desk, asked, worker=name, digest=lambda _: code, driver=ran.driver)
        before = ran.epoch
        events = self._does(
            "run_is_claimed_by_name",
            lambda: self.model.claim(ran, name, code),
            lambda: self.log.decide(opening.decide),
        )
        if events is not None:
            assert opening.ended == (ran.epoch == before)
        if ran.epoch > before:
            self._take(name, ran.run, events)

    @rule(
        worker=pick,
        agents=st.dictionaries(st.sampled_from(AGENTS), st.sampled_from(CODES), min_size=1),
        needs=st.sampled_from(NEEDS),
        any_code=st.booleans(),
        most=st.integers(1, 3),
    )
    def runs_are_claimed_from_the_queue(self, worker, agents, needs, any_code, most) -> None:
        self._claim(self._worker(worker), agents, needs, any_code, most)

    @rule(worker=pick, most=st.integers(1, 3))
    @precondition(lambda self: self.model.claimable(lambda _: True, self.now_ns))
    def anything_is_claimed_from_the_queue(self, worker: int, most: int) -> None:
        self._claim(self._worker(worker), dict.fromkeys(AGENTS), ("gpu",), False, most)

    def _claim(self, name: str, agents: dict[str, Any], needs: tuple[str, ...], any_code: bool, most: int) -> None:
        offer = Offer(agents=agents, capabilities=frozenset(needs), any_code=any_code)

        def accepts(ran: Ran) -> bool:
            known = ran.agent in agents and ran.needs <= set(needs)
            return known and (any_code or None in (ran.code, agents[ran.agent]) or ran.code == agents[ran.agent])

        found = self.model.claimable(accepts, self.now_ns)
        since = {row.stream: int.from_bytes(row.key[-8:], "big") for row in self.log.queued(limit=1000)}
        places = [ran.place() or () for ran in self.model.runs.values() if accepts(ran)]
        timers = [place[1] for place in places if place[:1] == ("timer",)]
        assert claims.wakes(self.log, offer) == (min(timers) if timers else None)
        newer = any(ran.newer for ran in self.model.runs.values())
        assert claims.ready(self.log, offer) == bool(found) or newer
        taken: list[str] = []
        given["runs_are_claimed_from_the_queue"] += 1
        events = self.log.decide(claims.claim_next(self.desks[name], offer, name, most, taken))
        assert len(taken) == len(set(taken)) == min(most, len(found))
        for run in taken:
            best = min((-ran.priority, since[stream_of(ran.run)]) for ran in found)
            ran = self.model.runs[run]
            assert ran in found and (-ran.priority, since[stream_of(run)]) == best
            found.remove(ran)
            assert self.model.claim(ran, name, agents[ran.agent])
            self._take(name, run, events)

    @rule()
    @precondition(lambda self: self.model.lost())
    def the_lost_are_freed(self) -> None:
        given["the_lost_are_freed"] += 1
        lost = self.model.lost()
        found = claims.held_by_the_lost(self.log, self._alive)
        assert sorted(found) == sorted((ran.run, ran.owner) for ran in lost)
        freed = [run for run, _ in found if self.model.expire(self.model.runs[run])]
        assert self.helm.recover_expired() == freed

    @rule(at=pick, worker=pick)
    @precondition(lambda self: self.model.lost())
    def one_is_freed(self, at: int, worker: int) -> None:
        """By somebody who thinks that a worker holds it and is gone, and may be wrong in both."""
        ran, name, freed = self._ran(at), self._worker(worker), list[str]()
        given["one_is_freed"] += 1
        if ran.owner == name and not self.model.alive(name):
            self.model.expire(ran)
        self.log.decide(claims.expire(self.desks[name], ran.run, name, freed))
        assert freed == [ran.run for one, _ in self.model._said[:1] if one]

    @rule(at=pick)
    def run_is_cancelled(self, at: int) -> None:
        ran = self._ran(at)
        if at % 3:
            return  # else there were too few that live
        done = self._does("run_is_cancelled", lambda: self.model.cancel(ran), lambda: self.helm.cancel_run(ran.run))
        assert done is None or done == bool(self.model._said)

    @rule(at=pick, name=st.sampled_from(NAMES), sender=st.none() | st.sampled_from("xy"))
    def signal_is_sent(self, at: int, name: str, sender: str | None) -> None:
        ran = self._ran(at)
        done = self._does(
            "signal_is_sent",
            lambda: self.model.signal(ran, name, sender),
            lambda: self.helm.signal(ran.run, name, {"n": 1}, sender_id=sender),
        )
        assert done is None or done == bool(self.model._said)

    @rule(at=pick, yes=st.booleans())
    def question_is_answered(self, at: int, yes: bool) -> None:
        asked = [approval for ran in self.model.runs.values() for approval in ran.answers]
        if not asked and at:
            return
        asked = asked or ["nothing"]
        approval = asked[-1 - at % len(asked)]
        act = self.helm.approve if yes else self.helm.deny
        self._does("question_is_answered", lambda: self.model.approve(approval), lambda: act(approval))

    @rule(at=pick, really=rare)
    def newer_version_writes(self, at: int, really: bool) -> None:
        ran = self._ran(at)
        if really and not ran.over and not ran.newer:
            given["newer_version_writes"] += 1
            body = Unknown(type="from_the_future", version=1, facts={}, critical=True)
            self.model.newer(ran)
            self.log.append(Draft(stream=stream_of(ran.run), body=body))

    # What workers write

    def _commit(self, name: str, pen: Pen, *pairs: tuple[Any, Word], begins: bool = False) -> bool:
        """Commit bodies; whether that was not refused."""
        bodies = [body for body, _ in pairs]
        done = self._does(
            name,
            lambda: self.model.commit(pen, [word for _, word in pairs], begins=begins),
            lambda: pen.recorder.commit(lambda *_: bodies, begins=begins),
        )
        return done is not None

    def _ride(self, pen: Pen, body: Any, *rest: Any) -> None:
        given["ride"] += 1
        pen.recorder.ride(body)
        pen.riders.append((body.kind.name, *rest))

    @rule(at=pick)
    @precondition(lambda self: self.pens)
    def worker_looks(self, at: int) -> None:
        pen, _ = self._pen(at)
        self._does("worker_looks", lambda: self.model.look(pen), lambda: pen.recorder.look(begins=True))

    @rule(at=pick, durable=st.booleans())
    @precondition(lambda self: self.pens)
    def value_is_captured(self, at: int, durable: bool) -> None:
        pen, _ = self._pen(at)
        path = self._id("v")
        self._ride(pen, ValueCaptured(path=path, source="now", name="", value=1), path)
        if durable:
            self._commit("riders_are_flushed", pen)

    @rule(at=pick, again=st.booleans())
    @precondition(lambda self: self.pens)
    def call_is_requested(self, at: int, again: bool) -> None:
        """A new outside write; or one that had no effect, again; or, wrongly, one that succeeded."""
        pen, ran = self._pen(at)
        known = [path for path, (status, _) in ran.calls.items() if status not in OPEN]
        path = known[at % len(known)] if again and known else self._id("t")
        attempt = ran.calls.get(path, ("", 0))[1] + 1
        body = ToolCallRequested(
            path=path,
            attempt=attempt,
            tool="t",
            tool_version="1",
            side_effect="external_write",
            request=b"q",
            arguments={},
        )
        if self._commit("call_is_requested", pen, (body, ("tool_call_requested", path, attempt)), begins=True):
            pen.calls[path] = attempt

    @rule(at=pick, which=pick, how=st.sampled_from(("well", "no effect", "doubt", "doubt, later", "later")))
    @precondition(lambda self: any(pen.calls for pen in self.pens))
    def call_ends(self, at: int, which: int, how: str) -> None:
        """A worker's own call ends; where it has lost the step, as late evidence, and nothing else."""
        pens = [pen for pen in self.pens if pen.calls]
        pen = pens[at % len(pens)]
        ran, path = self.model.runs[pen.run], list(pen.calls)[which % len(pen.calls)]
        attempt, wake_ns = pen.calls[path], self.now_ns + 2 * NS if "later" in how else None
        if path in pen.rides("tool_call_requested", "tool_call_completed", "tool_call_failed", "tool_call_settled"):
            return
        body: Any = ToolCallCompleted(path=path, attempt=attempt, result=1)
        word: Word = ("tool_call_completed", path)
        if how != "well":
            doubt = "doubt" in how
            body = ToolCallFailed(
                path=path,
                attempt=attempt,
                category="tool",
                error_type="E",
                in_doubt=doubt,
                retry_ns=wake_ns,
                message="it broke",
            )
            word = ("tool_call_failed", path, doubt, wake_ns)
        if self._commit("call_ends", pen, (body, word)):
            if "doubt" not in how:
                del pen.calls[path]
        elif ran.owner is None or ran.epoch != pen.epoch:
            outcome = "succeeded" if how == "well" else "no_effect"
            self._late(pen, path, outcome)
            del pen.calls[path]

    def _late(self, pen: Pen, path: str, outcome: Any) -> None:
        """As `ToolEffects._late` does."""
        said = ToolCallSettled(path=path, attempt=pen.calls[path], outcome=outcome, by="late")

        def decision(view: View) -> Any:
            runs = Runs(view, Folds(), self.now_ns)
            state = runs.state(pen.run)
            return () if state is None else runs.drafts(state, answer.settle_late(state, said), actor="late worker")

        self._does("late_evidence", lambda: self.model.late(pen, path, outcome), lambda: self.log.decide(decision))

    @rule(at=pick, which=pick, outcome=st.sampled_from(("succeeded", "no_effect")))
    @precondition(lambda self: self.pens and any(ran.calls for ran in self.model.runs.values()))
    def doubt_is_settled(self, at: int, which: int, outcome: Any) -> None:
        """By the worker that holds the step now, or that thinks so: its tool's hook knew."""
        pen, ran = self._pen(at)
        paths = [path for path, (status, _) in ran.calls.items() if status in OPEN] or list(ran.calls)
        if not paths:
            return
        path = paths[which % len(paths)]
        if path in pen.rides("tool_call_settled", "tool_call_failed", "tool_call_completed", "tool_call_requested"):
            return
        body = ToolCallSettled(path=path, attempt=ran.calls[path][1], outcome=outcome, by="verify")
        if self._commit("doubt_is_settled", pen, (body, ("tool_call_settled", path, outcome))):
            for one in self.pens:
                if one.run == pen.run and one.epoch == pen.epoch:
                    one.calls.pop(path, None)

    @rule(at=pick, kind=st.sampled_from(("sleep", *NAMES, "approval", "child")), wake=times, durable=st.booleans())
    @precondition(lambda self: self.pens)
    def wait_begins(self, at: int, kind: str, wake: int | None, durable: bool) -> None:
        pen, ran = self._pen(at)
        path, wake_ns = self._id("p"), None if wake is None else self.now_ns + wake
        asked: dict[str, Any] = {"path": path, "request": b"q", "asked": {}, "wake_ns": wake_ns}
        if kind == "sleep":
            asked["wake_ns"] = wake_ns or self.now_ns + NS
            pair: tuple[Any, Word] = TimerStarted(**asked), ("timer_started", path, asked["wake_ns"])
        elif kind == "approval":
            name, durable = f"appr_{path}", True
            body = ApprovalRequested(**asked, approval=name, tag=approval_tag(name))
            pair = body, ("approval_requested", path, name, wake_ns)
        elif kind == "child":
            if not ran.children:
                return
            child = list(ran.children)[at % len(ran.children)]
            pair = ChildAwaited(**asked, run=child), ("child_awaited", path, child, wake_ns)
        else:
            pair = SignalAwaited(**asked, name=kind), ("signal_awaited", path, kind, wake_ns)
        if durable:
            self._commit("wait_begins", pen, pair, begins=True)
        else:
            self._ride(pen, pair[0], *pair[1][1:])

    @rule(at=pick, which=pick, durable=st.booleans())
    @precondition(lambda self: any(self.model.runs[pen.run].waits for pen in self.pens))
    def wait_ends(self, at: int, which: int, durable: bool) -> None:
        """The code is given an answer that is there, or told that none came in time."""
        pens = [pen for pen in self.pens if self.model.runs[pen.run].waits]
        pen = pens[at % len(pens)]
        ran = self.model.runs[pen.run]
        path = list(ran.waits)[which % len(ran.waits)]
        kind, _, wake_ns = ran.waits[path]
        found = ran.answer(path)
        taken = {word[2] for word in pen.riders if word[0] == "wait_answered"}
        if path in pen.rides("wait_answered", "timer_fired") or found in taken or kind in ("retry", "settle"):
            return
        if found is not None:
            pair: tuple[Any, Word] = WaitAnswered(path=path, answer=found), ("wait_answered", path, found)
        elif wake_ns is not None and wake_ns <= self.now_ns:
            pair = TimerFired(path=path), ("timer_fired", path)
        else:
            return
        if durable:
            self._commit("wait_ends", pen, pair)
        elif pen.epoch == ran.epoch and ran.owner is not None:  # what a fenced worker has riding never gets anywhere
            self._ride(pen, pair[0], *pair[1][1:])

    @rule(at=pick, priority=st.integers(-1, 1), agent=st.sampled_from(AGENTS), taken=rare, needs=st.sampled_from(NEEDS))
    @precondition(lambda self: self.pens and len(self.model.runs) < MOST_RUNS)
    def child_is_spawned(self, at: int, priority: int, agent: str, taken: bool, needs: tuple[str, ...]) -> None:
        pen, ran = self._pen(at)
        path, run = self._id("c"), ran.run if taken else self._id("r")
        child = Ran(run, agent, priority, frozenset(needs), parent=ran.run, most_losses=3)
        body = ChildRunRequested(path=path, run=run, agent=agent, request=b"q", asked={})

        def family(runs: Runs, parent: RunState) -> Any:
            if runs.state(run) is not None:
                raise KeyConflict("taken")
            options = {"priority": priority, "capabilities": list(needs) or None, "retry": _policy(3, fresh=False)}
            yield from _created(runs, parent, path, run, bytes(32), f"step_{run}", agent, {}, options)

        done = self._does(
            "child_is_spawned",
            lambda: self.model.spawn(pen, path, child),
            lambda: pen.recorder.commit(lambda *_: (body,), begins=True, family=family),
        )
        if done is not None:
            self._born(run)

    # How workers end a step, or give it back

    def _end(self, name: str, pen: Pen, bodies: Any, words: list[Word]) -> None:
        wrapped = _unless_cancelled(bodies)
        self._does(name, lambda: self.model.end(pen, words), lambda: pen.recorder.commit(wrapped))

    @rule(at=pick, patch=st.booleans())
    @precondition(lambda self: self.pens)
    def run_completes(self, at: int, patch: bool) -> None:
        pen, _ = self._pen(at)
        if at % 3:
            return  # else there were too few that live
        change: dict[str, Any] = {"n": self.ids} if patch else {}
        words: list[Word] = [("agent_result_returned",), ("step_completed",), ("run_completed",)]
        words[1:1] = [("state_patch_committed",)] if patch else []
        self._end("run_completes", pen, lambda state, riders: decide.complete(state, 1, change, riders), words)

    @rule(at=pick, patch=st.booleans(), agent=st.sampled_from(AGENTS), code=st.sampled_from(CODES))
    @precondition(lambda self: self.pens)
    def next_step_follows(self, at: int, patch: bool, agent: str, code: bytes | None) -> None:
        pen, ran = self._pen(at)
        change: dict[str, Any] = {"n": self.ids} if patch else {}
        following = StepCreated(step=self._id("s"), number=ran.step + 1, agent=agent, code_digest=code)
        words: list[Word] = [("state_patch_committed",)] if patch else []
        words += [("step_completed",), ("step_created", agent, code)]
        self._end("next_step_follows", pen, lambda state, _: decide.proceed(state, change, following), words)

    @rule(at=pick, category=st.sampled_from(("retryable", "unhandled", "tool")), of=st.booleans())
    @precondition(lambda self: self.pens)
    def code_fails(self, at: int, category: str, of: bool) -> None:
        pen, ran = self._pen(at)
        path = next(iter(ran.calls), None) if of else None
        failure = Failure(category=category, error_type="E", message="it broke", path=path)
        words: list[Word] = [("step_failed",), ("run_failed",)]
        if category == "retryable" and ran.attempt < ran.attempts:
            words = [("step_retry_scheduled", self.now_ns + NS, ran.always_fresh or path is None)]
        if len(words) == 2 and at % 3:
            return
        self._end("code_fails", pen, lambda state, riders: decide.fail(state, failure, riders, self.now_ns), words)

    @rule(at=pick, why=st.sampled_from(("nothing", "blocked", "diverged")))
    @precondition(lambda self: self.pens)
    def step_is_given_back(self, at: int, why: str) -> None:
        pen, _ = self._pen(at)
        bodies: Any = lambda state, _: decide.release(state, None)
        words: list[Word] = [("step_released", None)]
        if why == "blocked":
            bodies = lambda state, _: decide.block(state, "no such tool")
            words = [("step_blocked",), ("step_released", "blocked")]
        if why == "diverged":
            pen.recorder.drop()
            pen.riders = []
            found = Divergence(kind=divergence.MISSING, path="1", recorded="tool t", attempted="")
            bodies = lambda state, _: decide.diverge(state, found)
            words = [("divergence_detected",), ("step_released", "divergence")]
        self._end(f"step_is_given_back: {why}", pen, bodies, words)

    @rule(at=pick)
    @precondition(lambda self: self.pens)
    def step_is_suspended(self, at: int) -> None:
        """Every branch waits; where none does, it yields."""
        pen, ran = self._pen(at)
        begun = pen.rides("timer_started", "signal_awaited", "approval_requested", "child_awaited")
        left = {*ran.waits, *begun} - pen.rides("wait_answered", "timer_fired", "tool_call_requested")
        if not left:
            path = self._id("y")
            body = TimerStarted(path=path, request=b"q", wake_ns=self.now_ns, asked={})
            self._ride(pen, body, path, self.now_ns)
        why = "waits" if ran.waits else "yield"
        bodies: Any = lambda state, _: decide.release(state, "waits" if state.waits else "yield")
        self._end("step_is_suspended", pen, bodies, [("step_released", why)])

    @rule(at=pick)
    @precondition(lambda self: any(s in OPEN for ran in self.model.runs.values() for s, _ in ran.calls.values()))
    def step_waits_to_settle(self, at: int) -> None:
        """A call in doubt is asked for again later: its worker is stopped, not gone, and may yet say what it knows."""
        pens = [pen for pen in self.pens if self._open(pen)]
        if not pens:
            return
        pen = pens[at % len(pens)]
        paths, wake_ns = self._open(pen), self.now_ns + 2 * NS
        path = paths[at // 8 % len(paths)]
        self._ride(pen, _in_doubt(path, self.model.runs[pen.run].calls[path][1], wake_ns), path, True, wake_ns)
        if self._commit("riders_are_flushed", pen):
            bodies: Any = lambda state, _: decide.release(state, "waits")
            self._end("step_waits_to_settle", pen, bodies, [("step_released", "waits")])

    def _open(self, pen: Pen) -> list[str]:
        """Calls of a pen's run of which nobody knows what became."""
        if pen.rides("tool_call_requested", "tool_call_completed", "tool_call_failed", "tool_call_settled"):
            return []
        return [path for path, (status, _) in self.model.runs[pen.run].calls.items() if status in OPEN]

    @rule(at=pick)
    @precondition(lambda self: self.pens)
    def step_stops_in_doubt(self, at: int) -> None:
        """Nobody can tell what became of a call: the step waits for a person, and nobody makes it again."""
        pen, ran = self._pen(at)
        paths = self._open(pen)
        if not paths:
            return
        path = paths[at % len(paths)]
        self._ride(pen, _in_doubt(path, ran.calls[path][1], None), path, True, None)
        words: list[Word] = [("step_released", "in doubt")]
        self._end("step_stops_in_doubt", pen, lambda state, _: decide.release(state, "in doubt"), words)

    # What must hold after every command

    @invariant()
    def log_and_model_agree(self) -> None:
        if not hasattr(self, "log"):
            return
        wanted, events = self.model.told(), self._new()
        assert wanted == [(one.stream.removeprefix("run/"), one.type) for one in events]
        held = dict(self.held)
        for event in events:
            self._event(event, held)
        for run in {event.stream.removeprefix("run/") for event in events}:
            assert self.model.runs[run].seen() == _seen(self.folds[run])
        self._places()
        self._families()

    def _new(self) -> list[Event]:
        """What was appended, checked as records (invariants 1 and 2)."""
        seq, hash_ = self.checked
        with self.log._store.read() as reader:
            for key, data in reader.scan(Tree.EVENTS, index.seq_key(seq + 1)):
                header = chain.unpack(data)
                before = self.last.get(header.stream, (0, 0, bytes(32)))
                assert index.parse_seq(key) == header.seq == seq + 1
                assert header.prev_hash == hash_
                assert (header.stream_seq, header.stream_prev_seq, header.stream_prev_hash) == (
                    before[0] + 1,
                    before[1],
                    before[2],
                )
                seq, hash_ = header.seq, chain.stored_hash(data)
                self.last[header.stream] = (header.stream_seq, seq, hash_)
        events = list(self.log.read(self.checked.seq, contents=False))
        self.checked = self.log.head()
        assert self.checked == (seq, hash_)
        return events

    def _event(self, event: Event, held: dict[str, tuple[int, int] | None]) -> None:
        """What one event may be, whatever the model says."""
        run, body = event.stream.removeprefix("run/"), event.body
        counts, tools = self.counts.setdefault(run, (Counter(), Counter()))
        if event.epoch is not None:  # 13
            assert held[run] is not None and held[run][0] == event.epoch, "a fenced worker wrote"
        if event.type == "step_claimed":
            assert body.epoch == self.folds[run].epoch + 1, "epochs only grow"
            assert body.base_version == self.folds[run].version
            self.held[run] = (body.epoch, body.base_version)
        if event.type in (
            "lease_expired",
            "step_released",
            "step_retry_scheduled",
            "step_completed",
            "step_failed",
            "step_cancelled",
        ):
            self.held[run] = None
        if event.type == "state_patch_committed":  # 14
            assert (body.base_version, body.version) == (held[run][1], held[run][1] + 1)
        if event.type == "tool_call_completed" or (event.type == "tool_call_settled" and body.outcome == "succeeded"):
            assert (run, body.path) not in self.final, "a second final outcome"  # 7
            self.final.add((run, body.path))
        if event.type == "tool_call_requested":
            assert (run, body.path) not in self.final
            row = self.folds[run].ledger.get(body.path)
            assert row is None or row.status == "FAILED_NO_EFFECT", "made again while nobody knew"  # 16
            tools[body.tool] += 1
        if event.type in ("run_completed", "run_failed", "run_cancelled"):
            assert (body.counts, body.tools) == (counts, tools)
        counts[event.type] += 1
        state = self.folds.setdefault(run, RunState())
        state.apply(event.seq, event.time_ns, event.type, body)

    def _places(self) -> None:
        rows = {row.stream.removeprefix("run/"): row for row in self.log.queued(limit=1000)}
        for run, ran in self.model.runs.items():
            row, wanted = rows.pop(run, None), ran.place()
            assert wanted == (None if row is None else self._read(row.key, row.note, run))
            placement = schedule.place(self.folds[run])
            timed = wanted is not None and wanted[0] in ("timer", "held")
            own = None if row is None else row.key if timed else row.key[:-8]
            assert own == (placement.key if timed or placement.key is None else placement.key[:-8])
            assert row is None or row.note == placement.note
        assert not rows

    def _read(self, key: bytes, note: Any, run: str) -> tuple[Any, ...]:
        """What a place says, as its words in `schedule` have it."""
        kind, number = key[:1], int.from_bytes(key[-8:], "big")
        if kind == b"t":
            return ("timer", number)
        if kind == b"w":
            return ("held", note["worker"])
        assert number in self.births[run]
        return ("ready", 127 - key[17]) if kind == b"r" else {b"p": ("waiting",), b"x": ("attention",)}[kind]

    def _families(self) -> None:
        """A parent that was cancelled has no child that lives and that nobody holds."""
        for ran in self.model.runs.values():
            parent = self.model.runs.get(ran.parent or "")
            if parent is not None and parent.status == "cancelled" and not ran.over and not ran.newer:
                assert ran.cancelling and ran.owner is not None


def _in_doubt(path: str, attempt: int, wake_ns: int | None) -> ToolCallFailed:
    return ToolCallFailed(
        path=path,
        attempt=attempt,
        category="unknown",
        error_type="InDoubt",
        in_doubt=True,
        retry_ns=wake_ns,
        message="",
    )


def _policy(losses: int, *, fresh: bool) -> dict[str, Any]:
    return {"max_attempts": 3, "initial": 1.0, "factor": 1.0, "jitter": 0, "max_losses": losses, "fresh": fresh}


def _seen(state: RunState) -> dict[str, Any]:
    return {
        "status": state.status,
        "why": state.waiting if state.status == "waiting" else None,
        "cancelling": state.cancelling,
        "owner": state.worker,
        "epoch": state.epoch,
        "attempt": state.attempt,
        "retry_ns": state.retry_ns,
        "losses": state.losses,
        "version": state.version,
        "step": state.step_number,
        "code": state.code_digest,
        "waits": {one.path: (one.kind, one.name, one.wake_ns) for one in state.waits.values()},
        "inbox": state.signals,
        "answers": state.approvals,
        "children": {one.run: (one.status, one.ended) for one in state.children.values()},
        "calls": {one.path: (one.status, one.attempt) for one in state.ledger.values()},
        "newer": state.newer is not None,
    }


def test_many_workers_do_as_the_contract_says():
    """Whatever workers, clocks, crashes, people and stale workers do, in whatever order, log and model agree."""
    given.clear()
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS_EACH, print_blob=True),
    )

    assert given.total() >= STEPS
