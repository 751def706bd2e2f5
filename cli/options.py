"""Options that every command has, and what commands open.

Rules: an option given after a command's name says the same as before it. A ledger is opened for reading where reading
is enough, and closed when the command ends. This file knows no command.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.output import Settings
from ledger_core.errors import BadInput
from ledger_core.log.log import Log
from ledger_core.runtime.runtime import Runtime

DEFAULT_ROOT = ".agentledger"
_RUNNING = frozenset(("cli", "run", "resume", "serve", "attach", "fork"))
"""Commands whose help shows the rules: they run agents."""
F = TypeVar("F", bound=Callable[..., Any])


def pass_settings(function: F) -> F:
    """Give a command `settings`, with --root, --json and --debug, and the rules that only some commands apply."""
    hidden = function.__name__ not in _RUNNING

    @click.option("--root", type=click.Path(path_type=Path), help="Directory of the ledger.")
    @click.option("--policy", type=click.Path(), hidden=hidden, help="What agents may do; else ROOT/policy.yaml.")
    @click.option("--sandbox-config", type=click.Path(), hidden=hidden, help="Sandboxes; else ROOT/sandbox.yaml.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.option("--debug", is_flag=True, help="Show tracebacks.")
    @click.pass_obj
    @functools.wraps(function)
    def command(settings: Settings, *args: Any, **options: Any) -> Any:
        root, as_json, debug = options.pop("root"), options.pop("as_json"), options.pop("debug")
        policy, sandbox = options.pop("policy"), options.pop("sandbox_config")
        if root is not None:
            settings.root = root
        settings.policy, settings.sandbox = policy or settings.policy, sandbox or settings.sandbox
        settings.json = settings.json or as_json
        settings.debug = settings.debug or debug
        settings.command = function.__name__
        return function(settings, *args, **options)

    return command  # type: ignore[return-value]  # click has wrapped it


def open_runtime(settings: Settings) -> Runtime:
    """A runtime on a ledger that must be there already."""
    open_log(settings).close()
    return Runtime.local(settings.root, **rules(settings))


def rules(settings: Settings) -> dict[str, Any]:
    """What governs runs, where the command line says so."""
    given = {"policy": settings.policy, "sandbox": settings.sandbox}
    return {name: value for name, value in given.items() if value is not None}


def with_default(default: str) -> type[click.Group]:
    """A group whose command `default` needs no name: `worker TARGET` beside `worker plan`."""

    class Group(click.Group):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            own = args and args[0] in ("-h", "--help", *self.commands)
            return super().parse_args(ctx, args if own else [default, *args])

    return Group


def open_log(settings: Settings) -> Log:
    """The ledger, for reading."""
    return Log.open(settings.root, readonly=True)


def document(text: str | None, option: str = "--input") -> dict[str, Any] | None:
    """A JSON object that a person gave: the text, @FILE, or - for stdin; raises `BadInput`."""
    if text is None:
        return None
    value = json_value(text, option)
    if not isinstance(value, dict):
        what = {list: "list", str: "text", type(None): "null"}.get(type(value), type(value).__name__)
        raise BadInput(f"{option} is a JSON {what}.", hint=f"It is an object: {option} '{{…}}'.")
    return value


def json_value(text: str, option: str, *, written: str | None = None) -> Any:
    """A JSON value that a person gave: the text, @FILE, or - for stdin; raises `BadInput`."""
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            with open(text[1:], encoding="utf-8") as file:
                text = file.read()
        return json.loads(text)
    except OSError as error:
        raise BadInput(f"{option} names {text[1:]}, which cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{option} is no JSON: {error}.", hint=f"""Write {written or option + " "}'{{"key": "value"}}'."""
        ) from None
