"""Commands that take a run's record somewhere else: fork, shadow."""

from __future__ import annotations

from typing import Any

import click

from cli.commands.compare import show
from cli.commands.runs import recorded_target, show_result
from cli.options import document, json_value, open_log, open_runtime, pass_settings, rules
from cli.output import Settings, count, emit, harmless, say, short
from ledger_core.errors import BadInput
from ledger_core.runtime import target as targets
from ledger_core.runtime.runtime import Runtime
from projections import runs
from projections.course import Effect
from projections.wire import status_json
from replay import shadow as shadowing

_MOST = 20
"""Outside writes that are listed."""


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--at", type=click.IntRange(1), metavar="SEQ", help="The run's own event to fork it behind, from 1.")
@click.option("--agent", "target", help="The code to go on with; else the recorded entry point.")
@click.option("--set-state", "patch", metavar="JSON", help="A merge patch of the state behind that event.")
@click.option(
    "--override", "overrides", multiple=True, metavar="EFFECT=JSON", help="Another result of a shared effect; repeats."
)
@click.option("--live", is_flag=True, help="Let the fork write outside; else its outside writes are refused.")
@click.option("--run-id", help="The fork's id.")
@click.option("--detach", is_flag=True, help="Only create the fork, and leave it to a worker.")
@click.option("--wait", is_flag=True, help="Also wait here for signals and people.")
@pass_settings
def fork(
    settings: Settings,
    run_name: str,
    at: int | None,
    target: str | None,
    patch: str | None,
    overrides: tuple[str, ...],
    *,
    live: bool,
    run_id: str | None,
    detach: bool,
    wait: bool,
) -> int:
    """Go on from any event of a run, in a new run that shares what was before it.

    Nothing is copied, and nothing of RUN is changed. What RUN did outside is not done again; what the fork would write
    outside is refused, unless it is made with --live. Without --at it begins behind the last overridden result, or
    behind RUN's last event. `debug RUN` and `timetravel RUN` number the events.
    """
    results = [_override(text) for text in overrides]
    if len({path for path, _ in results}) < len(results):
        raise BadInput("--override names an effect twice.", hint="Give each effect one result.")
    asked: dict[str, Any] = {
        "set_state": document(patch, "--set-state"),
        "overrides": dict(results),
        "live": live,
        "new_id": run_id,
    }
    with open_runtime(settings) as runtime:
        ancestor = runs.resolve(runtime.log, run_name)
        spec = None if target is None else targets.load(target)
        made = runtime.fork(ancestor, at=at, agent=spec, **asked)
        state = runtime.state(made)
        say(f"{made} is forked from {ancestor} behind its event {state.ancestor_event:,}" + ("." if live else _BLOCKED))
        if detach:
            emit(settings, status_json(state), lambda: click.echo(made))
            return 0
        spec = spec or targets.load(recorded_target(runtime.log, made))
        return show_result(settings, runtime, runtime.resume(made, spec, wait=wait))


_BLOCKED = "; its outside writes are refused."


def _override(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise BadInput(
            f"--override {text!r:.60} names no effect and its result.", hint="""Write --override '12={"id": 7}'."""
        )
    return path, json_value(value, "--override", written=f"--override {path}=")


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--agent", "target", required=True, help="The candidate: file.py[:agent] or module:agent.")
@click.option("--live", is_flag=True, help="Ask models and tools that only read for what is not on record.")
@click.option("--fail-on-divergence", is_flag=True, help="Exit with 4 if it would have done anything otherwise.")
@pass_settings
def shadow(settings: Settings, run_name: str, target: str, *, live: bool, fail_on_divergence: bool) -> int:
    """Execute a candidate's code against a run's record, and show what it would have done otherwise.

    Nothing outside is touched, and nothing is appended. Requests that are on record get their recorded answers; outside
    writes that are not are blocked; other answers that are not on record are assumed, and what follows is a guess. With
    --live, what is not on record is asked for, which may cost money; outside writes stay blocked.
    """
    candidate = targets.load(target)
    governed = rules(settings) if live else {"policy": [], "sandbox": {}}
    with open_log(settings) as log, Runtime(log, **governed) as runtime:
        found = shadowing.shadow(runtime, runs.resolve(log, run_name), candidate, live=live)

    def render() -> None:
        effects = len(found.compared.attempted.effects)
        click.secho(harmless(_verdict(found)), bold=True)
        click.echo(f"{found.answered:,} of {count(effects, 'effect')} answered from the record")
        if found.assumed:
            click.echo(
                f"{count(len(found.assumed), 'answer')} assumed, the first at effect {found.assumed[0].path}: "
                "what follows is a guess"
            )
        _writes("would write, blocked", found.blocked, "green")
        _writes("would not write", found.not_made, "red")
        if not found.compared.same:
            click.echo()
            show(found.compared)
        if found.stopped:
            say("It was stopped: it asks for more than twice what is on record, and for no end.")
        if found.same_code:
            say("The candidate is the code that was recorded.")

    emit(settings, found.as_json(), render)
    return 4 if fail_on_divergence and not found.compared.same else 0


def _verdict(found: shadowing.Shadow) -> str:
    if found.compared.same:
        return f"{found.agent} would have done the same as {found.run_id}."
    writes = len(found.blocked) + len(found.not_made)
    outside = f", {count(writes, 'outside write')} among them" if writes else ", no outside write among them"
    return f"{found.agent} would have done {count(len(found.compared.divergences), 'thing')} otherwise{outside}."


def _writes(title: str, effects: tuple[Effect, ...], colour: str) -> None:
    for one in effects[:_MOST]:
        where = f"  {one.line}" if one.line else ""
        said = short(one.request.get("arguments") if isinstance(one.request, dict) else one.request)
        click.secho(harmless(f"{title}: {one.name} {said}{where}"), fg=colour)
    if len(effects) > _MOST:
        click.echo(f"{title}: {len(effects) - _MOST:,} more; --json has all")
