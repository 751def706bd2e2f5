"""Two runs are measured by what they did and used; one that is worse than is allowed fails, and says in what."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites.stories import command, object_of, text_of

from agentledger import BadInput, Log, RetryableAgentError, Runtime, agent, tool
from agentledger import Damaged as DamagedError
from cli.commands.gates import corpus, evidence_regression
from ledger_core.errors import Refused
from projections.evidence import bundle
from projections.evidence_files import write_directory, write_family, write_file, write_page
from replay.pairs import paired, pairs
from replay.regression import NANO, Allowed, Increase, compared, increase, side

FAILS = {"tries": 0}


def ask(request):
    tokens = {"input_tokens": 10 * len(request["messages"]), "output_tokens": 4}
    return {"content": "said", "usage": tokens}


@tool(side_effect="external_write", cost=0.25)
def post(text: str) -> dict:
    return {"posted": text}


@tool
def look(number: int) -> int:
    return number


@tool
def breaks() -> None:
    raise ValueError("no")


@tool(name="forbidden", risk_level="high")
def forbidden() -> None:
    raise AssertionError("it was called")


def work(ctx, state):
    """Does what its plan says, in its order."""
    for step in ctx.state["plan"]:
        what, _, more = step.partition(":")
        try:
            if what == "look":
                ctx.call_tool("look", number=int(more or 0))
            elif what == "post":
                ctx.call_tool("post", text=more)
            elif what == "ask":
                ctx.call_model({"model": "m", "messages": [{"role": "user", "content": "?"}] * int(more or 1)})
            elif what == "patch":
                ctx.write_state_patch("seen", more)
            elif what == "again":
                FAILS["tries"] += 1
                if FAILS["tries"] % 2:
                    raise RetryableAgentError("once more")
            elif what == "fail":
                raise RuntimeError(more)
            elif what in ("breaks", "forbidden"):
                ctx.call_tool(what)
        except RetryableAgentError:
            raise
        except RuntimeError:
            raise
        except Exception:
            pass
    return ctx.state.get("answer")


WORKER = agent(name="worker", tools=[post, look, breaks, forbidden], models=ask)(work)


@pytest.fixture
def runtime(tmp_path):
    with Runtime.local(tmp_path / "ledger") as runtime:
        yield runtime


@pytest.fixture
def recorded(runtime, tmp_path):
    """Record a run of a plan; the file with its evidence."""
    made = []

    def record(*plan, answer="yes", name="worker", **how):
        run_id = f"r{len(made)}"
        made.append(run_id)
        declared = WORKER if name == "worker" else agent(name=name, tools=[post, look], models=ask)(work)
        state = {"plan": list(plan), "answer": answer}
        runtime.run(declared, run_id=run_id, initial_state=state, retry_policy={"initial": 0.01}, **how)
        write_file(bundle(runtime.log, run_id), tmp_path / f"{run_id}.json")
        return tmp_path / f"{run_id}.json"

    return record


def measures(base, candidate, **allowed):
    """What does not hold between two files, by name, where the plan that they began with may differ."""
    found = compared(side(base), side(candidate), Allowed(input=True, **allowed))
    json.dumps(found.as_json(), allow_nan=False)
    return {one.name: one for one in found.measures if not one.holds}


PLAN = ("ask", "look:1", "post:a", "patch:x")


def test_a_run_is_not_worse_than_itself(recorded):
    """The same work, done again, holds in every measure with nothing allowed."""
    first, second = recorded(*PLAN), recorded(*PLAN)
    found = compared(side(first), side(second), Allowed())
    assert found.ok
    assert [one.name for one in found.measures] == [
        "agent and input",
        "status",
        "output",
        "state",
        "tool calls",
        "model calls",
        "failures",
        "denials",
        "outside writes",
        "cost",
        "tokens",
        "events",
        "time",
    ]


WORSE = [
    (("look:2",), "tool calls", {"extra_calls": 1}),
    (("ask",), "model calls", {"extra_calls": 1, "tokens": Increase(amount=14)}),
    (("breaks",), "failures", {"extra_calls": 1, "extra_failures": 1}),
    (("forbidden",), "denials", {"extra_calls": 1, "extra_denials": 1}),
    (("post:b",), "outside writes", {"extra_calls": 1, "new_writes": 1, "cost": Increase(amount=NANO // 4)}),
    (("post:a",), "outside writes", {"extra_calls": 1, "new_writes": 1, "cost": Increase(amount=NANO // 4)}),
]


@pytest.mark.parametrize("more, name, allowed", WORSE)
def test_each_thing_that_is_more_is_found_and_can_be_allowed(recorded, more, name, allowed):
    """One more call, failure, refusal or write fails its measure; so much more allowed, and it holds."""
    base, candidate = recorded(*PLAN), recorded(*PLAN, *more)
    free = {"events": Increase(share=Fraction(2)), "state": True}
    found = measures(base, candidate, **free)
    assert name in found
    assert found[name].option.startswith("--")
    assert measures(base, candidate, **{**free, **allowed}) == {}
    assert measures(candidate, base, **free) == {}  # less is no regression


def test_what_is_new_is_named(recorded):
    """The calls and writes that are more are named, with what they asked for."""
    found = measures(recorded(*PLAN), recorded(*PLAN, "post:new one", "look:3", "look:4"))
    assert "new one" in found["outside writes"].detail[0]
    assert found["tool calls"].detail == ("tool look: 2 more", "tool post: 1 more")
    assert (found["tool calls"].base, found["tool calls"].candidate, found["tool calls"].limit) == (
        "2",
        "5",
        "at most 2",
    )


def test_a_write_of_something_else_is_new(recorded):
    """As many writes as before, and one of them another: it is new, though nothing is more."""
    found = measures(recorded("post:a", "post:b"), recorded("post:a", "post:c"), state=True)
    assert list(found) == ["outside writes"]
    assert found["outside writes"].candidate == "2, 1 of them new"


def test_what_costs_more_is_found(runtime, recorded):
    """Tokens and dollars are held against a share or an amount of what they were."""
    base, candidate = recorded("post:a", "ask:10"), recorded("post:a", "ask:11")
    assert list(measures(base, candidate, state=True)) == ["tokens"]
    assert measures(base, candidate, state=True, tokens=increase("10%")) == {}
    assert measures(base, candidate, state=True, tokens=increase("9")) != {}
    dear = recorded("post:a", "ask:10", "post:b")
    rest = {"state": True, "extra_calls": 1, "new_writes": 1, "events": increase("100%")}
    assert list(measures(base, dear, **rest)) == ["cost"]
    assert measures(base, dear, **rest)["cost"].candidate == "$0.500000"
    assert measures(base, dear, **rest, cost=increase("100%")) == {}
    assert measures(base, dear, **rest, cost=increase("$0.25", NANO)) == {}
    assert measures(base, dear, **rest, cost=increase("0.249", NANO)) != {}


def test_other_output_state_and_input_are_found(recorded):
    """What is returned, kept and begun with is compared value by value, and told."""
    base = recorded("patch:x", answer={"total": 3})
    other = recorded("patch:y", answer={"total": 4})
    found = compared(side(base), side(other), Allowed())
    wrong = {one.name: one for one in found.measures if not one.holds}
    assert set(wrong) == {"agent and input", "output", "state"}
    assert "was 3, is 4" in wrong["output"].detail[0]
    assert compared(side(base), side(other), Allowed(input=True, output=True, state=True)).ok


def test_an_end_that_is_worse_is_found_and_one_that_is_better_is_not(recorded):
    """A run that completed and now fails is worse; one that failed and now completes is not."""
    good, bad, worse = recorded("look"), recorded("look", "fail:on purpose"), recorded("look", "fail:again")
    found = measures(good, bad, state=True, output=True)
    assert (found["status"].base, found["status"].candidate) == ("completed", "failed")
    assert measures(good, bad, state=True, output=True, status=True) == {}
    assert measures(bad, good, state=True, output=True) == {}
    assert measures(bad, worse, state=True) == {}


def test_a_run_that_was_tried_again_is_the_same_and_took_more(recorded):
    """An attempt that was lost is no other course: no call or write is new; what it used counts."""
    FAILS["tries"] = 1
    smooth = recorded(*PLAN, "again")
    FAILS["tries"] = 0
    bumpy = recorded(*PLAN, "again")
    assert list(measures(smooth, bumpy)) == ["tokens"]  # the model was asked, and paid, twice
    assert measures(smooth, bumpy, tokens=increase("100%")) == {}
    assert list(measures(smooth, bumpy, tokens=increase("100%"), events=increase("10%"))) == ["events"]


def test_a_log_that_grows_is_found(recorded):
    """A run of many more events is worse, though a crash and its recovery would not be; so many can be allowed."""
    base, a_little, candidate = recorded("look"), recorded("look", "patch:1"), recorded("look", *["patch:1"] * 12)
    assert measures(base, a_little, state=True) == {}
    found = measures(base, candidate, state=True)
    assert list(found) == ["events"]
    assert measures(base, candidate, state=True, events=increase("100")) == {}


def test_time_counts_only_where_it_is_limited(recorded):
    """How long a run took is shown, and fails only against a limit that somebody gave."""
    base, candidate = recorded("look"), recorded("look")
    one, other = side(base), side(candidate)
    other.state.updated_ns += 3600 * NANO
    free = compared(one, other, Allowed())
    assert free.ok
    assert [m.limit for m in free.measures if m.name == "time"] == ["any"]
    assert not compared(one, other, Allowed(seconds=increase("60", NANO))).ok


@given(st.integers(0, 10**12), st.integers(0, 10**6), st.integers(0, 1000))
def test_an_increase_is_exact(base, amount, percent):
    """A share is taken of what it was, an amount is added, and nothing is ever less than it was."""
    assert increase(f"{percent}%").most(base) == base + base * percent // 100
    assert increase(f"{amount}").most(base) == base + amount
    assert increase("0.000000001", NANO).most(base) == base + 1


@pytest.mark.parametrize(
    "text", ["", "%", "-1", "1e3", "ten", "10%%", "$10%", "1.0000000001", "nan", "1" * 16, "١", "1\n2"]
)
def test_what_is_no_increase_is_refused(text):
    """Anything but a share or an amount is refused in a sentence."""
    with pytest.raises(BadInput, match="is no increase"):
        increase(text)


# What is read


def test_bundles_of_every_form_are_compared(runtime, recorded, tmp_path):
    """A file, a page, a directory, and a directory of a run with its children are all evidence."""
    base = recorded("look:1")
    made = bundle(runtime.log, "r0")
    write_page(made, tmp_path / "page.html")
    write_directory(made, tmp_path / "directory")
    write_family([made], tmp_path / "family")
    for other in ("page.html", "directory", "family"):
        found = pairs(base, tmp_path / other)
        assert len(found.pairs) == 1
        assert compared(*found.pairs[0][1:], Allowed()).ok


def test_evidence_that_was_altered_is_damage(recorded, tmp_path):
    """A bundle with an edited number is not measured: 3."""
    path = recorded("look:1")
    good = json.loads(path.read_text())
    good["summary"]["usd_nano"] = 7
    (tmp_path / "bad.json").write_text(json.dumps(good))
    with pytest.raises(DamagedError, match=r"bad\.json is not what was recorded") as caught:
        pairs(path, tmp_path / "bad.json")
    assert caught.value.exit_code == 3


def test_what_cannot_be_read_is_refused(runtime, recorded, tmp_path):
    """A bundle without its key, a directory without evidence, and nothing at all are refused in a sentence."""
    path = recorded("look:1")
    write_file(bundle(runtime.log, "r0", sealed=True), tmp_path / "sealed.json")
    with pytest.raises(Refused, match="has no key"):
        pairs(path, tmp_path / "sealed.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="has no evidence in it"):
        pairs(path, tmp_path / "empty")
    with pytest.raises(LookupError, match="no file"):
        pairs(path, tmp_path / "nothing")


def test_directories_are_paired_by_name_then_input_then_agent(recorded, tmp_path):
    """Equal names are pairs; then equal beginnings, in order; then the last two of an agent; the rest is told."""
    was, now = tmp_path / "was", tmp_path / "now"
    was.mkdir()
    now.mkdir()
    for place, name, path in (
        (was, "named", recorded("look:1")),
        (now, "named", recorded("look:2")),
        (was, "x1", recorded("look:3")),
        (was, "x2", recorded("look:3")),
        (now, "y1", recorded("look:3")),
        (now, "y2", recorded("look:3")),
        (was, "single", recorded("look:4", name="single")),
        (now, "renamed", recorded("look:5", name="single")),
        (was, "gone", recorded("look:6", name="gone")),
        (now, "new", recorded("look:7", name="new")),
    ):
        shutil.copy(path, place / f"{name}.json")
    (was / ".hidden.json").write_text("{}")
    (was / "words.txt").write_text("words")
    found = pairs(was, now)
    paths = {(name, one.source.split("/")[-1], other.source.split("/")[-1]) for name, one, other in found.pairs}
    assert paths == {
        ("named", "named.json", "named.json"),
        ("x1", "x1.json", "y1.json"),
        ("x2", "x2.json", "y2.json"),
        ("single", "single.json", "renamed.json"),
    }
    assert [one.source.split("/")[-1] for one in found.missing] == ["gone.json"]
    assert [one.source.split("/")[-1] for one in found.new] == ["new.json"]


@given(st.lists(st.sampled_from("abcdef"), max_size=8), st.lists(st.sampled_from("abcdef"), max_size=8))
def test_every_run_is_paired_once_or_told(was, now):
    """However many there are on both sides: each is in one pair, missing, or new."""

    class One:
        def __init__(self, letter):
            self.course = self
            self.agent = "abc".find(letter)
            self.beginning = letter

    left, right = (
        {f"{mark}{n}": One(letter) for n, letter in enumerate(side_)} for mark, side_ in (("x", was), ("y", now))
    )
    found = paired(left, right)
    assert {id(one) for _, one, _ in found.pairs} | {id(one) for one in found.missing} == set(map(id, left.values()))
    assert {id(one) for _, _, one in found.pairs} | {id(one) for one in found.new} == set(map(id, right.values()))
    assert len(found.pairs) + len(found.missing) == len(left)
    assert len(found.pairs) + len(found.new) == len(right)


# The command


def gate(*words):
    return command(evidence_regression, None, *map(str, words))


def test_the_command_fails_with_4_and_says_in_what(recorded, capsys):
    """The table names what is worse, the limit, and the option that allows it; with it, the command ends well."""
    base, candidate = recorded(*PLAN), recorded(*PLAN, "look:9")
    assert gate(base, base) == 0
    shown = text_of(capsys, evidence_regression, None, str(base), str(candidate), "--allow-input-change", code=4)
    line = next(line for line in shown.splitlines() if "tool calls" in line)
    assert line.split() == ["BAD", "tool", "calls", "2", "3", "at", "most", "2", "--max-extra-calls"]
    assert "1 pair: 1 worse" in shown
    free = ("--allow-input-change", "--allow-state-change", "--max-extra-calls", "1", "--max-event-increase", "50%")
    assert gate(base, candidate, *free) == 0
    found = object_of(capsys, evidence_regression, None, str(base), str(candidate), code=4)
    assert not found["ok"]
    assert {one["name"] for one in found["pairs"][0]["measures"] if not one["holds"]} >= {"tool calls"}
    assert {one["option"] for one in found["pairs"][0]["measures"]} <= _options()


def _options():
    return {name for one in evidence_regression.params for name in one.opts}


def test_directories_fail_where_one_is_worse_or_missing(recorded, tmp_path, capsys):
    """One worse pair of many fails, and so does a base without a candidate, unless that is allowed."""
    was, now = tmp_path / "was", tmp_path / "now"
    was.mkdir()
    now.mkdir()
    for name in ("a", "b"):
        shutil.copy(recorded("look:1"), was / f"{name}.json")
    shutil.copy(was / "a.json", now / "a.json")
    assert gate(was, now) == 4
    assert gate(was, now, "--allow-missing") == 0
    shutil.copy(recorded("look:1", "look:1"), now / "b.json")
    assert gate(was, now) == 4
    shown = text_of(capsys, evidence_regression, None, str(was), str(now), code=4)
    assert "ok  a" in shown
    assert "2 pairs: 1 worse" in shown


def test_a_corpus_is_a_base(tmp_path, monkeypatch, capsys):
    """A corpus is compared with a directory of new runs, by the names of its index."""
    (tmp_path / "agents.py").write_text(
        "from agentledger import agent\n@agent\ndef one(ctx, state):\n    return state['n']\n"
    )
    monkeypatch.chdir(tmp_path)
    from ledger_core.runtime.target import load

    with Runtime.local(tmp_path / "ledger") as runtime:
        runtime.run(load("agents.py:one"), run_id="a", initial_state={"n": 1})
    assert command(corpus, tmp_path / "ledger", "add", "a", "--name", "first") == 0
    (tmp_path / "new").mkdir()
    with Log.open(tmp_path / "ledger", readonly=True) as log:
        write_file(bundle(log, "a"), tmp_path / "new" / "first.json")
    found = object_of(capsys, evidence_regression, None, "corpus", "new")
    assert [one["name"] for one in found["pairs"]] == ["first"]
