"""Many workers over several runs, with clocks, crashes and cancellations, against a plain model (`suites.machine`).

The decisions are the real ones, in a real log; who lives and what time it is are facts that the test sets. Workers that
lost a step keep their pens and go on trying. After every step the log's growth, the fold of every run, and every place
in the queue are compared with the model's, and what no model is needed for is read from the records themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from suites.machine import OPEN, Pen, Ran, Word
from suites.world import AGENTS, CODES, MOST_RUNS, NAMES, NEEDS, World, given, pick, policy, rare, refused

from ledger_core.clock import NS
from ledger_core.errors import KeyConflict
from ledger_core.events.effect import (
    EffectAbandoned,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
    ValueCaptured,
)
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
from ledger_core.log.batch import View
from ledger_core.run import answer, decide, divergence
from ledger_core.run.decide import Failure
from ledger_core.run.divergence import Divergence
from ledger_core.run.state import RunState
from ledger_core.runtime.carry import _unless_cancelled, _waits
from ledger_core.runtime.folds import Folds, Runs
from ledger_core.runtime.wait_effects import _created, approval_tag

STEPS = 10_000
"""At least so many commands are given."""
EXAMPLES, STEPS_EACH = 450, 120
PLAIN = {"agent": "a", "priority": 0, "code": None, "needs": (), "external": False, "losses": 2, "fresh": False}
times = st.none() | st.integers(-1, 4).map(lambda n: n * NS)


class Machine(World):
    """What workers do, the stale ones too."""

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
        if path in pen.rides(
            "tool_call_requested", "tool_call_completed", "tool_call_failed", "not_known", "tool_call_settled"
        ):
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
        if path in pen.rides(
            "tool_call_requested", "tool_call_completed", "tool_call_failed", "not_known", "tool_call_settled"
        ):
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
        again = kind in NAMES and durable and at % 3 == 0 and ran.took  # a later attempt, at the same place
        path, wake_ns = list(ran.took)[0] if again else self._id("p"), None if wake is None else self.now_ns + wake
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

    @rule(at=pick, which=pick)
    @precondition(lambda self: self.pens)
    def wait_is_given_up(self, at: int, which: int) -> None:
        """The code stops waiting; a signal that was taken, and that it never saw, is there for the next."""
        pen, ran = self._pen(at)
        paths = [path for path in (*ran.waits, *ran.took) if path not in pen.rides("wait_answered", "timer_fired")]
        if paths:
            path = paths[which % len(paths)]
            self._commit("wait_is_given_up", pen, (EffectAbandoned(path=path), ("effect_abandoned", path)))

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
            options = {"priority": priority, "capabilities": list(needs) or None, "retry": policy(3, fresh=False)}
            yield from _created(runs, parent, path, run, bytes(32), f"step_{run}", agent, {}, options)

        self._does(
            "child_is_spawned",
            lambda: self.model.spawn(pen, path, child),
            lambda: pen.recorder.commit(lambda *_: (body,), begins=True, family=family),
        )

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
        # what began behind the failure is dropped with it; the model does not know where a failure was
        path = next(iter(ran.calls), None) if of and not ran.waits and not pen.riders else None
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
        bodies: Any = lambda state, riders: decide.release(state, _waits(state, riders))
        self._end("step_is_suspended", pen, bodies, [("step_suspended",)])

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
        self._doubt(pen, path, wake_ns)
        bodies: Any = lambda state, riders: decide.release(state, _waits(state, riders))
        if at % 4:
            self._end("step_waits_to_settle", pen, bodies, [("step_suspended",)])

    def _doubt(self, pen: Pen, path: str, wake_ns: int | None) -> None:
        given["ride"] += 1
        pen.recorder.ride(_in_doubt(path, self.model.runs[pen.run].calls[path][1], wake_ns))
        pen.riders.append(("not_known", path, wake_ns))

    def _open(self, pen: Pen) -> list[str]:
        """Calls of a pen's run of which nobody knows what became."""
        if pen.rides(
            "tool_call_requested", "tool_call_completed", "tool_call_failed", "not_known", "tool_call_settled"
        ):
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
        self._doubt(pen, path, None)
        words: list[Word] = [("step_released", "in doubt")]
        self._end("step_stops_in_doubt", pen, lambda state, _: decide.release(state, "in doubt"), words)


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


class Script(Machine):
    """The machine without chance: two workers with a run each, and what a test has them do."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def does(self, name: str, /, **how: Any) -> None:
        """One rule; `at=4 * n` is the `n`th pen."""
        getattr(self, name)(**how)
        self.log_and_model_agree()

    def ran(self, number: int) -> Ran:
        return list(self.model.runs.values())[number]

    def first_loses_its_run(self) -> None:
        """The first worker is stopped, and the second takes its run over."""
        self.does("worker_stops_or_goes_on", at=0, overdue=True)
        self.does("the_lost_are_freed")
        self.does("anything_is_claimed_from_the_queue", worker=1, most=1)
        assert (self.ran(0).epoch, self.ran(0).owner) == (2, self.ran(1).owner)


@pytest.fixture
def script() -> Iterator[Script]:
    """A script; the whole log is checked when it ends."""
    script = Script()
    yield script
    script.teardown()


@pytest.mark.invariant(13)
def test_a_worker_that_lost_its_run_writes_nothing(script: Script) -> None:
    """Whatever a stale worker commits, while the run is another's, is refused and changes nothing."""
    script.first_loses_its_run()
    before = script.log.head()

    script.does("worker_looks", at=0)
    script.does("value_is_captured", at=0, durable=True)
    script.does("call_is_requested", at=0, again=False)
    script.does("wait_begins", at=0, kind="approval", wake=None, durable=True)
    script.does("next_step_follows", at=0, patch=True, agent="a", code=None)
    script.does("step_is_given_back", at=0, why="nothing")
    script.does("run_completes", at=0, patch=True)

    assert before == script.log.head()


