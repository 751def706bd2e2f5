"""Code that is not one function: a script, a notebook, a framework's callbacks, another language.

Rules: it appends through a leased context; it is never executed again by the runtime. So its effects are numbered, not
placed: each attachment has a prefix of its own. What a lost attachment left open is settled when the run is attached
again: by verify hooks where they are known, else it stands in doubt and is named. Proposed state is committed when the
context is left. The context may be used from any thread; one effect at a time. Waits hold the caller: there is nobody
who could be torn down.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from ledger_core import secret
from ledger_core.clock import NS
from ledger_core.errors import BadInput, LedgerError, Refused
from ledger_core.events import Body, Missing
from ledger_core.events.effect import (
    ModelCallFailed,
    SideEffect,
    ToolCallFailed,
)
from ledger_core.governance.calling import Function
from ledger_core.governance.prices import usage_of
from ledger_core.governance.proposals import proposed
from ledger_core.governance.tool import ToolSpec, spec_of
from ledger_core.ids import check_name
from ledger_core.run import decide
from ledger_core.run.journal import UNKNOWN, Entry, Intent, Journal, Standing
from ledger_core.run.patch import diff, merge
from ledger_core.run.state import ToolEntry
from ledger_core.runtime.agent import agent_of
from ledger_core.runtime.claims import Asked, Opening
from ledger_core.runtime.departure import operation_of
from ledger_core.runtime.driver import LOOK, BlockingDriver, StepStopped, run_blocking
from ledger_core.runtime.effect import Place
from ledger_core.runtime.effects import AllEffects
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.model_effects import model_request
from ledger_core.runtime.recorded import RunRecord
from ledger_core.runtime.recorder import Recorder
from ledger_core.runtime.scope import Scope, entered
from ledger_core.runtime.sync_context import SyncContext
from ledger_core.runtime.tool_effects import wasted

if TYPE_CHECKING:
    from ledger_core.runtime.runtime import Runtime


class _Driver(BlockingDriver):
    """Waits hold the caller."""

    def _park(self, wake_ns: int | None) -> None:
        assert self._recorder is not None
        left = LOOK if wake_ns is None else max(0, wake_ns - self._recorder.log.clock.now_ns()) / NS
        self._pause(min(LOOK, left))


class AttachedContext(SyncContext):
    """The context of attached code: a sync agent's, and calls that are made elsewhere."""

    _scope: Scope
    _mutex: threading.Lock
    _recorder: Recorder
    _output: Any = None
    _ended: str | None = None
    in_doubt: tuple[ToolEntry, ...] = ()
    """Outside writes of lost attachments whose outcome nobody knows."""

    def begin_tool(
        self, name: str, arguments: Mapping[str, Any], *, side_effect: SideEffect = "external_write"
    ) -> OpenCall:
        """Record that a tool is about to be called elsewhere; the call says later what came of it."""
        check_name(name, "tool")
        if not isinstance(arguments, Mapping):
            raise BadInput("A tool's arguments are a dict.", hint='Write {"to": "…"}.')
        given = dict(arguments)
        operation = operation_of(given)
        document = {"arguments": secret.plain(given)}
        if operation is not None:
            document["operation"] = [operation.scope, operation.name]
        intent = self._effects._intent(self._place(), "tool", name, document)
        if operation is not None:
            self._effects._operations[intent.path] = operation
        spec = self._effects._tools.get(name) or ToolSpec(
            name=name, function=_elsewhere, version="elsewhere", side_effect=side_effect
        )
        with self._mutex:
            run_blocking(self._effects.driver.effect(self._effects.begin_tool(spec, intent), lambda: None))
        return OpenCall(self, intent, side_effect)

    def begin_model(self, request: Mapping[str, Any]) -> OpenCall:
        """Record that a model is about to be asked elsewhere."""
        _, document = model_request(request)
        intent = self._effects._intent(self._place(), "model", document["model"], document)
        with self._mutex:
            run_blocking(self._effects.driver.effect(self._effects.begin_model(intent), lambda: None))
        return OpenCall(self, intent, "none")

    def complete(self, output: Any = None) -> None:
        """The run ends well when the context is left."""
        self._output, self._ended = secret.plain(output), "completed"

    def fail(self, error_type: str, message: str = "") -> None:
        """The run fails when the context is left."""
        self._output, self._ended = (check_name(error_type, "error"), secret.VAULT.clean_text(str(message))), "failed"

    def _place(self) -> Place:
        self._effects._check_open()
        with self._mutex:
            return self._scope.anywhere(), None

    def _commit(self, *bodies: Body) -> None:
        with self._mutex:
            run_blocking(self._effects._append(lambda *_: bodies))


