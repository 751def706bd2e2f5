"""Forks: what they share, what they do not do again, what they may do, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from suites.runs import bodies, replayed

from agentledger import NoEffect, RetryPolicy, Runtime, agent, tool
from cli.main import cli
from cli.output import Settings
from ledger_core.errors import BadInput, Damaged, Diverged, InDoubt, NotFound, PermissionDenied, Refused
from ledger_core.events.run import RunCreated
from ledger_core.log.log import Draft
from ledger_core.log.reading import Reading
from ledger_core.log.verify_jobs import verify_ledger
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.lineage import check
from projections.runs import of_stream
from replay import replaying, sides
from replay.comparing import compare

SENT: list[str] = []


@tool(side_effect="external_write")
def send(text: str) -> str:
    SENT.append(text)
    return f"sent {text}"


@tool
def read(number: int) -> int:
    return number * 10


def _letters(ctx: Any, state: dict[str, Any], first: str = "x") -> list[Any]:
    number = ctx.call_tool("read", number=1)
    ctx.write_state_patch("number", number)
    sent = [ctx.call_tool("send", text=f"{first}={number}")]
    other = ctx.call_tool("read", number=2)
    try:
        sent.append(ctx.call_tool("send", text=f"y={other}"))
    except PermissionDenied:
        sent.append("refused")
    return [sent, ctx.state, ctx.random(), ctx.uuid()]


@agent(name="letters", tools=[send, read])
def letters(ctx, state):
    return _letters(ctx, state)


@agent(name="letters", tools=[send, read])
def changed(ctx, state):
    return _letters(ctx, state, first="z")


@pytest.fixture
def runtime(tmp_path):
    with Runtime.local(tmp_path) as made:
        assert made.run(letters, run_id="base", initial_state={"k": 1}).ok
        SENT.clear()
        yield made


def _at(runtime: Runtime, kind: str, path: str, run_id: str = "base") -> int:
    """Number of the event of a kind at an effect."""
    for event in runtime.log.stream(stream_of(run_id)):
        if event.type == kind and getattr(event.body, "path", None) == path:
            return int(event.stream_seq)
    raise AssertionError(f"{run_id} has no {kind} at {path}")


def test_what_is_shared_is_not_done_again_and_the_rest_is_refused(runtime):
    """A fork answers its shared part from its ancestor, and makes no outside write of its own; the ancestor is left."""
    before, head = runtime.result("base"), runtime.log.stream_head(stream_of("base"))
    made = runtime.fork("base", at=_at(runtime, "tool_call_completed", "3"), new_id="fork")
    result = runtime.run(letters, run_id=made)
    assert result.output == [["sent x=10", "refused"], {"k": 1, "number": 10}, *before.output[2:]]
    assert SENT == []
    assert runtime.log.stream_head(stream_of("base")) == head
    assert [body.path for body in bodies(runtime, "tool_call_requested", made)] == ["4"]
    state = runtime.state(made)
    assert (state.ancestor, state.lineage, state.writes_blocked) == ("base", "base", True)
    replayed(runtime, letters, made)


def test_a_live_fork_writes_what_lies_behind_its_shared_part(runtime):
    """A live fork makes the outside writes that it does not share, under keys of its own."""
    made = runtime.fork("base", at=_at(runtime, "tool_call_completed", "3"), live=True)
    assert runtime.run(letters, run_id=made).output[0] == ["sent x=10", "sent y=20"]
    assert SENT == ["y=20"]
    assert runtime.result("base").output[2:] == runtime.result(made).output[2:]  # chance belongs to the line


@pytest.mark.parametrize("session", [None, "s"])
def test_a_fork_adds_three_events_at_most(runtime, session):
    """What a fork adds to the log is that it was created, its step, and its place in a session."""
    assert runtime.run(letters, run_id="r", session_id=session).ok
    head = runtime.log.head().seq
    runtime.fork("r", at=4, new_id="fork")
    added = [(event.stream, event.type) for event in runtime.log.read(head)]
    mine = [("run/fork", "run_created"), ("run/fork", "step_created")]
    assert added == mine + ([("session/s", "session_run_added")] if session else [])


def test_making_a_fork_looks_up_few_events_however_many_there_are(tmp_path, monkeypatch):
    """To fork a run of thousands of events, as many of them are read as of one with a hundred."""
    looked: list[int] = []
    decoded = Reading._event

    def counted(*told):
        looked.append(1)
        return decoded(*told)

    @agent(name="clock")
    def clock(ctx, state):
        for _ in range(state["times"]):
            ctx.now()

    numbers = {}
    with Runtime.local(tmp_path) as runtime:
        for times in (100, 6_400):
            runtime.run(clock, run_id=f"r{times}", initial_state={"times": times})
            at = runtime.state(f"r{times}").events - 8
            looked.clear()
            monkeypatch.setattr(Reading, "_event", counted)
            made = runtime.fork(f"r{times}", at=at)
            monkeypatch.undo()
            numbers[times] = len(looked)
            assert runtime.run(clock, run_id=made).ok
    assert numbers[6_400] - numbers[100] <= 4
    assert numbers[6_400] < 12


def test_an_overridden_result_is_what_the_code_is_given(runtime):
    """Without an event to fork behind, a fork begins right behind the result that it overrides."""
    made = runtime.fork("base", overrides={"1": 7}, live=True)
    result = runtime.run(letters, run_id=made)
    assert runtime.state(made).ancestor_event == _at(runtime, "tool_call_completed", "1")
    assert result.output[:2] == [["sent x=7", "sent y=20"], {"k": 1, "number": 7}]
    replayed(runtime, letters, made)


def test_a_state_that_was_set_is_in_force_behind_the_shared_part(runtime):
    """A merge patch of the state changes what the code finds behind the shared part, and nothing in it."""
    seen: list[dict[str, Any]] = []

    @agent(name="looks", tools=[read])
    def looks(ctx):
        for number in range(3):
            ctx.call_tool("read", number=number)
            ctx.write_state_patch("last", number)
            seen.append(dict(ctx.state))

    runtime.run(looks, run_id="r", initial_state={"k": 1, "gone": 1})
    seen.clear()
    made = runtime.fork("r", at=_at(runtime, "state_patch_proposed", "4", "r"), set_state={"k": 5, "gone": None})
    result = runtime.run(looks, run_id=made)
    assert [one["k"] for one in seen] == [1, 5, 5]
    assert ["gone" in one for one in seen] == [True, False, False]
    assert result.state == {"k": 5, "last": 2}
    replayed(runtime, looks, made)


def test_forks_of_forks_keep_what_their_line_was_given(runtime):
    """Overrides and states of a line hold in every later fork, and each fork adds its own."""
    first = runtime.fork("base", overrides={"1": 7}, set_state={"one": 1}, live=True, new_id="first")
    assert runtime.run(letters, run_id=first).output[1] == {"k": 1, "one": 1, "number": 7}
    last = runtime.state(first).events
    second = runtime.fork(first, at=last, set_state={"two": 2}, new_id="second")
    assert runtime.run(letters, run_id=second).output[:2] == [
        ["sent x=7", "sent y=20"],
        {"k": 1, "one": 1, "number": 7, "two": 2},
    ]
    third = runtime.fork(second, at=1, set_state={"three": 3}, new_id="third")
    assert runtime.run(letters, run_id=third).output[1] == {"k": 1, "one": 1, "number": 7, "two": 2, "three": 3}
    assert SENT == ["x=7", "y=20"]
    for run_id in (first, second, third):
        replayed(runtime, letters, run_id)
        assert of_stream(runtime.log, stream_of(run_id)).lineage == "base"


def test_other_code_goes_on_where_it_agrees(runtime):
    """Other code goes on behind what it does alike; where it does something else in the shared part, it diverges."""
    made = runtime.fork("base", at=_at(runtime, "state_patch_proposed", "2"), agent=changed, live=True)
    assert runtime.run(changed, run_id=made).output[0] == ["sent z=10", "sent y=20"]
    SENT.clear()
    made = runtime.fork("base", at=_at(runtime, "tool_call_completed", "3"), agent=changed, live=True)
    with pytest.raises(Diverged) as caught:
        runtime.run(changed, run_id=made)
    assert (caught.value.divergence.kind.code, caught.value.divergence.path, SENT) == ("AL105", "3", [])


def test_children_of_a_fork_make_no_outside_writes_either(runtime):
    """A child that a fork spawns is bound as the fork is."""

    @agent(name="child", tools=[send])
    def child(ctx):
        ctx.call_tool("send", text="from a child")

    @agent(name="parent")
    def parent(ctx):
        return ctx.spawn(child).join()

    runtime.run(parent, run_id="p")
    SENT.clear()
    result = runtime.run(parent, run_id=runtime.fork("p", at=2))
    assert (result.status, SENT) == ("failed", [])


def test_a_write_that_was_under_way_is_nobodys_to_make_again(runtime):
    """A fork of a run with a write in doubt does not go on until somebody says what came of it; then it has it."""

    @tool(name="risky", side_effect="external_write")
    def risky():
        raise TimeoutError("nobody knows")

    @agent(name="doubtful", tools=[risky, read])
    def doubtful(ctx):
        return [ctx.call_tool("risky"), ctx.call_tool("read", number=1)]

    with pytest.raises(InDoubt):
        runtime.run(doubtful, run_id="d")
    made = runtime.fork("d", live=True)
    with pytest.raises(Refused, match="nobody knows what came of it"):
        runtime.run(doubtful, run_id=made)
    runtime.settle("d:1", "succeeded", because="it was asked", result="it happened")
    assert runtime.run(doubtful, run_id=made).output == ["it happened", 10]


def test_a_later_step_is_forked_with_the_state_that_it_began_with(runtime):
    """A fork in a later step goes on in that step: earlier ones are history, their state is there, paths stay."""

    @agent(name="second", tools=[send])
    def second(ctx, state):
        return [state, ctx.call_tool("send", text=f"at {state['n']}"), ctx.call_tool("send", text="more")]

    @agent(name="counts", tools=[read])
    def counts(ctx, state):
        n = state.get("n", 0) + 1
        ctx.call_tool("read", number=n)
        return ctx.continue_with(second if n == 3 else None, {"n": n})

    runtime.run(counts, run_id="steps")
    SENT.clear()
    made = runtime.fork("steps", at=_at(runtime, "tool_call_completed", "#4/1", "steps"), live=True)
    result = runtime.run(second, run_id=made)
    assert (result.output[0], SENT) == ({"n": 3}, ["more"])
    assert runtime.state(made).step_number == 4
    replayed(runtime, second, made)
    made = runtime.fork("steps", at=_at(runtime, "tool_call_completed", "#2/1", "steps"), live=True)
    assert runtime.run(counts, run_id=made).output[0] == {"n": 3}
    assert SENT == ["more", "at 3", "more"]
    again = runtime.fork(made, at=1)
    assert (
        runtime.run(counts, run_id=again).output == [{"n": 3}, *[None] * 0] or runtime.state(again).status == "failed"
    )


@pytest.mark.parametrize(
    "asked", [{"at": 0}, {"at": 99}, {"at": True}, {"overrides": {"9": 1}}, {"overrides": {"2": 1}}]
)
def test_what_cannot_be_forked_is_refused_in_a_sentence(runtime, asked):
    """An event that is not there, and an effect that has no result there, are refused, and nothing is appended."""
    head = runtime.log.head()
    with pytest.raises(BadInput):
        runtime.fork("base", **asked)
    assert runtime.log.head() == head


def test_ids_attached_runs_and_forgotten_ones(runtime):
    """A taken id, an unknown run, a run of attached code, and one whose words were forgotten cannot be forked."""
    with runtime.attach("outside") as ctx:
        ctx.capture("one", lambda: 1)
    runtime.run(letters, run_id="gone")
    fork = runtime.fork("gone", at=4)
    runtime.log.forget(stream_of("gone"))
    for run_id, error in (("none", NotFound), ("outside", Refused), ("gone", Refused)):
        with pytest.raises(error):
            runtime.fork(run_id)
    with pytest.raises(Refused, match="already"):
        runtime.fork("base", new_id="gone")
    with pytest.raises(Refused, match="forgotten"):
        runtime.run(letters, run_id=fork)
    assert runtime.run(letters, run_id=runtime.fork("base")).ok


def test_a_fork_that_names_another_event_is_damage(runtime):
    """An ancestor's event that is not the one that a fork names is damage, to whoever reads the fork."""
    made = runtime.fork("base", at=5)
    begun = next(iter(runtime.log.stream(stream_of(made)))).body
    assert isinstance(begun, RunCreated)
    check(runtime.log, begun)
    for field, value in (
        ("ancestor_hash", bytes(32)),
        ("ancestor_seq", 4),
        ("ancestor_event", 6),
        ("ancestor_seq", 999),
    ):
        with pytest.raises(Damaged):
            check(runtime.log, attrs.evolve(begun, **{field: value}))


