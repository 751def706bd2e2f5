"""A run at one event in lines of text: its state, its steps, its ledger, what it used, and what was said.

Rules: pure. A line is for a person, and may be longer than a terminal is wide, but for what was said, which is wrapped.
What is long is made from its end, and no more of it than is asked for. Words of agents stand as they are: who prints
them makes them harmless.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ledger_core.run.budget import Account, account_words, amount_words
from projections.dialogue import latest
from projections.frames import Step
from projections.messages import Message, text_of
from projections.transcript import Conversation, Transcript
from projections.usage import Use, budgets_words


def state_lines(document: Any) -> list[str]:
    """A state document, as JSON."""
    return json.dumps(document, ensure_ascii=False, indent=2).split("\n")


def step_lines(steps: Sequence[Step]) -> list[str]:
    """A line for each step."""
    lines = []
    for one in steps:
        ended = f", ended with event {one.ended:,}" if one.ended else ""
        lines.append(
            f"{one.number:>4}  {one.status:<16} {one.agent}  attempt {one.attempt}, epoch {one.epoch}, "
            f"from event {one.created:,}{ended}  {one.step}"
        )
    return lines or ["No step was created yet."]


def ledger_lines(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each outside write."""
    lines = [f"{path:<8} {row['status']:<21} {row['tool']}  attempt {row['attempt']}" for path, row in rows.items()]
    return lines or ["Nothing was written outside yet."]


def use_lines(use: Use, budgets: Sequence[Account]) -> list[str]:
    """What a run used, what it holds, and what is left of its budgets."""
    lines = [f"used     {use.words()}"]
    for name, amounts in use.held.items():
        lines.append(f"holds    {_amounts(amounts)} of {account_words(name)}")
    if use.bounds:
        lines.append(f"created  with bounds of {_amounts(use.bounds)}")
    lines += [f"left     {words}" for words in budgets_words(list(budgets))]
    return lines if use.bounds or budgets else [*lines, "         no budget bounds it"]


def use_short(use: Use, budgets: Sequence[Account]) -> list[str]:
    """The same in two lines."""
    bounds = f"created with bounds of {_amounts(use.bounds)}" if use.bounds else "no budget bounds it"
    return [f"used {use.words()}", " · ".join(budgets_words(list(budgets))) or bounds]


def transcript_words(found: Transcript) -> str:
    """How much was said."""
    count = sum(len(one.messages) for one in found.conversations)
    if not found.conversations:
        return "nothing was said yet"
    talks = len(found.conversations)
    return f"{count:,} message{'' if count == 1 else 's'}" + (f" in {talks:,} conversations" if talks > 1 else "")


def last_lines(found: Transcript, most: int) -> list[str]:
    """The messages that were said last, each on a line."""
    lines = []
    for message in latest(found)[-1].messages[-most:] if found.conversations else ():
        lines.append(f"{_role(message):>9}  {' '.join(part for part in parts_of(message) if part)}")
    return lines


def transcript_lines(found: Transcript, width: int, most: int) -> tuple[list[str], int]:
    """The end of a transcript, in at least `most` lines if there are as many; and how many messages stand before it."""
    left, made = sum(len(one.messages) for one in found.conversations), list[list[str]]()
    size = 0
    for conversation in reversed(latest(found)):
        for message in reversed(conversation.messages):
            if size >= most:
                return [line for block in reversed(made) for line in block], left
            made.append(list(_wrapped(message, width)))
            size, left = size + len(made[-1]), left - 1
        made.append([_heading(conversation)])
        size += 1
    return [line for block in reversed(made) for line in block] or ["Nothing was said yet."], 0


def _heading(one: Conversation) -> str:
    made_up = [
        f"{len(ids)} {what}" for ids, what in ((one.invented, "invented"), (one.restored, "from the record")) if ids
    ]
    results = f"; results: {', '.join(made_up)}" if made_up else ""
    return f"── {one.model or 'a model'}, {len(one.messages):,} message{'' if len(one.messages) == 1 else 's'}{results}"


def _wrapped(message: Message, width: int) -> Iterator[str]:
    lead = f"{_role(message):>9}  "
    for part in parts_of(message) or [""]:
        for line in part.split("\n"):
            for piece in textwrap.wrap(line, max(8, width - len(lead)), drop_whitespace=False) or [""]:
                yield lead + piece
                lead = " " * len(lead)


def parts_of(message: Message) -> list[str]:
    """What a message says: its text, its calls, the results in it."""
    content, parts = message.get("content"), list[str]()
    for block in content if isinstance(content, list) else [content]:
        said = block if isinstance(block, dict) else {}
        if said.get("type") == "tool_use":
            parts.append(f"→ {text_of(said.get('name'))} {text_of(said.get('input'))}")
        elif said.get("type") == "tool_result":
            parts.append(f"← {text_of(said.get('content'))}")
        elif said.get("type") == "text":
            parts.append(text_of(said.get("text")))
        elif block is not None:
            parts.append(text_of(block))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        part = call.get("function", call.get("custom")) if isinstance(call, dict) else None
        part = part if isinstance(part, dict) else {}
        parts.append(f"→ {text_of(part.get('name'))} {text_of(part.get('arguments', part.get('input')))}")
    return parts


def _role(message: Message) -> str:
    role = message.get("role")
    return role[:9] if isinstance(role, str) else ""


def _amounts(amounts: Mapping[str, int]) -> str:
    return ", ".join(amount_words(name, amount) for name, amount in amounts.items())
