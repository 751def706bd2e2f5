"""How this interpreter is started again, bare, with one of the programs of this directory.

Rules: it takes nothing from its surroundings: no environment, no user's packages, no `site`. A program is run out of
its compiled copy where there is one; `python file.py` would compile it anew each time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ledger_core.governance.sandbox.view import Mount, view

HERE: Final = Path(__file__).parent
ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
"""What everything is started with that runs a tool; the tool's own environment comes with its request."""
_LOADER: Final = (
    "import sys, _frozen_importlib_external as files\n"
    "exec(files.SourceFileLoader('__main__', sys.argv[1]).get_code('__main__'))"
)


def bare(program: str) -> list[str]:
    """The command that runs a program of this directory."""
    return [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _LOADER, str(HERE / program)]


def doors(needs: Iterable[str], uid: int = -1) -> list[str]:
    """What to put before a command that another user is to run, where it could not reach what it needs; else nothing.

    It makes what is needed reachable, for that command alone, and becomes `uid`.
    """
    made = [mount for mount in view(read=None, write=(), needs=needs, foreign=True, host=True) if mount.path != "/"]
    return [*bare("doors.py"), str(uid), *map(_spelled, made), "--"] if made else []


def _spelled(mount: Mount) -> str:
    return f"link:{mount.target}:{mount.path}" if mount.kind == "link" else f"{mount.kind}:{mount.path}"
