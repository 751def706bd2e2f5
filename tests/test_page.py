"""The page of a run's evidence, in a real browser: it shows, it moves, it finds, and it knows when it is not true."""

from __future__ import annotations

import base64
import copy
import json
import random
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from browser import Browser
from suites import afresh
from suites.evidence import changed, failed_bundle, kid_bundle, resealed, rich_bundle, signed
from test_travel import spending, talks

from agentledger import BadInput, InDoubt, agent, tool
from ledger_core import codec
from ledger_core.errors import Damaged
from ledger_core.events.effect import ModelCallRequested, ToolCallCompleted, ToolCallRequested, ValueCaptured
from ledger_core.events.run import RunCreated
from ledger_core.events.step import StepCreated
from ledger_core.log.log import Log
from ledger_core.log.record import Draft
from ledger_core.run.patch import merge
from ledger_core.runtime.runtime import Runtime
from projections.evidence import bundle
from projections.frames import deltas
from projections.page import SCRIPTS, _read, render
from projections.transcript import of_events

Bundle = dict[str, Any]
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"onload="alert(1)',
    "<!--<script>",
    "a\u2028b\u2029c\0d\x1be",
    "\u202eright to left\u202c",
    "👩‍👩‍👧 ünï",
    "{{ 7*7 }} ${7*7} ]]>",
    "__proto__",
    "x" * 100_000,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all of them."""
    needs.chromium()
    browser = Browser()
    yield browser
    browser.close()


class Page:
    """A bundle, opened in the browser as a file."""

    def __init__(self, browser: Browser, place: Path, made: Bundle, **how: Any) -> None:
        self.browser = browser
        self.file = place / "evidence.html"
        self.file.write_text(render(made), encoding="utf-8")
        self.open(**how)

    def open(self, **how: Any) -> None:
        self.browser.open(self.file, **how)
        self.run = self.browser.run

    def quiet(self) -> None:
        """Nothing was complained of, and nothing but the file itself was asked for."""
        assert self.browser.errors == []
        assert self.browser.requests == [self.file.as_uri()]

    @property
    def verdict(self) -> str:
        return self.run("document.getElementById('check').dataset.verdict")

    def tally(self, check: str) -> tuple[int, int, int]:
        """What was right, what was wrong, and what could not be checked."""
        cells = f"[...document.querySelectorAll('[data-check={check}] td')].map((cell) => Number(cell.textContent))"
        right, wrong, rest = self.run(cells)
        return right, wrong, rest

    @property
    def problems(self) -> list[str]:
        return self.run("[...document.querySelectorAll('#problems li')].map((one) => one.textContent)")

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Callable[..., Page]:
    """`page(bundle)` opens it."""
    return lambda made, **how: Page(browser, tmp_path, made, **how)


# What it is


def test_it_is_one_file_that_asks_for_nothing(page: Callable[..., Page]) -> None:
    """It opens as a file, logs no error, asks for nothing, and its policy lets nothing in."""
    shown = page(rich_bundle())
    shown.quiet()
    source = shown.file.read_text()
    assert not re.search(r'(src|href)="(?!#)', source)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source).group(1)  # type: ignore[union-attr]
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        shown.run(
            f"""(() => {{
              document.body.append(Object.assign(new Image(), {{src: 'http://{address}/x.png'}}));
              document.body.append(Object.assign(document.createElement('iframe'), {{src: 'http://{address}/x'}}));
              document.body.append(Object.assign(document.createElement('script'), {{src: 'http://{address}/x.js'}}));
              fetch('http://{address}/').catch(() => 0);
              navigator.sendBeacon('http://{address}/', 'x');
              try {{ new WebSocket('ws://{address}/'); }} catch {{}}
            }})()"""
        )
        server.settimeout(0.5)
        with pytest.raises(TimeoutError):
            server.accept()
    assert sum("Content Security Policy" in error for error in shown.browser.errors) >= 6


def test_no_script_makes_markup() -> None:
    """No script of the page has a way to turn text into markup or into code."""
    for name in SCRIPTS:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\.srcdoc", _read(name)
        ), name


def test_what_is_no_bundle_is_no_page() -> None:
    """Anything but a bundle of evidence is refused in a sentence."""
    for wrong in (
        {},
        {"schema": "x"},
        [],
        None,
        {**kid_bundle(), "more": {1, 2}},
        {**kid_bundle(), "more": float("nan")},
    ):
        with pytest.raises(BadInput):
            render(wrong)  # type: ignore[arg-type]


def test_a_script_that_is_put_into_the_file_does_not_run(page: Callable[..., Page]) -> None:
    """The policy names the page's own scripts; one more in the file is never run."""
    shown = page(kid_bundle())
    source = shown.file.read_text()
    shown.file.write_text(source.replace("</body>", "<script>window.ran = 1</script></body>"))
    shown.open()
    assert shown.run("window.ran === undefined")
    assert any("Content Security Policy" in error for error in shown.browser.errors)


