"""Secrets: used, and found nowhere afterwards: no event, payload, artifact, report, log line or error holds them."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites.runs import replayed

from agentledger import BadInput, NoEffect, RetryableAgentError, Runtime, Secret, agent, tool
from ledger_core.events.step import StepBlocked
from ledger_core.log.log import Draft, Log
from ledger_core.secret import SHORTEST, VAULT, Vault, both, forms, marker

VALUE = 'hunter2/+"ü\\s3cr3t'


def _forms(value: str) -> dict[str, bytes]:
    raw = value.encode()
    return {
        "plain": raw,
        "json": json.dumps(value)[1:-1].encode(),
        "json, unicode": json.dumps(value, ensure_ascii=False)[1:-1].encode(),
        "url": quote(value, safe="").encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        **{f"base64 at {at}": _inside(raw, at) for at in range(3)},
        "urlsafe": _inside(raw, 0).translate(bytes.maketrans(b"+/", b"-_")),
    }


def _inside(raw: bytes, at: int) -> bytes:
    """The letters of base64 that are the same whatever stands before and behind."""
    behind = (-at - len(raw)) % 3
    one = base64.b64encode(b"\0" * at + raw + b"\xff" * behind)
    other = base64.b64encode(b"\xff" * at + raw + b"\0" * behind)
    same = [a == b for a, b in zip(one, other, strict=True)]
    return one[same.index(True) : len(same) - same[::-1].index(True)]


def _search(where: str, data: bytes) -> None:
    for name, form in _forms(VALUE).items():
        assert form not in data, f"{where} holds the secret: {name}"


def _everywhere(root: Path, log: Log) -> None:
    """Search the files, and every event with its contents, as bytes and as other systems are given it."""
    from projections.wire import event_json

    for file in root.rglob("*"):
        if file.is_file():
            _search(str(file), file.read_bytes())
    for event in log.read():
        _search(f"event {event.seq} {event.type}", repr(event).encode())
        _search(f"event {event.seq} {event.type}", json.dumps(event_json(event), ensure_ascii=False).encode())
        _search(f"event {event.seq} {event.type}", json.dumps(event_json(event)).encode())


@pytest.fixture
def server() -> Any:
    """A service on loopback that wants the secret in a header, and says it back in every form."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(base64.b64decode(self.headers["X-Token"]).decode())
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            said = {name: form.decode() for name, form in _forms(VALUE).items()}
            data = json.dumps({"ok": True, "echo": raw.decode(), **said}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", seen
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.invariant(19)
def test_a_secret_is_found_nowhere(tmp_path: Path, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An agent uses a secret in every place it can; neither the files, nor any event, export or output holds it."""
    import urllib.request

    url, seen = server
    secret = Secret("service-token", VALUE)

    @tool(name="post", side_effect="external_write")
    def post(token: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers={"X-Token": base64.b64encode(token.encode()).decode()})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    @tool(name="fails")
    def fails(token: str) -> Any:
        raise ValueError(f"no such token: {token} ({token.encode().hex()})")

    @tool(name="nothing", side_effect="external_write")
    def nothing(token: str) -> Any:
        raise NoEffect(token)

    def model(request: Any) -> Any:
        assert request["messages"][0]["content"] == f"the token is {VALUE}"
        return {"content": f"you said {VALUE}", "tool_calls": [{"id": "1", "name": "post", "arguments": VALUE}]}

    def stream(request: Any) -> Any:
        yield {"delta": f"it is {VALUE}"}

    @agent(tools=[post, fails, nothing], models={"m": model, "s": stream})
    def leaky(ctx: Any, state: dict[str, Any]) -> Any:
        said: list[Any] = [ctx.call_tool("post", token=secret, body={"nested": [secret, {"deep": VALUE}], VALUE: 1})]
        said.append(ctx.call_model({"model": "m", "messages": [{"role": "user", "content": f"the token is {VALUE}"}]}))
        said += list(ctx.stream_model({"model": "s", "messages": []}))
        for name in ("fails", "nothing"):
            try:
                ctx.call_tool(name, token=secret)
            except Exception as error:
                said.append(str(error))
        ctx.write_state_patch("token", VALUE)
        ctx.capture("env", lambda: {"TOKEN": VALUE})
        ctx.create_artifact("dump", f"x{VALUE}x".encode(), metadata={"from": VALUE})
        ctx.create_artifact("json", {"a": VALUE})
        ctx.create_media_artifact("image", f"s3://bucket/{VALUE}")
        ctx.record_cost("call", usd=0.1, metadata=VALUE)
        said.append(ctx.wait_signal("go"))
        said.append(ctx.request_approval({"may I use": VALUE}))
        logging.getLogger("agentledger").warning("used %s", VALUE)
        return said

    root = tmp_path / "ledger"
    with Runtime.local(root) as runtime:
        runtime.session("s", user="Ada", variables={"token": VALUE})
        begun = runtime.run(leaky, run_id="r", session_id="s", initial_state={"token": VALUE})
        assert begun.status == "waiting", begun
        runtime.signal("r", "go", {"token": VALUE})
        runtime.run(leaky, run_id="r")
        runtime.approve(next(iter(runtime.state("r").approvals)), by="Ada", reason=f"use {VALUE}")
        result = runtime.run(leaky, run_id="r")
        assert result.ok, result
        assert seen == [VALUE]  # the tool had it
        replayed(runtime, leaky, "r")
        _everywhere(root, runtime.log)
        _search("the output", repr(result).encode())
        _search("the log lines", caplog.text.encode())
        assert marker("service-token") in repr(result)

        @agent
        def dies(ctx: Any) -> None:
            raise RetryableAgentError(f"it is {VALUE}")

        failed = runtime.run(dies, run_id="f", retry_policy={"max_attempts": 1})
        _search("a failure", repr(failed).encode())
        runtime.create_run("nobody", run_id="c")
        runtime.cancel_run("c", VALUE)
        _everywhere(root, runtime.log)

    for command in ("status r", "log show r --limit 500", "transcript r", "ledger", "artifacts", "runs", "approvals"):
        for extra in ([], ["--json"]):
            done = subprocess.run(
                [sys.executable, "-m", "agentledger", "--root", str(root), *command.split(), *extra],
                capture_output=True,
                check=True,
            )
            _search(command, done.stdout + done.stderr)


@pytest.mark.invariant(19)
def test_the_digest_of_a_request_does_not_reveal_a_secret(tmp_path: Path) -> None:
    """Requests that differ in nothing but a secret's value have the same tag, under the same key."""
    tags = []
    for number in range(2):
        secret = Secret("rotating", f"value number {number}")

        @tool(name="use", side_effect="external_write")
        def use(token: str) -> int:
            return len(token)

        @agent(name="a", tools=[use])
        def uses(ctx: Any, secret: Any = secret) -> Any:
            return ctx.call_tool("use", token=secret)

        with Runtime.local(tmp_path) as runtime:
            assert runtime.run(uses, run_id="r").output == len("value number 0")  # the second time, from the record
            tags += [e.body.request for e in runtime.log.read() if e.type == "tool_call_requested"]
    assert len(set(tags)) == 1


@pytest.mark.invariant(19)
def test_names_that_hold_a_secret_are_refused(tmp_path: Path) -> None:
    """What is kept in clear cannot be cleaned: a run's id, a signal's name; nothing is written."""
    Secret("in-a-name", "abcdef123456")
    with Runtime.local(tmp_path) as runtime:
        before = runtime.log.head()
        with pytest.raises(BadInput, match="secret"):
            runtime.create_run("a", run_id="run-abcdef123456")
        with pytest.raises(BadInput, match="secret"):
            runtime.create_run("agent abcdef123456")
        assert runtime.log.head() == before


@pytest.mark.invariant(19)
def test_the_log_itself_is_a_net(tmp_path: Path) -> None:
    """A body that somebody drafted without cleaning it is cleaned before it is sealed."""
    secret = Secret("netted", "fish-in-the-sea")
    with Log.open(tmp_path) as log:
        log.append(Draft(stream="run/x", body=StepBlocked(step="s", epoch=1, reason=f"because {secret.reveal()}")))
        body: Any = log.event(2).body
        assert body.reason == f"because {marker('netted')}"
        for file in tmp_path.rglob("*"):
            assert not file.is_file() or secret.reveal().encode() not in file.read_bytes()


def test_named_patterns_are_hidden(tmp_path: Path) -> None:
    """Keys of the usual providers give way to their pattern's name, without anybody having named them; others stay."""
    vault = Vault()
    hidden = {
        "model-provider-key": ["sk-" + "a1" * 24, "sk-ant-api03-" + "x_-9" * 10],
        "github-token": ["ghp_" + "A1" * 18],
        "aws-access-key": ["AKIA" + "ABCD" * 4],
        "google-api-key": ["AIza" + "x" * 35],
        "slack-token": ["xoxb-1234567890-abc"],
        "private-key": ["-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"],
    }
    for name, texts in hidden.items():
        for text in texts:
            assert vault.clean({"a": [f"({text})"]}) == {"a": [f"({marker(name)})"]}
    for harmless in ("sk-learn", "a sk-rewritten-loading-animation-spinner", "ASIA", "xox", "BEGIN PRIVATE", "light"):
        assert vault.clean(harmless) is harmless
    vault.look_for("order-number", r"ORD-\d{6}")
    assert vault.clean("see ORD-123456") == f"see {marker('order-number')}"
    for bad in ("(", "a*", 7):
        with pytest.raises(BadInput):
            vault.look_for("bad", bad)  # type: ignore[arg-type]


@given(value=st.text(min_size=SHORTEST, max_size=40), before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_every_form_is_hidden_wherever_it_stands(value: str, before: bytes, after: bytes) -> None:
    """Plain, escaped, in hex, and in base64 at any offset, whatever stands around it."""
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        return
    vault = Vault()
    vault.add("it", value)
    encoded = base64.b64encode(before + raw + after).decode()
    assert vault.clean(encoded) != encoded
    for text in (value, f"<{value}>", raw.hex(), json.dumps({"k": value}), quote(value)):
        cleaned = vault.clean({"text": text, "list": [text], text: 1})
        assert value not in json.dumps(cleaned, ensure_ascii=False)
        assert raw.hex() not in json.dumps(cleaned)
    assert all(len(form) >= SHORTEST for form in forms(value))


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9), st.lists, max_leaves=9))
def test_what_holds_nothing_is_left_as_it_is(value: Any) -> None:
    """A value without secrets is the same, and whoever is called is given the same."""
    raw, plain = both(value)
    assert raw == plain == value


