"""Paths: an effect's deterministic place in the program, given synchronously at the call.

Rules: a path is the ordinal of the effect in its scope, behind the scope's own path. The agent's own code is the root
scope: `1`, `2`, … A task is a scope of its creator's: `fetch.2/1` is the first effect of the second task that was made
of a coroutine `fetch`. A task gets its scope when it is created, in program order, not when it first runs: so the
schedule cannot change a path. This file does not know effects.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from ledger_core.errors import BadInput

_current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("agentledger_scope", default=None)


class Scope:
    """A place that effects and tasks are counted in."""

    __slots__ = ("_children", "_effects", "_thread", "prefix", "tasks")

    def __init__(self, prefix: str = "", tasks: set[asyncio.Task[Any]] | None = None) -> None:
        self.prefix = prefix
        self.tasks: set[asyncio.Task[Any]] = set() if tasks is None else tasks
        """All tasks of the run, shared by its scopes."""
        self._thread = threading.get_ident()
        self._effects = 0
        self._children: Counter[str] = Counter()

    def path(self) -> str:
        """The path of the next effect; raises `BadInput` in another thread, whose order nobody could repeat."""
        if threading.get_ident() != self._thread:
            raise BadInput(
                "The context was used in another thread than its agent's.",
                hint="Use it in the agent's function and in tasks that it creates; tools may use threads.",
            )
        self._effects += 1
        return f"{self.prefix}{self._effects}"

    def anywhere(self) -> str:
        """The path of the next effect, in whatever thread: where nothing is ever executed again."""
        self._effects += 1
        return f"{self.prefix}{self._effects}"

    def here(self) -> bool:
        """Whether this is the scope's own thread."""
        return threading.get_ident() == self._thread

    def child(self, name: str) -> Scope:
        """The scope of the next task of that name."""
        self._children[name] += 1
        return Scope(f"{self.prefix}{name}.{self._children[name]}/", self.tasks)


def current() -> Scope | None:
    """The scope that this code runs in; None outside agents."""
    return _current.get()


def of_context(context: contextvars.Context | None) -> Scope | None:
    """The scope that a context was made in."""
    return None if context is None else context.get(_current)


@contextmanager
def entered(scope: Scope) -> Iterator[Scope]:
    """Run a block in a scope."""
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)


@contextmanager
def outside() -> Iterator[None]:
    """Run a block outside every scope: what the runtime and tools do there counts for no path."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def outer_context() -> contextvars.Context:
    """A copy of the current context, outside every scope."""
    context = contextvars.copy_context()
    context.run(_current.set, None)
    return context


@contextmanager
def tasks_counted(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Have every task that agent code creates on this loop counted; other tasks are left alone."""
    before: Any = loop.get_task_factory()
    factory: Any = before if isinstance(before, _Factory) else _Factory(before)
    factory.users += 1
    if factory is not before:
        loop.set_task_factory(factory)
    try:
        yield
    finally:
        factory.users -= 1
        now: Any = loop.get_task_factory()
        if factory.users == 0 and now is factory:
            loop.set_task_factory(factory.before)


class _Factory:
    """A task factory around the loop's own, shared by the runs on the loop."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.users = 0

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Future[Any]:
        scope = _current.get()
        if scope is None:
            return self._make(loop, coro, **options)
        context = options.pop("context", None) or contextvars.copy_context()
        child = scope.child(getattr(coro, "__name__", type(coro).__name__))
        context.run(_current.set, child)
        task = self._make(loop, coro, context=context, **options)
        if isinstance(task, asyncio.Task):
            scope.tasks.add(task)
            task.add_done_callback(scope.tasks.discard)
        return task

    def _make(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Future[Any]:
        if self.before is not None:
            return self.before(loop, coro, **options)  # type: ignore[no-any-return]
        return asyncio.Task(coro, loop=loop, **options)