@pytest.mark.parametrize("field, value", [("ancestor_hash", bytes(32)), ("ancestor_seq", 4), ("ancestor_seq", 999)])
def test_verify_finds_a_fork_that_names_another_event(tmp_path, field, value):
    """A first event whose origin is not the event of that seq and hash is a finding; what is as it says is none."""
    with Runtime.local(tmp_path) as runtime:
        runtime.run(letters, run_id="base", initial_state={"k": 1})
        made = runtime.fork("base", at=5)
        assert verify_ledger(tmp_path).ok
        begun = next(iter(runtime.log.stream(stream_of(made)))).body
        forged = attrs.evolve(begun, run="forged", **{field: value})
        seq = runtime.log.append(Draft(stream=stream_of("forged"), body=forged))[0].seq
    assert [(one.kind, one.seq, one.stream) for one in verify_ledger(tmp_path).findings] == [
        ("origin", seq, "run/forged")
    ]


def test_a_fork_that_lost_its_worker_goes_on(python, tmp_path):
    """Killed behind its first own effect, a fork is recovered like any other run."""
    code = """
        import os, sys
        from agentledger import Runtime, agent, tool
        root, what = sys.argv[1:]

        @tool
        def read(number: int) -> int:
            return number * 10

        @agent(name="a", tools=[read])
        def a(ctx):
            found = [ctx.call_tool("read", number=n) for n in range(4)]
            if what == "kill":
                os._exit(9)
            return found + [ctx.call_tool("read", number=9)]

        with Runtime.local(root) as runtime:
            if what == "record":
                runtime.run(a, run_id="r")
            elif what == "kill":
                runtime.run(a, run_id=runtime.fork("r", at=6, new_id="f"))
            else:
                print(runtime.run(a, run_id="f").output)
    """
    python.run(code, tmp_path, "record")
    assert python.start(code, tmp_path, "kill").wait(60) == 9
    assert python.run(code, tmp_path, "go on").strip() == "[0, 10, 20, 30, 90]"


