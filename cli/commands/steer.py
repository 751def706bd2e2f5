"""Commands that steer runs from outside: cancel, signal, approvals, approve, deny, recover-expired, sessions."""

from __future__ import annotations

import getpass
import itertools
import json
import time
from typing import Any

import click

from cli.options import open_log, open_runtime, pass_settings
from cli.output import Settings, ago, count, emit, say, short, table
from ledger_core.errors import BadInput
from ledger_core.events.govern import ToolApprovalRequired
from ledger_core.events.wait import ApprovalRequested
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.sessions import fold_session
from projections import runs as run_list
from projections.wire import plain

_NS = 1_000_000_000


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--reason", default="", help="Why; stands in the log.")
@pass_settings
def cancel(settings: Settings, run_name: str, reason: str) -> None:
    """End a run, with its children.

    A run that nobody works on ends at once; one that is at work ends at its next effect.
    """
    with open_runtime(settings) as runtime:
        run_id = run_list.resolve(runtime.log, run_name)
        news = runtime.cancel_run(run_id, reason)
        state = runtime.state(run_id)

    def render() -> None:
        if state.ended:
            say(f"run {run_id} is cancelled")
        else:
            say(f"run {run_id} ends at its next effect" if news else f"run {run_id} was asked to end before")

    emit(settings, {"run_id": run_id, "status": state.status, "cancelling": state.cancelling}, render)


@click.command()
@click.argument("run_name", metavar="RUN")
@click.argument("name")
@click.option("--payload", metavar="JSON", default="null", help="What it says: any JSON.")
@click.option("--sender-id", help="Your own id of this signal: sent again, it is the same one.")
@pass_settings
def signal(settings: Settings, run_name: str, name: str, payload: str, sender_id: str | None) -> None:
    """Send a run a signal, whether it waits for it yet or not."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise BadInput(f"--payload is no JSON: {error}.", hint="""Write --payload '{"key": "value"}'.""") from None
    with open_runtime(settings) as runtime:
        run_id = run_list.resolve(runtime.log, run_name)
        news = runtime.signal(run_id, name, value, sender_id=sender_id)
    words = "sent" if news else "was there already: the same sender sent it before"
    emit(settings, {"run_id": run_id, "name": name, "sent": news}, lambda: say(f"signal {name} for {run_id} {words}"))


@click.command()
@pass_settings
def approvals(settings: Settings) -> None:
    """List what runs ask people, the longest waiting first."""
    found: list[dict[str, Any]] = []
    with open_log(settings) as log:
        for state in run_list.waiting_for_people(log):
            waits = [one for one in state.waits.values() if one.kind == "approval"]
            asked = state.pending | {one.name: one.wake_ns for one in waits}
            for event in log.stream(stream_of(state.run)):
                body = event.body
                if isinstance(body, (ApprovalRequested, ToolApprovalRequired)) and body.approval in asked:
                    until = asked[body.approval]
                    found.append(
                        {
                            "approval_id": body.approval,
                            "run_id": state.run,
                            "agent": state.agent,
                            "tool": getattr(body, "tool", None),
                            "question": _question(body),
                            "since": event.time_ns / _NS,
                            "until": None if until is None else until / _NS,
                        }
                    )
    found.sort(key=lambda one: one["since"])

    def render() -> None:
        if not found:
            say("Nobody is asked anything.")
            return
        rows = [
            [one["approval_id"], one["run_id"], ago(int(one["since"] * _NS)), short(one["question"])] for one in found
        ]
        table(["approval", "run", "asked", "question"], rows)
        say("Answer: agentledger approve APPROVAL, or agentledger deny APPROVAL --reason TEXT")

    emit(settings, {"approvals": found}, render)


def _question(body: ApprovalRequested | ToolApprovalRequired) -> Any:
    """What a person is asked: a question of the code's, or whether a tool may be called."""
    if isinstance(body, ApprovalRequested):
        question = plain(body.asked)
        return question.get("question") if isinstance(question, dict) else question
    return {"call": body.tool, "version": body.tool_version, "with": plain(body.arguments), "why": plain(body.reason)}


def _answering(name: str, words: str) -> click.Command:
    @click.command(name, help=f"{words} to what a run asks; `agentledger approvals` lists it.")
    @click.argument("approval")
    @click.option("--by", default=getpass.getuser, show_default="your user name", help="Who answers.")
    @click.option("--reason", default="", help="Why; the agent is told.")
    @pass_settings
    def command(settings: Settings, approval: str, by: str, reason: str) -> None:
        with open_runtime(settings) as runtime:
            answer = runtime.approve if name == "approve" else runtime.deny
            run_id = answer(approval, by=by, reason=reason)
        value = {"approval_id": approval, "run_id": run_id, "approved": name == "approve"}
        emit(settings, value, lambda: say(f"{approval} of {run_id}: {'approved' if value['approved'] else 'denied'}"))

    return command


approve = _answering("approve", "Say yes")
deny = _answering("deny", "Say no")


@click.command("recover-expired")
@pass_settings
def recover_expired(settings: Settings) -> None:
    """Free the runs of workers that are gone or gave no sign of life.

    Workers do this by themselves; it is for ledgers that no worker serves just now.
    """
    with open_runtime(settings) as runtime:
        freed = runtime.recover_expired_leases()

    def render() -> None:
        for run_id in freed:
            click.echo(run_id)
        say(f"freed {count(len(freed), 'run')}")

    emit(settings, {"recovered": freed}, render)


@click.command()
@click.argument("session_name", metavar="[SESSION]", required=False)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many at most.")
@pass_settings
def sessions(settings: Settings, session_name: str | None, limit: int) -> None:
    """List sessions, newest first; or show one: its user, channel, variables, grants and runs."""
    with open_log(settings) as log:
        names = [f"session/{session_name}"] if session_name else []
        if not session_name:
            names = [name for name, _ in itertools.islice(log.streams_newest_first("session/"), limit)]
        found = [fold_session(log.stream(name)) for name in names]
    if session_name and not found[0].session_id:
        raise BadInput(f"There is no session {session_name!r:.100}.", hint="`agentledger sessions` lists them.")
    values = [
        {
            "session_id": one.session_id,
            "user": one.user,
            "channel": one.channel,
            "variables": plain(one.variables),
            "grants": list(one.grants),
            "runs": list(one.runs),
            "created": one.created_ns / _NS,
            "updated": one.updated_ns / _NS,
        }
        for one in found
    ]

    def render() -> None:
        if not found:
            say('No sessions. A run is in one with session_id="…".')
        elif session_name:
            for name, value in values[0].items():
                shown = (
                    time.strftime("%F %T", time.localtime(value)) if name in ("created", "updated") else short(value)
                )
                click.echo(f"{name.removesuffix('_id'):>9}  {shown}")
        else:
            rows = [
                [one.session_id, one.user or "", one.channel or "", str(len(one.runs)), ago(one.updated_ns)]
                for one in found
            ]
            table(["session", "user", "channel", "runs", "last"], rows)

    emit(settings, {"sessions": values}, render)
