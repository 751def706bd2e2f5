"""How a function can be called: what a caller fills, what the runtime does, and whether arguments come whole.

Rules: pure. Async functions, bound methods, objects with `__call__` and `functools.partial`s are functions like any
other; what a partial has fixed is no parameter, and a caller cannot change it. This file knows names and kinds of
parameters, not their types.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from ledger_core.errors import BadInput
from ledger_core.governance import docstring

Function = Callable[..., Any]
KEY: Final = "idempotency_key"
"""A parameter of this name is filled by the runtime."""
RESULT: Final = "result"
"""As `KEY`, for functions that compensate."""
_WHOLE: Final = ("arguments", "args", "payload", "request", "params")
_DICT: Final = re.compile(r"(?:typing\.)?[Dd]ict\b")


@attrs.frozen
class Shape:
    """What a function can be called with, read from its signature once."""

    signature: inspect.Signature
    whole: bool
    """Its arguments come as one dict."""
    given: frozenset[str]
    """Parameters that the runtime fills."""
    names: frozenset[str]
    required: frozenset[str]
    """Parameters that a caller must fill."""

    def fits(self, keywords: Mapping[str, Any]) -> bool:
        """Whether these keywords certainly fit; the signature itself says why they do not."""
        return self.required <= keywords.keys() <= self.names


def shape_of(function: Function, *, compensates: bool = False) -> Shape:
    """A function's shape; raises `BadInput` if nobody can tell."""
    try:
        return _shape(function, compensates)
    except TypeError:  # a callable that cannot be hashed is read anew
        return _shape.__wrapped__(function, compensates)


@functools.lru_cache(maxsize=1024)
def _shape(function: Function, compensates: bool) -> Shape:
    try:
        signature = signature_of(function)
    except (ValueError, TypeError):
        raise BadInput(
            f"What {function!r:.100} can be called with, nobody can tell.", hint="Wrap it in a function of your own."
        ) from None
    parameters = signature.parameters
    filled = (KEY, RESULT) if compensates else (KEY,)
    plain = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    positional = any(p.kind is p.POSITIONAL_ONLY for p in parameters.values())
    return Shape(
        signature=signature,
        whole=takes_whole(p for p in parameters.values() if p.name not in filled),
        given=frozenset(name for name in filled if name in parameters),
        names=frozenset() if positional else frozenset(p.name for p in plain),
        required=frozenset(p.name for p in plain if p.default is p.empty and p.name not in filled),
    )


def signature_of(function: Function) -> inspect.Signature:
    """What a function can be called with, without what a partial has fixed; raises `ValueError` or `TypeError`."""
    signature = inspect.signature(function)
    fixed: set[str] = set()
    while isinstance(function, functools.partial):
        fixed |= function.keywords.keys()
        function = function.func
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in fixed])


def takes_whole(parameters: Iterable[inspect.Parameter]) -> bool:
    """Whether a function of these parameters gets its arguments as one dict."""
    own = list(parameters)
    if len(own) != 1 or own[0].kind in (own[0].VAR_KEYWORD, own[0].VAR_POSITIONAL):
        return False
    annotation = own[0].annotation
    if annotation is own[0].empty:
        return own[0].name in _WHOLE
    return annotation is dict or _DICT.match(str(annotation)) is not None


def innermost(function: Any) -> Any:
    """What partials were made of, in the end."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def name_of(function: Function) -> str:
    """What a function is called."""
    function = innermost(function)
    return str(getattr(function, "__name__", type(function).__name__))


def description_of(function: Function) -> str:
    """A function's docstring, without what it says of single parameters."""
    return docstring.read(inspect.getdoc(innermost(function))).text
