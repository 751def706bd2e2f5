"""Finding an agent by what a person or a record calls it: `file.py[:agent]` or `module:agent`.

Rules: a file's own directory, and for modules the working directory, can be imported from. What cannot be found gets
one sentence that says what there is. An error of the user's code while it is imported is the user's, with its place.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ledger_core.errors import BadInput, LedgerError
from ledger_core.runtime.agent import FILE_MARK, AgentSpec


def load(target: str) -> AgentSpec:
    """The agent that `target` names; raises `BadInput`."""
    place, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    agents: dict[str, AgentSpec] = {
        key: value.__agentledger_agent__
        for key, value in vars(module).items()
        if isinstance(getattr(value, "__agentledger_agent__", None), AgentSpec)
    }
    if name in agents:
        return agents[name]
    by_name = [spec for spec in agents.values() if spec.name == name or (not name and len(agents) == 1)]
    if by_name:
        return by_name[0]
    known = ", ".join(sorted(agents)) or "none"
    asked = f"no agent {name!r}" if name else ("no agent" if not agents else "more than one agent")
    raise BadInput(f"{place} has {asked}.", hint=f"Its functions decorated with @agent: {known}. Write {place}:NAME.")


def recorded(entry_point: str | None, origin: str | None) -> str | None:
    """The target that a run recorded; None if its code cannot be found again by itself."""
    if entry_point is None:
        return None
    file, _, name = entry_point.rpartition(":")
    if not file.endswith(".py"):
        return entry_point
    return f"{origin}:{name}" if origin is not None else None


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", hint="A target is file.py, file.py:agent, or module:agent.")
    name = f"agentledger_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, FILE_MARK, True)
    sys.modules[name] = module
    _importable(path.resolve().parent)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _broken(str(path), error) from error
    return module


def _from_module(name: str) -> ModuleType:
    if not name:
        raise BadInput("No target was named.", hint="A target is file.py, file.py:agent, or module:agent.")
    _importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise _broken(name, error) from error
        raise BadInput(
            f"There is no module {name}.", hint="A target is file.py, file.py:agent, or module:agent."
        ) from None
    except Exception as error:
        raise _broken(name, error) from error


def _broken(what: str, error: Exception) -> LedgerError:
    if isinstance(error, LedgerError):
        return error
    return BadInput(f"{what} cannot be imported: {type(error).__name__}: {error}.", hint="--debug shows where.")


def _importable(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
