"""What governs the runs of a ledger: its policy, its sandboxes, its prices, its budgets, and people who settle calls.

Rules: what is not given is looked for beside the log (`policy.yaml`, `sandbox.yaml`, or .toml, .json), so that every
process on a ledger has the same rules without being told. Budgets stand in the log. A call is settled by a person only
when nobody works on it any more; nothing is compensated by itself. This file does not know how rules are applied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from ledger_core import chain, codec, secret
from ledger_core.errors import BadInput, LedgerError, NotFound, Refused
from ledger_core.events import Body, Missing
from ledger_core.events.effect import SettledAs, ToolCallRequested
from ledger_core.governance.calling import Function
from ledger_core.governance.policy import InForce
from ledger_core.governance.prices import Prices, prices_of
from ledger_core.governance.sandbox import Sandboxes
from ledger_core.governance.tool import ToolSpec, spec_of
from ledger_core.ids import check_id, check_name
from ledger_core.log.batch import View
from ledger_core.log.log import Draft, Later, Log
from ledger_core.run import answer, budget
from ledger_core.run.budget import Account, Budget, budget_of
from ledger_core.run.rows import ToolEntry
from ledger_core.run.state import RunState
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.claims import Desk
from ledger_core.runtime.effect import normalised
from ledger_core.runtime.folds import Fold, Runs, account_at, stream_of
from ledger_core.runtime.recorded import RunRecord

_SUFFIXES: Final = (".yaml", ".yml", ".toml", ".json")
_UNSET: Final = object()


@attrs.frozen(kw_only=True)
class CallRef:
    """A call in the tool ledger, as a person names it: its run and its path."""

    run: str
    path: str


class Governing:
    """The rules of a runtime."""

    log: Log
    desk: Desk
    policy: InForce
    sandboxes: Sandboxes
    prices: Prices

    def _govern(
        self,
        *,
        policy: Any = None,
        sandbox: Any = None,
        budget: Budget | Mapping[str, Any] | None = None,
        prices: Prices | Mapping[str, Any] | None = None,
    ) -> None:
        """Take what governs: a policy (a path, a document, a callable), a sandbox configuration, a budget of every
        new run, prices of models. Raises `BadInput`.
        """
        self.policy = InForce.of(beside(self.log.root, "policy") if policy is None else policy)
        hidden = () if self.log.root is None else (str(self.log.root.resolve()),)
        config = beside(self.log.root, "sandbox") if sandbox is None else sandbox
        self.sandboxes = Sandboxes.of(config, hide=hidden)
        self.prices = prices_of(prices)
        self._budget = budget_of(budget)

    def _default_budget(self, agent: AgentSpec | None) -> dict[str, int] | None:
        """The bounds of a new run that was given none."""
        found = agent.budget if agent is not None and agent.budget is not None else self._budget
        return None if found is None else found.limits or None

    # Budgets

    def set_budget(
        self,
        bounds: Budget | Mapping[str, Any],
        *,
        run: str | None = None,
        session: str | None = None,
        agent: str | None = None,
        reason: str = "",
    ) -> Account:
        """Bound a run with its children, a session, or an agent's runs; what was spent stays. Raises `BadInput`.

        A run's budget counts what the run and its children used before; those of sessions and agents begin when they
        are first set. A bound that is left out is taken away.
        """
        account = account_name(run=run, session=session, agent=agent)
        limits = (budget_of(bounds) or Budget()).limits
        if run is not None:
            self._check_root(run)
        words = secret.VAULT.clean_text(reason)

        def decision(view: View) -> Iterator[Draft]:
            runs = self.desk.runs(view)
            before = runs.account(account) or Account(name=account, spent=_used(runs, run))
            yield runs.change(attrs.evolve(before, limits=limits), why="set", amounts=limits, reason=words)

        self.log.decide(decision)
        found = account_at(self.log, account)
        assert found is not None
        return found

    def _check_root(self, run: str) -> None:
        """Raise unless a run is there and nobody's child."""
        fold = Fold()
        if not fold.catch_up(self.log, stream_of(run)):
            raise NotFound(f"There is no run {run!r}.", hint="`agentledger runs` lists them.")
        if fold.state.root != run:
            raise BadInput(
                f"Run {run} is a child: it draws on the budget of {fold.state.root}.",
                hint=f"Bound that: agentledger budget set --run {fold.state.root}.",
            )

    def budgets(self) -> list[Account]:
        """All budgets, as they stand."""
        return budgets_of(self.log)

    # Calls that a person settles

    def call(self, name: str) -> CallRef:
        """The call that a person means: `RUN:PATH`, the seq of its intent, or its idempotency key while it is open.

        Raises `NotFound`, `BadInput`.
        """
        if not isinstance(name, str) or not name:
            raise BadInput("An empty text names no call.", hint="`agentledger ledger` lists them.")
        run, _, path = name.rpartition(":")
        if run and self.log.stream_head(stream_of(run)) is not None:
            return CallRef(run=run, path=path)
        if name.isascii() and name.isdigit() and len(name) < 19:
            event = self.log.event(int(name), contents=False)
            if isinstance(event.body, ToolCallRequested):
                return CallRef(run=event.stream.removeprefix("run/"), path=event.body.path)
            raise NotFound(f"Event {name} is no tool call.", hint="`agentledger ledger` lists them.")
        for state in self._open_runs():
            for row in state.ledger.values():
                if idempotency_key(state, row) == name:
                    return CallRef(run=state.run, path=row.path)
        raise NotFound(
            f"There is no open call {name!r:.100}.", hint="Name it RUN:PATH; `agentledger ledger` lists them."
        )

    def settle(
        self,
        name: str,
        outcome: SettledAs,
        *,
        because: str,
        by: str = "",
        result: Any = None,
        usd: float | None = None,
    ) -> CallRef:
        """Say what became of a call that is in doubt, or that a call that succeeded was undone: `succeeded`,
        `no_effect`, `compensated`.

        Raises `NotFound`, `BadInput`, and `Refused` for a call that is not in doubt, or is being worked on.
        """
        if outcome not in ("succeeded", "no_effect", "compensated"):
            raise BadInput(f"A call cannot be settled as {outcome!r:.50}.")
        if not _text(because, "reason").strip():
            raise BadInput("A call is settled for a reason.", hint='Write --because "the ticket is there: #4711".')
        if usd is not None and (type(usd) not in (int, float) or not 0 <= usd < 1e9):
            raise BadInput(f"A call cannot have cost {usd!r:.50} dollars.", hint="It is a number from 0 up.")
        call, plain = self.call(name), secret.plain(result)
        words = secret.VAULT.clean_text(f"{by}: {because}" if by else because)
        spent = {"calls": 1, "tool_calls": 1} | ({"usd_nano": round(usd * budget.USD)} if usd else {})

        def bodies(state: RunState) -> list[Body]:
            alive = state.worker is not None and self.desk.alive(state.worker)
            return answer.settle(state, call.path, outcome, owner_alive=alive, reason=words, result=plain, spent=spent)

        self._on_run(call.run, bodies)
        return call

    def compensate(
        self, name: str, tools: Iterable[ToolSpec | Function], *, because: str, by: str = "", again: bool = False
    ) -> CallRef:
        """Undo a call that succeeded with its tool's `compensate` hook. Raises `NotFound`, `BadInput`, `Refused`.

        The intent to undo is durable before the hook is called; if this process dies meanwhile, the ledger says that
        it was begun; with `again`, the hook is called again, with the same idempotency key.
        """
        call = self.call(name)
        record = RunRecord.read(self.log, call.run)
        row = record.state.ledger.get(call.path)
        if row is None:
            raise NotFound(
                f"Run {call.run} has no call at effect {call.path}.", hint="`agentledger ledger` lists them."
            )
        spec = next((one for one in map(spec_of, tools) if one.name == row.tool), None)
        if spec is None or spec.compensate is None:
            raise BadInput(
                f"Tool {row.tool} has no compensate hook here.",
                hint="Undo it by hand, and say so: agentledger ledger settle CALL --as compensated.",
            )
        words, hook = secret.VAULT.clean_text(_text(because, "reason")), spec.compensate
        arguments, result = self._said(call, row)
        positional, keywords = spec.bind(hook, arguments, idempotency_key(record.state, row), result=result)
        self._on_run(
            call.run, lambda state: answer.start_compensation(state, call.path, by=by, reason=words, again=again)
        )
        try:
            _call(lambda: hook(*positional, **keywords))
        except Exception as error:  # the user's hook: its words may hold what nobody is to see
            kind, message = normalised(error)
            raise LedgerError(
                f"The compensate hook of {row.tool} failed: {kind}: {message}",
                hint=f"See whether it was undone; then settle {name} as compensated, or undo it again (again=True).",
            ) from None
        self.settle(f"{call.run}:{call.path}", "compensated", because=because, by=by)
        return call

    def _said(self, call: CallRef, row: ToolEntry) -> tuple[dict[str, Any], Any]:
        """The arguments and the result of a call that succeeded; raises `Refused` where they cannot be had."""
        asked: Any = self.log.event(row.seq).body
        done: Any = None if row.done is None else self.log.event(row.done).body
        result = getattr(done, "result", None)
        if isinstance(asked.arguments, Missing) or isinstance(result, Missing):
            raise Refused(f"What run {call.run} said was forgotten: the hook cannot be told what to undo.")
        if secret.hides([asked.arguments, result]):
            raise Refused(
                f"The call at effect {call.path} of run {call.run} was made with a secret, which is not kept.",
                hint="Undo it by hand, and say so: agentledger ledger settle CALL --as compensated.",
            )
        return dict(asked.arguments), codec.roundtrip(result)

    def _on_run(self, run_id: str, bodies: Callable[[RunState], list[Body]]) -> None:
        def decision(view: View) -> Iterator[Draft | Later]:
            runs = self.desk.runs(view)
            state = runs.state(run_id)
            if state is None:
                raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them.")
            yield from runs.drafts(state, bodies(state), actor="person")

        self.log.decide(decision)

    def _open_runs(self) -> Iterator[RunState]:
        """Runs that have not ended, or have ended in doubt: those that the queue holds."""
        start = b""
        while rows := self.log.queued(b"", start, limit=256):
            for row in rows:
                events = self.log.stream(row.stream, contents=False)
                state = RunState()
                for event in events:
                    state.apply(event.seq, event.time_ns, event.type, event.body)
                yield state
            start = rows[-1].key + b"\0"


