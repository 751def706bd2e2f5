"""Reports of costs and failures: of ledgers of every kind the sums are those of the events, and causes are roots."""

from __future__ import annotations

import json
import re
from collections import Counter

import needs
import pytest
from browser import Browser
from hypothesis import given, settings
from suites import histories
from suites.stories import long_run, model, object_of, text_of, told

from agentledger import BadInput, Budget, Clock, Log, PermissionDenied, Runtime, ToolFailed, agent, tool
from cli.commands.report import cost, failure, review
from cli.main import cli
from ledger_core.clock import NS
from ledger_core.events.effect import (
    ModelCallCompleted,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
)
from ledger_core.events.govern import CostRecorded
from ledger_core.events.run import RunParked
from ledger_core.events.step import LeaseExpired, StepFailed
from ledger_core.log.record import Draft
from ledger_core.runtime.governing import budgets_of
from projections import folding
from projections.reports import cost as costs
from projections.reports import failure as failures
from projections.reports.sections import Section, line, page, sparkline
from projections.reports.subject import Subject
from projections.scope import Scope
from projections.views import open_caught_up


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A ledger of runs that went through much."""
    path = tmp_path_factory.mktemp("reports") / "ledger"
    with Runtime(Log.open(path), models=model) as runtime:
        told(runtime)
    return path


def subject(log, scope=None):
    """All runs of a log in memory, or of a scope, folded now."""
    return Subject.of(log, scope or Scope(), folding.of_events(log.read(contents=False)))


def dollars_of(events):
    """What events say was paid, in billionths, counted without any projection."""
    total = 0
    for event in events:
        body = event.body
        if isinstance(body, ModelCallCompleted):
            total += body.usd_nano or 0
        elif isinstance(body, (ToolCallCompleted, ToolCallFailed, ToolCallSettled, CostRecorded)):
            total += (body.spent or {}).get("usd_nano", 0)
    return total


def cause(found, kind, name):
    (one,) = [one for one in found["root_causes"] if (one["kind"], one["name"]) == (kind, name)]
    return one


# Costs


def test_the_sums_are_those_of_the_events(root, capsys):
    """Dollars, tokens and calls are what the events say, and each way of dividing them adds up to the whole."""
    found = object_of(capsys, cost, root, "report", "--top", "1000")
    with Log.open(root, readonly=True) as log:
        events = list(log.read(contents=False))
    assert found["totals"]["usd_nano"] == dollars_of(events) == 1_750_000_000
    calls = Counter(event.type for event in events)
    kept = calls["step_retry_scheduled"]  # each made a call again that has no intent of its own
    assert found["totals"]["calls"] == calls["tool_call_requested"] + calls["model_call_requested"] + kept
    assert found["totals"]["input_tokens"] == 12 * calls["model_call_completed"]
    for name in ("run", "agent", "step", "day"):
        for counter in costs.COUNTERS:
            assert sum(one[counter] for one in found[f"by_{name}"]) == found["totals"][counter], (name, counter)
    kinds = [one for name in ("tool", "model", "recorded") for one in found[f"by_{name}"]]
    assert sum(one["usd_nano"] for one in kinds) == found["totals"]["usd_nano"]
    assert [one["run_id"] for one in found["by_run"]][:2] == ["r", "d"]
    assert found["by_recorded"] == [
        {"recorded": "gpu", **dict.fromkeys(costs.COUNTERS, 0), "usd_nano": 1_000_000_000, "usd": 1.0}
    ]
    assert found["unpriced_models"] == ["m"]
    assert found["wasted"]["calls"] == 0  # one came right later, one is in doubt


def test_scopes_add_up(root, capsys):
    """The costs of a session, of a run with its children, and of two halves of time are parts of the whole's."""
    whole = object_of(capsys, cost, root, "report")["totals"]
    session = object_of(capsys, cost, root, "report", "--session", "S")
    assert session["scope"]["session_id"] == "S"
    assert session["totals"]["usd_nano"] == whole["usd_nano"]
    assert session["runs"] == 4
    run = object_of(capsys, cost, root, "report", "r")
    assert run["totals"]["usd_nano"] == 1_000_000_000
    assert run["runs"] == 2
    with Log.open(root, readonly=True) as log:
        half = next(log.stream("run/f")).time_ns
        halves = []
        for scope in (Scope(until_ns=half), Scope(since_ns=half)):
            with open_caught_up(log) as views:
                halves.append(costs.report(Subject.of(log, scope, views))["totals"])
    assert {name: sum(one[name] for one in halves) for name in costs.COUNTERS} == {
        name: whole[name] for name in costs.COUNTERS
    }


