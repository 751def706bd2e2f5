"""How a function gets into another process: by its name, if it can be found again by it.

Rules: what a name leads to must be the function itself, or wrappers (`__wrapped__`) around it. A program's own file,
and one that was loaded by its path, is loaded again as a file, under a name that is not `__main__`. What has no name,
or carries an object of this process (a lambda, a closure, a bound method), cannot go. This file imports and calls
nothing.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final

import ledger_core
from ledger_core.governance.sandbox.ending import SandboxUnavailable
from ledger_core.governance.sandbox.executor import Job

_FILE_MARK: Final = "__agentledger_file__"
"""What the runtime sets on modules that were loaded from a file named by its path."""
_MAIN: Final = "__agentledger_main__"
_MOST_WRAPPERS: Final = 32
_HINT: Final = "A sandboxed tool is a function of a module's top level, def tool(…), found there under its own name."


def job_of(
    function: Callable[..., Any], args: Iterable[Any], kwargs: dict[str, Any], *, hide: Iterable[str] = ()
) -> Job:
    """The job of calling a function; raises `SandboxUnavailable` for one that cannot be found by its name."""
    module, qualname, wrappers = _found(function)
    file, name = _place(module, function)
    path = path_here()
    return Job(
        file=file,
        module=name,
        qualname=qualname,
        wrappers=wrappers,
        path=path,
        needs=needs_of(path, [file] if file is not None else _package(name)),
        args=list(args),
        kwargs=kwargs,
        hide=tuple(hide),
    )


def needs_of(path: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
    """Paths that this interpreter, the modules of `path`, and `files` need to be read."""
    if not sys.executable:
        raise SandboxUnavailable("This Python does not know its own program, and cannot be started again.")
    interpreter = {sys.executable, sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    library = os.path.dirname(os.__file__)
    return tuple(sorted({*interpreter, library, *path, os.path.dirname(__file__), *map(os.path.abspath, files)}))


def _found(function: Callable[..., Any]) -> tuple[ModuleType, str, int]:
    """The module of a function, its qualified name there, and how many wrappers to take off."""
    name = getattr(function, "__qualname__", None)
    where = getattr(function, "__module__", None)
    shown = f"{where}.{name}" if name else repr(function)[:100]
    module = sys.modules.get(where) if isinstance(where, str) else None
    if not isinstance(name, str) or module is None:
        raise SandboxUnavailable(f"{shown} has no name that another process could find it by.", hint=_HINT)
    if "<" in name:
        raise SandboxUnavailable(f"{shown} lives in a call of this process: it cannot go into a sandbox.", hint=_HINT)
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part, None) if found is module else getattr(found, part, None)
    for wrappers in range(_MOST_WRAPPERS):
        if found is function or (found == function and inspect.ismethod(found)):
            return module, name, wrappers
        found = getattr(found, "__wrapped__", None)
        if found is None:
            break
    raise SandboxUnavailable(f"{shown} is not what is found under its name.", hint=_HINT)


def _place(module: ModuleType, function: Callable[..., Any]) -> tuple[str | None, str]:
    """The file to load, if it is one, and the name of the module."""
    name = module.__name__
    if name != "__main__" and not getattr(module, _FILE_MARK, False):
        return None, name
    spec = getattr(module, "__spec__", None)
    if (
        name == "__main__" and spec is not None and spec.name not in ("__main__", "builtins")
    ):  # python -m package.module
        return None, spec.name.removesuffix(".__main__") + (".__main__" if spec.name.endswith(".__main__") else "")
    file = getattr(module, "__file__", None)
    if file is None or not os.path.isfile(file):
        raise SandboxUnavailable(
            f"{function.__qualname__} was written where no other process can read it (a prompt, a notebook, stdin).",
            hint="Put the tool into a file, and import it.",
        )
    return os.path.abspath(file), _MAIN if name == "__main__" else name


def _package(name: str) -> list[str]:
    """Where the package or module of a name lies, wherever it was found."""
    top = sys.modules.get(name.partition(".")[0])
    places = list(getattr(top, "__path__", ())) or [getattr(top, "__file__", None)]
    return [place for place in places if isinstance(place, str)]


def path_here() -> tuple[str, ...]:
    """Where modules are looked for, without what depends on the working directory; `ledger_core`'s own place last."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(str(ledger_core.__file__))))
    path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    return tuple(dict.fromkeys([*path, home]))