def test_the_command_forks_and_the_tree_shows_it(tmp_path, monkeypatch):
    """`fork` creates and runs a fork; `runs --tree` puts it below its ancestor; `status` says what it is."""
    (tmp_path / "own.py").write_text(
        "from agentledger import agent, tool\n"
        "@tool(side_effect='external_write')\n"
        "def send(text: str) -> str:\n    return text\n"
        "@agent(tools=[send])\n"
        "def own(ctx, state):\n    first = ctx.call_tool('send', text='a')\n"
        "    return [first, ctx.call_tool('send', text=f'b {state}')]\n"
    )
    monkeypatch.chdir(tmp_path)

    def al(*words: str) -> Any:
        return CliRunner().invoke(cli, words, obj=Settings(root=tmp_path / "led"), standalone_mode=False)

    assert al("run", "own.py", "--run-id", "r").return_value == 0
    done = al("fork", "r", "--override", '1="c"', "--live", "--run-id", "f", "--json")
    assert json.loads(done.stdout)["output"] == ["c", "b {}"]
    refused = al("fork", "f", "--at", "1", "--run-id", "g", "--set-state", "{}", "--json")
    assert (refused.return_value, json.loads(refused.stdout)["error_type"]) == (1, "PermissionDenied")
    assert json.loads(al("fork", "f", "--detach", "--json").stdout)["ancestor"] == "f"
    lines = [line.split()[:3] for line in al("runs", "--tree").stdout.splitlines()[1:]]
    assert [line[:2] for line in lines[:2]] == [["r", "own"], ["└─", "f"]]
    assert sorted(line[0] for line in lines[2:]) == ["└─", "├─"]
    assert "fork of  f behind its event 1; outside writes are refused" in al("status", "g").stdout
    twice = ["--override", "1=1", "--override", "1=2"]
    for words in (["--override", "1"], ["--override", "1={"], ["--set-state", "[]"], ["--at", "99"], twice):
        assert isinstance(al("fork", "r", *words).exception, BadInput | SystemExit)


