"""The command that shows the product in one minute: demo."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import click

from cli.options import pass_settings
from cli.output import Settings, emit, short
from cli.tour import tour as steps
from cli.tour.tour import SLOW, Tour
from ledger_core.log.log import Event
from projections.wire import plain

_SHOWN = 9


@click.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), default="agentledger-demo", show_default=True)
@pass_settings
def demo(settings: Settings, directory: Path) -> None:
    """Take the tour: an agent killed, recovered, proven, replayed.

    Everything happens for real, in a new directory; at the end, one bit of a copy is flipped and found.
    """
    tell = _silence if settings.json else _tell
    base = _fresh(directory)
    base.mkdir(parents=True)
    reports = steps.reports_directory()
    tour = Tour(root=base / "ledger", reports=sorted(path.name for path in reports.glob("*.md")))
    database = base / "tickets.sqlite"

    tell("1. An agent with a real effect")
    tell(
        "A ticket service runs on loopback, with SQLite behind it. It stores whatever it is sent, even twice. "
        f"An agent in a process of its own reads {len(tour.reports)} bug reports and files a ticket for each. "
        f"When ticket {SLOW} is stored, the service is slow to answer; at that moment the agent's process is killed "
        "with SIGKILL."
    )
    with steps.service(database, SLOW) as url:
        steps.kill_in_the_middle(tour, url, reports)
    tell("2. What is left")
    tell(
        f"The agent is dead. The service has {tour.tickets_at_kill} tickets. The log ends with event "
        f"{tour.killed_after}: the intent to file ticket {SLOW}, without an outcome. Did it happen? Nobody who reads "
        "only this can tell."
    )
    tell(_events(tour.at_kill))
    with steps.service(database, 0) as url:
        steps.recover(tour, url, reports)
    tell("3. Recovered")
    tell(
        f"The same command again: agentledger run {steps.TARGET} --run-id {steps.RUN}. The code ran from its "
        "beginning, and what was recorded came back from the log. The open intent was not retried: its tool's verify "
        "hook asked the service by idempotency key, found the ticket, and the run went on "
        f"({tour.run_seconds:.1f} s in all). Every report has exactly one ticket:"
    )
    tell("\n".join(f"  {count} × {title}" for title, count in sorted(tour.tickets.items())))
    steps.prove(tour)
    assert tour.verified is not None
    assert tour.replayed is not None
    sums = tour.verified.sums
    tell("4. Verified")
    tell(
        f"Every record, content and blob was hashed again, and both chains were followed: {sums.events} events, "
        f"{sums.streams} streams, {sums.contents} contents, {sums.blobs} blobs, "
        f"{len(tour.verified.findings)} findings. The head is {str(tour.verified.head)[:24]}…; keep one elsewhere, "
        "and no history can be rewritten unseen."
    )
    tell("5. Replayed")
    tell(
        "The service is gone now. The agent's code ran once more, and the record answered for the world: "
        f"{tour.replayed.effects} effects, the same to the end."
    )
    steps.tamper(tour)
    assert tour.tampered is not None
    found = tour.tampered.findings[0]
    tell("6. Tampered with")
    tell(f"In a copy of the ledger, one bit of event {tour.tampered_seq} was flipped. Verifying the copy says:")
    tell(f"  {found.kind} at seq {found.seq}: {found.detail}")
    tell(
        "Look around:\n"
        + "\n".join(
            f"  agentledger --root {tour.root} {what}" for what in ("status latest", "log show latest", "verify")
        )
    )
    emit(settings, _json(tour), lambda: None)


def _json(tour: Tour) -> dict[str, Any]:
    assert tour.verified is not None
    assert tour.replayed is not None
    assert tour.tampered is not None
    return {
        "root": str(tour.root),
        "reports": len(tour.reports),
        "killed_after_seq": tour.killed_after,
        "tickets_at_kill": tour.tickets_at_kill,
        "tickets": dict(tour.tickets),
        "verify": tour.verified.as_json(),
        "replay": tour.replayed.as_json(),
        "tampered": {"seq": tour.tampered_seq, "verify": tour.tampered.as_json()},
    }


def _events(events: list[Event]) -> str:
    lines = []
    for event in events[-_SHOWN:]:
        body = event.body
        said = getattr(body, "arguments", None) or getattr(body, "result", None) or getattr(body, "response", None)
        path = getattr(body, "path", "")
        lines.append(f"  {event.seq:>3}  {event.type:<22} {path:<3} {'' if said is None else short(plain(said))[:70]}")
    return "\n".join(["  ...", *lines, "  (end of the log)"])


def _tell(text: str) -> None:
    """A heading, a paragraph, or lines that are shown as they are."""
    if re.match(r"\d\. ", text):
        click.echo()
        click.secho(text, bold=True)
    elif "\n" in text or text.startswith(" "):
        click.echo(f"\n{text}")
    else:
        width = min(100, shutil.get_terminal_size((100, 24)).columns)
        click.echo(click.wrap_text(text, width=width))


def _silence(_: str) -> None:
    """With --json, one object at the end says it all."""


def _fresh(directory: Path) -> Path:
    """The directory itself, or the first of its numbered neighbours that is not there yet."""
    number, found = 1, directory
    while found.exists():
        number += 1
        found = directory.with_name(f"{directory.name}-{number}")
    return found
