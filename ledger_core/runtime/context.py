"""What agent code sees of the runtime: one object through which everything goes that must be remembered.

Rules: an effect's path is taken synchronously at the call, so `gather(ctx.call_tool(…), ctx.call_tool(…))` is
deterministic. Only what waits is awaited. The two contexts have the same names; `SyncContext` is without await. A
context ends with its step: afterwards every effect is refused. This file holds no rules of effects.
"""

from __future__ import annotations

import os
import random as random_module
import sys
import uuid as uuid_module
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ledger_core import codec
from ledger_core.clock import NS, Clock
from ledger_core.errors import BadInput
from ledger_core.ids import check_name
from ledger_core.run.patch import merge
from ledger_core.runtime import scope
from ledger_core.runtime.driver import run_blocking
from ledger_core.runtime.effects import Effects, Place

_OWN: Final = str(Path(__file__).resolve().parents[1])
_UNSET: Final = object()


class _Context:
    """What both contexts have."""

    def __init__(
        self,
        effects: Effects,
        *,
        run_id: str,
        step_id: str,
        attempt: int,
        session_id: str | None,
        state: dict[str, Any],
        clock: Clock,
    ) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.step_id = step_id
        self.attempt = attempt
        """Epoch of this claim of the step, from 1."""
        self._effects = effects
        self._state = state
        self._clock = clock

    @property
    def state(self) -> dict[str, Any]:
        """The run's state as the step saw it first, with what this step has written; a copy."""
        return dict(codec.roundtrip(self._state))

    def now(self) -> datetime:
        """The time in UTC, the same whenever this place of the run is executed again."""
        make = self._clock.now_ns
        ns = self._effects.value(self._place(), "now", "", make)
        return datetime.fromtimestamp(ns // NS, UTC).replace(microsecond=ns % NS // 1000)

    def uuid(self) -> str:
        """A random UUID (version 4), derived from the run's seed and this place: no event."""
        return str(uuid_module.UUID(bytes=self._effects.derived(self._place()[0], "uuid")[:16], version=4))

    def random(self) -> float:
        """A random number in [0, 1), derived from the run's seed and this place: no event."""
        return random_module.Random(self._effects.derived(self._place()[0], "random")).random()

    def capture(self, name: str, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """A local value that another execution would not get again: `function` is called once, and its result recorded.

        Raises `ToolFailed` with what it raised, live and replayed; `NotStorable` for a result that is no plain data.
        """
        if not callable(function):
            raise BadInput(
                f"capture({name!r}, …) was given a {type(function).__name__} instead of a function.",
                hint="Write ctx.capture(name, lambda: value).",
            )
        check_name(name, "captured value")
        return self._effects.value(self._place(), "capture", name, lambda: function(*args, **keywords))

    def write_state_patch(self, key: str | Mapping[str, Any], value: Any = _UNSET) -> None:
        """Change the state: one key, or an RFC 7396 merge patch, in which None deletes.

        The change becomes the run's when the step completes. Raises `BadInput`.
        """
        if isinstance(key, str) and value is not _UNSET:
            patch: dict[str, Any] = {key: value}
        elif isinstance(key, Mapping) and value is _UNSET:
            patch = dict(key)
        else:
            raise BadInput(
                "A state patch is a key and a value, or one dict.", hint='Write ctx.write_state_patch("key", value).'
            )
        recorded = self._effects.patch(self._place(), patch)
        self._state = merge(self._state, recorded)

    def delete_state(self, key: str) -> None:
        """Remove a key from the state."""
        self.write_state_patch(key, None)

    def _place(self) -> Place:
        """The path of the effect that is asked for, and the line that asks while there is a record to compare."""
        here = scope.current()
        if here is None:
            raise BadInput(
                "The context was used outside its agent's code: in a thread, a callback, or a tool.",
                hint="Use it in the agent's function and in tasks that it creates.",
            )
        return here.path(), _line() if self._effects.compares else None


class AgentContext(_Context):
    """The context of an async agent."""

    def call_tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, /, **keywords: Any
    ) -> Coroutine[Any, Any, Any]:
        """Call a tool by its name; await its result. Raises `ToolFailed`, `BadInput`."""
        return self._effects.call_tool(self._place(), name, _arguments(arguments, keywords))

    def call_model(self, request: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """Ask a model: `{"model": …, "messages": […], …}`; await its response. Raises `ModelFailed`, `BadInput`."""
        return self._effects.call_model(self._place(), request)


class SyncContext(_Context):
    """The context of a sync agent."""

    def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None, /, **keywords: Any) -> Any:
        """Call a tool by its name. Raises `ToolFailed`, `BadInput`."""
        return run_blocking(self._effects.call_tool(self._place(), name, _arguments(arguments, keywords)))

    def call_model(self, request: Mapping[str, Any]) -> Any:
        """Ask a model: `{"model": …, "messages": […], …}`. Raises `ModelFailed`, `BadInput`."""
        return run_blocking(self._effects.call_model(self._place(), request))


def _arguments(arguments: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> dict[str, Any]:
    if arguments is not None and not isinstance(arguments, Mapping):
        raise BadInput("A tool's arguments are a dict or keywords.", hint='Write ctx.call_tool("name", {"a": 1}).')
    return {**(arguments or {}), **keywords}


def _line() -> str | None:
    """`file:line` of the agent's code that is asking."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        back = frame.f_back
        if back is None:
            return None
        frame = back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
