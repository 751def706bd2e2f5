"""The spans of runs: for systems that show traces.

Rules: pure over facts alone, so nothing that people or models said leaves the ledger. A run is a span, in it its steps,
in them their effects; a child's run is in the effect that started it, and has its root's trace. Events stand in the
span that they are of. A span comes when its last event has; a run's comes behind all that are in it. What has not ended
ends at null: a run in flight, and a call that is in doubt. Memory is bounded by what is open at once.

This file does not know how spans are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ledger_core.clock import NS
from ledger_core.events import Body, effect, govern, run, step, wait
from ledger_core.log.log import Log
from ledger_core.log.record import Event
from ledger_core.run.rows import UNSETTLED
from ledger_core.run.state import RunState
from projections.scope import Scope, runs_of
from projections.spans import Span, named, note, span_id, trace_id, usage

_ENDS: Final = (step.StepCompleted, step.StepFailed, step.StepCancelled)
_BREAKS: Final = (step.StepCreated, step.StepRetryScheduled, *_ENDS)
"""Events behind which the code does not listen any more to what it had begun."""


def of_scope(log: Log, scope: Scope) -> Iterator[Span]:
    """The spans of the runs of a scope, run by run."""
    for run_id in runs_of(log, scope):
        yield from spans(log.id, log.stream(f"run/{run_id}", contents=False))


def spans(ledger: bytes, events: Iterable[Event]) -> Iterator[Span]:
    """The spans of one run's events, from its first."""
    telling = _Telling(ledger)
    for event in events:
        yield from telling.take(event)
    yield from telling.rest()


