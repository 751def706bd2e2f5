"""The tour: an agent with a real effect outside, killed for real, recovered, verified, replayed, and tampered with.

Rules: nothing is staged. The agent runs in a process of its own and is killed with SIGKILL when its ticket is stored
and the answer is not there yet; what is shown is read from the ledger and from the service, and every step checks
what it claims. A step that does not find what it should raises. This file prints nothing: it tells its caller.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import attrs

from cli.tour import agent as tour_agent
from ledger_core import own_process
from ledger_core.errors import BadInput, LedgerError
from ledger_core.log.index import seq_key
from ledger_core.log.lmdb_store import open_store
from ledger_core.log.log import STORE, Log
from ledger_core.log.record import Event
from ledger_core.log.store import Tree
from ledger_core.log.verify_jobs import Report, verify_ledger
from ledger_core.runtime.recorded import stream_of
from ledger_core.runtime.runtime import WORKERS, Runtime
from ledger_core.runtime.target import load
from replay.replaying import Replay, replay

TARGET: Final = "cli.tour.agent:triage"
RUN: Final = "tour"
SLOW: Final = 3
_PATIENCE: Final = 60.0
Tell = Callable[[str], None]


@attrs.define(kw_only=True)
class Tour:
    """What the tour did and saw."""

    root: Path
    reports: list[str] = attrs.field(factory=list)
    killed_after: int = 0
    """Seq of the last event when the agent was dead."""
    at_kill: list[Event] = attrs.field(factory=list)
    tickets_at_kill: int = 0
    tickets: Counter[str] = attrs.field(factory=Counter)
    run_seconds: float = 0.0
    verified: Report | None = None
    replayed: Replay | None = None
    tampered: Report | None = None
    tampered_seq: int = 0


@contextmanager
def service(database: Path, slow: int) -> Iterator[str]:
    """The ticket service in a process of its own; yields its URL."""
    command = [*own_process.command("cli.tour.service"), str(database), "--slow", str(slow)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own_process.environment())
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise LedgerError("The ticket service did not start.", hint="Try again; --debug shows more.")
        yield url
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def agent_process(root: Path, url: str, reports: Path) -> subprocess.Popen[bytes]:
    """The agent, in a process of its own, as a person would start it."""
    command = [*own_process.command("agentledger"), "--root", str(root), "run", TARGET, "--run-id", RUN]
    environment = {**own_process.environment(), tour_agent.SERVICE: url, tour_agent.REPORTS: str(reports)}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def kill_in_the_middle(tour: Tour, url: str, reports: Path) -> None:
    """Start the agent, and kill it when its ticket is stored and not yet answered."""
    process = agent_process(tour.root, url, reports)
    end = time.monotonic() + _PATIENCE
    while len(tickets(url)) < SLOW:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            said = process.communicate()[1].decode(errors="replace")
            raise LedgerError(f"The agent ended before it could be killed: {said.strip()}")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Log.open(tour.root, readonly=True) as log:
        tour.at_kill = list(log.stream(stream_of(RUN)))
    tour.killed_after = tour.at_kill[-1].seq
    tour.tickets_at_kill = len(tickets(url))


def recover(tour: Tour, url: str, reports: Path) -> None:
    """Run the same command again; every report must have exactly one ticket then."""
    start = time.monotonic()
    process = agent_process(tour.root, url, reports)
    said = process.communicate(timeout=_PATIENCE)[1].decode(errors="replace")
    tour.run_seconds = time.monotonic() - start
    if process.returncode != 0:
        raise LedgerError(f"The recovered agent failed: {said.strip()}")
    tour.tickets = Counter(ticket["title"] for ticket in tickets(url))
    if len(tour.tickets) != len(tour.reports) or set(tour.tickets.values()) != {1}:
        raise LedgerError(f"There should be one ticket for each report, and there are: {dict(tour.tickets)}")


def prove(tour: Tour) -> None:
    """Verify the chain, and replay the run while its service is gone."""
    tour.verified = verify_ledger(tour.root)
    os.environ[tour_agent.SERVICE] = "http://127.0.0.1:9"
    with Runtime.local(tour.root) as runtime:
        tour.replayed = replay(runtime, RUN, load(TARGET))
    if not tour.verified.ok or not tour.replayed.ok:
        raise LedgerError(
            "The ledger of the tour did not verify or replay.", hint="That is a defect; please report it."
        )


def tamper(tour: Tour) -> None:
    """Flip one byte of one record in a copy of the ledger, and verify the copy."""
    copy = tour.root.with_name(tour.root.name + "-tampered")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tour.root, copy, ignore=shutil.ignore_patterns(WORKERS, "lock.mdb"))
    tour.tampered_seq = next(event.seq for event in tour.at_kill if event.type == "tool_call_completed")
    store = open_store(copy / STORE)
    with store.write() as writer:
        record = bytearray(writer.get(Tree.EVENTS, seq_key(tour.tampered_seq)) or b"")
        record[-1] ^= 0x01
        writer.put(Tree.EVENTS, seq_key(tour.tampered_seq), bytes(record))
    store.close()
    tour.tampered = verify_ledger(copy)
    if not tour.tampered.findings:
        raise LedgerError("A flipped byte was not found.", hint="That is a defect; please report it.")


def tickets(url: str) -> list[dict[str, Any]]:
    """What the service has stored."""
    with urlopen(f"{url}/tickets", timeout=10) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())["tickets"]
    return found


def reports_directory() -> Path:
    """Where the bug reports are: beside a checkout's packages, or where installing has put them."""
    for path in (
        Path(__file__).resolve().parents[2] / "fixtures" / "reports",
        Path(sysconfig.get_path("data")) / "share" / "agentledger" / "reports",
    ):
        if path.is_dir():
            return path
    raise BadInput("The bug reports of the tour are not installed.", hint="Install agentledger again, with pip.")
