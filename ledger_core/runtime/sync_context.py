"""The context of sync agents: what waits holds the thread, or the step is torn down.

Rules: as in `context`; the names are those of the other kind of agent. This file holds no rules of effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, overload

from ledger_core.run.retry import RetryPolicy, policy_of
from ledger_core.runtime.asked import duration, instant, run_options, tool_arguments
from ledger_core.runtime.context import Context
from ledger_core.runtime.driver import run_blocking
from ledger_core.runtime.effect import Place
from ledger_core.runtime.stream_effects import SyncModelStream


class SyncContext(Context):
    """The context of a sync agent."""

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None, /, **keywords: Any) -> Any:
        """Call a tool by its name. Raises `ToolFailed`, `BadInput`."""
        return run_blocking(self._effects.call_tool(self._place(), name, tool_arguments(arguments, keywords)))

    def call_model(
        self, request: Mapping[str, Any], *, timeout: float | None = None, retry: RetryPolicy | None = None
    ) -> Any:
        """Ask a model: `{"model": …, "messages": […], …}`.

        `timeout` is in seconds for one attempt. Raises `ModelFailed`, `BadInput`.
        """
        policy = None if retry is None else policy_of(retry)
        work = self._effects.call_model(self._place(), request, timeout=duration(timeout), retry=policy)
        return run_blocking(work)

    def stream_model(self, request: Mapping[str, Any], *, timeout: float | None = None) -> SyncModelStream:
        """Ask a model, and read its answer in chunks: `for chunk in ctx.stream_model({…})`.

        The provider returns an iterator, sync or async. The answer is kept whole when it has ended, or was left
        (`with`, `close`). `timeout` is in seconds for one chunk.
        Raises `ModelFailed`, `BadInput`, `BudgetExceeded`.
        """
        return SyncModelStream(self._stream(request, timeout))

    def sleep(self, seconds: float) -> None:
        """Sleep for milliseconds or months: nobody is held, and a restart does not begin it again."""
        return run_blocking(self._effects.sleep(self._place(), None, duration(seconds, needed=True)))

    def sleep_until(self, when: datetime) -> None:
        """Sleep until a time, which has a time zone."""
        return run_blocking(self._effects.sleep(self._place(), instant(when), None))

    def wait_signal(self, name: str, *, timeout: float | None = None) -> Any:
        """The payload of the next signal of a name, which may have come before. Raises `WaitTimedOut`."""
        return run_blocking(self._effects.wait_signal(self._place(), name, timeout))

    @overload
    def request_approval(
        self, question: Any, *, timeout: float | None = None, wait: Literal[True] = True
    ) -> dict[str, Any]: ...
    @overload
    def request_approval(
        self, question: Any, *, timeout: float | None = None, wait: Literal[False]
    ) -> SyncPendingApproval: ...
    def request_approval(self, question: Any, *, timeout: float | None = None, wait: bool = True) -> Any:
        """Ask a person: `{"approved": bool, "by": text, "reason": text}`. Raises `WaitTimedOut`.

        With `wait=False` the code goes on, with the pending request; `pending.wait()` gives the answer.
        """
        if wait:
            return run_blocking(self._effects.request_approval(self._place(), question, timeout))
        return SyncPendingApproval(self, run_blocking(self._effects.ask_approval(self._place(), question, timeout)))

    def _await_approval(self, approval: str, timeout: float | None) -> dict[str, Any]:
        return dict(run_blocking(self._effects.await_approval(self._place(), approval, timeout)))

    def spawn(self, agent: Any, initial_state: Mapping[str, Any] | None = None, **options: Any) -> SyncChild:
        """Start a child run of an agent (or of the name of one that workers serve); join it with its `join`.

        `options` are `run_id`, `priority`, `capabilities`, `retry_policy`, `timeout`. Raises `BadInput`.
        """
        return run_blocking(self._spawn(self._place(), agent, initial_state, options))

    async def _spawn(self, place: Place, agent: Any, initial_state: Any, options: Any) -> SyncChild:
        run_id = await self._effects.spawn(place, agent, run_options(initial_state, options))
        return SyncChild(self, run_id)

    def join(self, run_id: str, *, timeout: float | None = None) -> Any:
        """The output of a child of this run, when it has ended. Raises `ChildFailed`, `WaitTimedOut`, `BadInput`."""
        return run_blocking(self._effects.join(self._place(), run_id, timeout))

    def yield_(self) -> None:
        """Give the step back, so that other runs have a turn, and go on here later."""
        return run_blocking(self._effects.yield_(self._place()))


class SyncPendingApproval:
    """A question that a person has not answered yet, and that nobody waits for: see `wait`."""

    def __init__(self, context: SyncContext, approval_id: str) -> None:
        self._context = context
        self.approval_id = approval_id

    def wait(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The person's answer: `{"approved": bool, "by": text, "reason": text}`. Raises `WaitTimedOut`."""
        return self._context._await_approval(self.approval_id, timeout)


class SyncChild:
    """A child run of a sync agent."""

    def __init__(self, context: SyncContext, run_id: str) -> None:
        self._context = context
        self.run_id = run_id

    def join(self, *, timeout: float | None = None) -> Any:
        """The child's output, when it has ended. Raises `ChildFailed`, `WaitTimedOut`."""
        return self._context.join(self.run_id, timeout=timeout)
