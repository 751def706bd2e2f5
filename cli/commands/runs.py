"""Commands that run agents and show runs: run, resume, runs, status."""

from __future__ import annotations

import itertools
import json
import sys
import typing
from typing import Any

import click

from cli.options import DEFAULT_ROOT, open_log, open_runtime, pass_settings
from cli.output import Settings, ago, complain, count, emit, harmless, say, short, table
from ledger_core.errors import BadInput
from ledger_core.log.log import Log
from ledger_core.run.divergence import Divergence
from ledger_core.run.state import RunState, RunStatus
from ledger_core.runtime import liveness
from ledger_core.runtime import target as targets
from ledger_core.runtime.recorded import Result, RunRecord, stream_of
from ledger_core.runtime.runtime import WORKERS, Runtime
from projections import runs as run_list
from projections.wire import plain, run_json, status_json
from replay import strict

_NEXT = {
    "pending": "Nobody works on it. Go on with: agentledger resume {run}",
    "running": "A worker holds it. Follow it with: agentledger log tail -f --run {run}",
    "diverged": "Put the code back that agrees with the record, then: agentledger resume {run}",
    "completed": "It is done. Prove it with: agentledger verify {run}",
    "failed": "The agent failed. See: agentledger log show {run} --type step_failed",
}


@click.command()
@click.argument("target")
@click.option("--input", "input_", metavar="JSON", help="Initial state, a JSON object; @FILE reads it, - is stdin.")
@click.option("--run-id", help="Get or create the run of this id: the same command again continues it.")
@click.option("--check", is_flag=True, help="Replay the run at once, and fail if the replay differs.")
@pass_settings
def run(settings: Settings, target: str, input_: str | None, run_id: str | None, check: bool) -> int:
    """Run an agent: TARGET is file.py, file.py:agent, or module:agent.

    The agent's output goes to stdout. A run that lost its process is continued with --run-id, or with `resume`.
    """
    spec = targets.load(target)
    with Runtime.local(settings.root) as runtime:
        result = runtime.run(spec, initial_state=_document(input_), run_id=run_id)
        return _show(settings, runtime, result, strict.replay(runtime, result.run_id, spec) if check else None)


@click.command()
@click.argument("run_name", metavar="RUN")
@click.argument("target", required=False)
@pass_settings
def resume(settings: Settings, run_name: str, target: str | None) -> int:
    """Go on with a run that lost its worker or waits.

    RUN is an id, a unique prefix of one, or `latest`. Without TARGET the recorded entry point is imported.
    """
    with open_runtime(settings) as runtime:
        run_id = run_list.resolve(runtime.log, run_name)
        result = runtime.resume(run_id, targets.load(target or recorded_target(runtime.log, run_id)))
        return _show(settings, runtime, result, None)


@click.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many at most.")
@click.option("--status", type=click.Choice(typing.get_args(RunStatus)), help="Only runs of this status.")
@click.option("--agent", help="Only runs of this agent.")
@pass_settings
def runs(settings: Settings, limit: int, status: str | None, agent: str | None) -> None:
    """List runs, newest first."""
    with open_log(settings) as log:
        chosen = (
            state
            for state in run_list.newest_first(log)
            if status in (None, state.status) and agent in (None, state.agent)
        )
        found = list(itertools.islice(chosen, limit))

    def render() -> None:
        if not found:
            say("No runs. Start one: agentledger run FILE.py")
            return
        rows = [[s.run, s.agent, _words(s), str(s.effects), str(s.events), ago(s.created_ns)] for s in found]
        table(["run", "agent", "status", "effects", "events", "created"], rows)

    emit(settings, {"runs": [run_json(state) for state in found]}, render)