def test_what_came_to_nothing_is_wasted():
    """A call that failed for good is wasted with its cost; one that came right, is in doubt or under way is not."""

    @tool(cost=0.25, side_effect="external_read")
    def breaks():
        raise ValueError("no")

    @tool(cost=0.25, side_effect="external_read", retry={"max_attempts": 2, "initial": 0.01})
    def wobbles():
        tried.append(1)
        if len(tried) % 2:
            raise ConnectionError("not yet")

    @agent(name="a", tools=[breaks, wobbles])
    def main(ctx):
        try:
            ctx.call_tool("breaks")
        except ToolFailed:
            ctx.call_tool("wobbles")

    tried: list[int] = []
    runtime = Runtime(Log.in_memory())
    runtime.run(main, run_id="r")
    found = costs.report(subject(runtime.log))
    (broken,) = [one for one in found["by_tool"] if one["tool"] == "breaks"]
    assert (found["wasted"]["calls"], found["wasted"]["usd_nano"]) == (1, broken["usd_nano"])
    assert found["totals"]["failed"] == 2
    assert found["wasted"]["failed_runs"] == 0


def test_budgets_stand_beside_what_was_paid(tmp_path, capsys):
    """Budgets of the runs in question are told, with what is spent, reserved and left; others are not."""

    @tool(cost=0.25)
    def pay(n: int) -> int:
        return n

    @agent(name="payer", tools=[pay])
    def payer(ctx, state):
        return [ctx.call_tool("pay", n=n) for n in range(state["n"])]

    with Runtime(Log.open(tmp_path / "l")) as runtime:
        runtime.run(payer, run_id="one", initial_state={"n": 2}, budget=Budget(usd=1, tool_calls=10))
        runtime.run(payer, run_id="two", initial_state={"n": 1}, budget=Budget(usd=5), session_id="S")
        runtime.set_budget(Budget(calls=100), session="S")
        runtime.set_budget(Budget(calls=100), agent="payer")
        assert len(budgets_of(runtime.log)) == 4
    found = object_of(capsys, cost, tmp_path / "l", "report", "one")["budgets"]
    assert {(one["budget"], one["dimension"]) for one in found} == {
        ("run:one", "usd_nano"),
        ("run:one", "tool_calls"),
        ("agent:payer", "calls"),
    }
    (dollars,) = [one for one in found if one["dimension"] == "usd_nano"]
    assert (dollars["limit"], dollars["spent"], dollars["left"], dollars["held"]) == (10**9, 5 * 10**8, 5 * 10**8, True)
    assert len(object_of(capsys, cost, tmp_path / "l", "report")["budgets"]) == 5
    assert re.search(r"run one +\$1 +\$0.5 +\$0 +\$0.5 +yes", text_of(capsys, cost, tmp_path / "l", "report", "one"))


def test_days_are_told_with_a_line_of_blocks():
    """Each day has its sums, days without any are dots in the line of blocks, and the last sixty are shown."""
    day = 86_400 * NS
    times = [day * 20_000]
    log = Log.in_memory(clock=Clock(now_ns=lambda: times[0]))
    for number, amount in ((0, 8), (1, 4), (4, 1), (100, 8)):
        times[0] = day * (20_000 + number)
        long_run(log, f"r{number}", 0)
        spent = {"usd_nano": amount * 10**9}
        log.append(
            Draft(stream=f"run/r{number}", body=CostRecorded(path="1", name="gpu", spent=spent, request=bytes(32)))
        )
    found = costs.report(subject(log))
    assert [one["usd"] for one in found["by_day"]] == [8, 4, 1, 8]
    (days,) = [one for one in costs.sections(found) if one.title == "Days"]
    assert days.lead.startswith("·" * 59 + "█")
    assert days.lead.endswith(f"{found['by_day'][-1]['day']}")


