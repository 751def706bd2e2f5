"""The projections, one file each. A new one is a file here, and a name in `ALL`."""

from __future__ import annotations

from typing import Final

from projections.table import Projection
from projections.tables.approvals import APPROVALS
from projections.tables.artifacts import ARTIFACTS
from projections.tables.children import CHILDREN
from projections.tables.costs import COSTS
from projections.tables.failures import FAILURES
from projections.tables.models import MODELS
from projections.tables.policy_decisions import POLICY_DECISIONS
from projections.tables.runs import RUNS
from projections.tables.sessions import SESSIONS
from projections.tables.steps import STEPS
from projections.tables.tool_ledger import TOOL_LEDGER

ALL: Final[dict[str, Projection]] = {
    one.name: one
    for one in (
        SESSIONS,
        RUNS,
        STEPS,
        TOOL_LEDGER,
        APPROVALS,
        COSTS,
        FAILURES,
        ARTIFACTS,
        MODELS,
        POLICY_DECISIONS,
        CHILDREN,
    )
}
