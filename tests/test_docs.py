"""What the documents say is true: commands exist, examples run, numbers have tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli.main import cli
from ledger_core.run.divergence import KINDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands(group: click.Group, prefix: str = "") -> list[tuple[str, click.Command]]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += _commands(command, f"{prefix}{name} ")
        else:
            found.append((prefix + name, command))
    return found


def test_the_test_command_of_the_readme_is_what_ci_runs():
    """CI runs the README's second command, to the letter."""
    command = _blocks("sh")[1].strip()

    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("example", _blocks("python"))
def test_the_examples_of_the_readme_run(example, tmp_path):
    """An example of the README runs in an empty folder and completes."""
    (tmp_path / "example.py").write_text(example, encoding="utf-8")

    ran = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, capture_output=True, text=True)

    assert ran.stdout.startswith("completed")


@pytest.mark.parametrize(("name", "command"), _commands(cli))
def test_every_command_has_help_and_stands_in_the_readme(name, command):
    """Every command says what it does, knows --json, and stands in the README's table."""
    assert command.help
    assert "--json" in [option for parameter in command.params for option in parameter.opts]
    assert re.search(rf"`{name}\b", README)


def test_every_divergence_code_is_documented_once():
    """Every code of the program stands in contracts/DIVERGENCE.md with its name, and no other does."""
    text = (ROOT / "contracts" / "DIVERGENCE.md").read_text(encoding="utf-8")

    assert {kind.code: kind.name for kind in KINDS} == dict(
        re.findall(r"^\| (AL\d+) \| ([a-z ]+) \|", text, re.MULTILINE)
    )


def test_every_invariant_that_is_built_is_held_by_a_test():
    """Every number in the first table of INVARIANTS.md is carried by a test, and no test carries another."""
    text = (ROOT / "contracts" / "INVARIANTS.md").read_text(encoding="utf-8").partition("not built yet")[0]
    numbers = set(map(int, re.findall(r"^\| (\d+) \|", text, re.MULTILINE)))
    carried = {
        int(number)
        for path in (ROOT / "tests").rglob("*.py")
        for number in re.findall(r"mark\.invariant\((\d+)\)", path.read_text(encoding="utf-8"))
    }

    assert numbers == carried


def test_nothing_unfinished_is_hidden():
    """No marker of unfinished work stands in the code."""
    marks = re.compile("TO" + "DO|FIX" + "ME|XX" + "X|Not" + "Implemented")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("ledger_core", "projections", "replay", "cli", "fixtures", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]

    assert found == []