@pytest.mark.invariant(7, 16)
def test_late_evidence_settles_once(script: Script) -> None:
    """A stale worker's outcome settles its own call, once; the call is not made again, and not settled again."""
    script.does("call_is_requested", at=0, again=False)
    script.first_loses_its_run()
    path = next(iter(script.ran(0).calls))
    stale, pen = script.pens[0], script.pens[-1]

    script.does("call_ends", at=0, which=0, how="well")
    assert script.ran(0).calls == {path: ("SUCCEEDED", 1)}
    stale.calls[path] = 1
    script.does("call_ends", at=0, which=0, how="well")
    script.does("doubt_is_settled", at=4 * script.pens.index(pen), which=0, outcome="succeeded")
    script.does("doubt_is_settled", at=4 * script.pens.index(pen), which=0, outcome="no_effect")
    script.does("call_is_requested", at=4 * script.pens.index(pen), again=True)

    assert script.ran(0).calls == {path: ("SUCCEEDED", 1)}


def test_a_call_settled_while_its_step_waits_wakes_it(script: Script) -> None:
    """A step that waits to ask again is ready as soon as its late worker says what became of the call."""
    script.does("call_is_requested", at=0, again=False)
    script.does("step_waits_to_settle", at=1)
    assert script.ran(0).place()[0] == "timer"

    script.does("call_ends", at=0, which=0, how="well")

    assert script.ran(0).place() == ("ready", 0)


def test_a_signal_is_given_back_once(script: Script) -> None:
    """A signal is given back by the wait that took it, and not by a later attempt's wait at the same place."""
    script.does("wait_begins", at=0, kind="go", wake=None, durable=True)
    script.does("signal_is_sent", at=0, name="go", sender=None)
    script.does("wait_ends", at=0, which=0, durable=True)
    script.does("wait_is_given_up", at=0, which=0)
    assert len(script.ran(0).inbox["go"]) == 1

    script.does("wait_begins", at=0, kind="go", wake=None, durable=True)
    script.does("wait_ends", at=0, which=0, durable=True)
    script.does("wait_begins", at=0, kind="go", wake=None, durable=True)
    script.does("wait_is_given_up", at=0, which=0)

    assert script.ran(0).inbox["go"] == []


def test_a_run_of_a_newer_version_hides_no_other(script: Script) -> None:
    """A run that only a newer version may touch is left alone: others of its group are claimed, and freed."""
    for at in (0, 4):
        script.does("step_is_given_back", at=at, why="nothing")
    script.does(
        "run_is_created", agent="a", priority=0, code=None, needs=(), external=False, losses=2, fresh=False, worker=None
    )
    script.does("newer_version_writes", at=0, really=True)
    script.does("runs_are_claimed_from_the_queue", worker=0, agents={"a": None}, needs=(), any_code=False, most=3)
    assert [ran.owner is None for ran in (script.ran(0), script.ran(2))] == [True, False]

    script.does("newer_version_writes", at=2, really=True)
    script.does("anything_is_claimed_from_the_queue", worker=0, most=1)
    script.does("worker_dies", at=0, really=True)
    script.does("the_lost_are_freed")

    assert [ran.owner is None for ran in (script.ran(1), script.ran(2))] == [True, False]


def test_what_an_abandoned_batch_created_is_created_anew(script: Script) -> None:
    """A run that was read in a batch that came to nothing is not there, and is created as if nobody had seen it."""
    script.does("batch_is_abandoned")
    script.does(
        "run_is_created", agent="a", priority=0, code=None, needs=(), external=False, losses=2, fresh=False, worker=0
    )

    assert script.ran(2).epoch == 1


def test_a_step_that_ended_is_progress(script: Script) -> None:
    """Workers that are lost in different steps of a run are not lost in a row: the run is not parked."""
    script.does("worker_dies", at=0, really=True)
    script.does("the_lost_are_freed")
    script.does("anything_is_claimed_from_the_queue", worker=0, most=1)
    script.does("next_step_follows", at=4, patch=False, agent="a", code=None)
    script.does("anything_is_claimed_from_the_queue", worker=1, most=1)
    script.does("worker_dies", at=1, really=True)
    script.does("the_lost_are_freed")

    assert (script.ran(0).status, script.ran(0).losses) == ("pending", 1)


@pytest.mark.invariant(1, 2, 7, 13, 14, 16)
def test_many_workers_do_as_the_contract_says() -> None:
    """Whatever workers, clocks, crashes, people and stale workers do, in whatever order, log and model agree."""
    given.clear()
    refused.clear()
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS_EACH, print_blob=True)
    )

    assert given.total() >= STEPS
    assert len(refused) >= 20, "there are commands that nobody tried where they must be refused"
