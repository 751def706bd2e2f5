"""Going through a run: its timeline for a person, its state at any event, and keys on a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites import histories
from suites.stories import model, object_of, text_of, told

from agentledger import BadInput, Log, Runtime, agent
from cli import viewer
from cli.commands.travel import debug, timetravel
from ledger_core.events import REGISTRY, Unknown
from ledger_core.events.run import RunCreated
from ledger_core.log.record import Event
from projections.frames import Reel, deltas, frames
from projections.telling import TELLINGS, span
from projections.timeline import timeline
from projections.wire import event_json


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A ledger of runs that went through much."""
    path = tmp_path_factory.mktemp("travel") / "ledger"
    with Runtime(Log.open(path), models=model) as runtime:
        told(runtime)
    return path


def event(seq, body, seconds=None):
    time_ns = (seq if seconds is None else seconds) * 10**9
    return Event(seq, bytes(32), time_ns, "run/r", 1, seq, body.kind.name, "t", None, None, None, body)


# The timeline


def test_every_type_of_a_run_has_words():
    """Each registered type of a run's stream is told in words of its own, or is told by nobody on purpose."""
    elsewhere = {
        "ledger_created",
        "content_forgotten",
        "projection_certified",
        "replay_certified",
        "session_created",
        "session_updated",
        "session_run_added",
        "policy_adopted",
        "budget_changed",
    }
    assert {name for name, kind in REGISTRY.items() if kind.cls not in TELLINGS} == elsewhere


@settings(max_examples=80)
@given(made=st.lists(histories.bodies(), max_size=30))
def test_any_history_has_a_timeline(made):
    """Whatever happened, in whatever order: lines come in order, in JSON, and no gap is negative."""
    lines = list(timeline([event(seq, body) for seq, body in enumerate(made, 1)], diffs=True))

    assert [line.seq for line in lines] == sorted({line.seq for line in lines})
    for line in lines:
        json.dumps(line.as_json(), allow_nan=False)
        assert line.words
        assert line.idle_ns is None or line.idle_ns >= 0
        assert line.took_ns is None or line.took_ns >= 0


def test_an_unknown_type_is_told_by_its_name():
    """An event of a type that is not known has a line: nobody knows that it does not matter."""
    created = RunCreated(run="r", agent="a", seed=bytes(32), initial_state={})
    unknown = event(1, created)._replace(
        seq=2, stream_seq=2, type="run_polished", body=Unknown(type="run_polished", version=3, facts={"path": 7})
    )
    assert [line.words for line in timeline([event(1, created), unknown])][1] == "run polished"


def test_a_timeline_says_what_happened(root, capsys):
    """Tools with arguments and results, failures, waits with their length, attempts, and what to do next."""
    out = text_of(capsys, debug, root, "r")

    assert re.search(r"tool post  \{\"text\": \"a\"\}\n.*\+ 3 post returned \(.*\)  a\n", out)
    assert re.search(r"m answered: 12 tokens in, 4 tokens out \(.*\)  \{\"content\": \"hi\"", out)
    assert re.search(r"✗ 8 flaky failed: ValueError \(tool\) \(.*\)  not yet", out)
    assert "attempt 2 is to come" in out
    assert re.search(r"^ +attempt 2$", out, re.MULTILINE)
    assert re.search(r"⋯ .* of waiting for child run_", out)
    assert "asks a person: appr_" in out
    assert '{"by": "Ada", "reason": "fine"}' in out
    assert "r is completed, 1 model call, 3 tool calls" in out
    assert out.rstrip().endswith("verify r")
    assert "20780" not in out  # no gap is counted from 1970


def test_a_run_in_doubt_says_what_to_settle(root, capsys):
    """The end of a timeline is where the run stands, and the command that brings it on."""
    out = text_of(capsys, debug, root, "d")
    assert "nobody knows whether it happened" in out
    assert re.search(r"in doubt: post at effect \d+: did it happen\?", out)
    assert re.search(r"ledger settle d:\d+ --as", out)

    waiting = text_of(capsys, debug, root, "w")
    assert "waits for signal never at effect 1" in waiting
    assert "signal w never --payload JSON" in waiting


