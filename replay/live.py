"""Effects that a replay really makes: a model's or a tool's answer of today, where somebody asks for it.

Rules: outside writes are never made. What is made is made in a ledger of its own, in memory, under the same policy,
sandboxes and prices, and leaves nothing in the log that is looked at. It is called at once, while the code waits: a
replay that asks the world is slow, and in order. This file does not decide which effects are live.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ledger_core import secret
from ledger_core.run.entry import Entry, Intent
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.recorded import RunRecord
from ledger_core.runtime.runtime import Runtime
from projections.course import Effect, of_events

Ask = Callable[[Intent, bool], bool]
"""Whether what the code asks for is to be asked of the world; told whether its answer is on record."""
CALLS = frozenset(("tool", "model"))
"""Kinds of effects that can be asked of the world by themselves."""
_RUN = "live"


class Live:
    """Makes those effects of an agent's that `ask` chooses, in a ledger of their own."""

    def __init__(self, runtime: Runtime, spec: AgentSpec, ask: Ask, effects: dict[str, Effect]) -> None:
        self._spec = spec
        self._runtime = runtime
        self.ask = ask
        self.effects = effects
        """What came of them, by the path at which the code asked."""

    def call(self, intent: Intent) -> Entry | None:
        """What comes of an effect today; None for what may not be asked: an outside write, what waits for others, and
        what was asked with a secret."""
        tool = self._spec.tools.get(intent.name)
        reads = tool is not None and tool.side_effect != "external_write"
        if intent.kind not in CALLS or (intent.kind == "tool" and not reads):
            return None
        if secret.hides(intent.document):
            return None  # what is on record of it is a secret's name
        with self._runtime.beside() as scratch:
            scratch.run(self._one(intent), run_id=_RUN)
            entry = RunRecord.read(scratch.log, _RUN).journal.entries.get("1")
            if entry is None or not entry.final:
                return None
            course = of_events(scratch.log.stream(stream_of(_RUN)), _RUN)
        made = next(one for one in course.effects if one.path == "1")
        self.effects[intent.path] = attrs.evolve(
            made, path=intent.path, line=intent.line, seq=None, log_seq=None, hash=None
        )
        return attrs.evolve(entry, intent=intent, seq=0)

    def _one(self, intent: Intent) -> AgentSpec:
        """An agent that makes one effect, with the names, tools and models of the agent that is looked at."""
        document = intent.document

        def one(ctx: Any) -> Any:
            if intent.kind == "tool":
                return ctx.call_tool(intent.name, document["arguments"])
            asked = {**document["parameters"], "model": intent.name, "messages": document["messages"]}
            return list(ctx.stream_model(asked)) if asked.get("stream") else ctx.call_model(asked)

        return attrs.evolve(self._spec, function=one, takes_state=False, is_async=False, code_digest=None, budget=None)