# What it checks


def test_what_was_recorded_is_checked_and_green(page: Callable[..., Page]) -> None:
    """Every event, content, blob, state and row of a run with everything in it is looked at, and right."""
    made = rich_bundle()
    shown = page(made)
    count, contents = len(made["events"]), sum(bool(row["content"]) for row in made["records"])
    assert shown.problems == []
    assert shown.verdict == "right"
    assert [shown.tally(check) for check in ("hash", "chain", "facts", "states")] == [(count, 0, 0)] * 4
    assert [shown.tally(check) for check in ("stored", "words")] == [(contents, 0, 0)] * 2
    assert shown.tally("blobs") == (len(made["blobs"]), 0, 0)
    assert shown.tally("bundle") == (1, 0, 0)
    assert shown.tally("tables")[0] > 20
    assert f"agentledger verify --against {made['head']['seq']}:" in shown.run(
        "document.querySelector('.limits').textContent"
    )


def _flipped(text: str, at: int = -9) -> str:
    data = bytearray(base64.b64decode(text))
    data[at] ^= 1
    return base64.b64encode(data).decode()


def _at(made: Bundle, kind: str) -> int:
    return next(place for place, event in enumerate(made["events"]) if event["type"] == kind)


def _edit(*path: Any, value: Any) -> Callable[[Bundle], tuple[Bundle, int]]:
    """Another value at a place, of an event of a type where the place is one."""

    def forge(made: Bundle) -> tuple[Bundle, int]:
        whole = [_at(made, step[1:]) if isinstance(step, str) and step.startswith("=") else step for step in path]
        seq = next(
            (
                made["events"][one]["seq"]
                for before, one in zip(whole, whole[1:], strict=False)
                if before in ("events", "records", "frames")
            ),
            0,
        )
        old: Any = made
        for step in whole:
            old = old[step]
        return changed(made, whole, value(old) if callable(value) else value), seq

    return forge


def _dropped(made: Bundle, *, shown: bool) -> tuple[Bundle, int]:
    made = copy.deepcopy(made)
    del made["records"][5]
    if not shown:
        for name in ("events", "frames"):
            del made[name][5]
    return made, 6 if shown else 7


def _swapped(made: Bundle) -> tuple[Bundle, int]:
    made = copy.deepcopy(made)
    rows = made["records"]
    rows[4], rows[5] = rows[5], rows[4]
    return made, 6


def _reseal(made: Bundle) -> tuple[Bundle, int]:
    """One fact changed in the sealed bytes, and all hashes made anew behind it."""

    def edit(place: int, header: Any, facts: bytes, content: bytes) -> tuple[Any, bytes, bytes]:
        return header, facts.replace(b"broken", b"brokem") if place > 4 else facts, content

    forged = resealed(made, edit)
    for event, row in zip(forged["events"], forged["records"], strict=True):
        event |= {"hash": row["hash"], "payload_hash": f"blake3:{row['hash']}", "event_id": f"evt_{row['hash'][:16]}"}
    return forged, _at(made, "tool_call_failed")


def _blob(made: Bundle) -> tuple[Bundle, int]:
    made = copy.deepcopy(made)
    chunks = next(iter(made["blobs"].values()))
    chunks[0] = _flipped(chunks[0])
    return made, made["events"][_at(made, "model_call_requested")]["seq"]


