"""Comments that allow a finding on their line: `# boundary: allow AB3 because the health check is public`.

Rules: pure. A reason is required, and a comment that allows nothing is a finding: what was allowed once would go on
being allowed when the code has changed. A comment stands on the first or last line of what it allows.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any, Final

import attrs

from cli.boundary_rules import OWN, Rules

_COMMENT: Final = re.compile(r"#\s*boundary\s*:\s*(?P<rest>.*)", re.DOTALL)
_ALLOW: Final = re.compile(
    r"allow\s+(?P<codes>[A-Za-z0-9]+(?:[\s,]+[A-Z]+[0-9]+)*)\s+because\s+(?P<why>\S.*)", re.DOTALL
)


@attrs.frozen(kw_only=True, order=True)
class Finding:
    """One place where code goes round the boundary."""

    file: str
    line: int
    column: int
    """From 1."""
    code: str
    call: str
    message: str
    instead: str
    function: str = ""
    """The function that it stands in; empty outside all."""

    def as_json(self) -> dict[str, Any]:
        return attrs.asdict(self)


@attrs.frozen
class Comment:
    """A comment that allows something, on its line."""

    line: int
    column: int
    text: str


def comments(source: str) -> Iterator[Comment]:
    """The comments of a source text that are for this lint, wherever they stand."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (match := _COMMENT.match(token.string)):
            yield Comment(token.start[0], token.start[1] + 1, match["rest"].strip())


@attrs.frozen
class Spot:
    """A finding with the last line of what it is about: a comment may stand there too."""

    finding: Finding
    last: int


def allowed(
    found: set[Spot], used_by: set[Spot], comments: list[Comment], filename: str, rules: Rules
) -> tuple[list[Finding], list[Finding]]:
    """The findings that no comment allows, and those that comments are."""
    fine: set[tuple[int, str]] = set()
    own: list[Finding] = []

    def wrong(comment: Comment, message: str, instead: str) -> None:
        place: dict[str, Any] = {"file": filename, "line": comment.line, "column": comment.column}
        own.append(Finding(**place, code=OWN, call=comment.text[:60], message=message, instead=instead))

    for comment in comments:
        match = _ALLOW.fullmatch(comment.text)
        if match is None:
            wrong(comment, "the comment does not say what it allows, and why", "# boundary: allow CODE because REASON")
            continue
        for code in re.split(r"[\s,]+", match["codes"]):
            if code not in rules.codes:
                wrong(comment, f"{code} is no code", f"one of {', '.join(sorted(rules.codes))}")
            elif not any(one.finding.code == code and comment.line in (one.finding.line, one.last) for one in used_by):
                wrong(comment, f"{code} is not found on this line", "remove the comment")
            else:
                fine.add((comment.line, code))
    kept = [
        one.finding for one in found if not {(one.finding.line, one.finding.code), (one.last, one.finding.code)} & fine
    ]
    return kept, own