def test_a_line_of_blocks_keeps_proportions():
    """The highest value is a full block, half of it half of one, nothing is a dot, and nothing at all is dots."""
    assert sparkline([8, 4, 0, 0.1]) == "█▅·▁"
    assert sparkline([0, 0]) == "··"
    assert sparkline([]) == ""


# Failures


def test_failures_are_told_by_their_roots(root, capsys):
    """A child's failure that failed its parent is one cause; a retried step has the tool that it failed of."""
    found = object_of(capsys, failure, root, "report")
    kinds = {(one["kind"], one["name"]) for one in found["root_causes"]}
    assert kinds == {("tool", "post"), ("step", "child"), ("step", "bad"), ("tool", "flaky")}
    assert found["failures"] == sum(one["times"] + one["led_to_count"] for one in found["root_causes"])

    doubt = cause(found, "tool", "post")
    assert found["root_causes"][0] == doubt
    assert (doubt["outcomes"], doubt["occurrences"][0]["run_id"]) == ({"in doubt": 1}, "d")
    assert doubt["next"].startswith(f"agentledger ledger settle d:{doubt['occurrences'][0]['path']}")
    assert doubt["words"] == "the answer was lost"

    bad = cause(found, "step", "bad")  # of f, e and the child of g
    assert bad["runs"] == 3
    assert {(one["run_id"], one["kind"]) for one in bad["led_to"]} == {("g", "child"), ("g", "step")}
    assert bad["words"] == "broken: \x1b[31m<b>ünïcode</b>"

    flaky = cause(found, "tool", "flaky")
    assert flaky["outcomes"] == {"recovered": 2}
    assert {(one["run_id"], one["kind"], one["outcome"]) for one in flaky["led_to"]} == {
        ("r", "step", "recovered"),
        ("d", "step", "open"),
    }
    assert {one["run_id"] for one in cause(found, "step", "child")["led_to"]} == {"r", "d"}


def test_a_parent_alone_has_its_childs_cause(root, capsys):
    """A report of one run follows its children, whose failure is the cause of its own."""
    found = object_of(capsys, failure, root, "report", "g")
    (one,) = found["root_causes"]
    assert (one["kind"], one["name"], one["times"], one["led_to_count"]) == ("step", "bad", 1, 2)
    assert one["occurrences"][0]["run_id"] != "g"


def test_forgotten_words_are_said_to_be(root, capsys):
    """The failure of a run whose content was forgotten is told by its facts, its words as `<forgotten>`."""
    (one,) = object_of(capsys, failure, root, "report", "e")["root_causes"]
    assert (one["words"], one["error_type"], one["times"]) == ("<forgotten>", "ValueError", 1)
    assert "<forgotten>" in text_of(capsys, failure, root, "report", "e")


