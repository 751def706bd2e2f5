"""What a tool is: a function that reaches outside, with what the runtime must know before it lets it.

Rules: a tool is called with keyword arguments; one whose only parameter is annotated as a dict, or is not annotated
and named like one, gets the arguments whole. `verify` takes the same arguments and answers what became of a call
nobody knows the outcome of: it returns the tool's result, raises `NoEffect`, or raises anything else if it cannot
tell. Both may name `idempotency_key`. This file does not call tools.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, overload

import attrs

from ledger_core.errors import BadInput
from ledger_core.events.effect import SideEffect
from ledger_core.ids import check_name
from ledger_core.run.retry import RetryPolicy, policy_of

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)
_KEY = "idempotency_key"
_WHOLE = ("arguments", "args", "payload", "request", "params")


@attrs.frozen(kw_only=True)
class ToolSpec:
    """A tool: its function, and its contract with the runtime."""

    name: str = attrs.field()
    function: Function
    version: str = "1"
    side_effect: SideEffect = "none"
    description: str = ""
    verify: Function | None = None
    timeout: float | None = None
    """Seconds that one attempt may take."""
    retry: RetryPolicy | None = None
    """How an attempt that failed without an effect is made again; never, if left out."""
    settle_after: float = 0.0
    """Seconds for which a request that was sent may still arrive: before, "no effect" is not believed."""
    outage: tuple[type[BaseException], ...] = ()
    """Errors that mean that the other side is not there and nothing happened: waited for, not counted."""

    @name.validator
    def _check_name(self, _: object, name: str) -> None:
        check_name(name, "tool")

    def __attrs_post_init__(self) -> None:
        if self.side_effect not in get_args(SideEffect):
            raise BadInput(
                f"Tool {self.name} has the side effect {self.side_effect!r}.",
                hint="It is one of: " + ", ".join(get_args(SideEffect)) + ".",
            )
        if not callable(self.function) or not (self.verify is None or callable(self.verify)):
            raise BadInput(f"Tool {self.name} needs functions: the tool's own, and `verify` if it has one.")
        for name, least in (("timeout", 0.001), ("settle_after", 0.0)):
            value = getattr(self, name)
            if value is not None and not (type(value) in (int, float) and least <= value < 1e9):
                raise BadInput(f"Tool {self.name} has the {name} {value!r:.50}.", hint="It is a number of seconds.")
        if not all(isinstance(one, type) and issubclass(one, BaseException) for one in self.outage):
            raise BadInput(f"Tool {self.name} names outages that are no classes of errors.")

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise `BadInput` unless the tool can be called with these arguments."""
        shape = _shape(self.function)
        if not shape.whole and not (shape.required - {_KEY} <= arguments.keys() <= shape.names):
            self.bind(self.function, arguments, "")

    def bind(
        self, function: Function, arguments: Mapping[str, Any], key: str
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments to call `function` with; raises `BadInput` if they do not fit it."""
        shape = _shape(function)
        if shape.whole:
            return (dict(arguments),), ({_KEY: key} if shape.keyed else {})
        keywords = dict(arguments)
        if shape.keyed and _KEY not in keywords:
            keywords[_KEY] = key
        try:
            if not shape.fits(keywords):
                inspect.signature(function).bind(**keywords)
        except TypeError as error:
            raise BadInput(
                f"Tool {self.name} cannot be called with {', '.join(sorted(arguments)) or 'no arguments'}: {error}.",
                hint=f"Its parameters are: {', '.join(inspect.signature(function).parameters) or 'none'}.",
            ) from None
        return (), keywords


@attrs.frozen
class _Shape:
    """What a function can be called with, read from its signature once."""

    whole: bool
    keyed: bool
    names: frozenset[str]
    required: frozenset[str]

    def fits(self, keywords: Mapping[str, Any]) -> bool:
        """Whether these keywords certainly fit; the signature itself says why they do not."""
        return self.required <= keywords.keys() <= self.names


@functools.lru_cache(maxsize=1024)
def _shape(function: Function) -> _Shape:
    parameters = inspect.signature(function).parameters
    plain = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    positional = any(p.kind is p.POSITIONAL_ONLY for p in parameters.values())
    return _Shape(
        whole=_takes_whole(parameters),
        keyed=_KEY in parameters,
        names=frozenset() if positional else frozenset(p.name for p in plain),
        required=frozenset(p.name for p in plain if p.default is p.empty),
    )


def _takes_whole(parameters: Mapping[str, inspect.Parameter]) -> bool:
    own = [parameter for name, parameter in parameters.items() if name != _KEY]
    if len(own) != 1 or own[0].kind in (own[0].VAR_KEYWORD, own[0].VAR_POSITIONAL):
        return False
    annotation = own[0].annotation
    if annotation is own[0].empty:
        return own[0].name in _WHOLE
    return annotation is dict or str(annotation).startswith(("dict", "Dict", "typing.Dict"))


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    version: str = "1",
    side_effect: SideEffect = "none",
    description: str | None = None,
    verify: Function | None = None,
    timeout: float | None = None,
    retry: RetryPolicy | Mapping[str, Any] | int | None = None,
    settle_after: float = 0.0,
    outage: tuple[type[BaseException], ...] = (),
) -> Callable[[F], F]: ...
def tool(
    function: Function | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "1",
    side_effect: SideEffect = "none",
    description: str | None = None,
    verify: Function | None = None,
    timeout: float | None = None,
    retry: RetryPolicy | Mapping[str, Any] | int | None = None,
    settle_after: float = 0.0,
    outage: tuple[type[BaseException], ...] = (),
) -> Any:
    """Declare a function a tool; it stays callable as it was. `retry` is a policy, or a number of attempts.

    Raises `BadInput`.
    """
    if type(retry) is int:
        retry = RetryPolicy(max_attempts=retry)
    policy = None if retry is None else policy_of(retry)  # type: ignore[arg-type]  # an int is a policy by now

    def declare(function: F) -> F:
        spec = ToolSpec(
            name=name or str(getattr(function, "__name__", type(function).__name__)),
            function=function,
            version=version,
            side_effect=side_effect,
            description=description or inspect.getdoc(function) or "",
            verify=verify,
            timeout=timeout,
            retry=policy,
            settle_after=settle_after,
            outage=tuple(outage),
        )
        function.__agentledger_tool__ = spec  # type: ignore[attr-defined]
        return function

    return declare(function) if function is not None else declare


def spec_of(declared: ToolSpec | Function) -> ToolSpec:
    """The spec of a tool, however it is given; a plain function is one without outside effects."""
    if isinstance(declared, ToolSpec):
        return declared
    found = getattr(declared, "__agentledger_tool__", None)
    if isinstance(found, ToolSpec):
        return found
    if not callable(declared):
        raise BadInput(f"{declared!r:.100} is no tool.", hint="Pass a function decorated with @tool, or a ToolSpec.")
    return ToolSpec(
        name=str(getattr(declared, "__name__", type(declared).__name__)),
        function=declared,
        description=inspect.getdoc(declared) or "",
    )
