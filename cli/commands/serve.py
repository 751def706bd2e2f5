"""Commands that stay and serve: worker, worker plan, attach; and transcript, which frameworks start from."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from cli import plans
from cli.options import document, open_log, pass_settings, rules, with_default
from cli.output import Settings, count, emit, harmless, say
from ledger_core.runtime import target as targets
from ledger_core.runtime.protocol import Protocol
from ledger_core.runtime.runtime import Runtime
from projections import runs as run_list
from projections import transcript as transcripts


@click.group(cls=with_default("serve"))
def worker() -> None:
    """Serve runs: worker TARGET… [--concurrency N]; worker plan prints deployment units.

    See `agentledger worker serve --help`.
    """


@worker.command()
@click.argument("target_names", metavar="TARGET...", nargs=-1, required=True)
@click.option("--concurrency", default=16, show_default=True, type=click.IntRange(1, 100_000), help="Runs at once.")
@click.option("--capability", "capabilities", multiple=True, help="What this worker offers; may be repeated.")
@click.option(
    "--lease", default=30.0, show_default=True, type=click.FloatRange(0.5), help="Seconds without a sign of life."
)
@click.option(
    "--grace",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds at SIGTERM, then a step ends with its call.",
)
@click.option("--any-code", is_flag=True, help="Also claim runs whose code was another.")
@click.option("--drain", is_flag=True, help="End when nothing is left to claim.")
@pass_settings
def serve(
    settings: Settings,
    target_names: tuple[str, ...],
    concurrency: int,
    capabilities: tuple[str, ...],
    lease: float,
    grace: float,
    any_code: bool,
    drain: bool,
) -> None:
    """Serve the runs of agents: TARGET is file.py, file.py:agent, or module:agent.

    SIGTERM and Ctrl-C: nothing more is claimed, what is held ends or is handed back.
    """
    agents = [targets.load(name) for name in target_names]
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with Runtime.local(settings.root, lease=lease, **rules(settings)) as runtime:
        worker_id = runtime.worker_id
        serving = runtime.worker(
            *agents, concurrency=concurrency, capabilities=capabilities, any_code=any_code, grace=grace
        )

        def end(_: int, __: FrameType | None) -> None:
            say("ending: what is held ends or is handed back")
            serving.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        say(f"{worker_id} serves {', '.join(agent.name for agent in agents)}; {concurrency} at once")
        carried = threading.Thread(target=serving.run, kwargs={"drain": drain})
        carried.start()
        while carried.is_alive():  # signals are handled in the main thread
            carried.join(3600)
    value = {"worker": worker_id, "claims": serving.carried}
    emit(settings, value, lambda: say(f"ended after {count(serving.carried, 'claim')}"))


@worker.command()
@click.argument("target_names", metavar="TARGET...", nargs=-1, required=True)
@click.option("--format", "kind", type=click.Choice(plans.KINDS), default="systemd", show_default=True)
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 10_000), help="Worker processes.")
@click.option(
    "--concurrency", default=16, show_default=True, type=click.IntRange(1, 100_000), help="Runs at once, each."
)
@click.option("--capability", "capabilities", multiple=True, help="What the workers offer; may be repeated.")
@click.option("--lease", default=30.0, show_default=True, type=click.FloatRange(0.5))
@click.option("--grace", default=30.0, show_default=True, type=click.FloatRange(0))
@click.option(
    "--image", default="agentledger-worker", show_default=True, help="Container image with your agents in it."
)
@click.option("--directory", type=click.Path(path_type=Path), help="Where TARGETs are found; here, if left out.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the files into this directory instead.")
@pass_settings
def plan(
    settings: Settings,
    target_names: tuple[str, ...],
    kind: str,
    replicas: int,
    concurrency: int,
    capabilities: tuple[str, ...],
    lease: float,
    grace: float,
    image: str,
    directory: Path | None,
    out: Path | None,
) -> None:
    """Print deployment units for N workers: systemd, Docker Compose, Kubernetes.

    All workers of a ledger run on one host: LMDB and their signs of life do not work over network file systems.
    """
    contained = kind != "systemd"
    files = plans.plan(
        kind,
        targets=list(target_names),
        root=str(settings.root if settings.root.is_absolute() and contained else settings.root.resolve()),
        replicas=replicas,
        concurrency=concurrency,
        capabilities=list(capabilities),
        lease_s=lease,
        grace_s=grace,
        image=image,
        directory=str((directory or Path.cwd()).resolve()),
        program="agentledger" if contained else str(Path(sys.executable).with_name("agentledger")),
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")

    def render() -> None:
        for name, text in files.items():
            click.echo(str(out / name) if out is not None else f"# {name}\n{text}")

    emit(settings, {"files": files}, render)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--agent", default="attached", show_default=True, help="Name of what drives the run.")
@click.option("--input", "input_", metavar="JSON", help="Initial state of a new run, a JSON object.")
@click.option("--tools", "tools_from", metavar="TARGET", help="Let the other side call the tools of this agent.")
@pass_settings
def attach(settings: Settings, run_id: str, agent: str, input_: str | None, tools_from: str | None) -> None:
    """Drive a run from another program: a command a line on stdin, an answer a line on stdout, both JSON.

    `{"op": "help"}` answers with the commands. The end of stdin gives the run back; the same RUN goes on with it.
    """
    tools = [] if tools_from is None else list(targets.load(tools_from).tools.values())
    state = document(input_)
    with (
        Runtime.local(settings.root, **rules(settings)) as runtime,
        runtime.attach(run_id, agent=agent, initial_state=state, tools=tools) as ctx,
    ):
        protocol = Protocol(ctx)
        for line in sys.stdin:
            if line.strip():
                try:
                    click.echo(json.dumps(protocol.answer(line), ensure_ascii=False))
                    sys.stdout.flush()
                except BrokenPipeError:
                    say(f"The reader of the answers is gone; the run is given back. Go on: agentledger attach {run_id}")
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    return


@click.command()
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@pass_settings
def transcript(settings: Settings, run_names: tuple[str, ...]) -> None:
    """Print the messages that models were sent and gave, always valid.

    Every tool call has a result; one that never came back has one that says so. The log stays as it is.
    """
    with open_log(settings) as log:
        ids = [run_list.resolve(log, name) for name in run_names]
        found = transcripts.of_run(log, ids[0]) if len(ids) == 1 else transcripts.of_session(log, ids)

    def render() -> None:
        for place, one in enumerate(found.conversations, 1):
            say(f"conversation {place}: {one.model}, {count(len(one.messages), 'message')}")
            for message in one.messages:
                role = message.get("role", "") if isinstance(message, dict) else ""
                text = json.dumps(message, ensure_ascii=False)
                click.echo(harmless(f"{role:>9}  {text}"))
            if one.invented:
                say(f"invented: results of {', '.join(one.invented)}")

    emit(settings, {"runs": ids, **found.as_json()}, render)
