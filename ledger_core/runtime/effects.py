"""The effects of a step, of all kinds: the one object that contexts call.

Rules: none of its own; each family of effects has its file.
"""

from __future__ import annotations

from typing import Any

from ledger_core.runtime.artifact_effects import ArtifactEffects
from ledger_core.runtime.departure import Operation
from ledger_core.runtime.effect import normalised
from ledger_core.runtime.stream_effects import StreamEffects
from ledger_core.runtime.tool_effects import ToolEffects
from ledger_core.runtime.wait_effects import WaitEffects


class AllEffects(ToolEffects, StreamEffects, WaitEffects, ArtifactEffects):
    """Tools, models, waits, artifacts and values of one step."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._taken: set[int] = set()
        self._given: dict[str, int] = {}
        self._at_gate: set[str] = set()
        self._departed: set[str] = set()
        self._operations: dict[str, Operation] = {}


__all__ = ["AllEffects", "normalised"]