def test_a_course_of_a_fork_is_whole(runtime):
    """What a fork did, as `diff` reads it, has what it shares: the fork of a whole run is that run."""
    made = runtime.fork("base", new_id="fork")
    runtime.run(letters, run_id=made)
    assert sides.of_run(runtime.log, made).digest == sides.of_run(runtime.log, "base").digest
    assert replaying.replay(runtime, made, letters.__agentledger_agent__).ok


def test_a_logical_key_holds_in_a_whole_line(runtime):
    """What was done under a key is done for every fork of the line, also where the fork does not share it."""

    @agent(name="keyed", tools=[send, read])
    def keyed(ctx):
        first = ctx.call_tool("send", text="paid", _logical_operation="pay")
        return [first, ctx.call_tool("read", number=1), ctx.call_tool("send", text="paid", _logical_operation="pay")]

    whole = runtime.run(keyed, run_id="k").output
    SENT.clear()
    for at in (2, _at(runtime, "tool_call_completed", "1", "k")):
        assert runtime.run(keyed, run_id=runtime.fork("k", at=at, live=True)).output == whole
    assert SENT == []


def test_a_signal_that_nobody_had_taken_is_the_forks_too(runtime):
    """A signal that came before the event is there for the fork, once, however often its worker begins."""

    @agent(name="waits")
    def waits(ctx):
        ctx.now()
        return [ctx.wait_signal("go"), ctx.wait_signal("go")]

    runtime.create_run(waits, run_id="s")
    runtime.signal("s", "go", 1)
    assert runtime.run(waits, run_id="s").status == "waiting"
    at = next(event.stream_seq for event in runtime.log.stream(stream_of("s")) if event.type == "value_captured")
    fork = runtime.fork("s", at=at)
    for _ in range(2):
        assert runtime.run(waits, run_id=fork).status == "waiting"
    runtime.signal(fork, "go", 2)
    assert runtime.run(waits, run_id=fork).output == [1, 2]
    assert len(bodies(runtime, "signal_received", fork)) == 2


