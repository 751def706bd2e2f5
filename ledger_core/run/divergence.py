"""A divergence as data: where, what was recorded, what was attempted, field by field, and the usual cause.

Rules: pure. A divergence is a value; who meets one decides what to do. Codes are a contract (`contracts/DIVERGENCE.md`)
and never change their meaning. This file does not know how effects are matched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import attrs

from ledger_core.errors import Diverged


class Kind(NamedTuple):
    """One numbered kind of divergence, in words for the person who meets it."""

    code: str
    name: str
    cause: str


MISSING: Final = Kind(
    "AL101", "missing effect", "The code no longer does something that it did: a dropped call, or a branch not taken."
)
EXTRA: Final = Kind(
    "AL102", "extra effect", "The code does something that it did not do: an added call, or another branch taken."
)
OTHER_KIND: Final = Kind(
    "AL103", "other kind", "At this place the code did another kind of thing: calls changed order."
)
OTHER_NAME: Final = Kind(
    "AL104", "other name", "At this place the code called something else: a swapped or renamed call."
)
OTHER_REQUEST: Final = Kind(
    "AL105",
    "other request",
    "The same call with other arguments: a changed prompt or argument, or a value that differs from run to run "
    "(a clock, a random number, the order of a set) and was not taken from the context.",
)
OTHER_ORDER: Final = Kind(
    "AL106", "other order", "The code does the same things in another order: calls were swapped or moved."
)
OTHER_STATE: Final = Kind("AL107", "other state", "The code writes something else to its state.")
OTHER_OUTPUT: Final = Kind("AL108", "other output", "The code returns something else, or ends in another way.")
OTHER_POLICY: Final = Kind(
    "AL109", "other policy decision", "The policy decides otherwise: its text changed, or what it is asked about."
)
OTHER_COST: Final = Kind("AL110", "other cost", "The same call cost something else: another price, or other usage.")
OTHER_VERSION: Final = Kind(
    "AL111", "other tool version", "The tool declares another version than the one that was called."
)
KINDS: Final = (
    MISSING,
    EXTRA,
    OTHER_KIND,
    OTHER_NAME,
    OTHER_REQUEST,
    OTHER_ORDER,
    OTHER_STATE,
    OTHER_OUTPUT,
    OTHER_POLICY,
    OTHER_COST,
    OTHER_VERSION,
)
_ABSENT: Final = "<absent>"
_LONGEST: Final = 200


@attrs.frozen(kw_only=True)
class Difference:
    """One place in which two documents differ; `<absent>` where there is nothing."""

    at: str
    recorded: Any
    attempted: Any


@attrs.frozen(kw_only=True)
class Divergence:
    """What was recorded at an effect, and what the code attempted there."""

    kind: Kind
    path: str
    recorded: str
    """The recorded effect in words; empty if there was none."""
    attempted: str
    """The attempted effect in words; empty if there was none."""
    seq: int | None = None
    """Seq of the recorded event, in the log."""
    event: int | None = None
    """Number of the recorded event in its run, from 1."""
    hash: str | None = None
    """Hash of the recorded event, hex."""
    differences: tuple[Difference, ...] = ()
    line: str | None = None
    """`file:line` of the agent's code that attempted it; of a missing effect, of what the code did in its place."""
    recorded_code: str | None = None
    """Digest of the recorded code, hex."""
    attempted_code: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The value as events and `--json` hold it."""
        return {
            "code": self.kind.code,
            "kind": self.kind.name,
            "path": self.path,
            "recorded": self.recorded,
            "attempted": self.attempted,
            "seq": self.seq,
            "event": self.event,
            "hash": self.hash,
            "line": self.line,
            "recorded_code": self.recorded_code,
            "attempted_code": self.attempted_code,
            "cause": self.kind.cause,
            "differences": [attrs.asdict(difference) for difference in self.differences],
        }

    def sentence(self) -> str:
        """What a person reads first."""
        was = self.recorded or "nothing"
        now = self.attempted or "nothing"
        where = f" ({self.line})" if self.line else ""
        if was == now:
            now = "the same with another request" if self.kind is OTHER_REQUEST else "another one"
        return f"{self.kind.code} {self.kind.name} at effect {self.path}: recorded {was}, attempted {now}{where}."

    def error(self) -> Diverged:
        """The error that carries it to a person."""
        shown = "".join(
            f"\n  {one.at}: recorded {_short(one.recorded)}, attempted {_short(one.attempted)}"
            for one in self.differences[:10]
        )
        return Diverged(self.sentence() + shown, hint="\n" + self.kind.cause, divergence=self, **self.as_json())


def differences(recorded: Any, attempted: Any, at: str = "$") -> Iterator[Difference]:
    """The places in which two documents differ, in order, named as in JSONPath."""
    if type(recorded) is not type(attempted):
        yield Difference(at=at, recorded=recorded, attempted=attempted)
    elif isinstance(recorded, dict):
        for key in [*recorded, *(key for key in attempted if key not in recorded)]:
            if key not in attempted:
                yield Difference(at=f"{at}.{key}", recorded=recorded[key], attempted=_ABSENT)
            elif key not in recorded:
                yield Difference(at=f"{at}.{key}", recorded=_ABSENT, attempted=attempted[key])
            else:
                yield from differences(recorded[key], attempted[key], f"{at}.{key}")
    elif isinstance(recorded, list):
        for place in range(max(len(recorded), len(attempted))):
            if place >= len(attempted):
                yield Difference(at=f"{at}[{place}]", recorded=recorded[place], attempted=_ABSENT)
            elif place >= len(recorded):
                yield Difference(at=f"{at}[{place}]", recorded=_ABSENT, attempted=attempted[place])
            else:
                yield from differences(recorded[place], attempted[place], f"{at}[{place}]")
    elif recorded != attempted:
        yield Difference(at=at, recorded=recorded, attempted=attempted)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
