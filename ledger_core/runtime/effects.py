"""The effects of a step, of all kinds: the one object that contexts call.

Rules: none of its own; each family of effects has its file.
"""

from __future__ import annotations

from typing import Any

from ledger_core.runtime.effect import normalised
from ledger_core.runtime.model_effects import ModelEffects
from ledger_core.runtime.tool_effects import ToolEffects
from ledger_core.runtime.wait_effects import WaitEffects


class AllEffects(ToolEffects, ModelEffects, WaitEffects):
    """Tools, models, waits and values of one step."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._taken: set[int] = set()
        self._given: dict[str, int] = {}


__all__ = ["AllEffects", "normalised"]