def test_a_secret_is_not_shown_copied_or_short() -> None:
    """Its words are its name; it is not pickled; what is too short to be told from other text is refused."""
    secret = Secret("card", "4711-4711-4711")
    assert "4711" not in f"{secret} {secret!r} {secret:>30}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    for name, value in (("x", "short"), ("", "long enough"), ("a b", "long enough"), ("x", b"long enough")):
        with pytest.raises(BadInput) as raised:
            Secret(name, value)  # type: ignore[arg-type]
        assert "enough" not in str(raised.value)
    os.environ["SECRET_OF_A_TEST"] = "from the environment"
    assert Secret.from_env("SECRET_OF_A_TEST").reveal() == "from the environment"
    with pytest.raises(BadInput):
        Secret.from_env("NOT_SET_AT_ALL")


def test_log_lines_and_their_tracebacks_are_clean() -> None:
    """A handler of the runtime's logger never sees a secret, also not in an error that is logged."""
    Secret("logged", "do-not-log-me")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    log = logging.getLogger("agentledger")
    log.addHandler(handler)
    try:
        try:
            raise ValueError("do-not-log-me")
        except ValueError:
            log.exception("it was %s", "do-not-log-me")
    finally:
        log.removeHandler(handler)
    assert "do-not-log-me" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    assert VAULT.armed
