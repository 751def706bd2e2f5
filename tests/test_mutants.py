"""Mutants of the invariants: patches that each break one in the product's code, and the tests that must turn red.

A patch (`tests/mutants/NN-words.patch`) says in its first line which invariant it breaks and how, and then, in a line
`Red:` each, the tests that find it. Each is applied to a copy of the packages, and the named tests are run there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MUTANTS = sorted((ROOT / "tests" / "mutants").glob("*.patch"))
COPIED = ("ledger_core", "projections", "replay", "cli", "fixtures", "contracts", "tests")
BESIDE = ("agentledger.py", "setup.cfg", "pyproject.toml", "README.md")
WHERE = """
import agentledger, ledger_core, projections, replay, cli
print(*(one.__file__ for one in (agentledger, ledger_core, projections, replay, cli)), sep="\\n")
"""


def _copied(place: Path) -> Path:
    """The packages and their tests, in a directory of their own."""
    for name in COPIED:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy(ROOT / name, place / name)
    return place


def _in(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in the copy, as if nothing else were installed or checked out."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GIT_"))}
    environment = inherited | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.stem)
def test_a_mutant_is_found(mutant: Path, tmp_path: Path) -> None:
    """The patch applies to the code of today, and each test that it names fails with it."""
    place = _copied(tmp_path / "copy")
    applied = _in(place, "git", "apply", "--verbose", str(mutant))
    assert applied.returncode == 0, f"{mutant.name} no longer fits the code; write it anew:\n{applied.stderr}"

    files = _in(place, sys.executable, "-c", WHERE).stdout.split()
    assert [Path(file).is_relative_to(place) for file in files] == [True] * 5, "another installation is in the way"

    for test in re.findall(r"^Red: (\S+)$", mutant.read_text(encoding="utf-8"), re.MULTILINE):
        options = ("-x", "-q", "-p", "no:cacheprovider", "-n", "0", "-o", "addopts=")
        done = _in(place, sys.executable, "-m", "pytest", *options, test)
        said = done.stdout + done.stderr
        if done.returncode == 0 and " skipped" in said and " passed" not in said:
            pytest.skip(f"{test} cannot be run here")
        assert (done.returncode, " failed" in said) == (1, True), f"{mutant.name} is not found by {test}:\n{said}"


def test_every_invariant_has_a_mutant() -> None:
    """Every invariant that is built has a mutant; each mutant says so in its name and first line, and names tests."""
    text = (ROOT / "contracts" / "INVARIANTS.md").read_text(encoding="utf-8").partition("not built yet")[0]
    numbers = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    broken = set()
    for mutant in MUTANTS:
        words = mutant.read_text(encoding="utf-8")
        first = re.match(r"Breaks invariant (\d+): .+\.\n(Red: \S+::\S+\n)+--- ", words)
        assert first is not None, mutant.name
        assert int(first[1]) == int(mutant.name[:2]), mutant.name
        broken.add(int(first[1]))

    assert broken == numbers
