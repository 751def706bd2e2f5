"""The page of a comparison: two runs side by side in one HTML file, to be read by people.

Rules: one file, nothing beside it, no network: its policy (CSP) allows its own script and style by their digests, and
nothing else. All texts are escaped where they are put in; none is ever markup. What is equal and far from a difference
is folded, and what is too much is counted, so that a page of a hundred thousand effects stays one that opens. Without
scripts all of it can be read; scripts filter and move. This file judges nothing: it shows a `Comparison`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any, Final

from ledger_core.run.divergence import Difference, Divergence
from projections.course import Course, Effect
from replay.comparing import Comparison, cost_words
from replay.texts import is_text, text_diff

AROUND: Final = 3
"""Equal effects that are shown around one that differs."""
MOST_ROWS: Final = 2_000
"""Effects that differ and are shown."""
MOST_FOLDED: Final = 3_000
"""Equal effects that can be unfolded, in all, and in one place `_FOLD`."""
MOST_LETTERS: Final = 6_000_000
"""Letters of all differences; effects behind them are shown without."""
_FOLD: Final = 100
_ABSENT: Final = "<absent>"
"""As `divergence.differences` names what is not there."""
_FIELDS: Final = 50
_VALUE: Final = 4_000
_GIST: Final = 160
_LINE: Final = 100
"""Letters of a value that is written on one line."""
_FAMILIES: Final = {
    "tool": "tool",
    "model": "model",
    "patch": "state",
    "artifact": "kept",
    "child": "run",
    "join": "run",
    **dict.fromkeys(("sleep", "signal", "approval", "question", "answer"), "wait"),
}
_OPS: Final = {
    "same": ("=", "equal"),
    "changed": ("≠", "changed"),
    "missing": ("−", "missing"),
    "extra": ("+", "extra"),
    "moved": ("↷", "moved"),
}


def render(found: Comparison) -> str:
    """The page of a comparison."""
    from jinja2 import Environment  # noqa: PLC0415 - heavy, and only whoever renders a page pays for it

    script = _read("diff.js")
    styles = resources.files("projections.page").joinpath("look.css").read_text(encoding="utf-8") + _read("diff.css")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("diff.html")).render(
        policy=_policy(script, styles),
        script=script,
        styles=styles,
        verdict=visible(found.verdict()),
        same=found.same,
        sides=[_side("left", found.recorded), _side("right", found.attempted)],
        tiles=[(op, _OPS[op][1], number) for op, number in found.counts.items()],
        begins=None if found.begins is None else _told(found.begins),
        parts=_parts(found),
        ends=[_told(one) for one in found.ends],
        state=[_field(one) for one in islice(found.state(), _FIELDS)],
        costs=_costs(found),
        events=[(name, row["left"], row["right"]) for name, row in found.events.items()],
    )


def visible(text: str) -> str:
    """A text whose control characters can be seen."""
    return "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)


# Effects


def _parts(found: Comparison) -> Iterator[dict[str, Any]]:
    """Rows, folded stretches, and what was too much, in order."""
    rows, folded, letters = 0, MOST_FOLDED, MOST_LETTERS
    for number in found.shown(AROUND):
        if isinstance(number, range):
            inside = number[: min(_FOLD, folded)]
            folded -= len(inside)
            equal = [_row(found, one, 0) for one in inside]
            yield {"fold": len(number), "rows": equal, "more": len(number) - len(inside)}
            continue
        if rows >= MOST_ROWS:
            yield {"rest": sum(1 for other in found.at if other >= number)}
            return
        rows += number in found.at
        row = _row(found, number, letters)
        letters -= row["letters"]
        yield row


def _row(found: Comparison, number: int, letters: int) -> dict[str, Any]:
    row, one = found.aligned[number], found.at.get(number)
    details: list[dict[str, Any]] = []
    if one is not None and letters > 0:
        details = [_field(difference) for difference in one.differences[:_FIELDS]]
        alone = row.right if row.op == "extra" else row.left if row.op == "missing" else None
        if alone is not None:
            details += _of_one(alone, "new" if row.op == "extra" else "gone")
    return {
        "op": row.op,
        "mark": _OPS[row.op][0],
        "word": _OPS[row.op][1],
        "number": number,
        "left": None if row.left is None else _cell(row.left),
        "right": None if row.right is None else _cell(row.right),
        "told": None if one is None else _head(one),
        "fields": details,
        "more": 0 if one is None else max(0, len(one.differences) - _FIELDS),
        "left_out": one is not None and letters <= 0,
        "letters": sum(field["letters"] for field in details) + 500,
    }


def _cell(effect: Effect) -> dict[str, Any]:
    said = effect.request
    if isinstance(said, dict) and said.keys() == {"arguments"}:
        said = said["arguments"]
    if effect.kind == "model" and isinstance(effect.value, dict):
        said = effect.value.get("content")
    return {
        "path": visible(effect.path),
        "kind": visible(effect.kind),
        "name": visible(effect.name),
        "family": _FAMILIES.get(effect.kind, "other"),
        "gist": "" if said in (None, {}) else _spelled(said, _GIST, flat=True),
        "outcome": "" if effect.outcome == "done" else effect.outcome,
        "writes": effect.writes,
    }


def _of_one(effect: Effect, side: str) -> list[dict[str, Any]]:
    """What an effect asked for and came to, which has no partner."""
    values = [("asked for", effect.request), ("came to", effect.value)]
    return [_value(at, value, side) for at, value in values if value is not None]


def _value(at: str, value: Any, side: str) -> dict[str, Any]:
    text = _spelled(value, _VALUE)
    return {"at": at, "lines": [(side, "−" if side == "gone" else "+", text)], "letters": len(text), "text": False}


def _field(one: Difference) -> dict[str, Any]:
    """One place in which two documents differ: a text by its lines, else both values."""
    if is_text(one.recorded, one.attempted):
        sides = {"-": "gone", "+": "new", "@": "place"}
        found = text_diff(one.recorded, one.attempted)
        lines = [(sides.get(line[0], "around"), line[0] if line[0] in "+-" else "", _without(line)) for line in found]
        merged = [(side, "−" if mark == "-" else mark, visible(text)) for side, mark, text in lines]
    else:
        pairs = (("gone", "−", one.recorded), ("new", "+", one.attempted))
        merged = [(side, mark, _spelled(value, _VALUE)) for side, mark, value in pairs if value != _ABSENT]
    return {
        "at": visible(one.at),
        "lines": merged,
        "letters": sum(len(line[2]) for line in merged),
        "text": is_text(one.recorded, one.attempted),
    }


def _without(line: str) -> str:
    return line if line[0] in "@…" else line[1:]


# Beside the effects


def _told(one: Divergence) -> dict[str, Any]:
    fields = [_field(difference) for difference in one.differences[:_FIELDS]]
    return {**_head(one), "fields": fields, "more": max(0, len(one.differences) - _FIELDS)}


def _head(one: Divergence) -> dict[str, Any]:
    recorded = (
        "" if one.event is None else f"event {one.event:,} of the run, seq {one.seq:,}, hash {(one.hash or '')[:16]}…"
    )
    return {
        "code": one.kind.code,
        "name": one.kind.name,
        "sentence": visible(one.sentence()),
        "cause": one.kind.cause,
        "recorded": recorded,
        "line": visible(one.line or ""),
    }


def _side(which: str, course: Course) -> dict[str, Any]:
    facts = [
        ("run", course.run_id),
        ("agent", course.agent + (f" ({course.role})" if course.role else "")),
        ("status", course.status),
        ("effects", f"{len(course.effects):,}"),
        ("code", "" if course.code_digest is None else course.code_digest[:16]),
        ("cost", cost_words(course.cost)),
        ("error", f"{course.error_type}: {course.message}" if course.error_type else ""),
    ]
    shown = [(name, visible(value)[:_VALUE]) for name, value in facts if value]
    return {"which": which, "source": visible(course.source), "facts": shown}


def _costs(found: Comparison) -> Iterable[tuple[str, str, str, str]]:
    cost = found.cost
    for name, more in cost["difference"].items():
        said = [_amount(name, cost[side].get(name, 0)) for side in ("left", "right")]
        sign = "+" if more > 0 else "−" if more < 0 else ""
        title = "US dollars" if name == "usd_nano" else name.replace("_", " ")
        yield title, said[0], said[1], f"{sign}{_amount(name, abs(more))}"


def _amount(name: str, amount: int) -> str:
    return f"{amount / 1_000_000_000:,.6f}" if name == "usd_nano" else f"{amount:,}"


def _spelled(value: Any, most: int, *, flat: bool = False) -> str:
    """A value as text, cut."""
    text = value if isinstance(value, str) and not flat else json.dumps(value, ensure_ascii=False)
    if not flat and not isinstance(value, str) and len(text) > _LINE:
        text = json.dumps(value, ensure_ascii=False, indent=1)
    return visible(text[:most]) + (f"… ({len(text):,} letters)" if len(text) > most else "")


# The file


def _policy(script: str, styles: str) -> str:
    """The content security policy (CSP level 3): the script and the style by digest, and nothing else."""
    return (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(styles)}; base-uri 'none'; "
        "form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
