"""Two runs compared on the command line: of a ledger, of evidence, of saved replays; as text, as JSON, as a page."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import needs
import pytest
from browser import Browser
from click.testing import CliRunner
from suites.stories import object_of, text_of

from agentledger import BadInput, Log, NotFound, Runtime, agent, tool
from cli.commands.compare import diff, divergence
from cli.output import Settings
from ledger_core.errors import Damaged, Refused
from projections import evidence_files
from projections.course import Course, Effect
from projections.evidence import bundle
from projections.evidence_json import DIGEST, digest
from replay import sides
from replay.comparing import compare
from replay.page import render
from replay.replaying import SAVED

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m\u202e{{ 7*7 }} ünïcode 日本語"
PROMPT = "You are an agent.\nYou answer.\n- Be short.\n- Be kind.\n- Say one thing.\n- Sign.\n"


@tool(side_effect="external_write")
def post(text: str) -> str:
    return text


@tool
async def read(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def _each(ctx, number):
    return await ctx.call_tool("read", number=number)


def model(request):
    return {
        "content": f"{HOSTILE} {len(str(request))}",
        "usage": {"input_tokens": len(str(request)), "output_tokens": 4},
    }


@agent(name="a", tools=[post, read], models=model)
async def work(ctx, state):
    await ctx.call_tool("post", text=HOSTILE)
    for number in range(30):
        ctx.capture(f"n{number}", lambda: 7)
    await asyncio.gather(*(_each(ctx, number) for number in (1, 2, 3)))
    messages = [{"role": "user", "content": PROMPT}]
    await ctx.call_model({"model": "m", "messages": messages})
    messages += [{"role": "user", "content": PROMPT.replace("kind", state.get("tone", "kind"))}]
    await ctx.call_model({"model": "m", "messages": messages})
    if state.get("more"):
        await ctx.call_tool("post", text="more")
    ctx.write_state_patch("done", True)
    if state.get("fail"):
        raise ValueError(HOSTILE)
    return "end"


@agent
def waiting(ctx):
    ctx.wait_signal("never")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A ledger with two equal runs, one that did otherwise, one that failed, one that waits, one that was forgotten."""
    path = tmp_path_factory.mktemp("diff") / "ledger"
    with Runtime(Log.open(path)) as runtime:
        for name, state in {
            "base": {},
            "equal": {},
            "other": {"tone": "polite", "more": True},
            "broken": {"fail": True},
            "gone": {},
        }.items():
            runtime.run(work, run_id=name, initial_state=state)
        runtime.run(waiting, run_id="wait")
        runtime.log.forget("run/gone")
    return path


def made(root, run, **how):
    with Log.open(root, readonly=True) as log:
        return bundle(log, run, **how)


def course_of(root, run):
    with Log.open(root, readonly=True) as log:
        return sides.of_run(log, run)


# The two commands


def test_equal_runs_are_the_same(root, capsys):
    """Two runs that did the same: one sentence says so first, nothing is told as different, and all is well."""
    out = text_of(capsys, diff, root, "base", "equal")
    assert out.splitlines()[0] == "base and equal are the same: 37 effects, and one end."
    assert "… 37 equal effects …" in out
    assert "AL1" not in out
    assert text_of(capsys, divergence, root, "base", "equal", "--fail-on-divergence").count("\n") == 1
    assert object_of(capsys, diff, root, "base", "base")["same"] is True


def test_a_diff_shows_what_differs(root, capsys):
    """The verdict, what they began with, a prompt line by line, an added call, folds, and the cost."""
    out = text_of(capsys, diff, root, "base", "other")
    assert out.splitlines()[0] == (
        "base and other differ: they begin with something else; 1 changed and 1 extra of 37 and 38 effects."
    )
    assert '$.initial_state.tone  + "polite"' in out
    assert re.search(r"^ +-- Be kind\.$", out, re.MULTILINE)
    assert re.search(r"^ +\+- Be polite\.$", out, re.MULTILINE)
    assert re.search(r'^\+ +34 +tool post  \{"text": "more"\} +AL102$', out, re.MULTILINE)
    assert "… 33 equal effects …" in out
    assert re.search(r"right \+\d+ input tokens$", out, re.MULTILINE)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal(root, capsys, monkeypatch, width):
    """Side by side, no line of the table is wider than the terminal, in cells, whatever is in it."""
    monkeypatch.setenv("COLUMNS", str(width))
    out = text_of(capsys, diff, root, "base", "other", "--all")
    from rich.cells import cell_len

    table = [line for line in out.splitlines()[1:] if re.match(r"[ ≠+↷-] \S", line)]
    assert len(table) > 40
    assert max(map(cell_len, table)) <= width
    assert "equal effects" not in out


