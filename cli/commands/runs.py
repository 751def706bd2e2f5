"""Commands that run agents and show runs: run, resume, runs, status."""

from __future__ import annotations

import itertools
import json
import time
import typing
from collections.abc import Iterator
from typing import Any

import click

from cli.options import DEFAULT_ROOT, document, open_log, open_runtime, pass_settings, rules
from cli.output import Settings, ago, complain, count, emit, harmless, say, short, table
from ledger_core.errors import BadInput
from ledger_core.log.log import Log
from ledger_core.run.budget import Account
from ledger_core.run.divergence import Divergence
from ledger_core.run.state import RunState, RunStatus
from ledger_core.runtime import liveness
from ledger_core.runtime import target as targets
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.folds import account_at
from ledger_core.runtime.recorded import Result, RunRecord, stream_of
from ledger_core.runtime.runtime import WORKERS, Runtime
from projections import runs as run_list
from projections.standing import budget_lines, cost_words, next_step, waits_lines
from projections.wire import plain, run_json, status_json
from replay import replaying

_CHILDREN = 5
"""Children shown, the youngest."""


@click.command()
@click.argument("target")
@click.option("--input", "input_", metavar="JSON", help="Initial state, a JSON object; @FILE reads it, - is stdin.")
@click.option("--run-id", help="Get or create the run of this id: the same command again continues it.")
@click.option("--session", "session_id", help="The session that the run belongs to; made if it is not there.")
@click.option("--priority", default=0, type=click.IntRange(-128, 127), help="The highest is claimed first.")
@click.option("--capability", "capabilities", multiple=True, help="What a worker must offer; may be repeated.")
@click.option("--wait", is_flag=True, help="Also wait here for signals and people.")
@click.option("--detach", is_flag=True, help="Only create the run, and leave it to a worker.")
@click.option("--check", is_flag=True, help="Replay the run at once, and fail if the replay differs.")
@pass_settings
def run(
    settings: Settings,
    target: str,
    input_: str | None,
    run_id: str | None,
    session_id: str | None,
    priority: int,
    capabilities: tuple[str, ...],
    wait: bool,
    detach: bool,
    check: bool,
) -> int:
    """Run an agent: TARGET is file.py, file.py:agent, or module:agent.

    The agent's output goes to stdout. A run that lost its process is continued with --run-id, or with `resume`. One
    that waits for a signal or a person is left waiting: what to do next is said.
    """
    spec = targets.load(target)
    asked: dict[str, Any] = {"session_id": session_id, "priority": priority, "capabilities": list(capabilities)}
    with Runtime.local(settings.root, **rules(settings)) as runtime:
        if detach:
            made = runtime.create_run(spec, initial_state=document(input_), run_id=run_id, **asked)
            emit(settings, status_json(runtime.state(made)), lambda: click.echo(made))
            return 0
        result = runtime.run(spec, initial_state=document(input_), run_id=run_id, wait=wait, **asked)
        return show_result(settings, runtime, result, replaying.replay(runtime, result.run_id, spec) if check else None)


@click.command()
@click.argument("run_name", metavar="RUN")
@click.argument("target", required=False)
@click.option("--wait", is_flag=True, help="Also wait here for signals and people.")
@pass_settings
def resume(settings: Settings, run_name: str, target: str | None, wait: bool) -> int:
    """Go on with a run that lost its worker or waits.

    RUN is an id, a unique prefix of one, or `latest`. Without TARGET the recorded entry point is imported.
    """
    with open_runtime(settings) as runtime:
        run_id = run_list.resolve(runtime.log, run_name)
        result = runtime.resume(run_id, targets.load(target or recorded_target(runtime.log, run_id)), wait=wait)
        return show_result(settings, runtime, result)