def _cost(made: Bundle) -> tuple[Bundle, int]:
    row = made["cost_records"][0]
    seq = next(event["seq"] for event in made["events"] if event["log_seq"] == row["seq"])
    return changed(made, ["cost_records", 0, "usd_nano"], 1), seq


FORGERIES: dict[str, Callable[[Bundle], tuple[Bundle, int]]] = {
    "a byte of an event": _edit("records", "=tool_call_requested", "sealed", value=_flipped),
    "a byte of its place": _edit("records", "=tool_call_requested", "sealed", value=lambda text: _flipped(text, 60)),
    "a byte of a content": _edit("records", "=tool_call_requested", "content", value=_flipped),
    "a byte of a blob": _blob,
    "a hash": _edit("records", "=tool_call_requested", "hash", value="00" * 32),
    "a fact that is shown": _edit("events", "=tool_call_requested", "facts", "tool", value="innocent"),
    "a time that is shown": _edit("events", "=tool_call_requested", "time_ns", value=lambda ns: ns + 1),
    "an actor that is shown": _edit("events", "=approval_decided", "actor", value="somebody"),
    "a content that is shown": _edit("events", "=tool_call_completed", "content", "result", value={"id": 8}),
    "a message that is shown": _edit(
        "events", "=model_call_requested", "content", "messages", 3, "content", value="else"
    ),
    "a record that is gone": lambda made: _dropped(made, shown=True),
    "an event that is gone": lambda made: _dropped(made, shown=False),
    "two records swapped": _swapped,
    "another head": _edit("stream_head", "hash", value="ab" * 32),
    "all hashes anew": _reseal,
    "another key": _edit("stream", "key", value="cd" * 32),
    "another state": _edit("frames", "=state_patch_committed", "patch", "version", value=7),
    "another cost": _cost,
    "another outcome": _edit("tool_ledger", 0, "status", value="FAILED_NO_EFFECT"),
    "another answer": _edit("approvals", 0, "by", value="Eve"),
    "a failure that is gone": _edit("failures", value=[]),
    "a call that is gone": _edit("tool_ledger", value=lambda rows: rows[1:]),
    "another end": _edit("final_state", "state", value={}),
    "another status": _edit("summary", "status", value="failed"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_red_and_names_its_event(page: Callable[..., Page], name: str) -> None:
    """Whatever is changed, though the digest of the whole is made anew: the check turns red, at the event."""
    forged, seq = FORGERIES[name](rich_bundle())
    shown = page(signed(forged))
    assert shown.verdict == "wrong"
    assert "problem" in shown.text("#check")
    assert shown.tally("bundle") == (1, 0, 0)
    if seq:
        assert shown.run(f"!!document.querySelector('#problems [data-go=\"{seq}\"]')"), shown.problems
    shown.quiet()


def test_a_byte_changed_in_the_file_is_red(page: Callable[..., Page]) -> None:
    """A letter changed in the file itself, in a place that nothing else looks at, breaks the digest of the whole."""
    made = rich_bundle()
    shown = page(made)
    source = shown.file.read_text()
    shown.file.write_text(source.replace(f'"ledger_id":"{made["ledger_id"]}"', f'"ledger_id":"{"0" * 32}"'))
    shown.open()
    assert shown.verdict == "wrong"
    assert shown.tally("bundle") == (0, 1, 0)
    shown.file.write_text(source.replace('"ledger_id":', '"ledger_id"'))
    shown.open()
    assert shown.verdict == "wrong"
    assert "cannot be read" in shown.text("#check")


def test_without_a_key_contents_are_not_passed_in_silence(page: Callable[..., Page]) -> None:
    """A sealed bundle: hashes are checked, contents are counted as not checked, and the page is amber, not green."""
    made = rich_bundle(sealed=True)
    contents = sum(bool(row["content"]) for row in made["records"])
    shown = page(made)
    assert shown.verdict == "part"
    assert shown.problems == []
    assert shown.tally("hash") == (len(made["events"]), 0, 0)
    assert shown.tally("words") == (0, 0, contents)
    assert "carries no key" in shown.text("[data-check=words]")
    place = _at(made, "tool_call_requested")
    forged = changed(made, ["events", place, "content", "arguments"], {"text": "invented"})
    assert page(signed(forged)).tally("words") == (0, 1, contents - 1)


def test_without_cryptography_contents_are_not_passed_in_silence(page: Callable[..., Page]) -> None:
    """A browser without WebCrypto checks all but contents, and says why."""
    shown = page(kid_bundle())
    found = shown.run(
        """(async () => {
          Object.defineProperty(crypto, 'subtle', {value: undefined});
          const read = (id) => Exact.parse(document.getElementById(id).textContent);
          const check = await new Verify.Check(read('bundle'), read('kinds'), () => {}).run();
          return [check.verdict, [...check.tallies.get('words').open.keys()].join()];
        })()"""
    )
    assert found[0] == "part"
    assert "crypto.subtle" in found[1]


# What it shows


def test_the_slider_moves_the_state(page: Callable[..., Page]) -> None:
    """At every place of the slider the page shows the run as it was; keys move it."""
    made = rich_bundle()
    shown = page(made)
    shown.browser.key("2")
    shown.browser.key("Home")
    assert "Event 1 of" in shown.text(".now")
    assert shown.text("#state-tree") == "empty"
    shown.browser.key("ArrowRight")
    shown.browser.key("]")
    assert f"Event 3 of {len(made['events'])}" in shown.text(".now")
    assert "running" in shown.text("#now-changed")
    shown.browser.key("End")
    assert "broken" in shown.text("#state-tree")
    assert "completed" in shown.text("#now-state")
    shown.browser.key("[")
    assert f"Event {len(made['events']) - 1} of" in shown.text(".now")


def test_any_place_is_what_the_patches_give(page: Callable[..., Page]) -> None:
    """Places asked for in any order are the merge of all patches up to there."""
    made, events = _long_bundle(), 300
    standings, now = [], {}
    for frame in made["frames"][:events]:
        now = merge(now, frame["patch"])
        standings.append(now)
    order = [random.Random(7).randrange(events) for _ in range(150)]
    shown = page(made)
    found = shown.run(
        f"""(() => {{
          const run = new Run(Exact.parse(document.getElementById('bundle').textContent));
          return {order}.map((at) => [...Exact.canonical(run.standing(at + 1))].join(''));
        }})()"""
    )
    assert [json.loads(one) for one in found] == [standings[at] for at in order]


def _long_bundle(size: int = 5_000) -> Bundle:
    with Log.in_memory() as log:
        bodies: list[Any] = [
            RunCreated(run="r", agent="a", seed=bytes(32), initial_state={"n": 0}),
            StepCreated(step="s", number=1, agent="a"),
        ]
        for n in range(1, size - 1):
            if n % 5:
                bodies.append(ValueCaptured(path=str(n), source="now", name="", value=n))
            elif n % 10:
                said = {"text": f"word{n} of many"}
                bodies.append(
                    ToolCallRequested(
                        path=str(n),
                        attempt=1,
                        tool="t",
                        tool_version="1",
                        side_effect="external_write",
                        request=bytes(32),
                        arguments=said,
                    )
                )
            else:
                bodies.append(ToolCallCompleted(path=str(n - 5), attempt=1, result=n))
        for at in range(0, size, 1_000):
            log.append(*(Draft(stream="run/r", body=body) for body in bodies[at : at + 1_000]))
        return bundle(log, "r")


# What was said and used, at any event


@pytest.mark.parametrize("seed", range(6))
def test_the_second_transcript_is_the_first(page: Callable[..., Page], seed: int) -> None:
    """At every event, in any order, the page makes the transcript that the command line makes, to the letter."""
    with Log.in_memory() as log:
        log.append(*(Draft(stream="run/r", body=body) for body in talks(seed)))
        events, made = list(log.stream("run/r")), bundle(log, "r")
        log.forget("run/r")
        events_after, made_after = list(log.stream("run/r")), bundle(log, "r")
    chance = random.Random(seed)
    for known, one in ((events, made), (events_after, made_after)):
        order = [*range(1, len(known) + 1), *(chance.randrange(1, len(known) + 1) for _ in range(60))]
        shown = page(one)
        found = shown.run(
            f"""(() => {{
              const run = new Run(Exact.parse(document.getElementById('bundle').textContent));
              const dialogue = new Transcript.Dialogue(run);
              return {order}.map((at) => [...Exact.canonical({{conversations: dialogue.at(at)}})].join(''));
            }})()"""
        )
        shown.quiet()
        for at, text in zip(order, found, strict=True):
            assert json.loads(text) == of_events(known[:at]).as_json(), at


def test_the_second_account_of_what_was_used_is_the_first(page: Callable[..., Page]) -> None:
    """What was used, held and bound at every event is on the page what the command line says."""
    with Runtime.in_memory() as runtime:
        spending(runtime)
        runs = {stream: list(runtime.log.stream(stream)) for stream in runtime.log.streams("run/")}
        made = {stream: bundle(runtime.log, stream[4:]) for stream in runs}
    assert any(one.use.open and one.use.bounds for stream in runs for one in deltas(runs[stream]))
    for stream, events in runs.items():
        shown = page(made[stream])
        found = shown.run(
            """(() => {
              const run = new Run(Exact.parse(document.getElementById('bundle').textContent)), found = Used.course(run);
              return run.events.map((_, at) => {
                const {steps, held, open, bounds, ...rest} = Used.at(found, at + 1);
                const amounts = Object.fromEntries([...held].map(([name, one]) => [name, Object.fromEntries(one)]));
                return [...Exact.canonical({used: {steps, ...rest}, held: amounts, open, bounds})].join('');
              });
            })()"""
        )
        assert [json.loads(one) for one in found] == [one.use.as_json() for one in deltas(events)]
        shown.quiet()


def test_the_page_of_a_fork_says_what_it_was_forked_from(page: Callable[..., Page]) -> None:
    """A fork's page names its ancestor and the event, and checks that the sealed bytes say the same."""
    with Runtime.in_memory() as runtime:
        spending(runtime)
        made = bundle(runtime.log, runtime.fork("paying", at=5, new_id="fork"))
    shown = page(made)
    shown.browser.until("document.body.innerText.includes('paying behind its event 5')")
    shown.quiet()
    forged = page({**made, "summary": {**made["summary"], "ancestor_event": 4}})
    forged.browser.until("document.body.innerText.includes('ancestor_event')")


def test_the_slider_moves_what_was_said_and_used(page: Callable[..., Page]) -> None:
    """At an event the page shows what was said by then, a result that was made up as such, and the budget."""
    with Runtime.in_memory() as runtime:
        spending(runtime)
        made = bundle(runtime.log, "paying")
    shown = page(made)
    shown.run("document.getElementById('now-transcript').scrollIntoView({block: 'center'})")
    shown.run("document.getElementById('slider').focus({preventScroll: true})")

    def said(part: str, words: str) -> None:
        shown.browser.until(f"document.querySelector('{part}')?.innerText.includes('{words}')")

    shown.browser.key("Home")
    said("#now-transcript", "Nothing was said yet.")
    said("#now-budget", "Bound when it was created")
    types = [one["type"] for one in made["events"]]
    for _ in range(types.index("model_call_completed")):
        shown.browser.key("ArrowRight")
    said("#now-transcript", "pay for it")
    said("#now-transcript .invented", "never begun")
    said("#now-budget", "tokens in")
    for _ in range(types.index("tool_call_requested") - types.index("model_call_completed")):
        shown.browser.key("ArrowRight")
    said("#now-budget", "Held of run paying")
    shown.browser.key("End")
    said("#now-transcript", "1 result from the record")
    assert shown.run("document.querySelectorAll('#now-transcript .invented').length") == 0
    shown.quiet()


def test_a_long_conversation_is_drawn_from_its_end(page: Callable[..., Page]) -> None:
    """Of hundreds of messages the last few are drawn, and those before them when a reader asks."""
    said = [{"role": "user", "content": f"message {number}"} for number in range(300)]
    with Log.in_memory() as log:
        created = RunCreated(run="r", agent="a", seed=bytes(32), initial_state={})
        request = ModelCallRequested(path="1", attempt=1, model="m", request=b"x", messages=said, parameters={})
        log.append(*(Draft(stream="run/r", body=body) for body in (created, request)))
        shown = page(bundle(log, "r"))
    drawn = "document.querySelectorAll('#now-transcript .said').length"
    assert shown.run(drawn) == 8
    assert "message 299" in shown.text("#now-transcript")
    assert "292 messages before" in shown.text("#now-transcript")
    shown.run("document.querySelector('#now-transcript .more').click()")
    assert shown.run(drawn) == 68
    assert "232 messages before" in shown.text("#now-transcript")
    shown.quiet()


def test_five_thousand_events_are_searched_filtered_and_not_all_drawn(page: Callable[..., Page]) -> None:
    """Search and filters find what there is; rows that nobody sees do not exist; all of it is checked."""
    shown = page(_long_bundle())
    assert shown.verdict == "right"
    drawn = "document.querySelectorAll('#event-list [data-row]').length"
    count = "document.querySelector('#events .shown').textContent"
    shown.browser.key("/")
    assert 0 < shown.run(drawn) < 100
    assert shown.run("document.querySelectorAll('*').length") < 6_000
    shown.browser.type("word2 MANY")
    shown.browser.until(f"{count}.startsWith('111 of 5,000')")
    shown.run("document.querySelector('[data-filter=kept]').click()")
    shown.browser.until(f"{count}.startsWith('0 of')")
    shown.browser.key("Escape")  # as in any field of its kind: it is empty again
    shown.browser.until(f"{count}.startsWith('3,999 of')")
    shown.run("for (const kind of ['kept', 'tool']) document.querySelector(`[data-filter=${kind}]`).click()")
    shown.browser.until(f"{count}.startsWith('999 of')")
    shown.run("document.getElementById('event-list').focus()")
    shown.browser.key("Home")
    shown.browser.key("ArrowDown")
    assert "tool call completed" in shown.text("#events .detail")
    assert shown.run(drawn) < 100
    shown.quiet()


def test_keys_lead_through_the_page(page: Callable[..., Page]) -> None:
    """Numbers go to sections, `?` shows the keys, Escape closes them, arrows open and close the tree."""
    shown = page(rich_bundle())
    for number, section in enumerate(
        ("overview", "timeline", "effects", "ledger", "approvals", "costs", "failures", "kept", "events"), 1
    ):
        shown.browser.key(str(number))
        inside = f"document.getElementById('{section}').contains(document.activeElement)"
        assert shown.run(inside), section
    shown.browser.key("?")
    assert shown.run("document.getElementById('keys').open")
    shown.browser.key("Escape")
    assert not shown.run("document.getElementById('keys').open")
    shown.run("document.getElementById('effect-tree').focus()")
    rows = "document.querySelectorAll('#effect-tree [role=treeitem]').length"
    shown.browser.key("Home")
    before = shown.run(rows)
    shown.browser.key("ArrowLeft")
    assert shown.run(rows) == 1 < before
    shown.browser.key("ArrowRight")
    assert shown.run(rows) == before
    shown.quiet()


def test_hostile_names_are_text(page: Callable[..., Page], tmp_path: Path) -> None:
    """Whatever a tool, a state, a message or a run is called: it is text in the page, and nothing of it runs."""
    deep: Any = "bottom"
    for _ in range(25):
        deep = {"<b>": [deep]}

    @tool(name="x", side_effect="external_write")
    def named(text: str) -> Any:
        return text

    @agent(name="<script>alert(1)</script>", tools=[named], models=lambda request: {"content": HOSTILE[1]})
    def hostile(ctx: Any) -> Any:
        for text in HOSTILE:
            name = text if text.isprintable() and len(text) <= 128 else "m"
            ctx.write_state_patch({text: {"is": text}})
            ctx.call_tool("x", text=text)
            ctx.call_model({"model": name, "messages": [{"role": "user", "content": text}]})
            ctx.record_cost(name, usd=0.1)
        return {"deep": deep, "text": HOSTILE[0]}

    with Runtime.local(tmp_path / "ledger") as runtime:
        assert runtime.run(hostile, run_id="r").ok, runtime.state("r")
        made = bundle(runtime.log, "r")
    asked = "addEventListener('error', () => 0); window.alert = () => { window.ran = 1; }"
    shown = page(made)
    shown.browser.send("Page.addScriptToEvaluateOnNewDocument", source=asked)
    for width in (1400, 390):
        shown.open(width=width)
        assert shown.verdict == "right", shown.problems
        for place in range(1, len(made["events"]) + 1, 5):
            shown.run(f"slider.value = {place}; slider.dispatchEvent(new Event('input'))")
            shown.browser.frame()
        shown.browser.key("9")
        assert shown.run("document.documentElement.scrollWidth") <= width
        assert shown.run("window.ran === undefined")
        assert (
            shown.run("document.querySelectorAll('main img, main script, main b b, [onerror], [onload]').length") == 0
        )
    assert "<script>alert(1)</script>" in shown.text("#effects, #overview")
    assert shown.run("({}).is === undefined")
    shown.quiet()


# Runs of every kind


def test_runs_of_every_kind_have_a_page(page: Callable[..., Page], tmp_path: Path) -> None:
    """Without effects, in flight, failed, in doubt, and forgotten: each is shown as it stands, and checked."""

    @tool(side_effect="external_write")
    def lost() -> None:
        raise ConnectionResetError("gone")

    @agent(name="idle")
    def idle(ctx: Any) -> None:
        return None

    @agent(name="doubting", tools=[lost])
    def doubting(ctx: Any) -> None:
        ctx.call_tool("lost")

    @agent(name="waits")
    async def waits(ctx: Any) -> Any:
        return await ctx.request_approval("<go on?>")

    with Runtime.local(tmp_path / "ledger") as runtime:
        runtime.run(idle, run_id="idle")
        with pytest.raises(InDoubt):
            runtime.run(doubting, run_id="doubt")
        runtime.run(waits, run_id="waits")
        runtime.log.append(
            Draft(stream="run/new", body=RunCreated(run="new", agent="a", seed=bytes(32), initial_state={}))
        )
        made = {name: bundle(runtime.log, name) for name in ("idle", "doubt", "waits", "new")}
        runtime.log.forget("run/idle")
        made["forgotten"] = bundle(runtime.log, "idle")
    made["failed"] = failed_bundle()
    seen = {}
    for name, one in made.items():
        shown = page(one)
        assert shown.problems == [], name
        assert shown.verdict == ("part" if name == "forgotten" else "right"), name
        shown.quiet()
        seen[name] = shown.text("main")
    assert "In doubt\n1" in seen["doubt"]
    assert "agentledger ledger settle doubt:1" in seen["doubt"]
    assert "waits for a person" in seen["waits"]
    assert "<go on?>" in seen["waits"]
    assert "This run wrote nothing outside." in seen["idle"]
    assert "a failure in words" in seen["failed"]
    assert "<forgotten>" in seen["forgotten"]
    assert "No step was created." in seen["new"]


def test_runs_whose_calls_went_wrong_have_a_page(page: Callable[..., Page]) -> None:
    """Begun afresh, in doubt, settled late, undone, blocked: the second fold gives the rows of calls that are shown."""
    with Runtime.in_memory() as runtime:
        afresh.gone_wrong(runtime)
        made = {stream[4:]: bundle(runtime.log, stream[4:]) for stream in runtime.log.streams("run/")}
    assert len(made) == 10
    for name, one in made.items():
        shown = page(one)
        assert (name, shown.problems, shown.verdict) == (name, [], "right")
    for path, value in (
        (("cost_records", 0, "succeeded"), 7),
        (("models", 0, "status"), "lost"),
        (("failures", 0, "recovered"), False),
    ):
        forged = page(signed(changed(made["others"], list(path), value)))
        assert forged.verdict == "wrong"
        assert len(forged.problems) == 1


# Where it is read


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone_in_both_schemes(page: Callable[..., Page], dark: bool) -> None:
    """At 390 pixels nothing scrolls sideways, and the colours follow the system, and then the reader."""
    shown = page(rich_bundle(), width=390, height=844, dark=dark)
    assert shown.run("document.documentElement.scrollWidth") <= 390
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 128"
    assert shown.run(light) is not dark
    shown.run("document.getElementById('theme').click()")
    assert shown.run(light) is dark
    shown.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    shown.browser.frame()
    assert shown.run("document.documentElement.scrollWidth") <= 390
    shown.quiet()


def test_on_paper_it_is_a_report(page: Callable[..., Page]) -> None:
    """Printed, it has the result of the check, the tables and all events, and no controls."""
    made = rich_bundle()
    shown = page(made, dark=True)
    shown.browser.media(kind="print")
    shown.browser.frame()
    hidden = (
        "[...document.querySelectorAll('#sections, #timeline, #search, #theme')].every((one) => !one.checkVisibility())"
    )
    assert shown.run(hidden)
    for part in ("check", "ledger", "approvals", "costs", "failures"):
        assert shown.run(f"document.getElementById('{part}').checkVisibility()"), part
    assert shown.run("document.querySelectorAll('.paper .event').length") == len(made["events"])
    shown.browser.media()
    shown.browser.frame()
    assert shown.run("document.querySelectorAll('.paper .event').length") == 0
    assert shown.browser.paper().startswith(b"%PDF")


# What it reads with


def test_its_json_and_messagepack_are_ours(page: Callable[..., Page]) -> None:
    """Documents come through both codecs unchanged; what no writer writes is refused, as our own reader refuses it."""
    numbers = [
        0,
        -1,
        127,
        128,
        2**53,
        2**53 + 1,
        2**63,
        2**64 - 1,
        -(2**63),
        -33,
        0.1,
        1.0,
        -0.0,
        1e22,
        1e16,
        5e-324,
        1e-7,
        1.5,
    ]
    texts = ["", "ü", "𝄞\ud7ff\ue000", "\u2028<>&\0\x7f", "a" * 300, "b" * 70_000]
    document = {
        "numbers": numbers,
        "texts": texts,
        "𝄞": 1,
        "\ue000": [[], {}, None, True],
        "__proto__": {"x": 1},
        "10": 1,
        "9": 2,
    }
    shown = page(kid_bundle())
    packed = base64.b64encode(codec.encode({**document, "bytes": b"\x00\xff", "long": bytes(70_000)})).decode()
    plain = json.dumps({**document, "bytes": "00ff", "long": "<70,000 bytes>"})
    same = "(packed, plain) => Exact.difference(Msgpack.decode(Exact.unbase64(packed)), Exact.parse(plain), '$')"
    assert shown.run(f"({same})({json.dumps(packed)}, {json.dumps(plain)})") is None
    other = json.dumps({**json.loads(plain), "numbers": [*numbers[:11], 1, *numbers[12:]]})
    assert shown.run(f"({same})({json.dumps(packed)}, {json.dumps(other)})") == "$.numbers[11]"
    canonical = json.dumps(json.loads(plain), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert shown.run(f"[...Exact.canonical(Exact.parse({json.dumps(plain)}))].join('')") == canonical
    bad = [
        "",
        "c1",
        "cc01",
        "cd0001",
        "ce00000001",
        "cf0000000000000001",
        "d0ff",
        "ca3f800000",
        "cb7ff8000000000000",
        "d90161",
        "a1ff",
        "dc0000",
    ]
    bad += [
        "de0000",
        "8101c0",
        "82a161c0a161c0",
        "d4ff00",
        "c0c0",
        "81a161",
        "91" * 65 + "c0",
        "d80100000000000000000000000000000000",
    ]
    for one in bad:
        with pytest.raises(Damaged):
            codec.decode(bytes.fromhex(one))
    read = "(one) => { try { Msgpack.decode(Exact.unhex(one)); return true; } catch { return false; } }"
    assert shown.run(f"{bad}.filter({read})") == []
