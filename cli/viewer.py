"""A run on a terminal, one event at a time: keys move through it.

Rules: what is shown is a function of the view and of the terminal's size; keys change the view. The terminal is given
back as it was, however this ends. The last line is what one can do. This file reads keys and draws, and knows no log:
it is handed frames, and what fetches an event.
"""

from __future__ import annotations

import codecs
import json
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final

import attrs
from rich.console import Console
from rich.text import Text

from cli.output import harmless, short
from projections.frames import Reel

_KEYS: Final = {
    "\x1b[C": "next",
    "\x1bOC": "next",
    "l": "next",
    "j": "next",
    " ": "next",
    "\x1b[B": "next",
    "\x1bOB": "next",
    "\x1b[D": "back",
    "\x1bOD": "back",
    "h": "back",
    "k": "back",
    "\x1b[A": "back",
    "\x1bOA": "back",
    "\x1b[6~": "page",
    "\x1b[5~": "page back",
    "\x1b[H": "first",
    "\x1bOH": "first",
    "\x1b[1~": "first",
    "\x1b[F": "last",
    "\x1bOF": "last",
    "\x1b[4~": "last",
    "G": "last",
    "g": "go",
    "d": "diff",
    "s": "state",
    "/": "search",
    "n": "again",
    "q": "quit",
    "\x03": "quit",
    "\x04": "quit",
    "\x1b": "quit",
}
_PAGE: Final = 20
HELP: Final = "←/→ event  PgUp/PgDn 20  g number  / find  0-5, Tab panes  [ ] scroll  q quit"
_PAUSE: Final = 0.05
"""Seconds in which the rest of a key's sequence has come, if there is one."""
_LOOK: Final = 0.5
"""Seconds between looks at the terminal's size."""


@attrs.define(kw_only=True)
class View:
    """What is looked at, and how."""

    reel: Reel
    event: Callable[[int], dict[str, Any]]
    """The event of a seq of the run, as JSON."""
    find: Callable[[str, int], int | None]
    """The next event behind a seq that holds a text, round the end; None if there is none."""
    title: str
    seq: int = 1
    diff: bool = True
    state: bool = False
    typed: str = ""
    """What is being typed: `g` or `/`, and what follows."""
    sought: str = ""
    notice: str = ""
    done: bool = False

    def press(self, key: str) -> None:
        """A key, or the sequence of one."""
        self.notice = ""
        if self.typed:
            self._type(key)
            return
        what, last = _KEYS.get(key, ""), len(self.reel)
        moves = {
            "next": self.seq + 1,
            "back": self.seq - 1,
            "page": self.seq + _PAGE,
            "page back": self.seq - _PAGE,
            "first": 1,
            "last": last,
        }
        if what in moves:
            self.seq = min(max(moves[what], 1), last)
        elif what in ("go", "search"):
            self.typed = "g" if what == "go" else "/"
        elif what == "again":
            self._search()
        elif what == "diff":
            self.diff = not self.diff
        elif what == "state":
            self.state = not self.state
        elif what == "quit":
            self.done = True

    def _type(self, key: str) -> None:
        if key in ("\r", "\n"):
            kind, text, self.typed = self.typed[0], self.typed[1:], ""
            if kind == "/":
                self.sought = text or self.sought
                self._search()
            elif text:
                self.seq = min(max(int(text), 1), len(self.reel))
        elif key in ("\x1b", "\x03"):
            self.typed = ""
        elif key in ("\x7f", "\x08"):
            self.typed = self.typed[:-1]
        elif len(key) == 1 and key.isprintable() and (self.typed[0] == "/" or (key in "0123456789" and self._short)):
            self.typed += key

    @property
    def _short(self) -> bool:
        """Whether a number that is typed may still be one of an event."""
        return len(self.typed) < 12

    def _search(self) -> None:
        found = self.find(self.sought, self.seq) if self.sought else None
        if found is not None:
            self.seq = found
        else:
            self.notice = f"nothing holds {self.sought!r}" if self.sought else "type / and a text"


