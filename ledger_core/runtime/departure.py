"""The departure of a call: its intent goes into the log together with what it holds of budgets, and its logical key.

Rules: all in one decision, inside the write transaction, so that of any number of workers one has the key, and
together they never hold more than there is. A call that finds its key held waits; one that finds it done is given what
was done; another request under the same key is a conflict. A key passes on only where its holder ended without an
effect: each holder has a generation of its own, and the last one counts. A read is durable like a write where it
spends, or has a key.

This file does not know who permitted the call, nor how it is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from ledger_core import codec
from ledger_core.errors import BadInput, NotFound
from ledger_core.events import Body, Missing
from ledger_core.events.effect import ToolCallRequested
from ledger_core.events.govern import CostRecorded, ToolCallJoined
from ledger_core.events.ledger import STREAM
from ledger_core.ids import check_name
from ledger_core.log.log import Draft, Later
from ledger_core.run import budget
from ledger_core.run.budget import Account, Busy, NoRoom, account_words
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.run.rows import UNSETTLED, Reservation, ToolEntry
from ledger_core.run.state import RunState
from ledger_core.runtime.folds import Runs
from ledger_core.runtime.gate import Gate
from ledger_core.runtime.recorder import Family

SCOPES: Final = ("run", "session", "ledger")
Wanted = Mapping[str, int | None]
Tagger = Callable[[bytes], bytes]


@attrs.frozen(kw_only=True)
class Operation:
    """A logical key that the code chose, and how far it reaches."""

    name: str
    scope: str = "run"

    def of(self, tool: str, run: str, session: str | None) -> bytes:
        """What the key's tags are made of; forks have the keys of the run that their line began with."""
        where = {"run": run, "session": session or "", "ledger": ""}[self.scope]
        return codec.canonical(["operation", self.scope, where, tool, self.name])


@attrs.frozen(kw_only=True)
class Ticket:
    """What a call departs with: what the decision adds to its intent."""

    reserved: dict[str, dict[str, int]] | None = None
    unbounded: list[str] | None = None
    key: bytes | None = None
    key_request: bytes | None = None
    idempotency: str | None = None


class _Held(Exception):
    """The key is another call's, which is not over."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.run = run


class _Done(Exception):
    """The key's call has succeeded."""

    def __init__(self, run: str, path: str, seq: int) -> None:
        super().__init__(run, path)
        self.run, self.path, self.seq = run, path, seq


class _Conflict(Exception):
    """The key was used for something else, or for what was undone since."""


