"""The checklist before a release: each check passes, finds its risk, and says when it could not look."""

from __future__ import annotations

import json
import sys
import textwrap

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites import histories
from suites.stories import RUNS, command, long_run, model, object_of, text_of, told

from agentledger import Budget, Log, Runtime, agent, tool
from cli.commands.report import review
from ledger_core.errors import Damaged
from ledger_core.events.effect import ToolCallRequested
from ledger_core.events.govern import ArtifactCreated, BudgetChanged, ToolApprovalRequired
from ledger_core.events.wait import ApprovalDecided
from ledger_core.log.record import Draft
from ledger_core.runtime.target import load
from projections import folding
from projections.reports import review as reviews
from projections.reports.check import Means, Verdict
from projections.reports.subject import Subject
from projections.scope import Scope

CONTRACT = [
    "no_failed_steps",
    "no_pending_verification",
    "no_pending_approvals",
    "completed_steps_have_completion_events",
    "ledger_statuses_known",
    "event_sequence_contiguous",
    "artifacts_have_blob_refs",
    "media_artifacts_have_refs",
    "stream_checkpoints_have_offsets",
    "high_risk_approvals_decided",
    "no_blocking_failure_events",
    "max_total_usd",
]
OWN = [
    "chain_verified",
    "runs_have_ended",
    "nothing_in_doubt",
    "approvals_match_requests",
    "budgets_held",
    "replay_agrees",
    "evidence_not_forgotten",
    "projections_agree",
    "replay_certified",
]
WELL = Means(
    verify=lambda: Verdict(looked_at="all of it"),
    replay=lambda _: Verdict(),
    agree=Verdict,
    alive=lambda _: True,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A ledger of runs that went through much."""
    path = tmp_path_factory.mktemp("review") / "ledger"
    with Runtime(Log.open(path), models=model) as runtime:
        told(runtime)
    return path


def subject(log, scope=None, rows=None):
    return Subject.of(log, scope or Scope(), rows or folding.of_events(log.read(contents=False)))


def reviewed(log, means=WELL, **how):
    """The checks of a log, by their ids."""
    found = reviews.review(subject(log, **how), means)
    json.dumps(found, allow_nan=False)
    assert [one["id"] for one in found["checks"]] == CONTRACT + OWN
    return {one["id"]: one for one in found["checks"]}


def risks(checks):
    return {name for name, one in checks.items() if one["outcome"] == "risk"}


def well_run(log, run="well"):
    long_run(log, run, 3)
    return log


# All is well


def test_all_checks_pass_where_all_is_well(log):
    """A run that did nothing odd passes each of the twelve checks of the contract, and each of ours."""
    checks = reviewed(well_run(log))
    assert {one["outcome"] for one in checks.values()} == {"pass"}
    found = reviews.review(subject(log), WELL)
    assert (found["passed"], found["risks"], found["not_checked"], reviews.exit_code(found)) == (True, 0, 0, 0)
    assert all(one["todo"] == "" and one["evidence"] == [] for one in checks.values())


def test_a_warning_is_told_and_does_not_block(log):
    """A risk that only warns leaves a release as it is."""
    well_run(log, "r")
    lacking = ArtifactCreated(
        path="1", artifact="a", tag=bytes(32), schema="agentledger.artifact.v0", request=bytes(32), manifest={}
    )
    log.append(Draft(stream="run/r", body=lacking))
    found = reviews.review(subject(log), WELL)
    assert (found["risks"], found["blockers"], found["passed"], reviews.exit_code(found)) == (1, 0, True, 0)


def test_what_nobody_looks_at_is_not_checked(log):
    """Without means, the chain, the code and the views are not checked, which has not passed: 6."""
    found = reviews.review(subject(well_run(log)), Means())
    missed = {one["id"] for one in found["checks"] if one["outcome"] == "not_checked"}
    assert missed == {"chain_verified", "replay_agrees", "projections_agree", "replay_certified"}
    assert (found["passed"], reviews.exit_code(found)) == (False, 6)
    assert all(one["todo"] for one in found["checks"] if one["id"] in missed)


@settings(max_examples=60)
@given(drafts=histories.drafts())
def test_any_history_can_be_reviewed(drafts):
    """Whatever happened, in whatever order: each check comes to an outcome, with evidence where it is a risk."""
    with Log.in_memory() as log:
        log.append(*drafts)
        for name, one in reviewed(log).items():
            assert one["outcome"] in ("pass", "risk", "not_checked"), name
            assert (one["found"] > 0) == (one["outcome"] == "risk")
            assert bool(one["evidence"]) == (one["outcome"] == "risk")
            assert bool(one["todo"]) == (one["outcome"] != "pass")


# Each check finds its risk


def test_runs_that_went_wrong_are_risks(root):
    """Failed steps, a call in doubt, failures without an end, forgotten content: each with where to look."""
    with Log.open(root, readonly=True) as log:
        checks = reviewed(log)
    assert risks(checks) == {
        "no_failed_steps",
        "no_pending_verification",
        "no_blocking_failure_events",
        "evidence_not_forgotten",
    }
    assert checks["no_pending_verification"]["evidence"][0]["call"].startswith("d:")
    assert {one["run_id"] for one in checks["no_failed_steps"]["evidence"]} >= {"f", "e", "g"}
    assert checks["evidence_not_forgotten"]["evidence"] == [{"run_id": "e"}]
    assert checks["evidence_not_forgotten"]["severity"] == "warning"
    assert (checks["runs_have_ended"]["outcome"], checks["runs_have_ended"]["detail"][-1]) == ("not_checked", "2")


def test_a_run_in_flight_and_a_question_are_told(runtime):
    """A question nobody has answered is a risk; a run under way is not checked, for it may come to anything."""

    @tool(name="sign", side_effect="external_write", approval_required=True)
    def sign() -> None:
        pass

    @agent(name="a", tools=[sign])
    def main(ctx):
        ctx.call_tool("sign")

    runtime.run(main, run_id="r", wait=False)
    checks = reviewed(runtime.log)
    assert risks(checks) == {"no_pending_approvals", "high_risk_approvals_decided"}
    assert checks["runs_have_ended"]["outcome"] == "not_checked"

    (approval,) = runtime.state("r").approvals
    runtime.approve(approval, by="Ada")
    runtime.run(main, run_id="r")
    checks = reviewed(runtime.log)
    assert risks(checks) == set()
    assert checks["approvals_match_requests"]["outcome"] == "pass"


def _asked(approval, **other):
    facts = {"path": "9", "tool": "t", "tool_version": "1", "side_effect": "external_write", "request": b"a" * 32}
    facts |= other
    return ToolApprovalRequired(approval=approval, tag=bytes(32), arguments={}, **facts)


def _called(approval, **other):
    facts = {"path": "9", "tool": "t", "tool_version": "1", "side_effect": "external_write", "request": b"a" * 32}
    return ToolCallRequested(attempt=1, approval=approval, arguments={}, **(facts | other))


@pytest.mark.parametrize(
    ("bodies", "why"),
    [
        ([_called("p")], "nobody was asked"),
        ([_asked("p"), _called("p")], "it was not approved"),
        ([_asked("p"), ApprovalDecided(approval="p", approved=False), _called("p")], "it was not approved"),
        (
            [_asked("p"), ApprovalDecided(approval="p", approved=True), _called("p", request=b"b" * 32)],
            "another request",
        ),
        ([_asked("p"), ApprovalDecided(approval="p", approved=True), _called("p", tool_version="2")], "another tool"),
        ([_asked("p"), ApprovalDecided(approval="p", approved=True), _called("p", tool="u")], "another tool"),
        (
            [_asked("p"), ApprovalDecided(approval="p", approved=True), _called("p"), _called("p", path="8")],
            "used before",
        ),
    ],
)
def test_a_call_that_its_approval_does_not_cover_is_a_risk(log, bodies, why):
    """A call without a question, without a yes, with another request or version, or with a yes used before is found."""
    well_run(log, "r")
    other = [body for body in bodies if isinstance(body, ToolApprovalRequired)]
    if not other:  # that nobody was asked shows in a run where somebody was, for something else
        log.append(Draft(stream="run/r", body=_asked("q")))
    log.append(*(Draft(stream="run/r", body=body) for body in bodies))
    (piece,) = reviewed(log)["approvals_match_requests"]["evidence"]
    assert why in piece["why"]
    assert log.event(piece["log_seq"]).body.approval == "p"


def test_a_call_that_was_made_again_stands_on_its_one_approval(log):
    """Attempts of one call may stand on the same yes: it is one call."""
    well_run(log, "r")
    bodies = [_asked("p"), ApprovalDecided(approval="p", approved=True), _called("p"), _called("p")]
    log.append(*(Draft(stream="run/r", body=body) for body in bodies))
    assert reviewed(log)["approvals_match_requests"]["outcome"] == "pass"


def test_budgets_that_were_passed_are_risks(log):
    """Where more was spent and reserved than a bound, the event says so; lowering a bound passes nothing."""
    well_run(log, "r")

    def stands(why, spent, reserved, limit):
        return BudgetChanged(
            account="run:r",
            why=why,
            limits={"usd_nano": limit, "wall_ns": 1},
            spent={"usd_nano": spent, "wall_ns": 5},
            reserved={"usd_nano": reserved},
            open=0,
        )

    log.append(Draft(stream="budget_run/r", body=stands("reserved", 4, 6, 10)))
    log.append(Draft(stream="budget_run/r", body=stands("set", 4, 6, 5)))
    assert reviewed(log)["budgets_held"]["outcome"] == "pass"
    log.append(Draft(stream="budget_run/r", body=stands("settled", 4, 0, 10)))
    (event,) = log.append(Draft(stream="budget_run/r", body=stands("reserved", 4, 7, 10)))
    log.append(Draft(stream="budget_run/r", body=stands("reserved", 4, 9, 10)))
    for scope in (Scope(), Scope(run="r")):
        (piece,) = reviewed(log, scope=scope)["budgets_held"]["evidence"]
        assert (piece["log_seq"], piece["budget"]) == (event.seq, "run r")


def test_budgets_of_real_runs_are_held(runtime):
    """A run that a budget stopped passed none."""

    @tool(name="pay", cost=0.4)
    def pay() -> None:
        pass

    @agent(name="a", tools=[pay])
    def main(ctx):
        for _ in range(5):
            ctx.call_tool("pay")

    runtime.run(main, run_id="r", budget=Budget(usd=1))
    checks = reviewed(runtime.log)
    assert checks["budgets_held"]["outcome"] == "pass"
    assert "no_failed_steps" in risks(checks)


def test_artifacts_without_what_they_need_are_risks(log):
    """An artifact without size or digest, media without a reference, a place in a stream without an offset."""
    well_run(log, "r")
    common = {"tag": bytes(32), "request": bytes(32)}
    log.append(
        *(
            Draft(stream="run/r", body=ArtifactCreated(path=str(n), artifact=f"a{n}", schema=schema, **common, **facts))
            for n, (schema, facts) in enumerate(
                [
                    ("agentledger.artifact.v0", {"manifest": {}}),
                    ("agentledger.artifact.v0", {"manifest": {}, "size": 1, "digest": b"d"}),
                    ("agentledger.media.v0", {"manifest": {"kind": "image", "ref": ""}}),
                    ("agentledger.media.v0", {"manifest": {"kind": "image", "ref": "s3://x"}}),
                    ("agentledger.stream.v0", {"manifest": {"stream_id": "s", "consumer_id": "c", "offset": 0}}),
                    ("agentledger.stream.v0", {"manifest": {"stream_id": "s", "consumer_id": "c"}}),
                    ("agentledger.stream.v0", {"manifest": "text"}),
                ]
            )
        )
    )
    checks = reviewed(log)
    found = {name: [one["artifact"] for one in checks[name]["evidence"]] for name in risks(checks)}
    assert found == {
        "artifacts_have_blob_refs": ["a0"],
        "media_artifacts_have_refs": ["a2"],
        "stream_checkpoints_have_offsets": ["a5", "a6"],
    }
    assert checks["artifacts_have_blob_refs"]["severity"] == "warning"

    log.forget("run/r")
    checks = reviewed(log)
    assert checks["media_artifacts_have_refs"]["outcome"] == "not_checked"
    assert checks["stream_checkpoints_have_offsets"]["outcome"] == "not_checked"


@attrs.frozen
class Changed:
    """Rows as somebody may have changed them where they are kept."""

    rows_of: folding.Folded
    name: str
    change: dict

    def rows(self, name, run=None):
        for row in self.rows_of.rows(name, run):
            yield row | self.change if name == self.name else row

    def sums(self, name, group):
        return self.rows_of.sums(name, group)


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("tool_ledger", {"status": "MAYBE"}, "ledger_statuses_known"),
        ("steps", {"seq": 2}, "completed_steps_have_completion_events"),
        ("steps", {"seq": 10**9}, "completed_steps_have_completion_events"),
        ("steps", {"step": "another"}, "completed_steps_have_completion_events"),
        ("runs", {"events": 10**6}, "event_sequence_contiguous"),
        ("runs", {"status": "parked"}, "runs_have_ended"),
        ("runs", {"status": "diverged"}, "runs_have_ended"),
    ],
)
def test_rows_that_say_what_the_log_does_not_are_risks(log, name, change, check):
    """Kept rows of an unknown status, without their event, or of events that are not there are found."""
    well_run(log)
    rows = Changed(folding.of_events(log.read(contents=False)), name, change)
    assert check in risks(reviewed(log, rows=rows))


def test_writes_left_half_way_are_found(log):
    """A write whose worker is gone is a risk, one whose worker lives is under way; who lives may be unknown."""
    well_run(log, "r")
    log.append(Draft(stream="run/r", body=_called(None)))
    half = attrs.evolve(WELL, alive=lambda _: False)
    held = Changed(folding.of_events(log.read(contents=False)), "runs", {"worker": "w"})
    free = Changed(folding.of_events(log.read(contents=False)), "runs", {"worker": None})
    assert "nothing_in_doubt" in risks(reviewed(log, half, rows=held))
    assert "nothing_in_doubt" in risks(reviewed(log, WELL, rows=free))
    assert reviewed(log, WELL, rows=held)["nothing_in_doubt"]["outcome"] == "pass"
    unknown = attrs.evolve(WELL, alive=None)
    assert reviewed(log, unknown, rows=held)["nothing_in_doubt"]["outcome"] == "not_checked"


def test_a_bound_of_dollars_is_held(log):
    """What it cost is told, and compared with a bound where one is named."""
    well_run(log)
    assert reviewed(log)["max_total_usd"]["outcome"] == "pass"
    assert reviewed(log, attrs.evolve(WELL, max_usd=0.000003))["max_total_usd"]["outcome"] == "pass"
    over = reviewed(log, attrs.evolve(WELL, max_usd=0.0000029))["max_total_usd"]
    assert (over["outcome"], over["evidence"]) == ("risk", [{"usd": 3e-06, "limit": 2.9e-06}])


def test_what_others_find_is_a_risk(log):
    """Findings of verification, divergences and views that differ are risks; what they missed is said with them."""
    well_run(log)
    means = Means(
        verify=lambda: Verdict(findings=("record: it changed",), not_checked=("the rest",)),
        replay=lambda run: Verdict(findings=(f"{run} differs",)),
        agree=lambda: Verdict(findings=("costs",)),
    )
    checks = reviewed(log, means)
    assert risks(checks) == {"chain_verified", "replay_agrees", "projections_agree"}
    assert "not checked: the rest" in checks["chain_verified"]["detail"]
    assert checks["replay_agrees"]["evidence"] == [{"run_id": "well", "why": "well differs"}]


def test_a_check_that_comes_upon_damage_has_not_been_made(log):
    """Damage ends the one check that reads it, which then is not checked; the others are made."""
    well_run(log)

    def damaged():
        raise Damaged("The record at seq 3 is not what was written.")

    checks = reviewed(log, attrs.evolve(WELL, verify=damaged))
    assert checks["chain_verified"]["outcome"] == "not_checked"
    assert checks["chain_verified"]["detail"].startswith("The record at seq 3")
    assert risks(checks) == set()


@given(count=st.integers(21, 200))
@settings(max_examples=5)
def test_evidence_is_counted_and_the_first_of_it_listed(count):
    """However many there are, all are counted and twenty are shown."""
    with Log.in_memory() as log:
        well_run(log, "r")
        for number in range(count):
            log.append(Draft(stream="run/r", body=_called(None, path=f"x{number}")))
        half = attrs.evolve(WELL, alive=lambda _: False)
        found = reviewed(log, half)["nothing_in_doubt"]
        assert (found["found"], len(found["evidence"])) == (count, 20)


# The command


AGENTS = """
from agentledger import agent, tool

@tool(side_effect="external_write")
def post(text: str) -> str:
    return text

@agent(tools=[post])
def clerk(ctx, state):
    print("agents print what they like")
    return ctx.call_tool("post", text=state["text"])
"""


@pytest.fixture
def made(tmp_path):
    """A ledger with a run of agents.py, and that file."""
    file = tmp_path / "agents.py"
    file.write_text(textwrap.dedent(AGENTS), encoding="utf-8")
    with Runtime(Log.open(tmp_path / "l")) as runtime:
        assert runtime.run(load(f"{file}:clerk"), run_id="r", initial_state={"text": "a"}).ok
    return tmp_path / "l", file


def outcome(found, name):
    (one,) = [one for one in found["checks"] if one["id"] == name]
    return one


def test_a_real_run_is_reviewed_and_nothing_is_written(made, capsys):
    """A run whose code is there passes everything, also `--fail-on-risk`; the log is as it was before."""
    root, _ = made
    with Log.open(root, readonly=True) as log:
        before = log.head()
    for arguments in (("r",), (), ("--since", "1h")):
        found = object_of(capsys, review, root, "checklist", *arguments, "--fail-on-risk")
        assert found["passed"], found
        assert outcome(found, "replay_agrees")["detail"].endswith(": 1")
        assert outcome(found, "chain_verified")["outcome"] == "pass"
    with Log.open(root, readonly=True) as log:
        assert log.head() == before
    shown = text_of(capsys, review, root, "checklist", "r")
    assert "Nothing blocks" in shown
    assert shown.count("✓") == 21


def test_code_that_does_something_else_blocks(made, capsys):
    """Code that was changed since does not agree with the record: a risk, and 1."""
    root, file = made
    file.write_text(file.read_text(encoding="utf-8").replace('state["text"]', '"else"'), encoding="utf-8")
    found = object_of(capsys, review, root, "checklist", "r", "--fail-on-risk", code=1)
    assert outcome(found, "replay_agrees")["evidence"][0]["run_id"] == "r"
    assert "Blocked by 1 of 21 checks" in text_of(capsys, review, root, "checklist", "r")


@pytest.mark.parametrize("broken", ["gone", "raises", "exits", "empty"])
def test_code_that_cannot_be_loaded_is_not_checked(made, capsys, broken):
    """Code that is gone, or whose module fails, cannot agree: not checked, and 6."""
    root, file = made
    if broken == "gone":
        file.unlink()
    else:
        text = {"raises": "raise ValueError('no')", "exits": "import sys; sys.exit(3)", "empty": ""}[broken]
        file.write_text(text, encoding="utf-8")
    found = object_of(capsys, review, root, "checklist", "r", "--fail-on-risk", code=6)
    assert outcome(found, "replay_agrees")["outcome"] == "not_checked"
    assert object_of(capsys, review, root, "checklist", "r")["not_checked"] == 1
    assert object_of(capsys, review, root, "checklist", "r", "--no-replay", "--fail-on-risk", code=6)


def test_damage_in_the_chain_blocks(made, capsys):
    """A byte that changed in the log's file blocks a review of the ledger; what reads it by itself is not checked.

    A review of the one run cannot even be begun: the run itself cannot be read.
    """
    root, _ = made
    command(review, root, "checklist")  # views are kept as they were before
    data = root / "agentledger.lmdb" / "data.mdb"
    raw = data.read_bytes()
    assert b"worker_" in raw
    data.write_bytes(raw.replace(b"worker_", b"Worker_"))  # of the event that says who claimed the step
    found = object_of(capsys, review, root, "checklist", "--fail-on-risk", code=1)
    assert outcome(found, "chain_verified")["outcome"] == "risk"
    assert outcome(found, "event_sequence_contiguous")["outcome"] == "not_checked"
    assert "is not what was written" in outcome(found, "event_sequence_contiguous")["detail"]
    assert outcome(found, "no_failed_steps")["outcome"] == "pass"
    with pytest.raises(Damaged):
        command(review, root, "checklist", "r")


def test_every_kind_of_ledger_is_reviewed(root, tmp_path, capsys):
    """An empty ledger passes, a run in flight waits, failed and doubtful runs block, erased ones are told."""
    Log.open(tmp_path / "empty").close()
    assert object_of(capsys, review, tmp_path / "empty", "checklist", "--fail-on-risk")["passed"]
    blocked = {run: object_of(capsys, review, root, "checklist", run, "--no-replay")["blockers"] > 0 for run in RUNS}
    assert blocked == {"r": True, "d": True, "f": True, "g": True, "w": False, "e": True}  # r has a child that failed
    assert command(review, root, "checklist", "w", "--no-replay", "--fail-on-risk") == 6
    arguments = ("checklist", "--no-replay", "--max-total-usd", "0.5", "--fail-on-risk")
    whole = object_of(capsys, review, root, *arguments, code=1)
    assert outcome(whole, "max_total_usd")["outcome"] == "risk"
    assert outcome(whole, "projections_agree")["outcome"] == "pass"


def test_a_run_of_fifty_thousand_events_is_reviewed(tmp_path, capsys):
    """A long run is checked to its last event, and what is found is listed in short."""
    with Log.open(tmp_path / "l") as log:
        long_run(log, "big", 25_000)
    found = object_of(capsys, review, tmp_path / "l", "checklist", "big", "--no-replay")
    assert {one["id"] for one in found["checks"] if one["outcome"] != "pass"} == {"replay_agrees", "replay_certified"}
    assert "50,006 events" in outcome(found, "chain_verified")["detail"]
    assert "agents" not in sys.modules
