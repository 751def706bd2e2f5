"""Commands that run agents' code again against the record: replay, of one run, or of all.

Rules: nothing outside is touched, and the only thing that may be appended is a certificate, when it is asked for.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Final

import click

from cli.commands.runs import divergence_code, recorded_target
from cli.options import open_log, pass_settings, rules
from cli.output import Settings, count, emit, harmless, progress, say, short
from ledger_core.clock import NS
from ledger_core.errors import BadInput, LedgerError
from ledger_core.log.log import Log
from ledger_core.runtime import target as targets
from ledger_core.runtime.runtime import Runtime
from ledger_core.secret import VAULT
from projections import runs
from replay import certificates, many, replaying

_SPAN: Final = re.compile(r"(\d{1,6})(s|min|h|d|w)")
_MOST: Final = 200
"""Divergences that are shown."""
_UNITS: Final = {"s": 1, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@click.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--agent", "target", help="The code to replay; else the recorded entry point.")
@click.option(
    "--mode",
    type=click.Choice(("strict", "collect")),
    default="strict",
    show_default=True,
    help="Stop at the first difference, or go on and collect all of them.",
)
@click.option("--cut", metavar="EFFECT", help="Make this one effect live, and collect what follows; no outside write.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Keep what the code did in a file.")
@click.option("--all", "every", is_flag=True, help="Replay all runs of the ledger, the newest first.")
@click.option("--since", metavar="SPAN", help="With --all: runs that began in the last 30min, 12h, 7d, 2w.")
@click.option("--of", "agent", metavar="NAME", help="With --all: runs of this agent.")
@click.option("--jobs", type=click.IntRange(1, 64), help="With --all: processes.  [default: one a core]")
@click.option("--timeout", type=click.FloatRange(0.1), help="With --all: seconds that one run may take.")
@click.option("--certify", is_flag=True, help="With --all: put on record what came of it.")
@pass_settings
def replay(
    settings: Settings,
    run_name: str | None,
    target: str | None,
    mode: replaying.Mode,
    cut: str | None,
    save: Path | None,
    every: bool,
    since: str | None,
    agent: str | None,
    jobs: int | None,
    timeout: float | None,
    certify: bool,
) -> int:
    """Run an agent's code again, the record answering for the world.

    Nothing outside is touched, and nothing is appended but, with --certify, a certificate. With --all as a gate: every
    run, over several processes. With --cut, one model call or one tool that only reads is really called, under the
    ledger's rules. With --save a file that `diff` compares with runs, evidence and other replays. Exits with 4 where
    the code does something else than was recorded, and with 6 where it is not at hand: then the record is folded.
    """
    if every:
        if run_name is not None:
            raise BadInput("Either one run is replayed, or all are.", hint="Leave RUN or --all out.")
        if save is not None or cut is not None or mode != "strict":
            raise BadInput("--mode, --cut and --save are for one run.", hint="agentledger replay RUN --mode collect")
        return _all(settings, target, since=since, agent=agent, jobs=jobs, timeout=timeout, certify=certify)
    if run_name is None:
        raise BadInput("Which run?", hint="agentledger replay RUN, or agentledger replay --all.")
    if since or agent or jobs or timeout or certify:
        raise BadInput("--since, --of, --jobs, --timeout and --certify are for many runs.", hint="Add --all.")
    return _one(settings, run_name, target, mode, cut, save)


def _one(
    settings: Settings,
    run_name: str,
    target: str | None,
    mode: replaying.Mode,
    cut: str | None,
    save: Path | None,
) -> int:
    governed = {"policy": [], "sandbox": {}} if cut is None else rules(settings)
    missing: LedgerError | None = None
    with open_log(settings) as log, Runtime(log, **governed) as runtime:
        run_id = runs.resolve(runtime.log, run_name)
        attached = runtime.state(run_id).driver == "external"
        if attached and (save is not None or cut is not None):
            raise BadInput(
                f"Run {run_id} was driven by attached code, which cannot be executed again.",
                hint=f"Keep its evidence: agentledger evidence {run_id} --out FILE",
            )
        spec = None
        if not attached:
            try:
                spec = targets.load(target or recorded_target(runtime.log, run_id))
            except BadInput as error:
                if target is not None or save is not None or cut is not None:
                    raise
                missing = error
        if spec is None:
            found = replaying.refold(runtime, run_id)
        elif cut is not None:
            found = replaying.cut(runtime, run_id, spec, cut, keep=save is not None)
        else:
            found = replaying.replay(runtime, run_id, spec, mode=mode, keep=save is not None)
    value = found.as_json()
    if save is not None:
        _write(settings, found, save)
        value["saved"] = str(save)

    def render() -> None:
        if found.live is not None:
            same = "the same as was recorded" if found.ok else short(found.live.value)
            click.echo(harmless(f"{found.live.words()} at effect {found.live.path}, made again: {same}"))
        end = "to its recorded end" if found.complete else "to where the record stops"
        if spec is None:
            click.echo(f"{run_id}: {count(found.effects, 'effect')} on record, which folds {end}; nothing was executed")
        elif found.ok:
            click.echo(f"{run_id}: {count(found.effects, 'effect')} answered from the record, the same {end}")
        for one in found.divergences[:_MOST] if found.mode != "strict" else ():
            click.echo(harmless(one.sentence()))
        if len(found.divergences) > _MOST:
            click.echo(f"… and {count(len(found.divergences) - _MOST, 'more divergence')}: --json has all")
        if missing is not None:
            say(f"Its code is not at hand: {missing.sentence} {missing.hint}")
        elif spec is not None and found.executed < found.steps:
            left = count(found.steps - found.executed, "step")
            say(f"{left} of {found.steps:,} could not be executed: the code of other agents is not known here.")
        if not found.same_code:
            say("The code is not the code that was recorded.")
        if save is not None:
            say(f"What the code did is in {save}. Compare it: agentledger diff {run_id} {save}")

    emit(settings, value, render)
    if missing is not None:
        return 6
    return 0 if found.divergence is None else divergence_code(settings, found.divergence)


def _write(settings: Settings, found: replaying.Replay, path: Path) -> None:
    from projections.evidence_place import outside, write_whole  # noqa: PLC0415  # what writes, for whoever writes

    text = VAULT.clean_text(json.dumps(found.saved(), ensure_ascii=False, indent=1)) + "\n"
    write_whole(outside(path, settings.root), [text.encode()], private=True)


def _all(
    settings: Settings,
    target: str | None,
    *,
    since: str | None,
    agent: str | None,
    jobs: int | None,
    timeout: float | None,
    certify: bool,
) -> int:
    with open_log(settings) as log:
        wanted = many.chosen(log, since_ns=None if since is None else time.time_ns() - _span_ns(since), agent=agent)
    cores = jobs or os.cpu_count() or 1
    with progress("replaying", quiet=settings.json) as bar:
        found = list(many.replay_many(settings.root, wanted, target=target, jobs=cores, limit_s=timeout, progress=bar))
    value = many.summary(found, mode="strict")
    if certify:
        with Log.open(settings.root) as log:
            event = certificates.certify(log, found, mode="strict", target=target)
        value["certificate"] = event.seq

    def render() -> None:
        for one in found:
            if one.status != "same":
                click.echo(harmless(f"{one.status:<8}  {one.run_id}  {one.words()}"))
        rest = ", ".join(f"{value[name]:,} {name}" for name in ("diverged", "failed", "skipped") if value[name])
        click.echo(f"{count(value['runs'], 'run')}: {value['same']:,} the same" + (f", {rest}" if rest else ""))
        if certify:
            say(f"Certified at seq {value['certificate']:,}.")

    emit(settings, value, render)
    return many.exit_code(found)


def _span_ns(text: str) -> int:
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise BadInput(f"--since {text!r:.50} is no span of time.", hint="Write 30min, 12h, 7d or 2w.")
    return int(found[1]) * _UNITS[found[2]] * NS