class OpenCall:
    """A call that was begun and is made elsewhere."""

    def __init__(self, context: AttachedContext, intent: Intent, side_effect: str) -> None:
        self.path = intent.path
        self.key = context._effects._key(intent.path)
        """The idempotency key to pass on."""
        self._context = context
        self._intent = intent
        self._entry = Entry(intent=intent, seq=0)
        self._side_effect = side_effect
        self._over = False

    def succeeded(self, result: Any = None) -> None:
        """The call returned."""
        plain, effects = secret.plain(result), self._context._effects
        if self._intent.kind == "model":
            self._end(*effects.answer_bodies(self._entry, plain, usage_of(plain), proposed(plain)))
        else:
            self._end(effects.result_body(self._entry, plain))

    def failed(self, error_type: str, message: str = "", *, no_effect: bool = False) -> None:
        """The call failed; an outside write is in doubt unless there was `no_effect`."""
        check_name(error_type, "error")
        words: dict[str, Any] = {"path": self.path, "attempt": 1, "error_type": error_type}
        words["message"] = secret.VAULT.clean_text(str(message))
        effects = self._context._effects
        if self._intent.kind == "model":
            self._end(ModelCallFailed(category="model", spent=effects._model_wasted(self._entry, "model"), **words))
        else:
            doubt = self._side_effect == "external_write" and not no_effect
            category = "no_effect" if no_effect else "tool"
            spent = None if doubt or no_effect else effects._spent(self._entry, {"calls": 1, "tool_calls": 1})
            self._end(ToolCallFailed(category=category, in_doubt=doubt, spent=spent, **words))

    def _end(self, *bodies: Body) -> None:
        if self._over:
            raise BadInput(f"The call at effect {self.path} has ended already.", hint="Begin another one.")
        self._context._commit(*bodies)
        self._context._effects._departed.discard(self.path)
        self._over = True


