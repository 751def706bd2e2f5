"""Transcripts: valid for whatever was said and lost, and nothing real is missing from them."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger import InDoubt, NotFound, ToolFailed, agent, tool
from ledger_core.events.effect import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
)
from ledger_core.log.log import Log
from ledger_core.log.record import Draft
from ledger_core.runtime.recorded import stream_of
from projections import transcript
from projections.messages import INVENTED, repair, response_message
from projections.transcript import of_run, of_session


def check(messages):
    """The rules of both providers, as their own validation states them."""
    for at, message in enumerate(messages):
        before = messages[at - 1] if at else {}
        after = messages[at + 1] if at + 1 < len(messages) else {}
        uses, results = _blocks(message, "tool_use"), _blocks(message, "tool_result")
        if message["role"] == "assistant":
            assert not results
            if "tool_calls" in message:
                ids = [call["id"] for call in message["tool_calls"]]
                tail = messages[at + 1 : at + 1 + len(ids)]
                assert ids
                assert not uses
                assert [row["tool_call_id"] for row in tail if row["role"] == "tool"] == ids
                assert all(isinstance(row["content"], (str, list)) for row in tail)
                assert messages[at + 1 + len(ids) :][:1] == [] or messages[at + 1 + len(ids)]["role"] != "tool"
            elif uses:
                assert after["role"] == "user"
                first = after["content"][: len(uses)]
                assert [block.get("tool_use_id") for block in first] == [block["id"] for block in uses]
                assert len(_blocks(after, "tool_result")) == len(uses)
        elif message["role"] == "tool":
            assert before["role"] == "tool" or "tool_calls" in before
        elif results:
            assert _blocks(before, "tool_use")
            assert before["role"] == "assistant"


def _blocks(message, kind):
    content = message.get("content")
    return [block for block in content if block.get("type") == kind] if isinstance(content, list) else []


def _words(messages):
    """Everything that somebody said, in order, results and calls apart."""
    words = []
    for message in messages:
        if message["role"] != "tool":
            content = message["content"] if isinstance(message["content"], list) else [{"text": message["content"]}]
            words += [block["text"] for block in content if block.get("text")]
    return words


def _results(messages):
    rows = [(row["tool_call_id"], row["content"]) for row in messages if row["role"] == "tool"]
    blocks = [block for row in messages if row["role"] == "user" for block in _blocks(row, "tool_result")]
    return rows + [(block["tool_use_id"], block["content"]) for block in blocks]


class Talk:
    """One conversation of a generated run: what its agent sends, and what becomes of its calls."""

    def __init__(self, draw, number):
        self.draw, self.number = draw, number
        self.openai = draw(st.booleans())
        self.wrapped = draw(st.booleans())
        self.sent = [{"role": "user", "content": f"conversation {number}"}]
        self.said = []
        self.asked = 0

    def turn(self, bodies):
        """One request, its answer, and the calls that it proposes; then what the agent says next."""
        path, ids = f"{self.number}.{self.asked}", []
        self.asked += 1
        bodies.append(_requested(path, self.sent))
        self.said = copy.deepcopy(self.sent)
        answer = self.draw(st.sampled_from(("calls", "calls", "calls", "text", "failed", "lost")))
        if answer == "failed":
            bodies.append(ModelCallFailed(path=path, attempt=1, category="model", error_type="E", message="no"))
        if answer in ("failed", "lost"):
            return
        if answer == "calls":
            ids = [f"c{self.number}-{self.asked}-{n}" for n in range(self.draw(st.integers(1, 3)))]
        message = (_openai if self.openai else _anthropic)(f"answer {path}", ids)
        wrapped = {"choices": [{"message": message}]} if self.openai else {"id": "m", "type": "message", **message}
        response = wrapped if self.wrapped else message
        bodies.append(ModelCallCompleted(path=path, attempt=1, response=response))
        self.sent.append(message)
        self.said = copy.deepcopy(self.sent)
        for name in ids:
            self._call(bodies, name)
        self._reply(ids)

    def _call(self, bodies, name):
        fate = self.draw(st.sampled_from(("done", "failed", "doubt", "settled", "open", "never")))
        if fate != "never":
            bodies.extend(_called(name, {"of": name}, fate))

    def _reply(self, ids):
        """What the agent sends next: some results, out of order, some twice, some of no call, among other words."""
        shown = self.draw(st.permutations(ids))[: self.draw(st.integers(0, len(ids)))]
        shown += [name for name in shown if self.draw(st.booleans())]
        shown += ["nobody's"] if self.draw(st.booleans()) else []
        texts = [f"{name} said {n}" for n, name in enumerate(shown)]
        early = [{"role": "user", "content": f"wait {self.asked}"}] if self.draw(st.booleans()) else []
        late = {"role": "user", "content": f"go on {self.asked}"}
        if self.openai:
            rows = [
                {"role": "tool", "tool_call_id": name, "content": text} for name, text in zip(shown, texts, strict=True)
            ]
            self.sent += [*early, *rows, late]
            return
        blocks = [
            {"type": "tool_result", "tool_use_id": name, "content": text}
            for name, text in zip(shown, texts, strict=True)
        ]
        if self.draw(st.booleans()):
            late["content"] = [*blocks[1:], {"type": "text", "text": late["content"]}, *blocks[:1]]
            self.sent += [*early, late]
        else:
            self.sent += [*early, *([{"role": "user", "content": blocks}] if blocks else []), late]


def _openai(text, ids):
    calls = [
        {"id": name, "type": "function", "function": {"name": "t", "arguments": json.dumps({"of": name})}}
        for name in ids
    ]
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


def _anthropic(text, ids):
    uses = [{"type": "tool_use", "id": name, "name": "t", "input": {"of": name}} for name in ids]
    return {"role": "assistant", "content": [{"type": "text", "text": text}, *uses]}


def _requested(path, messages):
    return ModelCallRequested(
        path=path, attempt=1, model="m", request=b"", messages=copy.deepcopy(messages), parameters={}
    )


def _called(path, arguments, fate, *, tool_="t"):
    """The events of one call of a tool."""
    yield ToolCallRequested(
        path=path,
        attempt=1,
        tool=tool_,
        tool_version="1",
        side_effect="external_write",
        request=b"",
        arguments=arguments,
    )
    if fate == "done":
        yield ToolCallCompleted(path=path, attempt=1, result={"real": path})
    elif fate in ("failed", "doubt", "settled"):
        yield ToolCallFailed(
            path=path, attempt=1, category="tool", error_type="E", in_doubt=fate != "failed", message="lost"
        )
    if fate == "settled":
        yield ToolCallSettled(path=path, attempt=1, outcome="succeeded", by="person", result={"real": path})


def _log(bodies, run_id="r"):
    log = Log.in_memory()
    log.append(*(Draft(stream=stream_of(run_id), body=body) for body in bodies))
    return log


@given(st.data())
def test_a_transcript_is_valid_and_whole(data):
    """Whatever was lost, said twice or out of order: what is shown is valid, stays so, and holds all that is real."""
    talks = [Talk(data.draw, number) for number in range(data.draw(st.integers(1, 3)))]
    bodies = []
    for _ in range(data.draw(st.integers(1, 6))):
        data.draw(st.sampled_from(talks)).turn(bodies)
    talks = [talk for talk in talks if talk.said]
    fates = {body.path: body for body in bodies if isinstance(body, (ToolCallCompleted, ToolCallSettled))}
    if not bodies:
        return
    with _log(bodies) as log:
        head = log.head()
        found = {row.messages[0]["content"]: row for row in of_run(log, "r").conversations}

        assert len(talks) == len(found)
        assert head == log.head()
    for talk in talks:
        row = found[f"conversation {talk.number}"]
        check(row.messages)
        again = repair(row.messages)
        assert (row.messages, (), (), ()) == (again.messages, again.invented, again.restored, again.dropped)
        assert _words(talk.said) == _words(row.messages)
        results = dict(_results(row.messages))
        assert len(results) == len(_results(row.messages))
        said = dict(reversed(_results(talk.said)))
        for name, text in results.items():
            if name in said:
                assert said[name] == text
            elif name in fates:
                assert name in row.restored
                assert {"real": name} == json.loads(text)
            else:
                assert name in row.invented
                assert text.startswith(INVENTED)
        lost = [text for _, text in _results(talk.said) if text not in results.values()]
        assert sorted(lost) == sorted(document["content"] for document in row.dropped)


_odd = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.sampled_from(("a", "b", "")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {},
            optional={
                "role": st.sampled_from(("user", "assistant", "tool", "system")) | inner,
                "type": st.sampled_from(("tool_use", "tool_result", "text", "function")) | inner,
                "id": st.sampled_from(("a", "b")) | inner,
                "tool_use_id": st.sampled_from(("a", "b")) | inner,
                "tool_call_id": st.sampled_from(("a", "b")) | inner,
                "content": inner,
                "tool_calls": inner,
                "choices": inner,
                "message": inner,
                "function": inner,
                "arguments": inner,
                "text": inner,
                "name": inner,
            },
        )
    ),
    max_leaves=12,
)


@given(st.lists(_odd, max_size=5), _odd)
def test_odd_documents_do_not_raise(messages, response):
    """Documents of any shape give a conversation, and repairing that changes nothing."""
    bodies = [_requested("0", messages), ModelCallCompleted(path="0", attempt=1, response=response)]

    with _log(bodies) as log:
        row, *others = of_run(log, "r").conversations

        assert [] == others
        assert row.messages == repair(row.messages).messages


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from("ab"), max_size=3), st.lists(st.sampled_from("ab")))))
def test_ids_that_come_again(turns):
    """An id that a provider gives out again, in a turn or in one message, is answered once for each call."""
    messages = [{"role": "user", "content": "hello"}]
    for openai, calls, results in turns:
        messages.append((_openai if openai else _anthropic)("answer", calls))
        messages += [{"role": "tool", "tool_call_id": name, "content": name} for name in results]
        messages.append({"role": "user", "content": "go on"})

    row = repair(messages)

    check(row.messages)
    assert row.messages == repair(row.messages).messages
    assert _words(messages) == _words(row.messages)
    shown = [text for _, text in _results(row.messages) if not text.startswith(INVENTED)]
    left = [document["content"] for document in row.dropped if document.get("role") == "tool"]
    assert sorted(shown + left) == sorted(text for _, text in _results(messages))


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ("never", "never begun"),
        ("failed", "failed (E: lost)"),
        ("doubt", "in doubt, because nobody knows whether it happened (E: lost)"),
        ("open", "in doubt, because it was begun"),
    ],
)
@pytest.mark.parametrize("shape", [_openai, _anthropic])
def test_an_invented_result_says_why(shape, fate, words):
    """The model is told whether its call was in doubt, failed, or never begun."""
    answer = ModelCallCompleted(path="0", attempt=1, response=shape("", ["x"]))
    calls = [] if fate == "never" else list(_called("1", {"of": "x"}, fate))
    with _log([_requested("0", []), answer, *calls]) as log:
        (row,) = of_run(log, "r").conversations
    ((name, text),) = _results(row.messages)
    flags = [block["is_error"] for block in _blocks(row.messages[-1], "tool_result")]

    assert ("x", True) == (name, text.startswith(INVENTED) and words in text)
    assert (("x",), ()) == (row.invented, row.restored)
    assert ([True] if shape is _anthropic else []) == flags


def test_equal_calls_each_have_their_own_result():
    """Two equal calls take two records, and what was answered has taken its own."""
    calls = [*_called("1", {"of": 1}, "done"), *_called("2", {"of": 1}, "done"), *_called("3", {"of": 2}, "done")]
    entry = {"type": "function", "function": {"name": "t", "arguments": '{"of":1}'}}
    message = {"role": "assistant", "tool_calls": [{"id": name, **entry} for name in "abc"]}
    sent = [message, {"role": "tool", "tool_call_id": "c", "content": '{"real": "1"}'}]
    bodies = [_requested("0", []), ModelCallCompleted(path="0", attempt=1, response=message), *calls]
    with _log([*bodies, _requested("4", sent)]) as log:
        (row,) = of_run(log, "r").conversations

    assert [("a", '{"real": "2"}'), ("c", '{"real": "1"}')] == [row for row in _results(row.messages) if row[0] != "b"]
    assert (("b",), ("a",)) == (row.invented, row.restored)


def test_a_call_before_the_answer_is_not_its_result():
    """What the run had done before the model asked for it is not what came of asking."""
    answer = ModelCallCompleted(path="1", attempt=1, response=_openai("", ["x"]))
    with _log([*_called("0", {"of": "x"}, "done"), _requested("1", []), answer]) as log:
        (row,) = of_run(log, "r").conversations

    assert ("x",) == row.invented


def test_a_later_call_keeps_what_was_done_for_it():
    """A call that was never begun does not take the result of an equal one that came after it."""
    first, second = _openai("", ["x"]), _openai("", ["y"])
    second["tool_calls"][0]["function"] = first["tool_calls"][0]["function"]
    bodies = [
        _requested("0", []),
        ModelCallCompleted(path="0", attempt=1, response=first),
        _requested("1", [first]),
        ModelCallCompleted(path="1", attempt=1, response=second),
        *_called("2", {"of": "x"}, "done"),
    ]
    with _log(bodies) as log:
        (row,) = of_run(log, "r").conversations

    assert (("x",), ("y",)) == (row.invented, row.restored)
    assert (2, 5) == row.seqs


def test_a_call_that_was_tried_again_has_the_result_of_the_last_try():
    """A call that failed, and that the agent made again with success, is not shown as failed."""
    answer = ModelCallCompleted(path="0", attempt=1, response=_openai("", ["x"]))
    calls = [*_called("1", {"of": "x"}, "failed"), *_called("2", {"of": "x"}, "done")]
    with _log([_requested("0", []), answer, *calls]) as log:
        (row,) = of_run(log, "r").conversations

    assert ("x",) == row.restored


def test_an_answer_that_nobody_recorded_takes_no_later_record():
    """A result that the agent made up itself leaves to a later equal call what was recorded for that one."""
    first, second = _openai("", ["x"]), _openai("", ["y"])
    second["tool_calls"][0]["function"] = first["tool_calls"][0]["function"]
    bodies = [
        _requested("0", []),
        ModelCallCompleted(path="0", attempt=1, response=first),
        _requested("1", [first, {"role": "tool", "tool_call_id": "x", "content": "made up"}]),
        ModelCallCompleted(path="1", attempt=1, response=second),
        *_called("2", {"of": "x"}, "done"),
    ]
    with _log(bodies) as log:
        (row,) = of_run(log, "r").conversations

    assert ("y",) == row.restored


def test_a_shortened_conversation_has_the_results_of_the_whole():
    """An agent that leaves the beginning out begins a conversation, whose calls are those of the one before."""
    user, answer = {"role": "user", "content": "hi"}, _anthropic("", ["x"])
    bodies = [_requested("0", [user]), ModelCallCompleted(path="0", attempt=1, response=answer)]
    bodies += [*_called("1", {"of": "x"}, "done"), _requested("2", [answer])]
    with _log(bodies) as log:
        rows = of_run(log, "r").conversations

    assert [("x",), ("x",)] == [row.restored for row in rows]
    assert rows[0].messages[1:] == rows[1].messages


def test_answers_to_the_same_question_are_two_conversations():
    """Two requests of the same messages, asked side by side, go on as two conversations; a retry goes on as one."""
    user = {"role": "user", "content": "hi"}
    bodies = [_requested("0", [user]), _requested("1", [user]), _requested("1", [user])]
    bodies += [ModelCallCompleted(path=path, attempt=1, response={"content": path}) for path in "01"]
    with _log(bodies) as log:
        rows = of_run(log, "r").conversations

    assert [[user, {"role": "assistant", "content": path}] for path in "01"] == [row.messages for row in rows]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"content": "a", "usage": {"input_tokens": 1}}, {"role": "assistant", "content": "a"}),
        ("a", {"role": "assistant", "content": "a"}),
        (None, {"role": "assistant", "content": ""}),
        ({"output": [1]}, {"role": "assistant", "content": '{"output": [1]}'}),
        ({"choices": [{"message": {"content": None, "refusal": "no"}}]}, {"content": None, "refusal": "no"}),
        ({"role": "user", "content": "a"}, {"role": "assistant", "content": '{"role": "user", "content": "a"}'}),
    ],
)
def test_responses_in_their_shapes(response, message):
    """A response becomes the assistant's message, without what providers refuse in a request."""
    assert {"role": "assistant", **message} == response_message(response)


