"""The pure heart of a run: journal, divergence, merge patches, state and decisions, without loops, threads or a log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core import codec
from ledger_core.errors import Fenced, Refused
from ledger_core.events.effect import (
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
    ValueCaptured,
)
from ledger_core.events.run import RunCompleted, RunCreated
from ledger_core.events.step import LeaseExpired, StepClaimed, StepCreated, StepReleased
from ledger_core.run import decide
from ledger_core.run.divergence import KINDS, differences
from ledger_core.run.journal import Intent, Journal, Standing, read_journal
from ledger_core.run.patch import diff, merge
from ledger_core.run.state import RunState, fold


def asked(path: str, tool: str = "t", request: bytes = b"q", attempt: int = 1) -> ToolCallRequested:
    return ToolCallRequested(
        path=path,
        attempt=attempt,
        tool=tool,
        tool_version="1",
        side_effect="external_write",
        request=request,
        arguments={"n": request.decode()},
    )


def done(path: str, result: object = None) -> ToolCallCompleted:
    return ToolCallCompleted(path=path, attempt=1, result=result)


def failed(path: str, *, in_doubt: bool = False) -> ToolCallFailed:
    return ToolCallFailed(path=path, attempt=1, category="tool", error_type="E", in_doubt=in_doubt, message="it broke")


def settled(path: str, outcome: str, result: object = None) -> ToolCallSettled:
    return ToolCallSettled(path=path, attempt=1, outcome=outcome, by="verify", result=result)


def want(path: str, tool: str = "t", request: bytes = b"q", kind: str = "tool") -> Intent:
    document = {"arguments": {"n": request.decode()}}
    return Intent(path=path, kind=kind, name=tool, request=request, document=document, line="a.py:1")


def journal(*bodies: object) -> Journal:
    return read_journal(enumerate(bodies, 1))


def test_outcomes_come_in_recorded_order():
    """Outcomes are released in the order in which they were recorded, whatever the order of the requests."""
    book = journal(asked("1"), asked("2"), done("2", "b"), done("1", "a"))
    book.request(want("1"))
    assert book.release() is None
    book.request(want("2"))
    assert [book.release().value, book.release().value, book.release()] == ["b", "a", None]
    assert book.exhausted


def test_empty_journal_is_live():
    """A fresh run has nothing to answer from and nothing to miss."""
    book = journal()
    assert book.exhausted
    assert book.request(want("1")) is None
    assert book.stuck(ended=True) is None


@pytest.mark.parametrize(
    "intent, code",
    [
        (want("1", kind="model"), "AL103"),
        (want("1", tool="u"), "AL104"),
        (want("1", request=b"other"), "AL105"),
    ],
)
def test_another_effect_at_a_path_is_a_divergence(intent, code):
    """Another kind, name or request at a recorded path is a divergence of its own code, with the recorded seq."""
    found = journal(asked("1"), done("1")).request(intent)
    assert (found.kind.code, found.seq, found.line) == (code, 1, "a.py:1")
    if code == "AL105":
        assert [(one.at, one.recorded, one.attempted) for one in found.differences] == [("$.arguments.n", "q", "other")]


def test_ending_early_is_a_missing_effect():
    """Code that ends before it asked for what is recorded has left it out."""
    book = journal(asked("1"), done("1"), asked("2"), done("2"))
    book.request(want("1"))
    book.release()
    assert book.stuck(ended=False) is None
    found = book.stuck(ended=True)
    assert (found.kind.code, found.path, found.seq) == ("AL101", "2", 3)


def test_asking_beyond_an_unfinished_record_is_an_extra_effect():
    """Code that waits for an unrecorded effect while a recorded one was never asked for has diverged."""
    book = journal(asked("1"), done("1"), asked("2"), done("2"))
    book.request(want("1"))
    book.release()
    book.request(want("x.1/1", tool="new"))
    found = book.stuck(ended=False)
    assert (found.kind.code, found.path, found.attempted) == ("AL102", "x.1/1", "tool new")
    assert found.recorded == "tool t at effect 2"


@pytest.mark.parametrize(
    "bodies, standing, final",
    [
        ((), Standing.OPEN, False),
        ((done("1"),), Standing.DONE, True),
        ((failed("1"),), Standing.FAILED, True),
        ((failed("1", in_doubt=True),), Standing.IN_DOUBT, False),
        ((failed("1", in_doubt=True), settled("1", "succeeded", 7)), Standing.DONE, True),
        ((failed("1", in_doubt=True), settled("1", "no_effect")), Standing.FAILED, True),
        ((settled("1", "no_effect"),), Standing.OPEN, False),
        ((settled("1", "no_effect"), asked("1", attempt=2)), Standing.OPEN, False),
    ],
)
def test_standing_follows_the_outcomes(bodies, standing, final):
    """An effect stands as its last outcome says; only what is settled is final."""
    entry = journal(asked("1"), *bodies).entries["1"]
    assert (entry.standing, entry.final) == (standing, final)
    assert entry.no_effect == (bodies != () and isinstance(bodies[-1], ToolCallSettled) and not final)


def test_immediate_values_need_no_release():
    """A captured value answers at the request itself, and is never waited for."""
    book = journal(ValueCaptured(path="1", source="now", name="", value=5))
    entry = book.request(Intent(path="1", kind="now", name="", request=b""))
    assert entry.value == 5
    assert book.exhausted


def test_divergence_codes_are_unique():
    """Each kind has its own code and its own cause."""
    assert len({kind.code for kind in KINDS}) == len({kind.cause for kind in KINDS}) == len(KINDS)


_leaf = st.one_of(st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.text(max_size=2))
_value = st.recursive(
    _leaf,
    lambda inner: st.one_of(
        st.lists(st.one_of(inner, st.none()), max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)
_document = st.dictionaries(st.sampled_from("abc"), _value, max_size=3)


@given(_document, _document)
def test_diff_then_merge_is_the_identity(before, after):
    """`merge(before, diff(before, after))` is `after` to the byte: types of numbers in lists included."""
    assert codec.canonical(merge(before, diff(before, after))) == codec.canonical(after)


@given(_document)
def test_diff_of_equals_is_empty(document):
    """A document that did not change needs no patch."""
    assert diff(document, document) == {}


@given(_document, _document)
def test_merge_changes_nothing_in_place(before, patch):
    """Neither the document nor the patch is touched."""
    held = codec.encode(before), codec.encode(patch)
    merge(before, patch)
    assert (codec.encode(before), codec.encode(patch)) == held


@given(_document, _document)
def test_differences_are_empty_only_for_equal_documents(left, right):
    """Documents without differences are the same."""
    assert (not list(differences(left, right))) == (codec.canonical(left) == codec.canonical(right)) or left == right


SPEC = RunCreated(run="r", agent="a", seed=b"s" * 32, initial_state={})


def state(*bodies: object) -> RunState:
    return fold((seq, seq, body.kind.name, body) for seq, body in enumerate(bodies, 1))


def claimed(*more: object, epoch: int = 1) -> RunState:
    claim = StepClaimed(step="s", epoch=epoch, worker=f"w{epoch}", base_version=0)
    return state(SPEC, StepCreated(step="s", number=1, agent="a"), claim, *more)


def test_a_claim_raises_the_epoch_and_fences_the_owner():
    """Each claim takes the next epoch; a dead owner's lease expires in the same commit, a living one refuses it."""
    with pytest.raises(Refused):
        decide.claim(claimed(), "w2", owner_alive=True, code_digest=None)
    expired, claim = decide.claim(claimed(), "w2", owner_alive=False, code_digest=None)
    assert isinstance(expired, LeaseExpired) and claim.epoch == 2
    with pytest.raises(Fenced):
        decide.check_fence(claimed(), 0)
    with pytest.raises(Fenced):
        decide.check_fence(claimed(StepReleased(step="s", epoch=1)), 1)


def test_the_terminal_event_counts_riders_too():
    """What a completed run asserts of itself is what its stream holds, riders included."""
    before = [asked("1")]
    bodies = decide.complete(claimed(), 1, {"k": 1}, before)
    last = bodies[-1]
    assert isinstance(last, RunCompleted)
    assert last.tools == {"t": 1}
    whole = claimed(*before, *bodies)
    assert {**whole.counts} == {**last.counts, "run_completed": 1}
    assert (whole.status, whole.version, whole.worker) == ("completed", 1, None)
    with pytest.raises(Refused):
        decide.claim(whole, "w2", owner_alive=False, code_digest=None)


def test_the_tool_ledger_follows_outcomes():
    """An outside write is reserved, then what its outcome says."""
    assert claimed(asked("1")).ledger["1"].status == "RUNNING"
    assert claimed(asked("1"), failed("1", in_doubt=True)).in_doubt[0].tool == "t"
    assert claimed(asked("1"), failed("1")).ledger["1"].status == "FAILED_NO_EFFECT"
    assert claimed(asked("1"), failed("1", in_doubt=True), settled("1", "succeeded")).in_doubt == []
