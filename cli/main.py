"""The command line: options that every command has, the list of commands, and how errors end.

Rules: a command's body parses, calls one function and renders. `--json`, `--root` and `--debug` work before and after
a command's name. No user sees a traceback without `--debug`. Exit codes: 0 well, 1 refused or failed, 2 usage,
3 integrity, 4 divergence, 5 a conflict or an unknown outcome, 6 incomplete, 130 interrupted. Whoever interrupts a
command is told to run agents again only where it ran them.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import click

    from cli.commands import (
        bisect,
        budget,
        compare,
        contract,
        demo,
        evidence,
        fork,
        gates,
        keep,
        ledger,
        lint,
        log,
        policy,
        prove,
        replaying,
        report,
        runs,
        sandbox,
        serve,
        steer,
        tools,
        travel,
        views,
    )
    from cli.options import DEFAULT_ROOT, pass_settings
    from cli.output import Settings, complain, say
    from ledger_core import __version__
    from ledger_core.errors import LedgerError
except KeyboardInterrupt:  # these take most of a short command's time
    sys.stderr.write("interrupted; nothing was begun.\n")
    sys.exit(130)

GROUPS: dict[str, Sequence[click.Command]] = {
    "Run": (
        demo.demo,
        runs.run,
        runs.resume,
        fork.fork,
        serve.worker,
        serve.attach,
        steer.signal,
        steer.approve,
        steer.deny,
        steer.cancel,
        steer.recover_expired,
    ),
    "See": (
        runs.runs,
        runs.status,
        steer.sessions,
        steer.approvals,
        ledger.ledger,
        budget.budget,
        ledger.artifacts,
        log.log,
        serve.transcript,
        travel.debug,
        travel.timetravel,
        travel.trace,
        report.cost,
        report.failure,
        views.views,
    ),
    "Govern": (policy.policy, sandbox.sandbox, tools.tools, lint.lint),
    "Prove": (
        prove.verify,
        replaying.replay,
        fork.shadow,
        compare.diff,
        compare.divergence,
        bisect.bisect,
        evidence.evidence,
        evidence.evidence_check,
        gates.corpus,
        gates.evidence_regression,
        contract.contract,
        report.review,
        views.rebuild_,
    ),
    "Keep": (keep.init, keep.doctor),
}
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))
_RESUMABLE = frozenset(("run", "resume", "fork", "worker", "serve"))
"""Commands that run agents: what they leave undone is gone on with by `resume`."""


class Interrupted(Exception):
    """Ctrl-C came while this command was at work; None if it was none's yet."""

    def __init__(self, command: str | None) -> None:
        super().__init__(command)
        self.command = command


class Commands(click.Group):
    """The commands, in their groups."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            raise Interrupted(ctx.invoked_subcommand) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(str(one.name), one.get_short_help_str(80)) for one in commands])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="agentledger")
@pass_settings
def cli(settings: Settings) -> None:
    """Durable, auditable, replayable runs of AI agents.

    The ledger is the directory named by --root, by $AGENTLEDGER_ROOT, or .agentledger here.
    """
    del settings


for _commands in GROUPS.values():
    for _command in _commands:
        cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    settings = Settings(root=Path(os.environ.get("AGENTLEDGER_ROOT") or DEFAULT_ROOT))
    sys.exit(_run(arguments, settings))


def _run(arguments: Sequence[str] | None, settings: Settings) -> int:
    stdout = sys.stdout
    try:
        code: Any = cli.main(arguments, prog_name="agentledger", obj=settings, standalone_mode=False)
        sys.stdout.flush()
    except Interrupted as during:
        return _interrupted(during.command)
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(None)
    except SystemExit as left:  # agent code may call sys.exit; its run is given back, and that must be seen
        if sys.stdout is not stdout:  # click's way to say that whoever read us has seen enough
            return 0
        further = "\nGo on with: agentledger resume latest" if settings.command in _RESUMABLE else ""
        say(f"error: the code ended the process ({left.code!r}).{further}")
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LedgerError as error:
        if settings.debug:
            say(traceback.format_exc())
        complain(settings, error)
        return error.exit_code
    except OSError as error:
        if error.errno not in _NO_ROOM or settings.debug:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        say(f"error: what was to be printed could not be written: {error.strerror}.")
        return 1
    except Exception as error:
        if settings.debug:
            say(traceback.format_exc())
        say(f"error: {type(error).__name__}: {error}\nThis is a defect of AgentLedger; --debug shows where.")
        return 1
    return code if isinstance(code, int) else 0


def _interrupted(command: str | None) -> int:
    further = " Go on with: agentledger resume latest" if command in _RESUMABLE else ""
    say(f"interrupted; what was recorded is kept.{further}")
    return 130


if __name__ == "__main__":
    main()
