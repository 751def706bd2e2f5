"""What an agent is: a function of the user's, what it may call, and where its code can be found again.

Rules: the function takes the context, and the state if it has a second parameter. The code's digest is of the file
that holds it. Nothing is imported or run here but on request. This file does not know runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, overload

import attrs

from ledger_core.chain import code_digest
from ledger_core.clock import NS
from ledger_core.errors import BadInput
from ledger_core.governance.calling import Function
from ledger_core.governance.tool import ToolSpec, spec_of
from ledger_core.ids import Hash, check_name
from ledger_core.run.budget import Budget, budget_of

FILE_MARK: Final = "__agentledger_file__"
"""Set on modules that were loaded from a file named by its path."""
F = TypeVar("F", bound=Function)
Provider = Callable[..., Any]
"""Asks a model: a request as a dict goes in, a response of plain data comes out; sync or async."""
Models = Provider | Mapping[str, Provider] | None
"""One provider for every model, or one by model name (`default` for the rest)."""


@attrs.frozen(kw_only=True)
class AgentSpec:
    """An agent: its function, its name, its tools, and its code."""

    name: str
    function: Function
    role: str | None
    tools: dict[str, ToolSpec]
    models: Models
    takes_state: bool
    is_async: bool
    entry_point: str | None
    origin: str | None
    """The file of the code."""
    code_digest: Hash | None
    timeout_ns: int | None = None
    """How long one claim of a step may work."""
    budget: Budget | None = None
    """What each of its runs may use."""


@overload
def agent(function: F, /) -> F: ...
@overload
def agent(
    *,
    name: str | None = None,
    role: str | None = None,
    tools: Iterable[ToolSpec | Function] = (),
    models: Models = None,
    timeout: float | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
) -> Callable[[F], F]: ...
def agent(
    function: Function | None = None,
    /,
    *,
    name: str | None = None,
    role: str | None = None,
    tools: Iterable[ToolSpec | Function] = (),
    models: Models = None,
    timeout: float | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
) -> Any:
    """Declare a function an agent; it stays callable as it was.

    `timeout` is in seconds of work; `budget` is what each run of it may use, with its children. Raises `BadInput`.
    """
    if timeout is not None and not (type(timeout) in (int, float) and 0.001 <= timeout < 1e9):
        raise BadInput(f"An agent's timeout is {timeout!r:.50}.", hint="It is a number of seconds.")

    bounds = budget_of(budget)

    def declare(function: F) -> F:
        function.__agentledger_agent__ = attrs.evolve(  # type: ignore[attr-defined]
            _spec(function, name, role, tools, models),
            timeout_ns=None if timeout is None else int(timeout * NS),
            budget=bounds,
        )
        return function

    return declare(function) if function is not None else declare


def agent_of(declared: AgentSpec | Function) -> AgentSpec:
    """The spec of an agent, however it is given; a plain function is an agent without tools."""
    if isinstance(declared, AgentSpec):
        return declared
    found = getattr(declared, "__agentledger_agent__", None)
    return found if isinstance(found, AgentSpec) else _spec(declared, None, None, (), None)


def _spec(
    function: Function, name: str | None, role: str | None, tools: Iterable[ToolSpec | Function], models: Models
) -> AgentSpec:
    if not callable(function) or not hasattr(function, "__name__"):
        raise BadInput(
            f"{function!r:.100} is no agent.", hint="An agent is a function: def agent(ctx) or (ctx, state)."
        )
    label = check_name(name or function.__name__.strip("<>"), "agent")
    specs: dict[str, ToolSpec] = {}
    for spec in map(spec_of, tools):
        if spec.name in specs:
            raise BadInput(f"Agent {label} has two tools with the name {spec.name}.", hint="Give one another name.")
        specs[spec.name] = spec
    origin, digest = _code(function)
    return AgentSpec(
        name=label,
        function=function,
        role=None if role is None else check_name(role, "role"),
        tools=specs,
        models=models,
        takes_state=_takes_state(function, label),
        is_async=inspect.iscoroutinefunction(function),
        entry_point=_entry_point(function, origin),
        origin=origin,
        code_digest=digest,
    )


def _takes_state(function: Function, name: str) -> bool:
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
    ]
    if len(required) not in (1, 2):
        raise BadInput(
            f"Agent {name} takes {len(required)} arguments.",
            hint="An agent is def agent(ctx) or def agent(ctx, state).",
        )
    return len(required) == 2


def _entry_point(function: Function, origin: str | None) -> str | None:
    """`module:name`, or `file.py:name` for a program's own file; None for what cannot be imported again."""
    if "<" in function.__qualname__:
        return None
    if getattr(
        sys.modules.get(function.__module__, sys.modules["__main__"]), FILE_MARK, function.__module__ == "__main__"
    ):
        return f"{Path(origin).name}:{function.__qualname__}" if origin else None
    return f"{function.__module__}:{function.__qualname__}"


def _code(function: Function) -> tuple[str | None, Hash | None]:
    try:
        origin = inspect.getsourcefile(inspect.unwrap(function))
        if origin is None:
            return None, None
        return str(Path(origin).resolve()), code_digest(Path(origin).read_bytes())
    except (OSError, TypeError):
        return None, None