class _Telling:
    """One run's spans while its events come."""

    def __init__(self, ledger: bytes) -> None:
        self._ledger = ledger
        self._state = RunState()
        self._run: Span | None = None
        self._step: Span | None = None
        self._open: dict[str, Span] = {}
        """Spans of effects, by path."""
        self._asked: dict[str, str] = {}
        """Paths of the children and of the questions that the code did not wait for, by their ids."""
        self._ended: list[Span] = []
        """Spans that have ended, until the event behind them has come: it may be of the last of them."""

    def take(self, event: Event) -> Iterator[Span]:
        """Fold one more event; yields the spans that are told to their end."""
        body, state = event.body, self._state
        if not isinstance(body, effect.ToolCallsProposed):
            yield from self._ended
            self._ended.clear()
        state.apply(event.seq, event.time_ns, event.type, body)
        if self._run is None:
            self._run = self._begun(event, "run", f"run {state.agent}".strip(), None, seq=0)
        if isinstance(body, step.StepCreated):
            self._close_step(event)
            self._step = self._begun(event, "step", f"step {body.number} {body.agent}", self._run)
            self._step.attributes |= {
                "agentledger.step_id": body.step,
                "agentledger.step_number": body.number,
                "gen_ai.agent.name": body.agent,
            }
        span = self._span_of(event) or self._step or self._run
        note(span, event)
        end = _END.get(type(body))
        if end is not None and span.kind not in ("run", "step"):  # else it is late evidence of what is closed
            end(self, span, event)
        if isinstance(body, _BREAKS):
            self._break(event)
        if isinstance(body, _ENDS):
            self._close_step(event)

    def rest(self) -> Iterator[Span]:
        """What is left when the events are over, the run's own span last."""
        yield from self._ended
        self._ended.clear()
        state, run_span = self._state, self._run
        if run_span is None:
            return
        for span in self._open.values():
            doubt = self._doubtful(span)
            span.end_ns = None if doubt or not state.ended else max(span.start_ns, state.since_ns)
            span.attributes |= {"agentledger.in_doubt": True} if doubt else {}
            yield span
        if self._step is not None:
            yield self._step
        run_span.attributes |= {
            "agentledger.status": state.status,
            **({} if state.waiting is None else {"agentledger.waiting": state.waiting}),
            "agentledger.model_calls": state.model_calls,
            "agentledger.tool_calls": sum(state.tools.values()),
            **usage(state.input_tokens, state.output_tokens, state.cached_tokens, state.usd_nano),
        }
        if state.ended:
            run_span.end_ns = max(run_span.start_ns, state.since_ns)
            run_span.status = "OK" if state.status == "completed" else "ERROR"
            run_span.message = "" if state.status == "completed" else str(state.category or state.status)
        yield run_span

    def _begun(self, event: Event, kind: str, name: str, parent: Span | None, seq: int | None = None) -> Span:
        state, root = self._state, self._state.root or self._state.run
        body = event.body
        parent_id = None if parent is None else parent.span_id
        if kind == "run" and isinstance(body, run.RunCreated) and body.parent is not None and body.parent_seq:
            parent_id = span_id(self._ledger, body.parent, body.parent_seq)
        own = {"gen_ai.agent.name": state.agent, "agentledger.session_id": state.session} if kind == "run" else {}
        return Span(
            trace_id=trace_id(self._ledger, root),
            span_id=span_id(self._ledger, state.run, event.seq if seq is None else seq),
            parent_span_id=parent_id,
            name=name,
            kind=kind,
            start_ns=event.time_ns,
            attributes={
                "agentledger.run_id": state.run,
                **{key: value for key, value in own.items() if value is not None},
            },
        )

    def _span_of(self, event: Event) -> Span | None:
        """The span of the effect that the event is of; begun, if the event begins it."""
        body: Any = event.body
        if isinstance(body, effect.ToolCallsProposed):
            return next((span for span in self._ended if span.attributes.get("agentledger.path") == body.path), None)
        path = getattr(body, "path", None)
        if isinstance(body, effect.ModelChunkReceived):
            path = body.of
        elif isinstance(body, wait.ChildRunEnded):
            path = self._asked.pop(body.run, None)
        elif isinstance(body, wait.ApprovalDecided):
            path = self._asked.pop(body.approval, None)
        if not isinstance(path, str):
            return None
        begin = _BEGIN.get(type(body))
        if path not in self._open and begin is not None and self._run is not None:
            kind, name = begin(body)
            span = self._open[path] = self._begun(event, kind, f"{kind} {name}".strip(), self._step or self._run)
            span.attributes |= {"agentledger.path": path, **named(kind, name)}
            if isinstance(body, wait.ChildRunRequested):
                self._asked[body.run] = path
            elif isinstance(body, wait.ApprovalRequested) and body.pending:
                self._asked[body.approval] = path
        return self._open.get(path)

    def close(self, span: Span, event: Event, status: str = "UNSET", message: str = "") -> None:
        """A span of an effect ends with an event."""
        path = span.attributes.get("agentledger.path")
        if path in self._open and self._open[path] is span:
            del self._open[path]
            span.end_ns, span.status, span.message = max(span.start_ns, event.time_ns), status, message
            self._ended.append(span)

    def _break(self, event: Event) -> None:
        """What the code had begun and does not listen to any more."""
        kept = {*self._state.waits}
        if isinstance(event.body, step.StepRetryScheduled) and not event.body.fresh:
            kept |= set(self._asked.values())
        for path, span in list(self._open.items()):
            if path not in kept and span.kind != "child" and not self._doubtful(span):
                span.attributes["agentledger.dropped"] = True
                self.close(span, event)

    def _doubtful(self, span: Span) -> bool:
        row = self._state.ledger.get(str(span.attributes.get("agentledger.path")))
        return row is not None and row.status in UNSETTLED and span.kind == "tool"

    def _close_step(self, event: Event) -> None:
        if self._step is not None:
            failed = isinstance(event.body, (step.StepFailed, step.StepCancelled))
            self._step.end_ns = max(self._step.start_ns, event.time_ns)
            self._step.status = "ERROR" if failed else "OK"
            self._step.message = getattr(event.body, "error_type", "") if failed else ""
            self._step.attributes |= {
                "agentledger.attempts": self._state.attempt,
                "agentledger.epoch": self._state.epoch,
            }
            self._ended.append(self._step)
            self._step = None


