"""Commands of the tool ledger: ledger, ledger settle, ledger compensate; and of artifacts."""

from __future__ import annotations

import getpass
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from cli.options import open_log, open_runtime, pass_settings, with_default
from cli.output import Settings, ago, count, emit, say, short, table
from ledger_core.errors import BadInput, NotFound
from ledger_core.events import Missing
from ledger_core.events.govern import ArtifactCreated
from ledger_core.log.log import Log
from ledger_core.runtime import target as targets
from ledger_core.runtime.artifact_effects import artifact_tag
from projections import ledger as tool_ledger
from projections import runs as run_list
from projections.wire import plain

_NS = 1_000_000_000
_OUTCOMES = {"succeeded": "succeeded", "no-effect": "no_effect", "compensated": "compensated"}


@click.group(cls=with_default("list"))
def ledger() -> None:
    """The tool ledger: what was done outside, and what is in doubt: ledger [RUN] [--in-doubt]; ledger settle CALL.

    See `agentledger ledger list --help`.
    """


@ledger.command("list")
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--in-doubt", is_flag=True, help="Only what nobody knows the outcome of, the longest first.")
@click.option("--status", help="Only calls of this status, for example SUCCEEDED.")
@click.option("--tool", help="Only calls of this tool.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000))
@pass_settings
def list_(
    settings: Settings, run_name: str | None, in_doubt: bool, status: str | None, tool: str | None, limit: int
) -> None:
    """List outside writes, newest first, with what became of each."""
    with open_log(settings) as log:
        run_id = None if run_name is None else run_list.resolve(log, run_name)
        rows: Any = tool_ledger.in_doubt(log) if in_doubt else tool_ledger.newest_first(log, run_id)
        wanted = (
            row
            for row in rows
            if (run_id is None or row.state.run == run_id)
            and (status is None or row.entry.status == status.upper())
            and (tool is None or row.entry.tool == tool)
        )
        found = [tool_ledger.row_json(log, row) for row in itertools.islice(wanted, limit)]

    def render() -> None:
        if not found:
            say("Nothing is in doubt." if in_doubt else "There are no outside writes.")
            return
        rows = [
            [one["call"], one["tool"], _status(one), str(one["attempt"]), _ago(one), short(one["arguments"])]
            for one in found
        ]
        table(["call", "tool", "status", "try", "asked", "arguments"], rows)
        if any(one["status"] == "PENDING_VERIFICATION" for one in found):
            say("Find out, and say so: agentledger ledger settle CALL --as succeeded|no-effect --because TEXT")

    emit(settings, {"ledger": found}, render)


@ledger.command()
@click.argument("call")
@click.option("--as", "outcome", required=True, type=click.Choice(list(_OUTCOMES)), help="What became of it.")
@click.option("--because", required=True, help="How you know; stands in the log.")
@click.option("--by", default=getpass.getuser, show_default="your user name", help="Who says so.")
@click.option("--result", metavar="JSON", default="null", help="What the tool is to have returned: any JSON.")
@click.option("--usd", type=click.FloatRange(0), help="What it cost, where a budget counts.")
@pass_settings
def settle(settings: Settings, call: str, outcome: str, because: str, by: str, result: str, usd: float | None) -> None:
    """Say what became of a call that is in doubt: CALL is RUN:PATH, the seq of its intent, or its idempotency key."""
    try:
        value = json.loads(result)
    except ValueError as error:
        raise BadInput(f"--result is no JSON: {error}.", hint="""Write --result '{"id": 7}'.""") from None
    with open_runtime(settings) as runtime:
        said: Any = _OUTCOMES[outcome]
        found = runtime.settle(call, said, because=because, by=by, result=value, usd=usd)
        state = runtime.state(found.run)
    answer = {
        "call": f"{found.run}:{found.path}",
        "run_id": found.run,
        "path": found.path,
        "status": state.ledger[found.path].status,
        "run_status": state.status,
    }

    def render() -> None:
        say(f"{answer['call']} is {answer['status']}")
        if not state.ended and state.worker is None:
            say(f"A worker goes on with the run, or: agentledger resume {found.run}")

    emit(settings, answer, render)


@ledger.command()
@click.argument("call")
@click.argument("target")
@click.option("--because", required=True, help="Why; stands in the log.")
@click.option("--by", default=getpass.getuser, show_default="your user name", help="Who asks for it.")
@click.option("--again", is_flag=True, help="Also where somebody began to, and nobody said that it ended.")
@pass_settings
def compensate(settings: Settings, call: str, target: str, because: str, by: str, again: bool) -> None:
    """Undo a call that succeeded, with the `compensate` hook of its tool, which the agent TARGET has."""
    spec = targets.load(target)
    with open_runtime(settings) as runtime:
        found = runtime.compensate(call, spec.tools.values(), because=because, by=by, again=again)
        status = runtime.state(found.run).ledger[found.path].status
    answer = {"call": f"{found.run}:{found.path}", "run_id": found.run, "path": found.path, "status": status}
    emit(settings, answer, lambda: say(f"{answer['call']} is {status}"))


@click.group(cls=with_default("list"))
def artifacts() -> None:
    """What runs keep: artifacts [RUN] lists them; artifacts get ID writes one out.

    See `agentledger artifacts list --help`.
    """


@artifacts.command("list")
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000))
@pass_settings
def list_artifacts(settings: Settings, run_name: str | None, limit: int) -> None:
    """List artifacts, and references to media and streams; newest first."""
    with open_log(settings) as log:
        streams = (
            [f"run/{run_list.resolve(log, run_name)}"]
            if run_name
            else [name for name, _ in itertools.islice(log.streams_newest_first("run/"), 1_000)]
        )
        found: list[dict[str, Any]] = []
        for stream in streams:
            mine = [event for event in log.stream(stream) if isinstance(event.body, ArtifactCreated)]
            found += [_artifact_json(event) for event in reversed(mine)]
            if len(found) >= limit:
                break

    def render() -> None:
        if not found:
            say("Nothing was kept.")
            return
        rows = [
            [one["artifact_id"], one["run_id"], one["schema"].split(".")[1], _size(one), short(_what(one))]
            for one in found[:limit]
        ]
        table(["artifact", "run", "kind", "size", "what"], rows)

    emit(settings, {"artifacts": found[:limit]}, render)