@click.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many at most.")
@click.option("--status", type=click.Choice(typing.get_args(RunStatus)), help="Only runs of this status.")
@click.option("--agent", help="Only runs of this agent.")
@click.option("--session", "session_id", help="Only runs of this session.")
@click.option("--parent", help="Only children of this run.")
@click.option(
    "--needs-version", metavar="TARGET", help="Only runs that are not at their end, of other code than TARGET's."
)
@click.option("--tree", is_flag=True, help="Put children and forks below the runs that they come from.")
@pass_settings
def runs(
    settings: Settings,
    limit: int,
    status: str | None,
    agent: str | None,
    session_id: str | None,
    parent: str | None,
    needs_version: str | None,
    *,
    tree: bool,
) -> None:
    """List runs, newest first; with --tree, children and forks below what they come from."""
    spec = None if needs_version is None else targets.load(needs_version)
    with open_log(settings) as log:
        chosen = (
            state
            for state in run_list.newest_first(log)
            if status in (None, state.status)
            and agent in (None, state.agent)
            and session_id in (None, state.session)
            and parent in (None, state.parent)
            and (spec is None or _other_code(state, spec))
        )
        found = list(itertools.islice(chosen, limit))

    def render() -> None:
        if not found:
            say("No runs. Start one: agentledger run FILE.py")
            return
        rows = [
            [lead + s.run + _comes_of(s), s.agent, _words(s), str(s.effects), str(s.events), ago(s.created_ns)]
            for lead, s in (_branches(found) if tree else (("", state) for state in found))
        ]
        table(["run", "agent", "status", "effects", "events", "created"], rows)

    emit(settings, {"runs": [run_json(state) for state in found]}, render)


def _comes_of(state: RunState) -> str:
    """What a run was forked from."""
    return "" if state.ancestor is None else f" (from {state.ancestor} at {state.ancestor_event})"


def _branches(found: list[RunState]) -> Iterator[tuple[str, RunState]]:
    """Runs with what leads to them in a tree: below the run that they are a child or a fork of, if it is listed."""
    listed = {state.run for state in found}
    below: dict[str | None, list[RunState]] = {}
    for state in found:
        above = state.parent or state.ancestor
        below.setdefault(above if above in listed else None, []).append(state)
    waiting = [("", "", state) for state in reversed(below.get(None, []))]
    while waiting:
        lead, inside, state = waiting.pop()
        yield lead, state
        inner = below.get(state.run, [])
        for place, one in enumerate(reversed(inner)):
            last = place == 0
            waiting.append((inside + ("└─ " if last else "├─ "), inside + ("   " if last else "│  "), one))


@click.command()
@click.argument("run_name", metavar="RUN")
@pass_settings
def status(settings: Settings, run_name: str) -> None:
    """Where a run is, why it waits, and what to do next."""
    with open_log(settings) as log:
        state = run_list.of_stream(log, stream_of(run_list.resolve(log, run_name)))
        record = RunRecord.read(log, state.run)
        lost = state.worker is not None and not liveness.alive(settings.root / WORKERS, state.worker)
        account = account_at(log, f"run:{state.root}")
    value = status_json(state) | {
        "output": plain(record.output),
        "error_type": record.error_type,
        "message": plain(record.message),
        "divergence": plain(record.divergence),
        "worker_lost": lost,
    }
    emit(settings, value, lambda: _render_status(settings, state, record, account, lost=lost))


def recorded_target(log: Log, run_id: str) -> str:
    """The target that a run recorded; raises `BadInput` if its code cannot be found by itself."""
    record = RunRecord.read(log, run_id)
    found = targets.recorded(record.state.entry_point, record.origin if isinstance(record.origin, str) else None)
    if found is None:
        raise BadInput(f"Run {run_id} does not say where its code is.", hint="Name it: file.py:agent or module:agent.")
    return found


def show_result(settings: Settings, runtime: Runtime, result: Result, replayed: replaying.Replay | None = None) -> int:
    """Show what came of running a run; the exit code."""
    state = runtime.state(result.run_id)
    value = status_json(state) | {
        "ok": result.ok,
        "output": plain(result.output),
        "state": plain(result.state),
        "error_type": result.error_type,
        "message": result.message,
    }
    if replayed is not None:
        value["replay"] = replayed.as_json()

    def render() -> None:
        if result.ok:
            click.echo(json.dumps(plain(result.output), ensure_ascii=False, indent=2))
        say(f"run {result.run_id} {_words(state)}: {count(state.effects, 'effect')}, {count(state.events, 'event')}")
        if not state.ended:
            root = "" if str(settings.root) == DEFAULT_ROOT else f"--root {settings.root} "
            for line in waits_lines(state, time.time_ns()):
                say(harmless(f"It waits for {line}."))
            say(harmless(next_step(state)).replace("agentledger ", f"agentledger {root}"))
        if result.error_type:
            say(harmless(f"{result.error_type}: {result.message}"))
        if replayed is not None and replayed.ok:
            say(f"replayed: {count(replayed.effects, 'effect')} answered from the record, the same to the end")

    emit(settings, value, render)
    if replayed is not None and replayed.divergence is not None:
        return divergence_code(settings, replayed.divergence)
    return 0 if result.ok or not state.ended else 1