def test_what_a_terminal_would_obey_is_shown_as_text(root, capsys):
    """Control characters and turned letters of agents and models do not reach the terminal, in any command."""
    for run in ("other", "broken", "wait"):
        for name in (diff, divergence):
            out = text_of(capsys, name, root, "base", run)
            assert not set(out) & {"\x1b", "\u202e"}
    assert "\\x1b[31m" in text_of(capsys, diff, root, "base", "broken")


def test_the_gate_fails_where_it_is_told_to(root, capsys):
    """Divergences have their code, their event, what differs and the usual cause; 4 comes with the option alone."""
    out = text_of(capsys, divergence, root, "base", "broken", "--fail-on-divergence", code=4)
    assert "AL105 other request at effect start" in out
    assert "AL108 other output at effect end: recorded a result: end, attempted ValueError" in out
    assert '$.status  "completed" → "failed"' in out
    assert "The code returns something else, or ends in another way." in out
    text_of(capsys, divergence, root, "base", "broken")
    value = object_of(capsys, divergence, root, "base", "other", "--fail-on-divergence", code=4)
    assert set(value) == {"same", "left", "right", "cut_short", "divergences"}
    assert [one["code"] for one in value["divergences"]] == ["AL105", "AL105", "AL102"]
    assert re.search(r"event \d+ of the run, seq \d+", text_of(capsys, divergence, root, "base", "other"))


def test_a_diff_as_json(root, capsys):
    """The whole comparison for programs; `--all` adds every row; the lists name what their heading says."""
    value = object_of(capsys, diff, root, "base", "other")
    assert list(value) == [
        "same", "left", "right", "cut_short", "divergences", "effects", "requests", "results", "state", "ledger",
        "approvals", "artifacts", "models", "cost", "events", "code",
    ]  # fmt: skip
    counts = {"left": 37, "right": 38, "same": 36, "changed": 1, "missing": 0, "extra": 1, "moved": 0}
    assert value["effects"] == counts
    assert [row["left"]["name"] for row in value["requests"]] == ["m"]
    assert [row["op"] for row in value["ledger"]] == ["extra"]
    assert [row["code"] for row in value["models"]] == ["AL105"]
    assert value["cost"]["difference"]["input_tokens"] > 0
    assert value["events"]["tool_call_requested"] == {"left": 4, "right": 5}
    assert value["code"]["same"] is True
    assert (value["left"]["run_id"], value["right"]["status"]) == ("base", "completed")
    whole = object_of(capsys, diff, root, "base", "other", "--all")
    assert len(whole["aligned"]) == 38
    assert set(whole) - set(value) == {"aligned"}


def test_a_run_that_waits_is_cut_short(root, capsys):
    """A run without an end beside one with an end: the other's effects lie beyond it, and the verdict says so."""
    out = text_of(capsys, diff, root, "wait", "base")
    assert out.splitlines()[0].endswith("; wait stops before its end (waiting).")
    assert object_of(capsys, diff, root, "wait", "base")["cut_short"] == "left"


def test_very_many_differences_are_counted(tmp_path, root, capsys):
    """Of ten thousand effects that differ, two hundred are shown, and the rest is a number."""
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for name, path in zip("ab", paths, strict=True):
        effects = tuple(
            Effect(path=str(n), kind="tool", name="t", request={"arguments": f"{name}{n}"}, outcome="done")
            for n in range(1, 10_001)
        )
        path.write_text(json.dumps(attrs.evolve(course_of(root, "base"), effects=effects).as_json()))
    out = text_of(capsys, diff, root, *map(str, paths))
    assert "… and 9,800 more effects that differ: --all shows them" in out
    out = text_of(capsys, divergence, root, *map(str, paths))
    assert "… and 9,800 more divergences: --json has all" in out


# What can be compared


