"""Commands that hold a release back: corpus seed, add, list, check; evidence-regression."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cli.options import open_log, pass_settings
from cli.output import Settings, count, emit, harmless, progress, say, short, table
from ledger_core.errors import BadInput, Diverged, Refused
from projections import runs as run_list
from projections.evidence_place import outside
from replay import corpus as golden
from replay import many, pairs, seeds
from replay.corpus import Checked, Entry
from replay.regression import NANO, Allowed, Regression, compared, increase

_DIR = click.option(
    "--dir", "place", type=click.Path(path_type=Path), default=Path("corpus"), show_default=True, help="The corpus."
)
_JOBS = click.option("--jobs", type=click.IntRange(1, 64), help="Processes to replay with.  [default: one a core]")
_TIMEOUT = click.option("--timeout", "limit_s", type=click.FloatRange(0.1), help="Seconds that a replay may take.")
_MARKS = {"same": "ok ", "allowed": "ok ", "skipped": "-- "}


@click.group()
def corpus() -> None:
    """Recorded runs kept with the code, and replayed in CI: corpus seed, add, list, check."""


@corpus.command("add")
@click.argument("run_name", metavar="RUN")
@click.option("--name", help="What it is called.  [default: its agent and run]")
@click.option("--note", default="", help="What it is there for.")
@click.option("--target", help="The code to replay, file.py:agent or module:agent; else the recorded entry point.")
@click.option("--allow", multiple=True, metavar="CODE", help="A divergence that is expected, such as AL105.")
@click.option("--replace", is_flag=True, help="Take the place of the run that has this name.")
@_DIR
@_TIMEOUT
@pass_settings
def corpus_add(
    settings: Settings,
    run_name: str,
    name: str | None,
    note: str,
    target: str | None,
    allow: tuple[str, ...],
    replace: bool,
    place: Path,
    limit_s: float | None,
) -> None:
    """Put a run into the corpus, if the code of today does what was recorded.

    The file carries the run's key: whoever has the corpus can read the run.
    """
    outside(place, settings.root)
    with open_log(settings) as log:
        run_id = run_list.resolve(log, run_name)
        entry, written = golden.add(
            log, run_id, place, name=name, note=note, target=target, allow=allow, replace=replace, limit_s=limit_s
        )
    value = {"added": written, "file": str(golden.file_of(place, entry)), **_entry_json(entry)}

    def render() -> None:
        click.echo(harmless(f"{entry.name}: run {entry.run_id}" + ("" if written else " is there already")))
        if written:
            say("It carries the run's key: whoever has the corpus can read the run.")

    emit(settings, value, render)


@corpus.command("list")
@_DIR
@pass_settings
def corpus_list(settings: Settings, place: Path) -> None:
    """List the runs of the corpus."""
    found = list(golden.entries(place).values())
    odd = golden.strangers(place) if found else []

    def render() -> None:
        if not found:
            say(f"There is no corpus in {place}. Make one: agentledger corpus seed, or corpus add RUN")
            return
        lines = [
            [one.name, one.agent, one.status, one.target or "", " ".join(one.allow), short(one.note)] for one in found
        ]
        table(["name", "agent", "status", "code", "allowed", "note"], lines)
        if odd:
            say(f"not of the corpus: {', '.join(odd)}")

    emit(settings, {"dir": str(place), "runs": [_entry_json(one) for one in found], "strangers": odd}, render)


@corpus.command("check")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--target", help="The code to replay all of them with, and not what the corpus names.")
@_JOBS
@_TIMEOUT
@_DIR
@pass_settings
def corpus_check(
    settings: Settings, names: tuple[str, ...], target: str | None, jobs: int | None, limit_s: float | None, place: Path
) -> int:
    """Replay the corpus against the code of today. Needs no ledger.

    Exits with 4 where the code does something else than is expected, with 3 where a file is damaged, with 1 where code
    cannot be executed, and with 6 where something was left out.
    """
    with progress("replaying", quiet=settings.json) as bar:
        found = golden.check(place, names, target=target, jobs=jobs or _cores(), limit_s=limit_s, progress=bar)
    odd = [] if names else golden.strangers(place)
    code = golden.exit_code(found) or (6 if odd else 0)
    value = {
        "ok": code == 0,
        "dir": str(place),
        "runs": [one.as_json() for one in found],
        "strangers": odd,
    }
    emit(settings, value, lambda: _checked(found, odd))
    return code


@corpus.command("seed")
@click.option("--limit", type=click.IntRange(1), help="How many runs to add at most.")
@click.option("--dry-run", is_flag=True, help="Say which runs would be added, and write nothing.")
@_JOBS
@_TIMEOUT
@_DIR
@pass_settings
def corpus_seed(
    settings: Settings, limit: int | None, dry_run: bool, jobs: int | None, limit_s: float | None, place: Path
) -> None:
    """Make a corpus of the ledger: few runs that show every agent, every ending and every type of event.

    Only runs that came to an end, and with which the code of today does the same.
    """
    outside(place, settings.root)
    added: list[Entry] = []
    with open_log(settings) as log:

        def replayed(run_ids: Sequence[str]) -> list[many.Outcome]:
            with progress("replaying", quiet=settings.json) as bar:
                how: dict[str, Any] = {"jobs": jobs or _cores(), "limit_s": limit_s, "progress": bar}
                return list(many.replay_many(settings.root, run_ids, **how))

        found = seeds.seeds(log, golden.entries(place).values(), replayed, limit=limit)
        left_out = dict(found.left_out)
        for run_id in () if dry_run else found.chosen:
            try:
                added.append(golden.add(log, run_id, place, limit_s=limit_s)[0])
            except (BadInput, Refused, Diverged) as error:  # a secret in it, or its file is not enough
                left_out[run_id] = error.sentence
    value = {
        "dir": str(place),
        "chosen": list(found.chosen),
        "added": [_entry_json(one) for one in added],
        "left_out": left_out,
        "missing": [{"kind": kind, "name": name} for kind, name in found.missing],
    }

    def render() -> None:
        for one in added:
            click.echo(harmless(f"{one.name}: run {one.run_id}, {one.status}"))
        for run_id in found.chosen if dry_run else ():
            click.echo(f"would be added: {run_id}")
        for run_id, why in left_out.items():
            say(harmless(f"not added: {run_id}: {why}"))
        if found.missing:
            names = ", ".join(f"{kind} {name}" for kind, name in found.missing)
            say(harmless(f"shown by no run that could be added: {names}"))
        if added:
            say("The files carry the runs' keys: whoever has the corpus can read the runs.")
        elif not found.chosen:
            click.echo("nothing to add")

    emit(settings, value, render)


@click.command("evidence-regression")
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--max-extra-calls", type=click.IntRange(0), default=0, help="Calls of tools, and of models.")
@click.option("--max-extra-failures", type=click.IntRange(0), default=0, help="Effects that failed, or are in doubt.")
@click.option("--max-extra-denials", type=click.IntRange(0), default=0, help="Calls that a rule or a person refused.")
@click.option("--max-new-writes", type=click.IntRange(0), default=0, help="Outside writes that the base did not make.")
@click.option("--max-cost-increase", default="0%", show_default=True, help="As a share (10%) or in dollars (0.05).")
@click.option("--max-token-increase", default="0%", show_default=True, help="As a share, or in tokens.")
@click.option("--max-event-increase", help="As a share, or in events.  [default: 10% and 10 events]")
@click.option("--max-time-increase", help="As a share, or in seconds.  [default: any]")
@click.option("--allow-status-change", is_flag=True, help="A run that completed may end in another way.")
@click.option("--allow-output-change", is_flag=True)
@click.option("--allow-state-change", is_flag=True)
@click.option("--allow-input-change", is_flag=True, help="They may be of other agents, or begin with something else.")
@click.option("--allow-missing", is_flag=True, help="Of directories: bases may be without a candidate.")
@pass_settings
def evidence_regression(
    settings: Settings,
    base: Path,
    candidate: Path,
    max_cost_increase: str,
    max_token_increase: str,
    max_event_increase: str | None,
    max_time_increase: str | None,
    allow_missing: bool,
    **limits: Any,
) -> int:
    """Compare evidence of a run with that of one before it: fail if it is worse than is allowed.

    BASE and CANDIDATE are bundles, or directories of them (a corpus, too), paired by name, else by agent and input.
    Exits with 4 for a regression, and with 3 where a bundle is not what it says.
    """
    allowed = Allowed(
        **{name.removeprefix("max_").removeprefix("allow_").removesuffix("_change"): limits[name] for name in limits},
        cost=increase(max_cost_increase, NANO),
        tokens=increase(max_token_increase),
        events=Allowed().events if max_event_increase is None else increase(max_event_increase),
        seconds=None if max_time_increase is None else increase(max_time_increase, NANO),
    )
    found = pairs.pairs(base, candidate)
    compares = [(name, compared(one, other, allowed)) for name, one, other in found.pairs]
    ok = all(one.ok for _, one in compares) and (allow_missing or not found.missing)
    value = {
        "ok": ok,
        "pairs": [{"name": name, **one.as_json()} for name, one in compares],
        "missing": [one.as_json() for one in found.missing],
        "new": [one.as_json() for one in found.new],
    }

    def render() -> None:
        for name, one in compares:
            _measured(name, one, alone=len(compares) == 1)
        for side in found.missing:
            mark = "-- " if allow_missing else "BAD"
            click.echo(harmless(f"{mark} {side.source}: no candidate (--allow-missing)"))
        for side in found.new:
            say(harmless(f"{side.source}: there is no base to compare it with"))
        failed = sum(not one.ok for _, one in compares)
        click.echo(f"{count(len(compares), 'pair')}: {'none is worse' if not failed else f'{failed:,} worse'}")

    emit(settings, value, render)
    return 0 if ok else Diverged.exit_code


def _measured(name: str, one: Regression, *, alone: bool) -> None:
    """What was measured of a pair: all of it where it is the only one, or worse."""
    if one.ok and not alone:
        click.echo(harmless(f"ok  {name}"))
        return
    click.echo(harmless(f"{'ok ' if one.ok else 'BAD'} {name}: {one.base.source} and {one.candidate.source}"))
    rows = [
        ["ok" if row.holds else "BAD", row.name, row.base, row.candidate, row.limit, "" if row.holds else row.option]
        for row in one.measures
    ]
    table(["", "what", "base", "candidate", "limit", "allow it with"], rows)
    for row in one.measures:
        for detail in () if row.holds else row.detail:
            click.echo(harmless(f"  {row.name}: {detail}"))


def _checked(found: Sequence[Checked], odd: Sequence[str]) -> None:
    for one in found:
        click.echo(harmless(f"{_MARKS.get(one.verdict, 'BAD')} {one.entry.name}: {_verdict(one)}"))
    for name in odd:
        click.echo(harmless(f"--  {name}: it is not of the corpus, and was not looked at"))
    good = sum(one.verdict in ("same", "allowed") for one in found)
    click.echo(f"{count(len(found), 'run')}: {good:,} as expected")


def _verdict(one: Checked) -> str:
    if one.verdict == "same":
        return one.why
    return f"{'expected: ' if one.verdict == 'allowed' else one.verdict + ': '}{one.why}"


def _entry_json(entry: Entry) -> dict[str, Any]:
    names = ("name", "run_id", "agent", "target", "status", "code_digest", "bundle_digest", "note")
    return {name: getattr(entry, name) for name in names} | {"allow": list(entry.allow)}


def _cores() -> int:
    return os.cpu_count() or 1