def test_refusals_losses_and_parking_have_their_causes():
    """A denied call fails the step for a policy, a full budget for a budget, and a run is parked for its last loss."""

    @tool(name="wire", side_effect="external_write", risk_level="high")
    def wire() -> None:
        raise AssertionError

    @tool(name="pay", cost=1.0)
    def pay() -> None:
        pass

    @agent(name="denied", tools=[wire])
    def denied(ctx):
        ctx.call_tool("wire")

    @agent(name="full", tools=[pay])
    def full(ctx):
        ctx.call_tool("pay")
        ctx.call_tool("pay")

    @agent(name="asks", tools=[wire])
    def asks(ctx):
        try:
            ctx.call_tool("wire")
        except PermissionDenied:
            return "well"

    runtime = Runtime(Log.in_memory())
    runtime.run(denied, run_id="denied")
    runtime.run(full, run_id="full", budget=Budget(usd=1))
    runtime.run(asks, run_id="asks")
    long_run(runtime.log, "lost", 0)
    runtime.log.append(
        Draft(stream="run/lost", body=LeaseExpired(step="step_lost", epoch=1, reason="its worker is gone")),
        Draft(stream="run/lost", body=RunParked(step="step_lost", losses=3)),
    )
    found = failures.report(subject(runtime.log))
    wired, paid, lost = cause(found, "refused", "wire"), cause(found, "refused", "pay"), cause(found, "lease", "long")
    assert wired["outcomes"] == {"failed": 1, "handled": 1}
    assert [(one["run_id"], one["kind"]) for one in wired["led_to"]] == [("denied", "step")]
    assert (paid["category"], [one["kind"] for one in paid["led_to"]]) == ("budget", ["step"])
    assert paid["next"] == "agentledger budget list full"
    assert [one["kind"] for one in lost["led_to"]] == ["parked"]
    assert len(found["root_causes"]) == 3


def test_a_step_failed_of_the_error_that_it_tells():
    """Of several failures before it, a failed step has that of its own error for its cause, not the latest."""
    log = Log.in_memory()
    long_run(log, "r", 0)
    for path, error_type in (("1", "ValueError"), ("2", "KeyError")):
        call = {"path": path, "attempt": 1}
        why = {"category": "tool", "error_type": error_type, "in_doubt": False, "message": "no"}
        what = {"tool": f"t{path}", "tool_version": "1", "side_effect": "none", "request": bytes(32), "arguments": {}}
        log.append(Draft(stream="run/r", body=ToolCallRequested(**call, **what)))
        log.append(Draft(stream="run/r", body=ToolCallFailed(**call, **why)))
    failed = StepFailed(step="step_r", epoch=2, category="tool", error_type="ValueError", message="no")
    log.append(Draft(stream="run/r", body=failed))
    found = failures.report(subject(log))
    assert [(one["name"], one["led_to_count"]) for one in found["root_causes"]] == [("t1", 1), ("t2", 0)]


def test_what_to_do_next_is_a_command_that_there_is(root, capsys):
    """Each next step of a report names a command of this program."""
    own = {command.name: command for command in (cost, failure, review)} | {"debug": None}
    found = object_of(capsys, failure, root, "report")
    for one in found["root_causes"]:
        words = one["next"].split("agentledger ")[-1].split()
        command = cli.commands.get(words[0], own.get(words[0]))
        assert words[0] in cli.commands or words[0] in own, one["next"]
        if hasattr(command, "commands"):
            assert words[1] in command.commands, one["next"]


# Every kind of ledger


@pytest.mark.parametrize("report", [cost, failure])
def test_an_empty_ledger_has_its_reports(report, tmp_path, capsys):
    """A ledger without runs is reported as what it is: nothing was paid, nothing failed."""
    Log.open(tmp_path / "l").close()
    found = object_of(capsys, report, tmp_path / "l", "report")
    assert found["scope"] == {"run_id": None, "session_id": None, "since": None, "until": None, "runs": None}
    if report is cost:
        assert found["totals"] == {**dict.fromkeys(costs.COUNTERS, 0), "usd": 0.0, "other": {}}
        assert found["by_run"] == found["by_day"] == found["budgets"] == []
    else:
        assert found["root_causes"] == []
        assert "Nothing failed" in text_of(capsys, report, tmp_path / "l", "report")
    html = tmp_path / "page.html"
    text_of(capsys, report, tmp_path / "l", "report", "--html", str(html))
    assert html.stat().st_size > 1_000


@settings(max_examples=60)
@given(drafts=histories.drafts())
def test_any_history_has_its_reports(drafts):
    """Whatever happened, in whatever order: reports are JSON, counts add up, and sections can be shown."""
    with Log.in_memory() as log:
        log.append(*drafts)
        about = subject(log)
        paid, failed = costs.report(about), failures.report(about)
        json.dumps([paid, failed], allow_nan=False)
        assert failed["failures"] == sum(
            one["times"] + sum(led["times"] for led in one["led_to"]) for one in failed["root_causes"]
        )
        for found, sections in ((paid, costs.sections), (failed, failures.sections)):
            for section in sections(found):
                assert all(len(row.cells) == len(section.headings) for row in section.lines)
            assert "<html" in page("t", "l", sections(found))


