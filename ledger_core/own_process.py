"""How a module of ours runs as a process of its own: wherever the caller stands, and whatever lies there.

Rules: the caller's directory is not looked into for modules (`-P`): a file `random.py` there is the caller's own. What
this process imports us from, the child does too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_HOME: Final = str(Path(__file__).resolve().parent.parent)


def command(module: str) -> list[str]:
    """The words that run a module."""
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """The environment to run it in."""
    path = [_HOME, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}