def test_runs_are_named_as_everywhere(root, capsys):
    """Unique prefixes and `latest` name runs, also one of a name that a file has; what names none is one sentence."""
    assert object_of(capsys, diff, root, "bas", "equ")["same"] is True
    assert object_of(capsys, diff, root, "latest", "wait")["same"] is True
    for name, error in (("nobody", NotFound), ("", BadInput), ("nowhere.json", NotFound), ("no/where", NotFound)):
        with pytest.raises(error) as caught:
            text_of(capsys, diff, root, "base", name)
        assert caught.value.hint


@pytest.fixture
def files(root, tmp_path):
    """The base run as evidence in each of its forms, and as a saved replay and a course."""
    one = made(root, "base")
    evidence_files.write_file(one, tmp_path / "evidence.json")
    evidence_files.write_page(one, tmp_path / "page.html")
    evidence_files.write_directory(one, tmp_path / "directory")
    evidence_files.write_family([one], tmp_path / "family")
    course = course_of(root, "base").as_json()
    replayed = {"schema": SAVED, "run_id": "base", "course": course}
    (tmp_path / "replay.json").write_text(json.dumps(replayed))
    (tmp_path / "course").write_text(json.dumps(course))
    return tmp_path


NAMES = ["evidence.json", "page.html", "directory", "family", "replay.json", "course"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_the_run_that_it_is_of(root, files, name):
    """Evidence in any form, a saved replay and a course hold the run's own course, messages said before included."""
    found = sides.load(str(files / name), None)
    assert found.digest == course_of(root, "base").digest
    assert found.source == str(files / name)
    with Log.open(root, readonly=True) as log:
        assert compare(sides.load("base", log), sides.load(str(files / name), log)).same


def test_files_need_no_ledger(files, capsys):
    """Two files are compared where there is no ledger; a run is not."""
    there = [str(files / name) for name in NAMES[:2]]
    assert object_of(capsys, diff, files / "none", *there)["same"] is True
    assert object_of(capsys, divergence, files / "none", str(files / "course"), there[0])["same"] is True
    with pytest.raises(Exception, match="none"):
        text_of(capsys, diff, files / "none", "base", there[0])


def test_a_name_without_a_suffix_is_a_file_where_no_run_has_it(root, files, capsys, monkeypatch):
    """A run comes before a file of its name; a file that no run is called like is a file."""
    monkeypatch.chdir(files)
    (files / "equal").write_text("{}")
    assert object_of(capsys, diff, root, "course", "equal")["right"]["source"] == "equal"
    assert object_of(capsys, diff, root, "course", "base")["left"]["source"] == "course"
    with pytest.raises(BadInput):
        text_of(capsys, diff, root, "base", "./equal")


def _changed(one, change):
    other = copy.deepcopy(one)
    change(other)
    return other


def _flip(one):
    sealed = one["records"][3]["sealed"]
    one["records"][3]["sealed"] = ("A" if sealed[40] != "A" else "B").join((sealed[:40], sealed[41:]))


DAMAGE = {
    "a flipped byte": _flip,
    "a record less": lambda one: one["records"].pop(),
    "two records swapped": lambda one: one["records"].insert(3, one["records"].pop(4)),
    "another shown event": lambda one: one["events"][4]["facts"].update(path="99"),
    "another digest": lambda one: one.update({DIGEST: "blake3:" + "0" * 64}),
    "another key": lambda one: one["stream"].update(key="0" * 64),
    "no events": lambda one: one.pop("events"),
}


REFUSED = [(name, again) for name in DAMAGE for again in (False, True) if (name, again) != ("another digest", True)]


@pytest.mark.parametrize("name, again", REFUSED)
def test_damaged_evidence_is_refused(root, tmp_path, name, again):
    """Evidence that is not what was recorded is damage, exit code 3, also where its digest was made anew."""
    other = _changed(made(root, "base"), DAMAGE[name])
    if again:
        other[DIGEST] = digest(other)
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(other))
    with pytest.raises(Damaged) as caught:
        sides.load(str(path), None)
    assert caught.value.exit_code == 3
    assert "evidence-check" in caught.value.hint


def test_sealed_and_forgotten_runs_cannot_be_compared(root, tmp_path, capsys):
    """What nobody can read is refused with one sentence, and what to do about it."""
    evidence_files.write_file(made(root, "base", sealed=True), tmp_path / "sealed.json")
    with pytest.raises(Refused, match="is sealed: nobody can see what the run did"):
        text_of(capsys, diff, root, "base", str(tmp_path / "sealed.json"))
    with pytest.raises(Refused, match="forgotten"):
        text_of(capsys, diff, root, "base", "gone")
    evidence_files.write_file(made(root, "gone"), tmp_path / "gone.json")
    with pytest.raises(Refused, match="has no key"):
        sides.load(str(tmp_path / "gone.json"), None)


