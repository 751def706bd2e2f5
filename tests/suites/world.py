"""The world of the state machine (`tests/test_machine.py`): workers, a clock, and what comes to runs from outside.

Who lives and what time it is are facts that the test sets. A worker that lost a step keeps its pen and goes on
trying.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from suites.machine import Model, No, Pen, Ran
from suites.watch import Watch

from ledger_core import chain
from ledger_core.clock import NS, Clock
from ledger_core.events import Unknown
from ledger_core.events.effect import ValueCaptured
from ledger_core.events.run import RunCreated
from ledger_core.log.batch import View
from ledger_core.log.group import Ticket
from ledger_core.log.log import Draft, Event, Log
from ledger_core.run.schedule import Offer
from ledger_core.runtime import claims
from ledger_core.runtime.claims import Asked, Desk, Opening
from ledger_core.runtime.folds import Fold, Folds, stream_of
from ledger_core.runtime.recorder import Recorder
from ledger_core.runtime.steering import Steering

MOST_RUNS, MOST_WORKERS = 6, 4
AGENTS, CODES, NEEDS = ("a", "b"), (None, b"1" * 32, b"2" * 32), ((), ("gpu",))
NAMES = ("go", "stop")

given = Counter[str]()
"""Commands that were given, by name, in all examples."""
refused = Counter[str]()
"""Those that had to be refused, by name and error, and were."""
pick = st.integers(0, 63)
seldom = st.integers(0, 3).map(lambda n: n == 3)
rare = st.integers(0, 7).map(lambda n: n == 7)


class Helm(Steering):
    """A process that only steers."""

    def __init__(self, log: Log, desk: Desk) -> None:
        self.log, self.desk = log, desk


class Crowd:
    """Stands where the log's group commit stands: puts a command into one batch with others that come to nothing.

    The one behind it reads all runs, the last cannot be sealed: so the batch is abandoned, and the command decides
    anew, on a log that is again what it was.
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


class World(RuleBasedStateMachine):
    """One ledger, its workers, and what comes to its runs from outside."""

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
        self.watch = Watch(self.log, self.model)
        for agent in AGENTS:
            self._hire()
            self.run_is_created(agent, 0, None, (), external=False, losses=2, fresh=False, worker=len(self.pens))
            self.log_and_model_agree()

    @invariant()
    def log_and_model_agree(self) -> None:
        if hasattr(self, "watch"):
            self.watch.look()

    def teardown(self) -> None:
        if hasattr(self, "watch"):
            self.watch.end()

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
            retry=policy(losses, fresh=fresh),
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
        assert opening.fresh
        if name is not None:
            self._take(name, ran.run, events)

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
        assert self.helm.recover_expired_leases() == freed

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
        self._does("question_is_answered", lambda: self.model.approve(approval, self.now_ns), lambda: act(approval))

    @rule(at=pick, really=rare)
    def newer_version_writes(self, at: int, really: bool) -> None:
        ran = self._ran(at)
        if really and not ran.over and not ran.newer:
            given["newer_version_writes"] += 1
            body = Unknown(type="from_the_future", version=1, facts={}, critical=True)
            self.model.newer(ran)
            self.log.append(Draft(stream=stream_of(ran.run), body=body))


def policy(losses: int, *, fresh: bool) -> dict[str, Any]:
    return {"max_attempts": 3, "initial": 1.0, "factor": 1.0, "jitter": 0, "max_losses": losses, "fresh": fresh}
