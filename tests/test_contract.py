"""The runtime contract: made from the code, and no name that was published is ever lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from suites import histories

from ledger_core.events import REGISTRY
from ledger_core.events.base import facts_of
from projections import contract as contracts
from projections.wire import plain

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / contracts.CONTRACT


def test_the_published_file_is_what_the_code_says():
    """The committed contract is the code's own, to the letter: change one with the other."""
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == json.loads(json.dumps(contracts.contract()))


def test_no_published_name_is_gone():
    """Every name of the contract's first version stands where it stood."""
    first = json.loads((ROOT / "contracts" / "agentledger.runtime.v1.names.json").read_text(encoding="utf-8"))
    assert contracts.removed(first, contracts.contract()) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda one: one["event_types"].remove("step_claimed"), "/event_types"),
        (lambda one: one["core_objects"].reverse(), "/core_objects/0"),
        (lambda one: one.pop("exit_codes"), "/exit_codes"),
        (lambda one: one["event_schemas"]["run_created"]["facts"]["properties"].pop("agent"), "run_created/facts"),
        (lambda one: one["event_types"].clear(), "/event_types"),
    ],
)
def test_a_removed_name_is_found(change, place):
    """A name that is gone, or moved, or of another kind is found, with its place."""
    now = json.loads(json.dumps(contracts.contract()))
    change(now)
    assert any(place in found for found in contracts.removed(contracts.contract(), now))


@given(body=histories.bodies())
@settings(max_examples=150)
def test_what_is_recorded_fits_its_schema(body):
    """The facts of any body, as other systems read them, are valid by the schema of its type."""
    schema = contracts.contract()["event_schemas"][body.kind.name]["facts"]
    jsonschema.Draft202012Validator(schema).validate(plain(facts_of(body)))


def test_every_type_and_invariant_is_in_it():
    """Types come from the registry, invariants are those of their document."""
    made = contracts.contract()
    assert set(made["event_types"]) == set(REGISTRY) | set(made["reserved"])
    text = (ROOT / "contracts" / "INVARIANTS.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", text, re.MULTILINE))
    assert made["numbered_invariants"] == found


def test_the_command_checks_and_writes(tmp_path):
    """`contract export` prints, writes and compares; a lost name exits with 4, what is no contract with a sentence."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agentledger", "contract", "export", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert json.loads(run().stdout)["project"] == "agentledger"
    assert run("--out", "c.json").returncode == 0
    assert run("--check", "c.json").returncode == 0
    document = json.loads((tmp_path / "c.json").read_text())
    document["event_types"].insert(0, "new_one")
    (tmp_path / "c.json").write_text(json.dumps(document))
    lost = run("--check", "c.json")
    assert lost.returncode == 4
    assert "/event_types" in lost.stdout
    for text in ("{", None):
        (tmp_path / "odd").write_text(text) if text else (tmp_path / "odd").unlink()
        odd = run("--check", "odd")
        assert odd.returncode == 1
        assert odd.stderr.startswith("error: odd ")
    assert not (tmp_path / ".agentledger").exists()
