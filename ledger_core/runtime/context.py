"""What agent code sees of the runtime: one object through which everything goes that must be remembered.

Rules: an effect's path is taken synchronously at the call, so `gather(ctx.call_tool(…), ctx.call_tool(…))` is
deterministic. Only what waits is awaited. What does not wait is here, for sync and async agents alike; what waits is in
`agent_context` and `sync_context`, under the same names. A context ends with its step: afterwards every effect is
refused. This file holds no rules of effects.
"""

from __future__ import annotations

import os
import random as random_module
import sys
import uuid as uuid_module
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ledger_core import codec
from ledger_core.clock import NS, Clock
from ledger_core.errors import BadInput
from ledger_core.governance import artifacts
from ledger_core.ids import check_name
from ledger_core.run.patch import merge
from ledger_core.runtime import scope
from ledger_core.runtime.asked import duration
from ledger_core.runtime.effect import Place
from ledger_core.runtime.effects import AllEffects
from ledger_core.runtime.scope import Scope
from ledger_core.runtime.stream_effects import ChunkSource

_OWN: Final = str(Path(__file__).resolve().parents[1])
_UNSET: Final = object()
_current: ContextVar[Any] = ContextVar("agentledger_context", default=None)


class ContinueWith:
    """What an agent returns to have its run go on with another step; made by `ctx.continue_with`."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent


class Context:
    """What both contexts have."""

    is_async = False

    def __init__(
        self,
        effects: AllEffects,
        *,
        run_id: str,
        step_id: str,
        attempt: int,
        epoch: int,
        session_id: str | None,
        variables: dict[str, Any],
        state: dict[str, Any],
        clock: Clock,
        root: Scope,
    ) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.step_id = step_id
        self.attempt = attempt
        """Number of the attempt of the step's code, from 1: a recovery is no new attempt."""
        self.epoch = epoch
        """Number of the step's claim, from 1 in the run; no code should depend on it."""
        self.variables = variables
        """The session's variables as they were when the run was created."""
        self._root = root
        self._effects = effects
        self._state = state
        self._clock = clock

    @property
    def state(self) -> dict[str, Any]:
        """The run's state as the step saw it first, with what this step has written; a copy."""
        self._pass_fork()
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
        self._pass_fork()
        self._state = merge(self._state, recorded)

    def _pass_fork(self) -> None:
        """Put in force what a fork is to find in its state, once the code has come through what it shares."""
        for patch in self._effects.driver.journal.forks_passed():
            self._state = merge(self._state, patch or {})

    def delete_state(self, key: str) -> None:
        """Remove a key from the state."""
        self.write_state_patch(key, None)

    def patched(self, name: str) -> bool:
        """Whether to take a branch that was added to the code on purpose: True in new work, False in old records.

        What it says is recorded, and stays so for this step. No effect, and so in no other effect's way.
        """
        return self._effects.patched(check_name(name, "patch"))

    def heartbeat(self) -> None:
        """Look whether this worker still has the step, and the run is not to end; where not, the code ends here.

        The worker's sign of life needs no call: it beats by itself.
        """
        self._effects.heartbeat()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """A named place of its own for effects: for threads, and where the order of calls is not the program's.

        Two scopes of one name that are entered side by side must not race for which is the first.
        """
        check_name(name, "scope")
        if "/" in name or "." in name:
            raise BadInput(f"A scope cannot be called {name!r}.", hint="Leave out the dots and slashes.")
        outer = scope.current() or self._root
        if self.is_async and not outer.here():
            raise BadInput(
                "An async agent's context was used in another thread.",
                hint="Call the thread's work as a tool, or with asyncio.to_thread and effects before and behind it.",
            )
        driver: Any = self._effects.driver
        beside = not self._root.here()
        if beside:
            driver.threads += 1
        try:
            with scope.entered(outer.child(name)), made_current(self):
                yield
        finally:
            if beside:
                driver.threads -= 1

    def continue_with(self, agent: Any = None, state: Mapping[str, Any] | None = None) -> ContinueWith:
        """Go on with another step, of this agent or another, with a fresh journal: `return ctx.continue_with()`.

        `state` is a last patch. Histories stay short: nothing of this step is executed again.
        """
        if state is not None:
            self.write_state_patch(state)
        return ContinueWith(agent)

    def create_artifact(
        self,
        name: str,
        data: Any,
        *,
        media_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        lineage: Any = None,
    ) -> dict[str, Any]:
        """Keep bytes, text or plain data with the run; returns its manifest, with `artifact_id`. Raises `BadInput`.

        `lineage` is what it was made of: ids of artifacts, or `{"sources": [...], "operation": ...}`.
        """
        manifest, kept = artifacts.artifact(name, data, media_type, metadata, lineage)
        return self._effects.keep(self._place(), manifest, kept)

    def create_media_artifact(
        self,
        kind: str,
        ref: str,
        *,
        mime_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        lineage: Any = None,
    ) -> dict[str, Any]:
        """Keep a reference to media that are stored elsewhere (`agentledger.media.v0`). Raises `BadInput`."""
        return self._effects.keep(self._place(), artifacts.media(kind, ref, mime_type, metadata, lineage))

    def create_stream_checkpoint(
        self,
        stream_id: str,
        consumer_id: str,
        offset: int | str,
        *,
        watermark: Any = None,
        chunk: Any = None,
        partial_result_ref: str | None = None,
        backpressure: Any = None,
    ) -> dict[str, Any]:
        """Keep how far a consumer has come in a stream (`agentledger.stream.v0`). Raises `BadInput`."""
        manifest = artifacts.stream_checkpoint(
            stream_id, consumer_id, offset, watermark, chunk, partial_result_ref, backpressure
        )
        return self._effects.keep(self._place(), manifest)

    def record_cost(self, name: str, *, metadata: Any = None, **amounts: Any) -> None:
        """Say what something cost that neither a tool nor a model says: `usd=0.02`, `input_tokens=…`.

        It counts in the budgets that bound the run. Raises `BadInput`.
        """
        self._effects.cost(self._place(), name, amounts, metadata)

    def _stream(self, request: Mapping[str, Any], timeout: float | None) -> ChunkSource:
        return self._effects.open_stream(self._place(), request, duration(timeout))

    def _place(self) -> Place:
        """The path of the effect that is asked for, and the line that asks while there is a record to compare."""
        here = scope.current()
        if here is None:
            raise BadInput(
                "The context was used outside its agent's code: in a thread, a callback, or a tool.",
                hint="Use it in the agent's function and in tasks that it creates.",
            )
        return here.path(), _line() if self._effects.compares else None


def current_context() -> Any:
    """The context of the agent whose code this is, also inside a framework's callback; raises `BadInput` outside."""
    found = _current.get()
    if found is None:
        raise BadInput("There is no agent here whose context this could be.", hint="Call it from an agent's own code.")
    return found


@contextmanager
def made_current(context: Any) -> Iterator[None]:
    """Have `current_context` find a context within a block."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def _line() -> str | None:
    """`file:line` of the agent's code that is asking."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        back = frame.f_back
        if back is None:
            return None
        frame = back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