def test_an_answer_said_again_in_another_shape_goes_on():
    """An agent that sends the answer back without the fields of its envelope goes on with the conversation."""
    answer = _openai("", ["x"]) | {"refusal": None, "annotations": []}
    sent = [_openai(None, ["x"]), {"role": "tool", "tool_call_id": "x", "content": "1"}]
    bodies = [_requested("0", []), ModelCallCompleted(path="0", attempt=1, response={"choices": [{"message": answer}]})]
    with _log([*bodies, _requested("1", sent)]) as log:
        (row,) = of_run(log, "r").conversations

    assert sent == row.messages


def test_forgotten_and_unread_words():
    """A run whose contents cannot be read gives a conversation that says so."""
    bodies = [_requested("0", []), ModelCallCompleted(path="0", attempt=1, response=_openai("", ["x"]))]
    with _log([*bodies, _requested("1", [])]) as log:
        unread = transcript.of_events(log.stream(stream_of("r"), contents=False))
        log.forget(stream_of("r"))
        forgotten = of_run(log, "r")

    for found, reason in ((unread, "not read"), (forgotten, "forgotten")):
        (row,) = found.conversations
        check(row.messages)
        assert (reason, (2, 4)) == (row.unread, row.seqs)
        assert all(reason in message["content"] for message in row.messages)


