"""What a program or a person does to runs from outside: cancel, signal, answer, free what lost its worker.

Rules: each is one decision, durable when the call returns; who may not, or comes too late, gets a typed refusal and
nothing was written. This file knows neither code nor workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ledger_core import secret
from ledger_core.errors import BadInput, NotFound, Refused
from ledger_core.events import Body
from ledger_core.ids import check_id, check_name
from ledger_core.log.batch import View
from ledger_core.log.log import Draft, Event, Later, Log
from ledger_core.run import answer
from ledger_core.run.state import RunState
from ledger_core.runtime import claims
from ledger_core.runtime.claims import Desk
from ledger_core.runtime.folds import Runs, stream_of
from ledger_core.runtime.wait_effects import approval_tag

LONGEST_REASON = 2_000


class Steering:
    """Steering runs of one ledger."""

    log: Log
    desk: Desk

    def cancel_run(self, run_id: str, reason: str = "") -> bool:
        """Ask a run to end, with its children; False if somebody had asked before. Raises `NotFound`, `Refused`.

        A run that nobody holds ends at once; one that is at work ends at its next effect.
        """
        check_id(run_id, "run")
        words = _words(reason, "reason")

        def decision(view: View) -> Iterator[Draft | Later]:
            yield from self._cancelled(self.desk.runs(view), run_id, words, top=True)

        return bool(self.log.decide(decision))

    def signal(self, run_id: str, name: str, payload: Any = None, *, sender_id: str | None = None) -> bool:
        """Send a run a signal, whether it waits for it yet or not; False if that sender's signal was there already.

        Raises `NotFound`, `BadInput`, and `Refused` for a run that has ended.
        """
        check_name(name, "signal")
        plain = secret.plain(payload)
        if sender_id is not None:
            check_name(sender_id, "sender")
        tag = self.log.tagger(stream_of(check_id(run_id, "run")))
        sender = None if sender_id is None or tag is None else tag(f"sender:{sender_id}".encode())
        return bool(self._decide(run_id, lambda state: answer.signal(state, name, plain, sender)))

    def approve(self, approval: str, *, by: str = "", reason: str = "") -> str:
        """Say yes to what a run asks; returns its id. Raises `NotFound`, `Refused`."""
        return self._decided(approval, approved=True, by=by, reason=reason)

    def deny(self, approval: str, *, by: str = "", reason: str = "") -> str:
        """Say no to what a run asks; returns its id. Raises `NotFound`, `Refused`."""
        return self._decided(approval, approved=False, by=by, reason=reason)

    def recover_expired_leases(self) -> list[str]:
        """Free the runs of workers that are gone or gave no sign of life; returns their ids."""
        freed: list[str] = []
        for run_id, worker in claims.held_by_the_lost(self.log, self.desk.alive):
            now: list[str] = []
            self.log.decide(claims.expire(self.desk, run_id, worker, now))
            freed += now
        return freed

    def _decided(self, approval: str, *, approved: bool, by: str, reason: str) -> str:
        seq = None
        if isinstance(approval, str) and approval:
            seq = self.log.find_key(approval_tag(approval))
        if seq is None:
            raise NotFound(f"Nobody has asked for {approval!r:.100}.", hint="`agentledger approvals` lists them.")
        run_id = self.log.event(seq, contents=False).stream.removeprefix("run/")
        who, why = _words(by, "name"), _words(reason, "reason")
        self._decide(
            run_id,
            lambda state: answer.approve(
                state, approval, approved=approved, by=who, reason=why, now_ns=self.log.clock.now_ns()
            ),
            actor="person",
        )
        return run_id

    def _decide(self, run_id: str, bodies: Callable[[RunState], list[Body]], *, actor: str = "person") -> list[Event]:
        def decision(view: View) -> Iterator[Draft | Later]:
            runs = self.desk.runs(view)
            state = _found(runs, run_id)
            yield from runs.drafts(state, bodies(state), actor=actor)

        return self.log.decide(decision)

    def _cancelled(self, runs: Runs, run_id: str, reason: str, *, top: bool) -> Iterator[Draft | Later]:
        """A run's end, and its children's: children first, so that a parent that ends is told of nobody's later."""
        state = _found(runs, run_id)
        if state.ended and not top:
            return
        if state.ended:
            answer.cancel(state, reason, owner_alive=False)  # refuses
        for child in list(state.children.values()):
            if child.ended is None and runs.state(child.run) is not None:
                try:
                    yield from self._cancelled(runs, child.run, f"its parent {run_id} was cancelled", top=False)
                except Refused:
                    continue  # written by a newer version: not ours to end
        state = _found(runs, run_id)
        alive = state.worker is not None and self.desk.alive(state.worker)
        yield from runs.drafts(state, answer.cancel(state, reason, owner_alive=alive), actor="person")


def _found(runs: Runs, run_id: str) -> RunState:
    state = runs.state(run_id)
    if state is None:
        raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
    return state


def _words(text: Any, what: str) -> str:
    if not isinstance(text, str) or len(text) > LONGEST_REASON:
        raise BadInput(f"A {what} is a text of at most {LONGEST_REASON:,} letters.")
    return secret.VAULT.clean_text(text)
