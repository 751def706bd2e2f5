"""A million events: appended and verified in flat anonymous memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from ledger_core.events.effect import ToolCallRequested
from ledger_core.log.log import Draft, Log
from ledger_core.log.verify_worker import TASKS
from ledger_core.log.lmdb_store import open_store
from ledger_core.log.log import STORE

def rss():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])

root, count = Path(sys.argv[1]), int(sys.argv[2])
with Log.open(root) as log:
    for start in range(0, count, 1000):
        log.append(*(
            Draft(stream=f"run/{(start + n) // 500}", body=ToolCallRequested(
                path=str(n), attempt=1, tool="t", tool_version="1", side_effect="none", request=bytes(32),
                arguments={"number": n}))
            for n in range(1000)))
    appended = rss()
store = open_store(root / STORE, readonly=True)
for answer in TASKS["records"](store, 1, count + 1):
    last = answer
sums = last["done"]
assert sums["events"] == count + 1, sums
for answer in TASKS["closing"](store, sums, count + 1):
    assert "done" in answer, answer
print(appended, rss())
"""


@pytest.mark.slow
def test_a_million_events_are_appended_and_verified_in_flat_memory(tmp_path: Path):
    """Anonymous memory stays under 100 MB while a million events are appended, and while they are verified."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc to read memory from")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "ledger", "1000000"], check=True, capture_output=True, text=True
    )

    kilobytes = [int(number) for number in re.findall(r"\d+", done.stdout)]

    assert len(kilobytes) == 2
    assert max(kilobytes) < 100_000