def test_runs_of_a_session_go_on_with_each_other():
    """A run that begins with what an earlier one said goes on with its conversation, with the earlier one's results."""
    answer = ModelCallCompleted(path="0", attempt=1, response=_anthropic("", ["x"]))
    first = [_requested("0", [{"role": "user", "content": "hi"}]), answer, *_called("1", {"of": "x"}, "done")]
    sent = [{"role": "user", "content": "hi"}, _anthropic("", ["x"]), {"role": "user", "content": "and?"}]
    with _log(first) as log:
        log.append(Draft(stream=stream_of("s"), body=_requested("0", sent)))
        (row,) = of_session(log, ["s", "r", "s"]).conversations

        with pytest.raises(NotFound):
            of_run(log, "t")

    assert ("x",) == row.restored
    assert row.messages[-1]["content"][1:] == [{"type": "text", "text": "and?"}]
    assert {**row.as_json(), "seqs": [2, 6]} == json.loads(json.dumps(row.as_json()))


def _proposes(request):
    return {"choices": [{"message": _openai(None, ["x"])}]}


@tool
def t(of: str) -> None:
    raise ValueError("no such thing")


@tool(side_effect="external_write", name="t")
def breaks(of: str) -> None:
    raise ConnectionError("gone")


@tool(side_effect="external_write", name="t")
def ends(of: str) -> None:
    raise KeyboardInterrupt


