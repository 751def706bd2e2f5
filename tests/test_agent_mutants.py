"""Every mutant of an agent that does something else is found by replay, and no other is.

What a mutant does is found out without replay: it runs by itself, on a ledger of its own, with the same input, tools,
models, clock and random bytes, and the course of its run is compared with the original's. The rule is:

- Another course is a divergence. Up to the first effect that differs, a mutant is given what its own run would give it,
  because everything it asks answers from its request alone; there it is stopped. What it would do behind that, where
  an effect has no recorded answer, is not asked.
- The same course is none: local values, and the order of keys and of named arguments, are in no course.
- A mutant that raises ends in another way: a divergence. So is one that cannot begin (a refused request).
- A mutant that never ends by itself must be stopped by replay; only one that never ends and asks for nothing more is
  out of reach of both, and it would be counted here as an agreement. There is none among these.
- What a captured function would give now is the world's answer, of which the record has the one that counts: a change
  in it is another course, and no divergence. No mutant has one; a test of its own shows it.
- The order in which tasks take turns is in no course, but on record: `test_shuffled_schedules` has that rule.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from suites.mutating import CHANGES, ORIGINALS, mutants

from agentledger import Runtime, agent
from ledger_core.runtime.agent import agent_of
from replay import replaying

BATCHES = 2
CHILD = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from suites.mutating import report
    report(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
"""


@pytest.fixture(scope="module")
def tests_directory(request: pytest.FixtureRequest) -> str:
    return str(request.path.parent)


def _reports(python: Any, tests_directory: str, name: str, work: str) -> list[Any]:
    """What child processes say of an original's mutants, each with another seed of hashes."""

    def batch(number: int) -> Any:
        seed = f"PYTHONHASHSEED={7 * number + len(name)}"
        arguments = (tests_directory, name, work, number, BATCHES)
        return json.loads(python.run(CHILD, *arguments, before=("env", seed), timeout=240))

    with ThreadPoolExecutor(BATCHES) as threads:
        return list(threads.map(batch, range(BATCHES)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ORIGINALS)
def test_every_mutant_that_does_something_else_is_found_and_no_other(name, python, tests_directory, tmp_path):
    """A mutant's replay diverges exactly where its own run takes another course than the original's."""
    reports = _reports(python, tests_directory, name, str(tmp_path))
    told, wrong = Counter(), []
    for ordinary, unchanged, found in reports:
        assert unchanged == ""
        for kind, line, source, own, said in found:
            differs = own != ordinary
            told[differs] += 1
            if kind.startswith("control"):
                assert not differs, f"{kind} at line {line} was to change nothing"
            if said == "no end" or differs != bool(said):
                wrong.append(
                    f"{kind} at line {line}: replay says {said or 'nothing'}, its own run {own[:80]}\n{source}"
                )
    assert not wrong, f"{len(wrong)} mutants are judged wrongly, the first:\n{wrong[0]}"
    assert told[True] > 200
    assert told[False] > 30


def test_mutants_are_the_same_everywhere(python, tests_directory):
    """The mutants of an agent and their order are the same under every seed of hashes, and there are hundreds."""
    script = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from suites.mutating import CHANGES, ORIGINALS, mutants
        for name in ORIGINALS:
            for one in mutants((CHANGES / f"{name}.py").read_text()):
                print(one)
    """
    first, second = (python.run(script, tests_directory, before=("env", f"PYTHONHASHSEED={seed}")) for seed in (1, 2))
    assert first == second
    assert len(first.splitlines()) > 800


def test_there_are_mutants_of_every_kind():
    """Each way to change a program changes some agent, and each mutant is another text than all before it."""
    found = [one for name in ORIGINALS for one in mutants((CHANGES / f"{name}.py").read_text())]
    assert len({one.source for one in found}) == len(found)
    assert {one.kind for one in found} >= {
        "and or",
        "another call",
        "argument dropped",
        "arguments reordered",
        "comparison",
        "constant",
        "entry dropped",
        "keyword dropped",
        "keyword renamed",
        "negated",
        "not awaited",
        "nothing returned",
        "operator",
        "statement deleted",
        "statement repeated",
        "statements swapped",
        "text",
    }


def test_what_is_captured_is_not_asked_again():
    """A captured function that would give something else now is no divergence: the record says what it gave."""

    def build(value: str) -> Any:
        def body(ctx):
            return ctx.capture("place", lambda: value)

        return agent_of(agent(name="a")(body))

    with Runtime.in_memory() as runtime:
        assert runtime.run(build("here"), run_id="r").output == "here"
        assert replaying.replay(runtime, "r", build("there")).ok