@artifacts.command()
@click.argument("artifact")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; stdout if left out.")
@pass_settings
def get(settings: Settings, artifact: str, out: Path | None) -> None:
    """Write the bytes of an artifact, or the manifest of a reference."""
    with open_log(settings) as log:
        body = _find(log, artifact)
    if isinstance(body.manifest, Missing):
        raise NotFound(f"What {artifact} said was forgotten.", hint="Its digest is still in the log.")
    data = body.data if body.size is not None else plain(body.manifest)
    raw = data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(plain(data))).encode()
    value = {"artifact_id": artifact, "manifest": plain(body.manifest), "data": plain(data), "out": str(out or "")}
    if out is not None:
        out.write_bytes(raw)

    def render() -> None:
        if out is None:
            sys.stdout.buffer.write(raw)
        else:
            say(f"{count(len(raw), 'byte')} in {out}")

    emit(settings, value, render)


def _find(log: Log, artifact: str) -> ArtifactCreated:
    seq = log.find_key(artifact_tag(artifact))
    body = None if seq is None else log.event(seq).body
    if not isinstance(body, ArtifactCreated):
        raise NotFound(f"There is no artifact {artifact!r:.100}.", hint="`agentledger artifacts` lists them.")
    return body


def _artifact_json(event: Any) -> dict[str, Any]:
    body: ArtifactCreated = event.body
    return {
        "artifact_id": body.artifact,
        "run_id": event.stream.removeprefix("run/"),
        "path": body.path,
        "seq": event.seq,
        "schema": body.schema,
        "kind": body.media_kind,
        "size": body.size,
        "created": event.time_ns / _NS,
        "manifest": plain(body.manifest),
    }


def _what(one: dict[str, Any]) -> Any:
    manifest = one["manifest"]
    if not isinstance(manifest, dict):
        return manifest
    return manifest.get("name") or manifest.get("ref") or f"{manifest.get('stream_id')} at {manifest.get('offset')}"


def _size(one: dict[str, Any]) -> str:
    return "" if one["size"] is None else f"{one['size']:,} B"


def _status(one: dict[str, Any]) -> str:
    return f"{one['status']}{' (being undone)' if one['compensating'] else ''}"


def _ago(one: dict[str, Any]) -> str:
    return ago(int(one["requested"] * _NS)) if one["requested"] else ago(time.time_ns())