def divergence_code(settings: Settings, found: Divergence) -> int:
    """The exit code of a divergence, which is told to a person unless the object on stdout has told it."""
    error = found.error()
    if not settings.json:
        complain(settings, error)
    return error.exit_code


def _render_status(
    settings: Settings, state: RunState, record: RunRecord, account: Account | None, *, lost: bool
) -> None:
    now_ns = time.time_ns()
    family = ("child of", f"{state.parent} at effect {state.parent_path}") if state.parent else None
    if state.ancestor is not None:
        blocked = "; outside writes are refused" if state.writes_blocked else ""
        family = ("fork of", f"{state.ancestor} behind its event {state.ancestor_event:,}{blocked}")
    lines = [
        ("run", state.run + (f" in session {state.session}" if state.session else "")),
        ("agent", state.agent + (f" ({state.entry_point})" if state.entry_point else "")),
        *([family] if family else []),
        ("status", _words(state) + (", but its worker is gone" if lost else "")),
        ("since", ago(state.since_ns)),
        ("created", ago(state.created_ns)),
        ("step", _step_words(state)),
        ("work", f"{count(state.effects, 'effect')}, {count(state.events, 'event')}, state version {state.version}"),
        ("cost", cost_words(state)),
        *(("budget", line) for line in budget_lines(account)),
    ]
    lines += [("waits for", line) for line in waits_lines(state, now_ns)]
    for child in list(state.children.values())[-_CHILDREN:]:
        lines.append(("child", f"{child.run} of agent {child.agent}: {child.status}"))
    for name, seqs in state.signals.items():
        lines.append(("signal", f"{count(len(seqs), 'signal')} {name} came, and nobody has taken them yet"))
    for row in state.in_doubt:
        lines.append(("in doubt", f"{row.tool} at effect {row.path} (seq {row.seq}): did it happen?"))
    if record.error_type and state.status != "completed":
        lines.append(("error", short(f"{record.error_type}: {record.message}")))
    if record.reason and (state.waiting == "blocked" or state.cancelling or state.status == "cancelled"):
        lines.append(("because", short(plain(record.reason))))
    if isinstance(record.divergence, dict) and state.status == "diverged":
        found = record.divergence
        lines.append(("diverged", f"{found['code']} {found['kind']} at effect {found['path']}"))
        lines.append(("", f"recorded {found['recorded'] or 'nothing'}, attempted {found['attempted'] or 'nothing'}"))
    if state.status == "completed":
        lines.append(("output", short(plain(record.output))))
    root = "" if str(settings.root) == DEFAULT_ROOT else f"--root {settings.root} "
    lines.append(("next", next_step(state, lost=lost).replace("agentledger ", f"agentledger {root}")))
    for name, text in lines:
        click.echo(f"{name:>9}  {harmless(text)}")


def _step_words(state: RunState) -> str:
    number = f"{state.step_number} " if state.step_number > 1 else ""
    agent = f" of agent {state.step_agent}" if state.step_agent != state.agent else ""
    attempt = f", attempt {state.attempt}" if state.attempt > 1 else ""
    held = f", held by {state.worker}" if state.worker else ""
    return f"{number}{state.step}{agent}, epoch {state.epoch}{attempt}{held}"


def _other_code(state: RunState, spec: AgentSpec) -> bool:
    return not state.ended and state.step_agent == spec.name and state.code_digest not in (None, spec.code_digest)


def _words(state: RunState) -> str:
    if state.cancelling and not state.ended:
        return f"{state.status}, to be cancelled"
    if state.status == "waiting" and state.waiting == "waits":
        kinds = sorted({one.kind for one in state.waits.values()})
        return f"waiting ({', '.join(kinds)})"
    if state.waiting and state.status in ("waiting", "diverged", "parked"):
        return f"{state.status} ({'PENDING_VERIFICATION' if state.waiting == 'in doubt' else state.waiting})"
    return state.status + (f" ({state.category})" if state.category else "")
