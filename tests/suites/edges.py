"""What tests of governed effects at their edges share: children that die half-way, a secret, how things stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agentledger import (
    Runtime,
)
from ledger_core.run.budget import Account

ASKED = {"model": "m", "messages": []}
HIDDEN = "hunter2hunter2tokenvalue"
PATH = os.pathsep.join([str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])])
PATIENCE = 15
"""Seconds after which a child hangs: each needs less than one."""


def account_of(runtime: Runtime, name: str) -> Account:
    return next(one for one in runtime.budgets() if one.name == name)


def statuses(runtime: Runtime, *runs: str) -> list[str]:
    return [row.status for run in runs for row in runtime.state(run).ledger.values()]


def child(tmp_path: Path, text: str, phase: str) -> tuple[int | str, str]:
    """A child's exit code, or `hangs`, and what it printed."""
    script = tmp_path / "scenario.py"
    script.write_text(text)
    order = [sys.executable, str(script), str(tmp_path / "ledger"), phase]
    try:
        done = subprocess.run(
            order,
            env={**os.environ, "PYTHONPATH": PATH},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return "hangs", str(late.stderr)[-2000:]
    return done.returncode, done.stdout + done.stderr[-2000:]


HEAD = """
import asyncio, os, sys, time
from agentledger import *
from agentledger import agent, tool, Budget, Runtime
from suites.runs import replayed
root, phase = sys.argv[1:]
first = phase == "first"

@tool(name="kills", side_effect="external_write", verify=lambda: 1, cost=0)
async def kills() -> int:
    if first:
        os.kill(os.getpid(), 9)
    return 1
"""
