"""How fast projections are rebuilt from nothing, beside the `eventsourcing` library rebuilding an aggregate.

The ledger is of runs with tool calls and model calls, as a runtime writes them; all projections are made of it. The
library, in an environment of its own, gets an aggregate of as many plain events out of its SQLite store.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from measure import Row, rate, seconds

from ledger_core.events import Body, effect, run, step
from ledger_core.log.log import Log
from ledger_core.log.record import Draft
from projections import rebuild, views

EVENTS = int(os.environ.get("AGENTLEDGER_BENCH_EVENTS", "1000000"))
THEIRS = 50_000
LIBRARY = """
import sys, tempfile, time
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

class Run(Aggregate):
    @event("Created")
    def __init__(self, run): self.run, self.calls, self.status = run, 0, "running"
    @event("Requested")
    def requested(self, path: str, tool: str): self.calls += 1
    @event("Completed")
    def completed(self, path: str, result: str): self.status = path

place = tempfile.mkdtemp(dir=sys.argv[1])
app = Application(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": place + "/events.db"})
one = Run("r")
for number in range(int(sys.argv[2]) // 2):
    one.requested(str(number), "tool")
    one.completed(str(number), "ok")
    if number % 1000 == 999:
        app.save(one)
app.save(one)
start = time.perf_counter()
assert app.repository.get(one.id).calls == int(sys.argv[2]) // 2
print(time.perf_counter() - start)
"""


def views_(base: Path) -> list[Row]:
    """Rebuild all projections of a million events, in turns with the library; and catch up with a few new ones."""
    python = _library(base)
    root = base / "ledger"
    write(root, EVENTS)
    ours, theirs = [], []
    with Log.open(root) as log:
        events = log.head().seq
        for _ in range(3):
            ours.append(seconds(lambda: rebuild.rebuild(log)) / events)
            theirs.append(_theirs(python, base) / THEIRS)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        _more(log)
        with views.Views.open(log) as rows:
            taken = seconds(rows.catch_up)
        whole = statistics.median(ours) * events
    a, b = statistics.median(ours), statistics.median(theirs)
    return [
        Row(
            f"all projections rebuilt from {events:,} events, to `eventsourcing` rebuilding an aggregate",
            b / a,
            "≥ 2",
            f"{rate(1, a)} to {rate(1, b)} events; a process holds {memory:,} MiB at most, pages of the maps included",
        ),
        Row(
            "catching up with a run's 100 events, of rebuilding all",
            taken / whole,
            "≤ 0.01",
            f"{taken * 1000:.0f} ms of {whole:,.1f} s",
        ),
    ]


def write(root: Path, events: int) -> None:
    """A ledger of so many events at least."""
    number = 0
    with Log.open(root) as log:
        while log.head().seq < events:
            log.append(*(draft for one in range(number, number + 20) for draft in _run(one)))
            number += 20


def _more(log: Log) -> None:
    log.append(*_run(10**9))


def _run(number: int) -> Iterator[Draft]:
    name = f"run_{number:016}"
    bodies = list(_bodies(name, number))
    counts = Counter(body.kind.name for body in bodies)
    tools = Counter(body.tool for body in bodies if isinstance(body, effect.ToolCallRequested))
    bodies.append(run.RunCompleted(counts=dict(counts), tools=dict(tools)))
    for body in bodies:
        yield Draft(stream=f"run/{name}", body=body, step=f"step_{number:016}")


def _bodies(name: str, number: int) -> Iterator[Body]:
    of_step = f"step_{number:016}"
    yield run.RunCreated(run=name, agent=f"agent{number % 7}", seed=bytes(32), initial_state={})
    yield step.StepCreated(step=of_step, number=1, agent=f"agent{number % 7}")
    yield step.StepClaimed(step=of_step, epoch=1, worker="worker", base_version=0)
    for call in range(47):
        path, request = str(call + 1), bytes(32)
        if call % 3:
            yield effect.ToolCallRequested(
                path=path,
                attempt=1,
                tool=f"tool{call % 5}",
                tool_version="1",
                side_effect="external_write",
                request=request,
                arguments={"number": call},
            )
            yield effect.ToolCallCompleted(path=path, attempt=1, result={"ok": True})
        else:
            messages = [{"role": "user", "content": "What now?"}]
            yield effect.ModelCallRequested(
                path=path, attempt=1, model=f"model{call % 2}", request=request, messages=messages, parameters={}
            )
            yield effect.ModelCallCompleted(
                path=path, attempt=1, input_tokens=10, output_tokens=5, usd_nano=1000, response={"content": "That."}
            )
    yield step.StatePatchCommitted(step=of_step, base_version=0, version=1, patch={"number": number})
    yield step.StepCompleted(step=of_step, epoch=1)


def _library(base: Path) -> Path:
    place = base / "library-environment"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "eventsourcing"], check=True)
    (base / "library.py").write_text(LIBRARY)
    return python


def _theirs(python: Path, base: Path) -> float:
    done = subprocess.run(
        [python, base / "library.py", base, str(THEIRS)],
        check=False,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout)