def _completed(telling: _Telling, span: Span, event: Event) -> None:
    body: Any = event.body
    span.attributes["agentledger.attempts"] = body.attempt
    if isinstance(body, effect.ModelCallCompleted):
        span.attributes |= usage(body.input_tokens, body.output_tokens, body.cached_tokens, body.usd_nano)
    elif body.spent:
        span.attributes["agentledger.usd"] = body.spent.get("usd_nano", 0) / NS
    telling.close(span, event, "OK")


def _failed(telling: _Telling, span: Span, event: Event) -> None:
    body: Any = event.body
    span.attributes["agentledger.attempts"] = body.attempt
    if body.spent:
        span.attributes["agentledger.usd"] = body.spent.get("usd_nano", 0) / NS
    if body.retry_ns is None and not getattr(body, "in_doubt", False):
        telling.close(span, event, "ERROR", body.error_type)


def _settled(telling: _Telling, span: Span, event: Event) -> None:
    body: Any = event.body
    if body.outcome != "resent" and not body.again:
        error = {"no_effect": "NoEffect", "compensated": "Compensated"}.get(body.outcome, "")
        telling.close(span, event, "ERROR" if error else "OK", error)


def _refused(telling: _Telling, span: Span, event: Event) -> None:
    telling.close(span, event, "ERROR", event.body.error_type)  # type: ignore[attr-defined]  # it has one


def _waited(telling: _Telling, span: Span, event: Event) -> None:
    if span.kind == "wait":
        late = isinstance(event.body, wait.TimerFired) and span.name != "wait sleep"
        telling.close(span, event, "ERROR" if late else "OK", "WaitTimedOut" if late else "")


def _abandoned(telling: _Telling, span: Span, event: Event) -> None:
    span.attributes["agentledger.abandoned"] = True
    if span.kind == "wait":
        telling.close(span, event)


def _child_ended(telling: _Telling, span: Span, event: Event) -> None:
    body: Any = event.body
    well = body.status == "completed"
    telling.close(span, event, "OK" if well else "ERROR", "" if well else body.error_type or body.status)


_BEGIN: Final[dict[type[Body], Callable[[Any], tuple[str, str]]]] = {
    effect.ToolCallRequested: lambda body: ("tool", body.tool),
    effect.ModelCallRequested: lambda body: ("model", body.model),
    govern.ToolPermissionDecided: lambda body: ("tool", body.tool),
    govern.ToolApprovalRequired: lambda body: ("tool", body.tool),
    govern.ToolCallJoined: lambda body: ("tool", body.tool),
    govern.EffectHeld: lambda body: (body.effect, body.name),
    govern.EffectRefused: lambda body: (body.effect, body.name),
    wait.TimerStarted: lambda _: ("wait", "sleep"),
    wait.SignalAwaited: lambda body: ("wait", f"signal {body.name}"),
    wait.ApprovalRequested: lambda _: ("wait", "approval"),
    wait.ApprovalAwaited: lambda _: ("wait", "approval"),
    wait.ChildAwaited: lambda _: ("wait", "child"),
    wait.ChildRunRequested: lambda body: ("child", body.agent),
}
"""What begins a span of an effect: its kind, and what it is called."""
_END: Final[dict[type[Body], Callable[[_Telling, Span, Event], None]]] = {
    effect.ToolCallCompleted: _completed,
    effect.ModelCallCompleted: _completed,
    effect.ToolCallFailed: _failed,
    effect.ModelCallFailed: _failed,
    effect.ToolCallSettled: _settled,
    effect.EffectAbandoned: _abandoned,
    govern.EffectRefused: _refused,
    govern.ToolCallJoined: lambda telling, span, event: telling.close(span, event, "OK"),
    wait.TimerFired: _waited,
    wait.WaitAnswered: _waited,
    wait.ApprovalDecided: lambda telling, span, event: telling.close(span, event, "OK"),
    wait.ChildRunEnded: _child_ended,
}
"""What may end one."""
