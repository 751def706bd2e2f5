"""What single calls do, where their name alone does not say it: modes of files, seeds, pauses of nothing.

Rules: pure functions of one node of a syntax tree. This file does not know scopes.
"""

from __future__ import annotations

import ast
from typing import Final

from cli.boundary_names import SEEDED, seeded
from cli.boundary_scopes import Function

_OPENS: Final = {
    **dict.fromkeys(("builtins.open", "io.open", "codecs.open", "gzip.open", "bz2.open", "lzma.open", "os.fdopen"), 1),
    **dict.fromkeys(("tarfile.open", "zipfile.ZipFile", "aiofiles.open"), 1),
}
"""Functions that open files, and the place of their mode."""
_NEEDS_TIME: Final = {"time.localtime": 1, "time.gmtime": 1, "time.ctime": 1, "time.asctime": 1, "time.strftime": 2}
"""Functions that look at the clock only if they are given fewer arguments than these."""


def harmless(node: ast.Call, name: str) -> bool:
    """Whether a call of a kind is none of it: given a time, a seed, a pause of nothing, or an error that is made."""
    tail = name.rpartition(".")[2]
    if name in _NEEDS_TIME:
        return len(node.args) >= _NEEDS_TIME[name]
    if name in SEEDED:
        return seeded(node)
    if name in ("asyncio.sleep", "trio.sleep", "anyio.sleep"):
        return len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
    if name == "asyncio.wait":  # what it stops waiting for it does not cancel, so nothing says that time was up
        return not any(one.arg in ("timeout", None) for one in node.keywords)
    if name == "builtins.hash":
        return len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and type(node.args[0].value) is int
    return tail.endswith(("Error", "Exception", "Warning"))


def writes(node: ast.Call, name: str) -> bool:
    """Whether a call opens a file in a mode that writes, or that nobody can tell."""
    if name == "os.open":
        flags = node.args[1] if len(node.args) > 1 else None
        return not (isinstance(flags, ast.Attribute) and flags.attr == "O_RDONLY")
    if name.startswith("pathlib.") and name.endswith(".open"):
        return mode(node, 0) not in (None, "")
    return name in _OPENS and mode(node, _OPENS[name]) not in (None, "")


def mode(node: ast.Call, place: int) -> str | None:
    """The letters of a mode that write; None for a mode that only reads, `?` for one that is no literal."""
    given: ast.AST | None = node.args[place] if len(node.args) > place else None
    given = next((one.value for one in node.keywords if one.arg == "mode"), given)
    if any(isinstance(one, ast.Starred) for one in node.args) or any(one.arg is None for one in node.keywords):
        return "?"
    if given is None:
        return None
    if isinstance(given, ast.Constant) and type(given.value) is str:
        return "".join(letter for letter in given.value if letter in "wax+")
    return "?"


def only_cancels(node: ast.For | ast.AsyncFor) -> bool:
    """`for task in pending: task.cancel()`: the order does not matter."""
    calls = [one.value.func for one in node.body if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call)]
    cancels = [one for one in calls if isinstance(one, ast.Attribute) and one.attr == "cancel"]
    return len(cancels) == len(node.body) and not node.orelse


def enters_scope(node: Function) -> bool:
    """Whether a sync function enters `ctx.scope(name)`: then its threads have places that can be repeated."""
    items = [item.context_expr for one in ast.walk(node) if isinstance(one, ast.With) for item in one.items]
    entered = [one.func.attr for one in items if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)]
    return isinstance(node, ast.FunctionDef) and "scope" in entered
