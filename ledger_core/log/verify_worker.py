"""A child process that verifies what it is told, a task a line: because damaged pages may kill their reader.

`python -m ledger_core.log.verify_worker DIRECTORY`, tasks on stdin, answers on stdout, JSON lines. A task ends with
`{"done": …}`; findings and progress come before it. What a death of this process means is its parent's to say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from ledger_core.errors import LedgerError
from ledger_core.ids import Hash, Head, Seq
from ledger_core.log import audit, verify
from ledger_core.log.lmdb_store import open_store
from ledger_core.log.store import Store
from ledger_core.log.verify import Finding, Sums

Answer = Iterator[Finding | dict[str, Any]]


def _opening(store: Store, held: str = "", seq: int = 0) -> Answer:
    head: dict[str, Any] = {}
    for found in audit.opening(store):
        if isinstance(found, Finding):
            yield found
        else:
            head = {"seq": found.seq, "hash": found.hash.hex()}
    if held:
        yield from audit.against(store, Head(Seq(seq), Hash(bytes.fromhex(held))))
    yield {"done": head}


def _records(store: Store, first: int, last: int, *, deep: bool = False) -> Answer:
    checker = verify.Checker(deep=deep)
    for found in verify.records(store, checker, first, last):
        yield found if isinstance(found, Finding) else {"reached": found}
    yield {"done": attrs.asdict(checker.sums)}


def _closing(store: Store, sums: dict[str, int], checked: int) -> Answer:
    total = Sums(**sums)
    head = None
    for found in audit.closing(store, total, checked):
        if isinstance(found, Finding):
            yield found
        else:
            head = {"seq": found.seq, "hash": found.hash.hex()}
    yield {"done": {"head": head, "sums": attrs.asdict(total)}}


def _stream(store: Store, name: str) -> Answer:
    checker = verify.Checker()
    yield from checker.stream(store, name)
    yield {"done": attrs.asdict(checker.sums)}


TASKS: dict[str, Callable[..., Answer]] = {
    "opening": _opening,
    "records": _records,
    "closing": _closing,
    "stream": _stream,
}


def _say(answer: Finding | dict[str, Any]) -> None:
    value = {"finding": attrs.asdict(answer)} if isinstance(answer, Finding) else answer
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(directory: str) -> None:
    """Answer tasks until stdin ends."""
    store: Store | None = None
    for line in sys.stdin:
        task = json.loads(line)
        try:
            store = store or open_store(Path(directory), readonly=True)
            for answer in TASKS[task.pop("task")](store, **task):
                _say(answer)
        except LedgerError as error:
            _say({"failed": error.sentence, "exit": error.exit_code})


if __name__ == "__main__":
    main(sys.argv[1])