class Departure(Gate):
    """How calls of a step depart."""

    _departed: set[str]
    """Paths of calls that are under way here, and will come to an end."""

    async def _depart(
        self,
        entry: Entry,
        wanted: Wanted,
        bodies: Callable[[Ticket], Sequence[Body]],
        *,
        operation: Operation | None = None,
        besides: Callable[[Runs], Iterator[Draft]] | None = None,
    ) -> bool:
        """Record an intent, durably; False if there is nothing to call: then `entry` is final, or waits."""
        ticket: Ticket | None = None
        worked_ns = self._worked_ns()
        self._told_ns += worked_ns  # at once: calls side by side must not tell it again
        told = False

        def first(runs: Runs, state: RunState, riders: list[Body]) -> Family | None:
            nonlocal ticket
            key = None if operation is None else self._key_of(runs, state, entry.intent, operation)
            ticket = key or Ticket()
            if accounts := runs.accounts(state):
                costs = [rider.spent for rider in riders if isinstance(rider, CostRecorded)]
                wants = {**wanted, "wall_ns": worked_ns}
                reserved = self._reserved(accounts, state.reservations.get(entry.intent.path), wants, costs)
                ticket = attrs.evolve(ticket, **reserved)
            return family if accounts or besides is not None else None

        def family(runs: Runs, state: RunState) -> Iterator[Draft | Later]:
            if besides is not None:
                yield from besides(runs)
            yield from runs.worked(state, worked_ns)

        def drafted(*_: Any) -> Sequence[Body]:
            assert ticket is not None
            return bodies(ticket)

        try:
            assert self._recorder is not None
            await self.driver.commit(self._recorder, drafted, begins=True, first=first)
        except NoRoom as full:
            where = {"account": full.account, "dimension": full.dimension}
            await self._refuse(entry, "budget", "BudgetExceeded", full.sentence, where=where)
        except Busy as busy:
            await self._wait_for_room(entry, busy)
        except _Held as held:
            await self._hold(entry, "key", held.run)
        except _Done as done:
            await self._join(entry, done)
        except _Conflict as conflict:
            await self._refuse(entry, "key", "KeyConflict", str(conflict))
        except Exception as error:
            raise self._stopped(error) from error
        else:
            told = True
            self._departed.add(entry.intent.path)
            return True
        finally:
            if not told:
                self._told_ns -= worked_ns
        return False

    # Budgets

    async def _wait_for_room(self, entry: Entry, busy: Busy) -> None:
        """Wait until others settle; where nobody will, because it is this run that holds what is left, say so."""
        own = self._holds_itself(busy)
        if own is None:
            await self._hold(entry, "budget", busy.account)
            return
        words = f"What is left of the budget of {account_words(busy.account)} is held by effect {own}"
        message = f"{words} of this run, which nobody settles: close streams, and settle what is in doubt."
        where = {"account": busy.account, "dimension": busy.dimension}
        await self._refuse(entry, "budget", "BudgetExceeded", message, where=where)

    def _holds_itself(self, busy: Busy) -> str | None:
        """The effect of this run that holds what is left, if none of those that hold it is under way here."""
        held = [path for path, one in self._state.reservations.items() if busy.account in one.by_account]
        stuck = len(held) >= busy.open and self._departed.isdisjoint(held)
        return held[0] if held and stuck else None

    def _bounded(self) -> bool:
        """Whether a budget bounds this run just now."""
        assert self._recorder is not None
        state = self._state
        names = budget.accounts(state.root, state.session, state.step_agent)
        return self._recorder.log.has_any(map(budget.stream_of_account, names))

    def _reserved(
        self, accounts: Sequence[Account], own: Reservation | None, wanted: Wanted, costs: Sequence[Mapping[str, int]]
    ) -> dict[str, Any]:
        """What is reserved of every account, after `costs` that ride along; raises `NoRoom`, `Busy`.

        `own` is what an attempt that was lost holds: its place is taken, and what was bounded of it is charged.
        """
        taken: dict[str, dict[str, int]] = {}
        unbounded: set[str] = set()
        for account in accounts:
            for spent in costs:
                account = budget.moved(account, reserved={}, freed={}, spent=spent, opened=0)  # noqa: PLW2901
            if own is not None:
                freed = own.by_account.get(account.name, {})
                charged = {name: value for name, value in freed.items() if name not in own.unbounded}
                account = budget.moved(account, reserved={}, freed=freed, spent=charged, opened=0)  # noqa: PLW2901
            amounts = budget.reserve(account, wanted)
            unbounded |= {name for name in amounts if wanted.get(name, 0) is None}
            if amounts:
                taken[account.name] = amounts
        return {"reserved": taken or None, "unbounded": sorted(unbounded) or None}

    def _spent(self, entry: Entry, amounts: Mapping[str, int]) -> dict[str, int] | None:
        """What an outcome says that it cost: always money, and the rest where it was reserved."""
        if entry.intent.path in self._state.reservations:
            return dict(amounts) or None
        return {name: value for name, value in amounts.items() if name == "usd_nano" and value} or None

    # Logical keys

    def _key_of(self, runs: Runs, state: RunState, intent: Intent, operation: Operation) -> Ticket:
        """The key for a call, if it may have it; raises `_Held`, `_Done`, `_Conflict`."""
        tagger = self._tagger(operation)
        said = operation.of(intent.name, state.lineage or state.run, state.session)
        request = tagger(b"request:" + codec.canonical([intent.name, intent.document["arguments"]]))
        idempotency = tagger(b"idempotency:" + said).hex()[:32]
        last: tuple[bytes, Any] | None = None
        for generation in itertools.count():
            tag = tagger(b"%d:" % generation + said)
            seq = runs.view.find_key(tag)
            if seq is None:
                break
            last = (tag, runs.view.event(seq))
        free = Ticket(key=tag, key_request=request, idempotency=idempotency)
        if last is None:
            return free
        run, body = last[1].stream.removeprefix("run/"), last[1].body
        if (run, body.path) == (state.run, intent.path):
            own = state.ledger.get(intent.path)
            if own is not None and own.status == "SUCCEEDED" and own.done is not None:
                raise _Done(run, intent.path, own.done)  # of a part of the journal that was dropped
            return attrs.evolve(free, key=last[0])
        return self._after(runs, run, body, last[0], free)

    def _after(self, runs: Runs, run: str, body: ToolCallRequested, tag: bytes, free: Ticket) -> Ticket:
        """The key after the call that had it, if that ended without an effect."""
        holder = runs.state(run)
        row = None if holder is None else holder.ledger.get(body.path)
        if holder is None or row is None or row.key != tag or _over(holder, row):
            return free
        if body.key_request != free.key_request:
            raise _Conflict(f"The same key was used in run {run} for another request to {body.tool}.")
        if row.status == "COMPENSATED":
            raise _Conflict(f"What was done under this key in run {run} was undone since: choose a new one.")
        if row.status == "SUCCEEDED" and row.done is not None:
            raise _Done(run, row.path, row.done)
        raise _Held(run)

    def _tagger(self, operation: Operation) -> Tagger:
        if operation.scope == "run":
            return self._tag
        assert self._recorder is not None
        found = self._recorder.log.tagger(STREAM)
        if found is None:
            raise BadInput("The key of the ledger's own stream is not here: no operation reaches beyond its run.")
        return found

    async def _join(self, entry: Entry, done: _Done) -> None:
        """Take the result of the call that was made under the same key."""
        assert self._recorder is not None
        intent = entry.intent
        try:
            result = self._recorder.log.event(done.seq).body.result  # type: ignore[attr-defined]  # a success has one
        except NotFound:
            result = Missing("not there")
        if isinstance(result, Missing):
            await self._refuse(entry, "key", "ResultForgotten", f"It was done in run {done.run}; its result is gone.")
            return
        joined = ToolCallJoined(
            path=intent.path,
            tool=intent.name,
            request=intent.request,
            run=done.run,
            joined=done.path,
            seq=done.seq,
            arguments=intent.document["arguments"],
            result=result,
        )
        await self._outcome(joined, durable=True)
        entry.standing, entry.value = Standing.DONE, codec.roundtrip(result)


def _over(holder: RunState, row: ToolEntry) -> bool:
    """Whether a call ended without an effect, and is not made again by its run."""
    if row.status == "FAILED_NO_EFFECT":
        return holder.ended or row.path not in holder.waits
    return holder.ended and row.status in UNSETTLED and not row.writes


def operation_of(arguments: dict[str, Any]) -> Operation | None:
    """The logical key among a call's arguments, taken out of them; raises `BadInput`."""
    name, scope = arguments.pop("_logical_operation", None), arguments.pop("_scope", None)
    if name is None and scope is None:
        return None
    if name is None or scope not in (*SCOPES, None):
        raise BadInput(
            "A logical key is _logical_operation='…', with _scope='run', 'session' or 'ledger'.",
            hint="The same key is one effect within its scope; without a scope, within the run.",
        )
    return Operation(name=check_name(name, "logical operation"), scope=scope or "run")


__all__ = ["Departure", "Operation", "Ticket", "operation_of"]
