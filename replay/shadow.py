"""Shadow: a candidate's code against a run's record, and what it would have done otherwise.

Rules: nothing outside is touched. A request that is on record gets its recorded answer; an outside write that is not is
blocked, and anything else that is not is given an assumption: the code goes on, and from the first assumption on what
it does is a guess, which the report says. Only who asks for it has models and tools that read called for real. Nothing
is appended. This file does not print.
"""

from __future__ import annotations

from typing import Any

import attrs

from ledger_core.errors import Refused
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.runtime import Runtime
from projections.course import Effect
from replay.alignment import Aligned
from replay.comparing import Comparison, effect_json
from replay.replaying import attempt


@attrs.frozen(kw_only=True, slots=False)
class Shadow:
    """What a candidate would have done in a run's place."""

    run_id: str
    agent: str
    same_code: bool
    compared: Comparison

    @property
    def stopped(self) -> bool:
        """Whether the candidate never came to an end, and was stopped."""
        return self.compared.attempted.status == "waiting" and self.compared.recorded.status in ("completed", "failed")

    @property
    def blocked(self) -> tuple[Effect, ...]:
        """Outside writes that the candidate wants to make and that are not on record."""
        return tuple(one for one in self.compared.attempted.effects if one.writes and one.outcome == "assumed")

    @property
    def assumed(self) -> tuple[Effect, ...]:
        """Effects that the record has no answer for."""
        return tuple(one for one in self.compared.attempted.effects if one.outcome == "assumed")

    @property
    def not_made(self) -> tuple[Effect, ...]:
        """Outside writes on record that the candidate does not ask for."""
        return tuple(row.left for row in self.compared.aligned if row.left is not None and _lost(row))

    @property
    def answered(self) -> int:
        """Effects of the candidate's that the record answered."""
        return len(self.compared.attempted.effects) - len(self.assumed)

    def as_json(self) -> dict[str, Any]:
        """The value as `--json` prints it."""
        found = self.compared.as_json()
        first = next(iter(self.assumed), None)
        return {
            "run_id": self.run_id,
            "agent": self.agent,
            "same_code": self.same_code,
            "same": found["same"],
            "effects": found["effects"],
            "answered": self.answered,
            "assumed": len(self.assumed),
            "stopped": self.stopped,
            "first_assumed": None if first is None else first.path,
            "writes": {
                "blocked": [effect_json(one) for one in self.blocked],
                "not_made": [effect_json(one) for one in self.not_made],
            },
            **{name: found[name] for name in ("left", "right", "cut_short", "divergences", "state", "cost")},
        }


def shadow(runtime: Runtime, run_id: str, candidate: AgentSpec, *, live: bool = False) -> Shadow:
    """Execute a candidate's code against a run's record.

    With `live`, models and tools that only read are asked for what is not on record, under the runtime's rules; outside
    writes are blocked all the same. Raises `NotFound`, and `Refused` for a forgotten run.
    """
    state = runtime.state(run_id)
    if state.driver != "code":
        raise Refused(
            f"Run {run_id} was driven by attached code: there is no place in it that a candidate could take.",
            hint="Shadow a run of an agent.",
        )
    compared = attempt(runtime, run_id, candidate, (lambda _, recorded: not recorded) if live else None)
    if compared is None:
        raise Refused(
            f"Agent {candidate.name} could not be executed to an end against run {run_id}.",
            hint=f"agentledger replay {run_id} --agent TARGET says why.",
        )
    return Shadow(
        run_id=run_id,
        agent=candidate.name,
        same_code=candidate.code_digest == state.code_digest and candidate.entry_point == state.entry_point,
        compared=compared,
    )


def _lost(row: Aligned) -> bool:
    """Whether a recorded outside write has no counterpart that asks for the same."""
    if row.left is None or not row.left.writes or row.left.outcome in ("failed", "given up"):
        return False
    return row.right is None or row.right.asked != row.left.asked
