"""What the tasks of a run wait for that is their own: a sleep, a timer, a thread, a socket; no effect, no other task.

Rules: it looks, and changes nothing. It reads what asyncio keeps of a task's wait and of a loop's timers, which no
public name gives; where a version keeps it elsewhere, code that waits for something of its own is not seen to.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import Any, Final

from ledger_core.runtime import scope

_HERE: Final = os.path.dirname(__file__)
_PRIMITIVES: Final = frozenset(module.__file__ for module in (asyncio.locks, asyncio.queues, asyncio.taskgroups))
_GATHERING: Final[type] = getattr(asyncio.tasks, "_GatheringFuture", asyncio.Task)
_INTERNAL: Final = frozenset((asyncio.tasks.__file__, name) for name in ("_wait", "wait", "wait_for", "gather"))


def waits_of_its_own(loop: Any, tasks: set[asyncio.Task[Any]]) -> bool:
    """Whether a run's tasks wait for something that is no effect and no other task, or have set a timer."""
    return _awaits_others(tasks) or _has_timers(loop, tasks)


def _awaits_others(tasks: set[asyncio.Task[Any]]) -> bool:
    for task in tasks:
        file, name = _awaited_by(task)
        waiter = getattr(task, "_fut_waiter", None)
        ours = file.startswith(_HERE) or (file, name) in _INTERNAL or file in _PRIMITIVES
        if not ours and not isinstance(waiter, (asyncio.Task, _GATHERING)):
            return True
    return False


def _has_timers(loop: Any, tasks: set[asyncio.Task[Any]]) -> bool:
    """Whether the run's own code has set a timer on the loop (`asyncio.timeout`, `wait_for`, `sleep`)."""
    for handle in getattr(loop, "_scheduled", ()):
        found = scope.of_context(getattr(handle, "_context", None))
        if not handle.cancelled() and found is not None and found.tasks is tasks:
            return True
    return False


def _awaited_by(task: asyncio.Task[Any]) -> tuple[str, str]:
    """File and name of the innermost coroutine that a task waits in."""
    found: Any = task.get_coro()
    while True:
        inner = getattr(found, "cr_await", None)
        if not inspect.iscoroutine(inner):
            break
        found = inner
    code = getattr(found, "cr_code", None)
    return (code.co_filename, code.co_name) if code is not None else ("", "")