def test_what_a_terminal_would_obey_is_shown_as_text(root, capsys):
    """Control characters in what agents said do not reach the terminal."""
    out = text_of(capsys, debug, root, "f")
    assert "\x1b" not in out
    assert "\\x1b[31m" in out
    assert "ünïcode" in out


def test_a_forgotten_run_has_its_timeline(root, capsys):
    """What was forgotten is `<forgotten>`; what happened, and where the run stands, is all there."""
    out = text_of(capsys, debug, root, "e", "--include-diffs")
    assert "run of agent bad  <forgotten>" in out
    assert "the step failed: ValueError (unhandled)  <forgotten>" in out
    assert "Ada" not in out


def test_a_timeline_as_json(root, capsys):
    """Lines with fields for programs, the run's status, and the next step; differences where they are asked for."""
    found = object_of(capsys, debug, root, "r")
    lines = found["timeline"]
    assert (found["run_id"], found["status"], found["worker_lost"]) == ("r", "completed", False)
    assert found["next"].startswith("It is done")
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)
    (flaky,) = [line for line in lines if line["mark"] == "failed" and line["path"] == "8"]
    assert (flaky["said"], flaky["attempt"], flaky["step"]) == ("not yet", 1, 1)
    assert flaky["took"] >= 0
    assert all("diff" not in line for line in lines)
    assert [line["idle"] for line in lines if line["idle_for"].startswith("child run_")][0] > 0

    with_diffs = object_of(capsys, debug, root, "r", "--include-diffs")["timeline"]
    assert any(line["diff"].get("ledger") == {"3": {"status": "SUCCEEDED"}} for line in with_diffs)


def test_spans_of_time_are_said_in_a_word():
    """Short and long times read well, with the unit that fits."""
    assert [span(one) for one in (0, 40 * 10**6, 12_500 * 10**6, 7_300 * 10**9, 3 * 86_400 * 10**9)] == [
        "0 ms",
        "40 ms",
        "12.5 s",
        "2 h",
        "3 d",
    ]


# Any event of a run


def test_the_run_at_one_event(root, capsys):
    """`--at-seq` gives the event, the run after it, its state as the code sees it, and what the event changed."""
    with Log.open(root, readonly=True) as log:
        events = list(log.stream("run/r"))
    expected = list(zip(events, frames(events), deltas(events), strict=True))
    for at in (1, 6, 12, len(events)):
        one, frame, change = expected[at - 1]
        found = object_of(capsys, timetravel, root, "r", "--at-seq", str(at))
        assert found == {
            "run_id": "r",
            "seq": at,
            "last": len(events),
            "event": json.loads(json.dumps(event_json(one))),
            "standing": json.loads(json.dumps(frame.standing)),
            "state": frame.draft,
            "diff": json.loads(json.dumps(change.patch)),
        }
    shown = text_of(capsys, timetravel, root, "r", "--at-seq", "6")
    assert "event 6 of" in shown
    assert '"asked": true' in shown


def test_an_event_that_is_not_there_is_refused(root, capsys):
    """A seq behind the run's last says how many there are."""
    with pytest.raises(BadInput, match="there is none at 999"):
        text_of(capsys, timetravel, root, "r", "--at-seq", "999")


def test_all_events_with_what_was_asked_for(root, capsys):
    """Without `--at-seq`, each event, with its difference and its standing where they are asked for."""
    plain = object_of(capsys, timetravel, root, "r")["events"]
    assert "standing" not in plain[0]
    assert "diff" not in plain[0]
    whole = object_of(capsys, timetravel, root, "r", "--include-diffs", "--include-states")["events"]
    assert [one["seq"] for one in whole] == list(range(1, len(plain) + 1))
    assert whole[-1]["standing"]["status"] == "completed"
    assert whole[5]["diff"]["proposed"] == [{"asked": True}]

    out = text_of(capsys, timetravel, root, "r", "--include-diffs", "--include-states")
    assert '± {"proposed": [{"asked": true}]' in out
    assert "step_claimed" in out