def screen(view: View, width: int, height: int) -> list[Text]:
    """The lines that a terminal of this size shows; never more of them, and none longer."""
    frame, event = view.reel.frame(view.seq), view.event(view.seq)
    standing = frame.standing
    status = standing["status"] + (f" ({standing['waiting']})" if "waiting" in standing else "")
    cost = standing["cost"]
    lines = [
        Text(f"{view.title}   event {view.seq:,} of {len(view.reel):,}", style="bold reverse"),
        Text(f"{event['type']}  {event['facts'].get('path', '')}  {_clock(event['timestamp'])}", style="bold"),
        Text(short({**event["facts"], **event["content"]}), style="cyan"),
        Text(""),
        Text.assemble(("status    ", "dim"), (status, _colour(standing["status"]))),
        *_fields(standing),
        Text.assemble(("cost      ", "dim"), ", ".join(f"{name} {value:,}" for name, value in cost.items() if value)),
    ]
    for name in ("ledger", "waits", "approvals", "children"):
        lines += _rows(name, standing[name])
    if standing["proposed_count"]:
        lines.append(Text.assemble(("proposed  ", "dim"), f"{standing['proposed_count']:,} patches, not committed yet"))
    if view.diff:
        lines += [Text(""), Text("changed by this event", style="underline")]
        lines += _document(view.reel.delta(view.seq).patch, "green")
    if view.state:
        lines += [Text(""), Text("state, as the code sees it", style="underline"), *_document(frame.draft, "")]
    prompt = view.typed or view.notice or HELP
    room = max(1, height - 1)
    shown = lines if len(lines) <= room else [*lines[: room - 1], Text(f"… {len(lines) - room + 1} more lines", "dim")]
    shown += [Text("")] * (room - len(shown))
    return [cut(line, width) for line in [*shown, Text(prompt, style="reverse")][-height:]]


def draw(console: Console, lines: Sequence[Text]) -> None:
    with console.capture() as captured:
        for line in lines:
            console.print(line, end="\n", no_wrap=True, overflow="crop", soft_wrap=True)
    text = captured.get().rstrip("\n").replace("\n", "\x1b[K\r\n")
    sys.stdout.write(f"\x1b[H{text}\x1b[K\x1b[J")
    sys.stdout.flush()


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """The terminal hands over each key; afterwards it is as it was."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def signals() -> Iterator[None]:
    """A polite end gives the terminal back first; stopping would leave it to the shell as it is."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alternate() -> Iterator[None]:
    """Another screen, without a cursor; afterwards the one that was there."""
    sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[2J")
    try:
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def keys(descriptor: int) -> Iterator[str]:
    """Keys as they come, a sequence of an arrow or such as one; empty where the terminal has another size.

    Ends with the terminal.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held, size = "", shutil.get_terminal_size()
    while True:
        if held and not _unfinished(held):
            key, held = _first(held)
            yield key
            continue
        if not select.select([descriptor], [], [], _PAUSE if held else _LOOK)[0]:
            if held:  # Escape by itself
                yield "\x1b"
                held = held[1:]
            elif shutil.get_terminal_size() != size:
                size = shutil.get_terminal_size()
                yield ""
            continue
        try:
            data = os.read(descriptor, 1024)
        except OSError:
            return
        if not data:
            return
        held += decoder.decode(data)


def _unfinished(text: str) -> bool:
    """Whether a sequence that begins with Escape goes on."""
    if text == "\x1b" or (text[0] == "\x1b" and len(text) == 2 and text[1] in "[O"):
        return True
    if text[0] != "\x1b":
        return False
    return text[1:2] == "[" and all(not "@" <= one <= "~" for one in text[2:])


def _first(text: str) -> tuple[str, str]:
    """The first key of what was read, and the rest."""
    if not text.startswith("\x1b") or text[1:2] not in ("[", "O"):
        return text[0], text[1:]
    end = 2
    while end < len(text) - 1 and text[1] == "[" and not "@" <= text[end] <= "~":
        end += 1
    return text[: end + 1], text[end + 1 :]


def _fields(standing: dict[str, Any]) -> Iterator[Text]:
    step = f"{standing['step_number']} {standing.get('step', '')}"
    step += f", epoch {standing['epoch']}, attempt {standing['attempt']}"
    held = f", held by {standing['worker']}" if "worker" in standing else ""
    yield Text.assemble(("step      ", "dim"), harmless(step + held))
    if standing["in_doubt"]:
        yield Text.assemble(("in doubt  ", "dim"), (f"{standing['in_doubt']}", "bold red"))


def _rows(name: str, rows: dict[str, Any]) -> Iterator[Text]:
    """The youngest rows of a table."""
    for key, row in list(rows.items())[-5:]:
        words = row if isinstance(row, str) else "  ".join(f"{value}" for value in row.values())
        yield Text.assemble((f"{name:<10}", "dim"), harmless(f"{key}  "), (harmless(words), _colour(words)))
    if len(rows) > 5:
        yield Text(f"{'':10}and {len(rows) - 5:,} before", style="dim")


def _document(value: Any, style: str) -> Iterator[Text]:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return (Text(harmless(line), style=style) for line in text.split("\n"))


def _colour(words: str) -> str:
    bad = ("failed", "PENDING", "FAILED", "diverged", "parked", "denied", "cancelled")
    good = ("completed", "SUCCEEDED", "approved", "COMPENSATED")
    return "red" if any(one in words for one in bad) else "green" if any(one in words for one in good) else ""


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def cut(line: Text, width: int) -> Text:
    line.truncate(max(1, width), overflow="ellipsis")
    return line