def budgets_of(log: Log) -> list[Account]:
    """All budgets of a ledger, as they stand."""
    found = []
    for kind in ("run", "session", "agent"):
        for stream in log.streams(f"budget_{kind}/"):
            head = log.stream_head(stream)
            assert head is not None
            body: Any = log.event(head.seq, contents=False).body
            found.append(budget.account_of(body))
    return found


def _used(runs: Runs, run_id: str | None) -> dict[str, int]:
    """What a run and its children have used so far, by dimension; nothing for what is no run."""
    state = None if run_id is None else runs.state(run_id)
    if state is None:
        return {}
    tools, tokens = sum(state.tools.values()), state.input_tokens + state.output_tokens
    own = {
        "calls": tools + state.model_calls,
        "tool_calls": tools,
        "model_calls": state.model_calls,
        "tokens": tokens,
        "input_tokens": state.input_tokens,
        "output_tokens": state.output_tokens,
        "cached_tokens": state.cached_tokens,
        "usd_nano": state.usd_nano,
    }
    return budget.total(own, *(_used(runs, child) for child in state.children))


def account_name(*, run: str | None = None, session: str | None = None, agent: str | None = None) -> str:
    """The name of the account of what is bounded; raises `BadInput` unless it is one thing."""
    given = [(kind, of) for kind, of in (("run", run), ("session", session), ("agent", agent)) if of is not None]
    if len(given) != 1:
        raise BadInput("A budget is of one thing.", hint="Name a run, a session, or an agent.")
    kind, of = given[0]
    return f"{kind}:{check_name(of, kind) if kind == 'agent' else check_id(of, kind)}"


def idempotency_key(state: RunState, row: ToolEntry) -> str:
    """The key that the other side was given for a call."""
    return row.idempotency or chain.tag(state.seed, f"key:{row.path}".encode()).hex()[:32]


def beside(root: Path | None, name: str) -> str | None:
    """A file of rules beside the log; None if there is none. Raises `BadInput` for two."""
    places = [] if root is None else [root / f"{name}{suffix}" for suffix in _SUFFIXES]
    found = [place for place in places if place.exists()]
    if len(found) > 1:
        names = ", ".join(place.name for place in found)
        raise BadInput(f"There are {len(found)} files that could be the {name}: {names}.", hint="Keep one of them.")
    return str(found[0]) if found else None


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"A {what} is a text, not {type(value).__name__}.")
    return value


def _call(function: Callable[[], Any]) -> None:
    found = function()
    if hasattr(found, "__await__"):

        async def wait() -> None:
            await found

        asyncio.run(wait())


__all__ = ["CallRef", "Governing", "account_name", "beside", "budgets_of", "idempotency_key"]
