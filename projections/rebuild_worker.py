"""A process that folds a share of a ledger's streams.

    python -m projections.rebuild_worker ROOT STOP PARTS NUMBER PLACE

Rules: it says how far it is, a number a line; what it cannot do it says in a sentence, and ends with 1. It dies with
whoever started it, when nobody reads what it says.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from ledger_core.errors import LedgerError
from ledger_core.log.log import Log
from projections.rebuild import fold_share


def main() -> int:
    """Fold one share."""
    root, stop, parts, number, place = sys.argv[1:]
    gc.disable()  # a process that only folds makes no cycles, and looking for them costs a tenth
    try:
        with Log.open(root, readonly=True) as log:
            fold_share(log, Path(place), (int(number), int(parts)), int(stop), lambda at, _: _say(at))
    except LedgerError as error:
        _say(str(error).replace("\n", " "))
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


def _say(words: object) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