def test_a_fork_of_what_was_forgotten_says_so_and_is_given_back(runtime):
    """Where an ancestor was forgotten, its forks are nobody's to go on with, and nobody holds them."""
    first = runtime.fork("base", at=4, new_id="first")
    runtime.run(letters, run_id=first)
    second = runtime.fork(first, new_id="second")
    runtime.log.forget(stream_of("first"))
    with pytest.raises(Refused, match="first said was forgotten"):
        runtime.run(letters, run_id=second)
    assert runtime.state(second).worker is None
    with pytest.raises(Refused, match="forgotten"):
        runtime.fork(second)
    assert runtime.run(letters, run_id=runtime.fork("base")).ok


def test_an_attempt_that_is_known_to_have_done_nothing_is_made_again(runtime):
    """A write that was under way, and is known to have had no effect, is the fork's to make."""
    tried: list[int] = []

    @tool(name="flaky", side_effect="external_write", retry=RetryPolicy(max_attempts=5, initial=3600, jitter=0))
    def flaky():
        tried.append(1)
        if len(tried) == 1:
            raise NoEffect("not now")
        return "done"

    @agent(name="tries", tools=[flaky])
    async def tries(ctx):
        return await ctx.call_tool("flaky")

    runtime.create_run(tries, run_id="t")
    runtime.run_once(tries)
    fork = runtime.fork("t", at=_at(runtime, "tool_call_requested", "1", "t"), live=True)
    assert runtime.run(tries, run_id=fork).output == "done"


def test_a_fork_of_a_later_step_began_as_its_line_did(runtime):
    """A run and its fork in a later step differ in nothing: what the line began with is the fork's beginning too."""

    @agent(name="steps")
    def steps(ctx, state):
        n = state.get("n", 0) + 1
        ctx.capture("n", lambda: n)
        return ctx.continue_with(None, {"n": n}) if n < 3 else n

    runtime.run(steps, run_id="st")
    fork = runtime.fork("st")
    runtime.run(steps, run_id=fork)
    found = compare(sides.of_run(runtime.log, "st"), sides.of_run(runtime.log, fork))
    assert found.same, [one.sentence() for one in found.divergences]