GOOD = {"schema": "agentledger.course.v1", "run_id": "r", "agent": "a", "status": "completed", "initial_state": {}}
EFFECT = {"path": "1", "kind": "tool", "name": "t", "request": {}, "outcome": "done"}
BAD = [
    b"",
    b"no JSON",
    b"\xff\xfe",
    b"[]",
    b"{}",
    b"NaN",
    b"7",
    b'{"schema": 7}',
    b"<html></html>",
    b'{"schema": "agentledger.evidence.v1"}',
    b'{"schema": "agentledger.replay.v1"}',
    b'{"schema": "agentledger.replay.v1", "course": {}}',
    b'{"a": "\\ud800"}',
    b"[" * 100_000,
    json.dumps(GOOD).encode(),
    *(
        json.dumps({**GOOD, "effects": [], **change}).encode()
        for change in (
            {"effects": {}},
            {"effects": [7]},
            {"effects": [{**EFFECT, "path": 7}]},
            {"effects": [{**EFFECT, "outcome": "well"}]},
            {"effects": [{**EFFECT, "cost": {"usd_nano": "much"}}]},
            {"effects": [{**EFFECT, "cost": {"apples": 1}}]},
            {"effects": [{**EFFECT, "seq": True}]},
            {"effects": [{**EFFECT, "more": 1}]},
            {"effects": [EFFECT, EFFECT]},
            {"effects": [{"path": "1"}]},
            {"status": None},
            {"agent": []},
            {"events": {"a": 1.5}},
            {"initial_state": float("inf")},
            {"output": json.loads("[" * 150 + "]" * 150)},
        )
    ),
]


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_is_no_run_is_one_sentence(tmp_path, data):
    """Whatever is in a file: bad input, or damage, with a hint; nothing is taken for a run that is none."""
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises((BadInput, Damaged)) as caught:
        sides.load(str(path), None)
    assert len(caught.value.sentence) < 400
    assert "\n" not in caught.value.sentence


def test_a_course_that_somebody_wrote_is_compared(tmp_path):
    """A course with odd values is compared: large numbers, other types, unknown kinds, a path that is no number."""
    effects = [{**EFFECT, "value": 2**80, "request": [None, 1.5]}, {**EFFECT, "path": "odd/x", "kind": "ponder"}]
    for name, output in (("a", 1), ("b", True)):
        value = {**GOOD, "effects": effects, "output": output, "by_hand": 1}
        (tmp_path / name).write_text(json.dumps(value))
    one, other = (sides.load(str(tmp_path / name), None) for name in "ab")
    assert compare(one, one).same
    assert [found.kind.code for found in compare(one, other).divergences] == ["AL108"]
    assert "ponder" in render(compare(one, other))