def _converses(ctx):
    messages = [{"role": "user", "content": "hi"}]
    message = ctx.call_model({"model": "m", "messages": messages})["choices"][0]["message"]
    call = message["tool_calls"][0]
    try:
        ctx.call_tool(call["function"]["name"], json.loads(call["function"]["arguments"]))
    except ToolFailed:
        return ctx.call_model({"model": "m", "messages": [*messages, message]})


@pytest.mark.parametrize(
    ("function", "stops", "words"),
    [
        (t, None, "failed (ValueError: no such thing)"),
        (breaks, InDoubt, "in doubt, because nobody knows whether it happened (ConnectionError: gone)"),
        (ends, KeyboardInterrupt, "in doubt, because it was begun"),
    ],
)
def test_a_run_whose_tool_did_not_return(runtime, function, stops, words):
    """A real run whose tool failed, broke off or took the process along has a transcript that a provider accepts."""
    spec = agent(name="a", tools=[function], models=_proposes)(_converses)
    if stops is None:
        runtime.run(spec, run_id="r")
    else:
        with pytest.raises(stops):
            runtime.run(spec, run_id="r")
    head = runtime.log.head()

    (row,) = of_run(runtime.log, "r").conversations

    check(row.messages)
    assert "x" in row.invented
    assert row.messages[2]["content"].startswith(INVENTED)
    assert words in row.messages[2]["content"]
    assert head == runtime.log.head()