def test_a_run_of_fifty_thousand_events_has_its_reports(tmp_path, capsys):
    """A long run's costs and failures are all counted, and what is listed of them stays short."""
    with Log.open(tmp_path / "l") as log:
        long_run(log, "big", 25_000)
    found = object_of(capsys, cost, tmp_path / "l", "report", "big")
    assert found["totals"]["calls"] == 25_000
    assert found["totals"]["usd_nano"] == 22_500 * 1_000 + 2_500 * 500
    assert (found["wasted"]["calls"], found["wasted"]["usd_nano"]) == (2_500, 2_500 * 500)
    assert [one["calls"] for one in found["by_tool"]] == [5_000] * 5
    failed = object_of(capsys, failure, tmp_path / "l", "report", "big")
    assert failed["failures"] == 2_500
    assert [one["outcomes"] for one in failed["root_causes"]] == [{"handled": 2_500}]
    assert len(json.dumps(failed)) < 20_000
    assert len(text_of(capsys, failure, tmp_path / "l", "report", "big").splitlines()) < 40


def test_a_report_that_cannot_be_written_says_so(root, capsys, tmp_path):
    """A page in a folder that is not there is refused in a sentence."""
    with pytest.raises(BadInput, match="cannot be written"):
        text_of(capsys, cost, root, "report", "--html", str(tmp_path / "no" / "x.html"))


# Pages


@pytest.fixture(scope="module")
def browser():
    """One browser for all of them."""
    needs.chromium()
    browser = Browser()
    yield browser
    browser.close()


def opened(browser, path, *, width, dark=False):
    browser.size(width)
    browser.media(dark=dark)
    browser.errors.clear()
    browser.requests.clear()
    browser.send("Page.navigate", url=path.as_uri())
    browser.until(f"document.readyState === 'complete' && location.href === {json.dumps(path.as_uri())}")
    browser.frame()


def test_pages_are_read_on_a_telephone_and_in_the_dark(browser, root, capsys, tmp_path):
    """A page has no script and asks for nothing, fits a telephone, and is dark where the reader's device is."""
    for command, arguments in ((cost, ("report",)), (failure, ("report",)), (review, ("checklist", "--no-replay"))):
        path = tmp_path / f"{command.name}.html"
        text_of(capsys, command, root, *arguments, "--html", str(path))
        papers = []
        for width, dark in ((390, False), (1400, True)):
            opened(browser, path, width=width, dark=dark)
            assert browser.run("document.documentElement.scrollWidth") <= width, (command.name, width)
            assert browser.run("document.scripts.length") == 0
            assert browser.run("document.querySelectorAll('td').length") > 5
            size = browser.run("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)")
            assert size >= 14
            papers.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        assert papers[0] != papers[1]
        assert browser.errors == []
        assert [one for one in browser.requests if not one.startswith("file:")] == []


def test_what_somebody_said_is_text_on_a_page(browser, root, capsys, tmp_path):
    """Markup in errors and names is shown, and does nothing."""
    path = tmp_path / "f.html"
    text_of(capsys, failure, root, "report", "f", "--html", str(path))
    opened(browser, path, width=390)
    assert browser.run("document.querySelectorAll('b').length") == 0
    assert "<b>ünïcode</b>" in browser.run("document.body.innerText")
    hostile = tmp_path / "h.html"
    section = failures.sections(object_of(capsys, failure, root, "report", "f"))[0]
    text = "</td><script>document.title='!'</script><img src=x onerror=alert(1)>"
    own = Section(title=text, lead=text, headings=(text,), lines=(line(text, below=[text]),))
    hostile.write_text(page(text, text, [section, own]))
    opened(browser, hostile, width=390)
    assert browser.run("document.querySelectorAll('script, img').length") == 0
    assert browser.run("document.title") == text
