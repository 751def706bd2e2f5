"""What `doctor` looks at: the interpreter, the packages, clashes of names, the disk, the ledger.

Rules: reads, never changes, never raises for what it finds. One function a check, listed in `all_checks`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import attrs

from ledger_core.errors import LedgerError
from ledger_core.log import disk
from ledger_core.log.log import KEYS, STORE, Log
from projections.store import VIEWS
from projections.views import Views

NAMES: Final = ("agentledger", "ledger_core", "projections", "replay", "cli")
PACKAGES: Final = (
    *("lmdb", "msgpack", "blake3", "attrs", "click"),
    *("cattrs", "cryptography", "jinja2", "jsonschema", "PyYAML", "rich"),
)
_LITTLE: Final = 1 << 30


@attrs.frozen(kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str

    def as_json(self) -> dict[str, Any]:
        return attrs.asdict(self)


def all_checks(root: Path) -> list[Check]:
    """Look at everything; a check that fails to look is a bad one."""
    checks: tuple[Callable[[Path], Check], ...] = (
        *(_python, _packages, _clashes, _disk, _file_system),
        *(_ledger, _keys, _views),
    )
    found = []
    for check in checks:
        try:
            found.append(check(root))
        except (LedgerError, OSError) as error:
            found.append(Check(name=check.__name__.strip("_"), ok=False, detail=str(error)))
    return found


def _python(_: Path) -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(name="python", ok=sys.version_info >= (3, 11), detail=f"{version} on {sys.platform}")


def _packages(_: Path) -> Check:
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    detail = ", ".join(versions) + (f"; missing: {', '.join(missing)}" if missing else "")
    return Check(name="packages", ok=not missing, detail=detail)


def _clashes(_: Path) -> Check:
    """Other distributions that own one of our import names: whoever is installed last wins."""
    owners = metadata.packages_distributions()
    others = {f"{name} ({owner})" for name in NAMES for owner in owners.get(name, ()) if owner.lower() != "agentledger"}
    if others:
        return Check(name="names", ok=False, detail="also owned by other packages: " + ", ".join(sorted(others)))
    return Check(name="names", ok=True, detail="no other package owns our import names")


def _disk(root: Path) -> Check:
    place = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    return Check(name="disk", ok=free >= _LITTLE, detail=f"{free / (1 << 30):,.1f} GiB free at {place}")


def _file_system(root: Path) -> Check:
    disk.refuse_network(root)
    return Check(name="file system", ok=True, detail="local")


def _ledger(root: Path) -> Check:
    if not (root / STORE).is_dir():
        return Check(name="ledger", ok=True, detail=f"none in {root}; create one: agentledger init")
    with Log.open(root, readonly=True) as log:
        head = log.head()
        size = (root / STORE / disk.DATA).stat().st_size
    return Check(name="ledger", ok=True, detail=f"{log.id.hex()}, {head.seq:,} events, {size / (1 << 20):,.1f} MiB")


def _keys(root: Path) -> Check:
    path = root / KEYS
    if not path.is_dir():
        return Check(name="keys", ok=True, detail="none here")
    open_to_others = [page.name for page in path.glob("*.keys") if page.stat().st_mode & 0o077]
    if open_to_others:
        return Check(name="keys", ok=False, detail=f"readable by others: {', '.join(open_to_others)}; chmod 600 them")
    return Check(name="keys", ok=True, detail=f"{len(list(path.glob('*.keys')))} pages, readable by their owner only")


def _views(root: Path) -> Check:
    """How far behind what is derived is, and what could not be folded."""
    if (root / VIEWS).exists() and not (root / VIEWS).is_dir():
        return Check(name="views", ok=False, detail=f"{root / VIEWS} is no directory; move it away, it is made again")
    if not (root / STORE).is_dir() or not (root / VIEWS).is_dir():
        return Check(name="views", ok=True, detail="none kept yet; the first report makes them")
    with Log.open(root, readonly=True) as log, Views.open(log) as views:
        behind = log.head().seq - min(one.seq for one in views.standing())
        parked = views.parked()
    if parked:
        said = "; ".join(f"{one.projection} at seq {one.seq:,}: {one.error}" for one in parked[:3])
        return Check(name="views", ok=False, detail=f"{len(parked):,} events could not be folded: {said}")
    return Check(name="views", ok=True, detail=f"{behind:,} events behind the log; brought up when they are asked")
