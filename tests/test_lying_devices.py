"""Devices that do what they were asked and say that they failed, or lose bytes that LMDB maps.

A library between LMDB and the system counts the writes of meta pages: `D` does a write and says EIO, `F` does not do
it and says EIO, `.` does it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import needs
import pytest
from suites.forging import fill, note

from ledger_core.log.log import STORE, Log
from ledger_core.log.verify_jobs import verify_ledger

LIAR = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static ssize_t lie(const char *name, int fd, const void *data, size_t size, off_t at) {
    static int count = 0;
    ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, name);
    const char *plan = getenv("LIES");
    if (plan && size < 4096 && at < 8192) {
        char what = count < (int)strlen(plan) ? plan[count] : '.';
        count++;
        if (what == 'D') real(fd, data, size, at);
        if (what != '.') { errno = EIO; return -1; }
    }
    return real(fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return lie("pwrite", fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return lie("pwrite64", fd, data, size, at); }
"""

APPEND = f"""
import ctypes, json, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from suites.forging import note
from ledger_core.errors import *
from ledger_core.log.log import Log
log, said = Log.open(sys.argv[1]), {{}}
ctypes.CDLL(None).setenv(b"LIES", sys.argv[2].encode(), 1)
for n in range(5):
    try:
        said[n] = log.append(note("s", n), note("t", n))[0].seq
    except OutcomeUnknown:
        said[n] = "unknown"
    except LedgerError:
        said[n] = "refused"
print(json.dumps(said))
"""


@pytest.fixture(scope="session")
def liar(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command that runs another under a device that lies."""
    needs.compiler()
    place = tmp_path_factory.mktemp("liar")
    (place / "liar.c").write_text(LIAR)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", place / "liar.so", place / "liar.c", "-ldl"], check=True)
    return ("env", f"LD_PRELOAD={place / 'liar.so'}")


@pytest.mark.parametrize(
    "plan", ["D", "F", "DF", "DD", "FF", "..DF", ".DF.DF", "DFDF", "DFFF", "DFDFDF", "FFFFFFFFFFFF"]
)
def test_what_a_device_says_is_not_believed(tmp_path: Path, python: Any, liar: tuple[str, ...], plan: str) -> None:
    """Whatever a device says of the meta page: what is said to be kept is there, and what is refused is not."""
    with Log.open(tmp_path) as log:
        log.append(note("s", "before"))

    said = json.loads(python.run(APPEND, tmp_path, plan, before=liar))

    with Log.open(tmp_path) as log:
        there = [event.body.value for event in log.stream("s")][1:]
        assert there == [event.body.value for event in log.stream("t")]
    for n, outcome in said.items():
        assert outcome == "unknown" or (int(n) in there) == (outcome != "refused"), (said, there)
    assert verify_ledger(tmp_path).ok
    if plan == "DF":  # done, and not undone: the error was a lie
        assert [0, 1, 2, 3, 4] == there
        assert "unknown" not in said.values()


OPEN = """
import sys
from ledger_core.errors import Damaged
from ledger_core.log.log import Log
try:
    with Log.open(sys.argv[1], readonly=bool(sys.argv[2])) as log:
        print(sum(1 for _ in log.read()))
except Damaged as error:
    print("damaged")
"""


@pytest.mark.parametrize("readonly", ["", "readonly"])
@pytest.mark.parametrize("length", [1, 4096, 8192, 12_288, -40_960])
def test_a_file_cut_short_does_not_kill_who_opens_it(tmp_path: Path, python: Any, length: int, readonly: str) -> None:
    """A process that opens a data file with bytes missing is told that it is damaged, and lives."""
    with Log.open(tmp_path) as log:
        fill(log)
        log.append(*[note(f"s{n % 3}", "x" * (n * 100)) for n in range(24)])
    data = tmp_path / STORE / "data.mdb"
    os.truncate(data, length if length > 0 else data.stat().st_size + length)

    assert "damaged" == python.run(OPEN, tmp_path, readonly).strip()
