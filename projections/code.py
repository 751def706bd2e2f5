"""The digest of the code that makes a projection's rows: two ledgers' rows can be compared where it is the same.

Rules: what every projection stands on (events, the run's state, the folding) is part of each digest, its own file of
its own; so an upgrade that changes one projection rebuilds that one. Read out of the files that are running.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Final

from ledger_core import __version__, chain
from projections.tables import ALL

_SHARED: Final = (
    "ledger_core.events",
    "ledger_core.run.state",
    "ledger_core.run.rows",
    "ledger_core.run.evolve",
    "ledger_core.run.evolve_effects",
    "ledger_core.run.spending",
    "ledger_core.run.entry",
    "ledger_core.run.budget",
    "projections.table",
    "projections.folding",
    "projections.snapshots",
    "projections.batch",
)


@functools.cache
def code_digests() -> dict[str, bytes]:
    """The digest of each projection's code, 32 bytes, by its name."""
    shared = b"".join(map(_source, _SHARED))
    return {name: chain.code_digest(shared + _source(f"projections.tables.{name}")) for name in ALL}


@functools.cache
def code_name() -> str:
    """A short name of the code of all projections together: programs of the same code share their rows."""
    return chain.code_digest(b"".join(code_digests()[name] for name in sorted(code_digests()))).hex()[:12]


def _source(module: str) -> bytes:
    """The source of a module, or of all modules of a package; the release, where there is none to read."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return f"{module} {__version__}".encode()
    place = Path(spec.origin)
    files = sorted(place.parent.glob("*.py")) if spec.submodule_search_locations else [place]
    return b"".join(file.read_bytes() if file.is_file() else __version__.encode() for file in files)