def test_a_page_is_written(root, capsys, tmp_path):
    """`--html` writes the run as a page of its own, and says so."""
    page = tmp_path / "r.html"
    found = object_of(capsys, timetravel, root, "r", "--html", str(page))
    assert found == {"run_id": "r", "html": str(page)}
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    assert page.stat().st_mode & 0o777 == 0o600  # it carries the run's key
    with pytest.raises(BadInput, match="cannot be written"):
        text_of(capsys, timetravel, root, "r", "--html", str(tmp_path / "no" / "r.html"))


# The view


def _view(root, run="r"):
    with Log.open(root, readonly=True) as log:
        events = list(log.stream(f"run/{run}"))
    reel = Reel(events)
    texts = [json.dumps(event_json(one)) for one in events]

    def find(text, seq):
        places = [*range(seq, len(texts)), *range(seq)]
        return next((place + 1 for place in places if text in texts[place]), None)

    return viewer.View(reel=reel, event=lambda seq: event_json(events[seq - 1]), find=find, title=run)


def _shown(view, width=80, height=24):
    return [line.plain for line in viewer.screen(view, width, height)]


def test_keys_move_and_stay_inside(root):
    """Arrows, pages, ends, a number and a search move through the run, and never out of it."""
    view = _view(root)
    last = len(view.reel)

    def press(*keys):
        for key in keys:
            view.press(key)
        return view.seq

    assert press("\x1b[D") == 1
    assert press("\x1b[C", "l", "j") == 4
    assert press("h") == 3
    assert press("\x1b[6~") == 23
    assert press("\x1b[6~", "\x1b[6~") == last
    assert press("\x1b[5~") == last - 20
    assert press("\x1b[H") == 1
    assert press("G") == last
    assert press("g", "1", "x", "2", "\r") == 12
    assert press("g", *"999999999999999999", "\r") == last
    assert press("g", "\r") == last
    assert press("g", "5", "\x7f", "7", "\r") == 7
    assert press("g", "\x1b") == 7
    assert press("/", *"flaky", "\r") > 7
    assert press("n") > view.reel.delta(1).seq
    assert press("?", "\x1b[Z", "ü") == view.seq
    press("/", *"nowhere at all", "\r")
    assert "nothing holds" in view.notice
    assert not view.done
    press("q")
    assert view.done


def test_what_is_shown_follows_the_view(root):
    """The event, how the run stands, its changes and its state, as the keys say; cut to any terminal."""
    view = _view(root)
    view.seq = 6
    shown = "\n".join(_shown(view, 100, 40))
    assert "event 6 of" in shown
    assert "state_patch_proposed" in shown
    assert '"proposed_count": 1' in shown
    view.press("d")
    assert '"proposed_count": 1' not in "\n".join(_shown(view, 100, 40))
    view.press("s")
    assert '"asked": true' in "\n".join(_shown(view, 100, 40))
    for width, height in ((80, 24), (10, 3), (1, 1), (300, 100)):
        for seq in (1, 6, len(view.reel)):
            view.seq = seq
            lines = _shown(view, width, height)
            assert len(lines) == height
            assert all(len(line) <= width for line in lines)
            assert "\x1b" not in "".join(lines)


def test_a_frame_is_at_hand_for_a_forgotten_run(root):
    """A run whose content is gone can be gone through."""
    view = _view(root, "e")
    view.state = True
    for seq in range(1, len(view.reel) + 1):
        view.seq = seq
        assert "<forgotten>" in "\n".join(_shown(view, 100, 60))


# A real terminal

_SCRIPT = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is this session's own: Ctrl-C is its interrupt
from pathlib import Path
from cli.commands.travel import timetravel
from cli.output import Settings
try:
    timetravel.main([sys.argv[2]], obj=Settings(root=Path(sys.argv[1])), standalone_mode=False)
finally:
    print("LEFT")