@attrs.frozen(kw_only=True)
class Attaching:
    """What it takes to attach code to a run; `Runtime.attach` makes one."""

    runtime: Runtime
    asked: Asked
    tools: Mapping[str, ToolSpec]

    @contextmanager
    def context(self) -> Iterator[AttachedContext]:
        """The leased context; leaving it commits the state, and gives the run back or ends it.

        Raises `Refused` for a run that has ended, that another holds, or that is code's; `Fenced`, `Cancelled`.
        """
        record, recorder = self._claim()
        journal = Journal()
        driver = _Driver(journal, self.runtime.pulse.heard)
        driver.watch(recorder)
        state = recorder.state
        scope = Scope(f"attach.{state.epoch}/")
        context = self._context(driver, recorder, record, scope)
        self._settle(context, record)
        base = record.document
        context._state = merge(base, {})
        for entry in record.proposed:
            context._state = merge(context._state, entry)
        try:
            with entered(scope):
                yield context
        except StepStopped:
            context._ended = None
            if isinstance(driver.stopped, LedgerError):
                raise driver.stopped from None
            raise
        finally:
            driver.closed = True
            self._leave(context, recorder, diff(base, context._state))

    def _claim(self) -> tuple[RunRecord, Recorder]:
        runtime, run_id = self.runtime, self.asked.created.run
        opening = Opening(runtime.desk, self.asked, worker=runtime.worker_id, digest=lambda _: None, driver="external")
        events = runtime.log.decide(opening.decide)
        if opening.ended:
            words = runtime.state(run_id).words
            raise Refused(f"Run {run_id} {words}; nothing can be attached to it.", hint="Choose another run id.")
        record = RunRecord.read(runtime.log, run_id)
        own = [event for event in events if event.stream == stream_of(run_id)]
        return record, Recorder(runtime.log, stream_of(run_id), record.state, own[-1].hash, runtime.folds)

    def _context(self, driver: _Driver, recorder: Recorder, record: RunRecord, scope: Scope) -> AttachedContext:
        runtime, state = self.runtime, recorder.state
        tag = runtime.log.tagger(stream_of(state.run))
        if tag is None or isinstance(record.document, Missing):
            raise Refused(f"What run {state.run} said was forgotten: it cannot go on.", hint="Start a new run.")
        execution = runtime.execution(
            agent_of(_external),
            state,
            driver.journal,
            record.document,
            tag,
            recorder,
            record.session,
        )
        effects = AllEffects(
            driver=driver,
            recorder=recorder,
            tag=tag,
            tools={**execution.tools, **self.tools},
            model=execution.model,
            lineage_seed=recorder.state.lineage_seed,
            seed=state.seed,
            surroundings=execution.surroundings,
        )
        context = AttachedContext(effects, **execution._identity(scope))
        context._scope, context._mutex, context._recorder = scope, threading.Lock(), recorder
        return context

    def _settle(self, context: AttachedContext, record: RunRecord) -> None:
        """Find out what became of what lost attachments left open; who cannot be asked is told in `in_doubt`."""
        known: Mapping[str, ToolSpec] = context._effects._tools
        for entry in record.journal.entries.values():
            if not entry.final and not entry.writes:
                self._end_lost(context, entry)
            if entry.final or not entry.writes or entry.no_effect:
                continue
            spec, arguments = known.get(entry.intent.name), entry.intent.document["arguments"]
            if spec is not None and spec.verify is not None and not secret.hides(arguments):
                entry.wake_ns = None
                entry.told = True  # nobody calls it again: a call without effect has failed
                if entry.standing is Standing.OPEN:
                    entry.value, entry.error_type = "the attachment ended during the call", "Lost"
                    entry.standing = Standing.IN_DOUBT
                run_blocking(
                    context._effects.driver.effect(context._effects._settle(spec, entry, arguments), lambda: None)
                )
            elif entry.standing is Standing.OPEN:
                doubt = ToolCallFailed(
                    path=entry.intent.path,
                    attempt=entry.attempt,
                    category=UNKNOWN,
                    error_type="InDoubt",
                    in_doubt=True,
                    message="The attachment ended between intent and outcome, and no verify hook is known.",
                )
                context._commit(doubt)
        context.in_doubt = tuple(context._recorder.state.in_doubt)

    def _end_lost(self, context: AttachedContext, entry: Entry) -> None:
        """End a read or a model's call of a lost attachment: nobody makes it again, and it holds something."""
        path = entry.intent.path
        if path not in context._recorder.state.reservations:
            return
        effects = context._effects
        words: dict[str, Any] = {"path": path, "attempt": entry.attempt, "category": "lost", "error_type": "Lost"}
        words["message"] = "The attachment ended during the call."
        if entry.intent.kind == "model":
            context._commit(ModelCallFailed(spent=effects._model_wasted(entry, "timeout"), **words))
        else:
            spec = effects._tools.get(entry.intent.name)
            spent = {"calls": 1, "tool_calls": 1} if spec is None else wasted(spec, "lost")
            context._commit(ToolCallFailed(in_doubt=False, spent=spent, **words))

    def _leave(self, context: AttachedContext, recorder: Recorder, patch: dict[str, Any]) -> None:
        def bodies(state: Any, riders: list[Body]) -> Iterable[Body]:
            if state.cancelling:
                return decide.cancelled(state, riders)
            if context._ended == "completed":
                return decide.complete(state, context._output, patch, riders)
            committed = decide.commit_patch(state, patch)
            if context._ended == "failed":
                kind, message = context._output
                failure = decide.Failure(category="non_retryable", error_type=kind, message=message)
                before = [*riders, *committed]
                return [*committed, *decide.fail(attrs.evolve(state, retry={"max_attempts": 1}), failure, before, 0)]
            return [*committed, *decide.release(state, None)]

        worked_ns = context._effects._worked_ns()
        try:
            recorder.commit(bodies, family=lambda runs, state: runs.worked(state, worked_ns))
        except LedgerError:
            if not isinstance(context._effects.driver.stopped, LedgerError):
                raise


def _elsewhere(**_: Any) -> None:
    raise Refused("This tool is called elsewhere.", hint="Use begin_tool, and say what came of it.")


def specs(tools: Iterable[ToolSpec | Function]) -> dict[str, ToolSpec]:
    """Tools by their names."""
    return {spec.name: spec for spec in map(spec_of, tools)}


def _external(ctx: Any) -> None:
    raise Refused(f"Run {ctx.run_id} is not executed: code attaches itself to it.", hint="Use Runtime.attach.")
