"""What a terminal shows of a run at one of its events: one of six panes, from one of its lines on; and the keys to it.

Rules: what is shown is a function of the panes and of the terminal's size. Keys choose the pane and scroll in it; all
others are the view's, which goes through the events. This file knows no log: it is handed a reel of frames, and what
tells the rest of an event.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
from rich.console import Console
from rich.text import Text

from cli import viewer
from cli.output import harmless
from ledger_core.run.budget import Account
from ledger_core.secret import VAULT
from projections import panes
from projections.dialogue import Dialogue
from projections.frames import Frame
from projections.usage import Use

PANES: Final = ("run", "state", "steps", "ledger", "budget", "transcript")
"""What the keys 0 to 5 show of an event."""
_FROM_THE_END: Final = ("steps", "ledger", "transcript")
"""Panes whose end is shown first."""


@attrs.define(kw_only=True)
class Panes:
    """What is looked at on a terminal: one event, in one of the panes, from one of its lines on."""

    view: viewer.View
    dialogue: Dialogue
    budgets: Callable[[int, Use], list[Account]]
    """How the budgets of the run stood at one of its events, after which it had used so much."""
    note: str = ""
    """What is to be said beside the transcript."""
    pane: int = 0
    scroll: int = 0
    """How many lines are passed, from the end at which the pane begins."""
    room: int = 1
    """Lines that were shown last."""

    def press(self, key: str) -> None:
        """A key, or the sequence of one."""
        by = {"\t": self.pane + 1, "\x1b[Z": self.pane - 1, **{str(at): at for at in range(len(PANES))}}
        if not self.view.typed and key in by:
            self.pane, self.scroll, self.view.notice = by[key] % len(PANES), 0, ""
        elif not self.view.typed and key in ("[", "]"):
            up = (key == "[") == (PANES[self.pane] in _FROM_THE_END)
            self.scroll = max(0, self.scroll + max(1, self.room - 2) * (1 if up else -1))
        else:
            before = self.view.seq
            self.view.press(key)
            self.scroll = self.scroll if self.view.seq == before else 0

    def screen(self, width: int, height: int) -> list[Text]:
        """The lines that a terminal of this size shows; never more of them, and none longer."""
        tabs = Text.assemble(
            *((f" {at} {name} ", "reverse" if at == self.pane else "dim") for at, name in enumerate(PANES))
        )
        if self.pane == 0:
            return [viewer.cut(tabs, width), *viewer.screen(self.view, width, max(1, height - 1))][-height:]
        view = self.view
        frame, kind = view.reel.frame(view.seq), view.reel.delta(view.seq).type
        self.room = max(1, height - 4)
        lines = [
            tabs,
            Text(f"{view.title}   event {view.seq:,} of {len(view.reel):,}", style="bold reverse"),
            Text(kind, style="bold"),
            *(Text(harmless(VAULT.clean_text(line))) for line in self._shown(frame, width)),
        ]
        lines = lines[: max(1, height - 1)]
        lines += [Text("")] * (height - 1 - len(lines))
        prompt = Text(view.typed or view.notice or viewer.HELP, style="reverse")
        return [viewer.cut(line, width) for line in [*lines, prompt][-height:]]

    def _shown(self, frame: Frame, width: int) -> list[str]:
        """The lines of the pane that are in sight; where there are more, the first and the last of them say so."""
        lines, before = self._lines(frame, width)
        above, below = f"… {before:,} more messages before" if before else "", ""
        most = max(0, len(lines) - self.room)
        self.scroll = min(self.scroll, most)
        start = most - self.scroll if PANES[self.pane] in _FROM_THE_END else self.scroll
        shown = lines[start : start + self.room]
        if start and self.room > 2:
            above = f"… {start:,} more lines above" + (f", and {before:,} messages" if before else "")
        if start + self.room < len(lines) and self.room > 2:
            below = f"… {len(lines) - start - self.room + 1:,} more lines below"
        shown = [above, *shown[1:]] if above and shown else shown
        return [*shown[:-1], below] if below else shown

    def _lines(self, frame: Frame, width: int) -> tuple[list[str], int]:
        """The lines of the pane, at least as far as they are in sight, and how many messages stand before them."""
        name, reel = PANES[self.pane], self.view.reel
        if name == "state":
            return panes.state_lines(frame.draft), 0
        if name == "steps":
            return panes.step_lines(reel.steps(frame)), 0
        if name == "ledger":
            return panes.ledger_lines(frame.standing["ledger"]), 0
        if name == "budget":
            use = reel.delta(frame.seq).use
            return panes.use_lines(use, self.budgets(frame.seq, use)), 0
        found = self.dialogue.at(frame.seq)
        lines, before = panes.transcript_lines(found, width, self.scroll + 2 * self.room)
        return [*([self.note] if self.note and not before else []), *lines], before


def watch(shown: Panes) -> None:
    """Show the panes on the terminal until that is done, or somebody interrupts."""
    console, terminal = Console(highlight=False), sys.stdin.fileno()
    with viewer.signals(), viewer.raw(terminal), viewer.alternate(), suppress(KeyboardInterrupt):
        keys = viewer.keys(terminal)
        while not shown.view.done:
            size = shutil.get_terminal_size()
            viewer.draw(console, shown.screen(size.columns, size.lines))
            key = next(keys, None)
            if key is None:
                return
            shown.press(key)