"""


@attrs.define
class Terminal:
    """A process on a pseudo terminal."""

    master: int
    child: subprocess.Popen[bytes]
    text: str = ""

    def wait(self, pattern: str, seconds: float = 30) -> str:
        """What was printed until a pattern came, since the last time."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} did not come in:\n{self.text[-3000:]}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.text += os.read(self.master, 65_536).decode(errors="replace")
                except OSError:
                    assert re.search(pattern, self.text), self.text[-3000:]
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@pytest.fixture
def terminal(root):
    """`timetravel r` on a pseudo terminal of 100 by 30."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (30, 100))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm-256color"}
    command = [sys.executable, "-c", _SCRIPT, str(root), "r"]
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
    yield Terminal(master, child), slave
    if child.poll() is None:
        child.kill()
    child.wait()
    os.close(master)
    os.close(slave)


def test_keys_on_a_real_terminal(terminal):
    """Keys move the state that is shown, q leaves, and the terminal is as it was."""
    shown, slave = terminal
    before = termios.tcgetattr(slave)
    shown.wait(r"event 1 of (\d+)")
    shown.press("\x1b[C")
    shown.wait("event 2 of")
    shown.press("lll")
    shown.wait("event 5 of")
    assert not termios.tcgetattr(slave)[3] & termios.ICANON
    shown.press("\x1b[D")
    shown.wait("event 4 of")
    shown.press("g12\r")
    shown.wait("event 12 of")
    shown.press("/flaky\r")
    shown.wait("tool_call_requested  8")
    shown.press("s")
    shown.wait("state, as the code sees it")
    shown.press("\x1b[F")
    shown.wait("run_completed")
    shown.press("q")
    shown.wait("LEFT")
    assert shown.child.wait(30) == 0
    assert termios.tcgetattr(slave) == before


@pytest.mark.parametrize("leave", ["ctrl-c", "ctrl-d", "escape", "terminated"])
def test_the_terminal_comes_back_however_one_leaves(terminal, leave):
    """Ctrl-C, Ctrl-D, Escape and a polite signal leave the view, and the terminal is as it was."""
    shown, slave = terminal
    before = termios.tcgetattr(slave)
    shown.wait("event 1 of")
    if leave == "terminated":
        shown.child.send_signal(signal.SIGTERM)
    else:
        shown.press({"ctrl-c": "\x03", "ctrl-d": "\x04", "escape": "\x1b"}[leave])
    left = shown.wait("LEFT")
    assert "\x1b[?25h\x1b[?1049l" in left
    assert shown.child.wait(30) == (128 + signal.SIGTERM if leave == "terminated" else 0)
    assert termios.tcgetattr(slave) == before


def test_a_terminal_of_no_size_is_drawn_on(root):
    """A view draws on whatever there is: a terminal that says it has no columns, and one that is resized meanwhile."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "dumb"}
    child = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(root), "r"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    shown = Terminal(master, child)
    try:
        shown.wait("event 1 of")
        termios.tcsetwinsize(slave, (2, 7))
        shown.press("l")
        termios.tcsetwinsize(slave, (40, 120))
        shown.wait("event 2 of")
        shown.press("l")
        shown.wait("event 3 of")
        shown.press("\x1b")
        shown.wait("LEFT")
        assert child.wait(30) == 0
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        os.close(master)
        os.close(slave)


def test_a_long_run_has_its_timeline(tmp_path, capsys):
    """A run of thousands of effects has a timeline with a line for each, and any of its states."""

    @agent(name="long")
    def long(ctx):
        for number in range(1_000):
            ctx.write_state_patch(f"k{number % 5}", number)

    with Runtime(Log.open(tmp_path / "l")) as runtime:
        runtime.run(long, run_id="long")
    lines = object_of(capsys, debug, tmp_path / "l", "long")["timeline"]
    assert sum(line["type"] == "state_patch_proposed" for line in lines) == 1_000
    found = object_of(capsys, timetravel, tmp_path / "l", "long", "--at-seq", "500")
    assert found["standing"]["proposed_count"] == 497