@click.command()
@click.argument("run_name", metavar="RUN")
@pass_settings
def status(settings: Settings, run_name: str) -> None:
    """Where a run is, why it waits, and what to do next."""
    with open_log(settings) as log:
        state = run_list.of_stream(log, stream_of(run_list.resolve(log, run_name)))
        record = RunRecord.read(log, state.run)
        lost = state.worker is not None and not liveness.alive(settings.root / WORKERS, state.worker)
    value = status_json(state) | {
        "output": plain(record.output),
        "error_type": record.error_type,
        "message": plain(record.message),
        "divergence": plain(record.divergence),
        "worker_lost": lost,
    }
    emit(settings, value, lambda: _render_status(settings, state, record, lost=lost))


def recorded_target(log: Log, run_id: str) -> str:
    """The target that a run recorded; raises `BadInput` if its code cannot be found by itself."""
    record = RunRecord.read(log, run_id)
    found = targets.recorded(record.state.entry_point, record.origin if isinstance(record.origin, str) else None)
    if found is None:
        raise BadInput(f"Run {run_id} does not say where its code is.", hint="Name it: file.py:agent or module:agent.")
    return found


def _show(settings: Settings, runtime: Runtime, result: Result, replayed: strict.Replay | None) -> int:
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
        if result.error_type:
            say(harmless(f"{result.error_type}: {result.message}"))
        if replayed is not None and replayed.ok:
            say(f"replayed: {count(replayed.effects, 'effect')} answered from the record, the same to the end")

    emit(settings, value, render)
    if replayed is not None and replayed.divergence is not None:
        return divergence_code(settings, replayed.divergence)
    return 0 if result.ok else 1


def divergence_code(settings: Settings, found: Divergence) -> int:
    """The exit code of a divergence, which is told to a person unless the object on stdout has told it."""
    error = found.error()
    if not settings.json:
        complain(settings, error)
    return error.exit_code


def _render_status(settings: Settings, state: RunState, record: RunRecord, *, lost: bool) -> None:
    lines = [
        ("run", state.run),
        ("agent", state.agent + (f" ({state.entry_point})" if state.entry_point else "")),
        ("status", _words(state) + (", but its worker is gone" if lost else "")),
        ("since", ago(state.updated_ns)),
        ("created", ago(state.created_ns)),
        ("step", f"{state.step}, epoch {state.epoch}" + (f", held by {state.worker}" if state.worker else "")),
        ("work", f"{count(state.effects, 'effect')}, {count(state.events, 'event')}, state version {state.version}"),
    ]
    for row in state.in_doubt:
        lines.append(("in doubt", f"{row.tool} at effect {row.path} (seq {row.seq}): did it happen?"))
    if record.error_type:
        lines.append(("error", short(f"{record.error_type}: {record.message}")))
    if isinstance(record.divergence, dict) and state.status == "diverged":
        found = record.divergence
        lines.append(("diverged", f"{found['code']} {found['kind']} at effect {found['path']}"))
        lines.append(("", f"recorded {found['recorded'] or 'nothing'}, attempted {found['attempted'] or 'nothing'}"))
    if state.status == "completed":
        lines.append(("output", short(plain(record.output))))
    waiting = "It waits for somebody to find out whether that happened. Then: agentledger resume {run}"
    step = _NEXT["pending" if lost else state.status] if state.status in _NEXT else waiting
    root = "" if str(settings.root) == DEFAULT_ROOT else f"--root {settings.root} "
    lines.append(("next", step.format(run=state.run).replace("agentledger ", f"agentledger {root}")))
    for name, text in lines:
        click.echo(f"{name:>9}  {harmless(text)}")


def _words(state: RunState) -> str:
    if state.waiting and state.status in ("waiting", "diverged"):
        return f"{state.status} ({'PENDING_VERIFICATION' if state.waiting == 'in doubt' else state.waiting})"
    return state.status + (f" ({state.category})" if state.category else "")


def _document(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            with open(text[1:], encoding="utf-8") as file:
                text = file.read()
        value = json.loads(text)
    except OSError as error:
        raise BadInput(f"--input names {text[1:]}, which cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise BadInput(f"--input is no JSON: {error}.", hint="""Write --input '{"key": "value"}'.""") from None
    if not isinstance(value, dict):
        raise BadInput(f"--input is a JSON {type(value).__name__}.", hint="The initial state is an object: {…}.")
    return value
