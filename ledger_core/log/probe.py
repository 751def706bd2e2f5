"""A child process that reads every row of a data file that may kill its reader; exit code 0 if it lived.

`python -m ledger_core.log.probe DIRECTORY`
"""

from __future__ import annotations

import sys
from pathlib import Path

from ledger_core.log.lmdb_store import read_everything

if __name__ == "__main__":
    read_everything(Path(sys.argv[1]))