def test_the_command_in_a_process_of_its_own(root):
    """In a real process the gate exits with 4, a colour reaches no pipe, and stdout holds what was asked for."""
    script = "import sys; from cli.commands.compare import divergence as c; from cli.output import Settings; "
    script += "from pathlib import Path; sys.exit(c.main(sys.argv[2:], obj=Settings(root=Path(sys.argv[1])), "
    script += "standalone_mode=False))"
    command = [sys.executable, "-c", script, str(root), "base", "other", "--fail-on-divergence"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (4, "")
    assert "AL102 extra effect at effect 34: recorded nothing, attempted tool post." in done.stdout
    assert "\x1b" not in done.stdout


def test_colours_are_for_terminals(root, monkeypatch):
    """Where somebody looks, rows are coloured by what they are; the text is the same without."""
    monkeypatch.setenv("COLUMNS", "100")
    plain, coloured = (
        CliRunner().invoke(diff, ["base", "other"], obj=Settings(root=root), color=color).output
        for color in (False, True)
    )
    assert "\x1b" not in plain
    assert "\x1b[32m+ " in coloured
    assert click.unstyle(coloured) == plain


# The page


def _page(root, path, left="base", right="other"):
    found = compare(course_of(root, left), course_of(root, right))
    path.write_text(render(found), encoding="utf-8")
    return path


def test_a_page_is_written_for_its_owner(root, capsys, tmp_path):
    """`--html` writes one file, which only its owner can read, and nothing into the ledger's directory."""
    path = tmp_path / "d.html"
    assert object_of(capsys, diff, root, "base", "other", "--html", str(path))["html"] == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    with pytest.raises(BadInput, match="in the ledger's own directory"):
        text_of(capsys, diff, root, "base", "other", "--html", str(root / "d.html"))


def test_what_agents_say_is_no_markup(root, tmp_path):
    """No text of a run becomes an element, a template or a control character of the page."""
    text = _page(root, tmp_path / "d.html", right="broken").read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("</script>") == 1
    assert "&lt;/script&gt;&lt;img src=x" in text
    assert "{{ 7*7 }}" in text
    assert not set(text) & {"\x1b", "\u202e"}
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", text)


def test_a_page_of_very_many_effects_stays_small(root):
    """Equal stretches are folded and counted; differences beyond the first thousands are counted, and not drawn."""
    base = course_of(root, "base")
    effects = [
        Effect(path=str(n), kind="tool", name="t", request={"arguments": {"n": n, "text": "x" * 100}}, outcome="done")
        for n in range(1, 30_001)
    ]
    few = [attrs.evolve(one, request=None) if n % 10_000 == 9 else one for n, one in enumerate(effects)]
    text = render(compare(_with(base, effects), _with(base, few)))
    assert text.count('<details class="row changed"') == 3
    assert len(text) < 1_000_000
    assert "9,993 equal effects" in text
    other = [attrs.evolve(one, request="y" * 30_000) for one in effects]
    text = render(compare(_with(base, effects), _with(base, other)))
    assert "28,000 more effects that differ are not on this page" in text
    assert "it would be too large" in text
    assert len(text) < 16_000_000


def _with(course: Course, effects: list[Effect]) -> Course:
    return attrs.evolve(course, effects=tuple(effects))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all of them."""
    needs.chromium()
    browser = Browser()
    yield browser
    browser.close()


def _visible(browser, selector):
    return browser.run(f"[...document.querySelectorAll('{selector}')].filter((one) => one.checkVisibility()).length")


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(root, tmp_path, browser, dark):
    """It asks no network for anything and complains of nothing; the filter, opening and the keys do what they say."""
    path = _page(root, tmp_path / "d.html")
    browser.open(path, dark=dark)
    assert (browser.errors, browser.requests) == ([], [path.as_uri()])
    assert "base and other differ" in browser.run("document.querySelector('.banner').textContent")
    assert _visible(browser, "details.row") == 2
    assert _visible(browser, "div.row.same") > 2
    browser.key("d")
    assert (_visible(browser, "div.row.same"), _visible(browser, "details.row")) == (0, 2)
    browser.run("document.getElementById('only').click()")
    assert _visible(browser, "div.row.same") > 2
    assert _visible(browser, ".inside") == 2
    browser.key("o")
    assert _visible(browser, ".inside") == 0
    browser.key("j")
    browser.key("j")
    assert browser.run("document.querySelector('.here').classList.contains('extra')") is True
    browser.key("k")
    assert browser.run("document.querySelector('.here').open") is True
    assert "− - Be kind." in browser.run("document.querySelector('.here .inside').innerText").replace("−\n", "− ")
    before = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.key("t")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != before
    assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True
    assert browser.errors == []


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_the_page_fits_the_window(root, tmp_path, browser, width):
    """Nothing stands out at the side, on a phone as on a screen."""
    browser.open(_page(root, tmp_path / "d.html"), width=width)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True
    assert browser.errors == []


def test_equal_runs_have_a_page(root, tmp_path, browser):
    """A page without a difference says so, and its folded effects can be seen."""
    browser.open(_page(root, tmp_path / "d.html", right="equal"))
    assert "The same" in browser.run("document.querySelector('.banner.right').textContent")
    assert _visible(browser, "div.row.same") == 0
    browser.run("document.querySelector('details.fold summary').click()")
    assert _visible(browser, "div.row.same") == 37
    assert browser.errors == []


def test_what_has_no_end_is_no_side():
    """A device or a pipe is refused in a sentence, and not read until memory ends."""
    needs.linux()
    with pytest.raises(BadInput, match="no file that ends"):
        sides.of_file(Path("/dev/zero"))
