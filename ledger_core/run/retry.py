"""When a failed attempt is made again, and when: policies as values, pauses as a pure function of seed and attempt.

Rules: pure. A policy is checked when it is made and stands in the run's first event, so that every worker follows the
same. Jitter is drawn from the run's seed: two workers that look at the same failure schedule the same time. This file
does not know clocks, steps or tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from ledger_core import chain
from ledger_core.clock import NS
from ledger_core.errors import BadInput

_MOST_ATTEMPTS: Final = 1_000_000
_LONGEST: Final = 366 * 86_400.0


def _names(names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise BadInput(f"{names!r:.100} is no list of names.", hint='Write retry_on=("TimeoutError", …).')
    found = tuple(name.__name__ if isinstance(name, type) else name for name in names)
    if not all(isinstance(name, str) and name for name in found):
        raise BadInput(f"{names!r:.100} has something else than names of errors in it.")
    return found


def _whole(value: Any, name: str, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise BadInput(f"A retry policy's {name} is {value!r:.50}.", hint=f"It is a whole number from {least} up.")


def _number(value: Any, name: str, least: float, most: float) -> None:
    if type(value) not in (int, float) or not least <= value <= most:
        raise BadInput(f"A retry policy's {name} is {value!r:.50}.", hint=f"It is a number from {least} to {most:g}.")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often, and how fast, something is tried again after an error.

    `retry_on` and `stop_on` name error types (`TimeoutError`) or categories (`retryable`, `timeout`, `tool`, `model`,
    `unhandled`; `*` is every one); what `stop_on` names is not tried again. Times are in seconds. Raises `BadInput`.
    """

    max_attempts: int = 3
    """Attempts in all, the first one included."""
    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 60.0
    jitter: float = 0.5
    """Share of a pause that is drawn at random: 0 for none, 1 for anything between nothing and the whole."""
    retry_on: tuple[str, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_names))
    """Left out: what an agent says is retryable; of a tool, every error."""
    stop_on: tuple[str, ...] = attrs.field(default=("NonRetryableAgentError",), converter=_names)
    fresh: bool = False
    """A new attempt of a step begins without its journal. Outside writes that succeeded are not made again."""
    max_losses: int = 5
    """Workers lost in a row, without any progress between, after which a run is parked for a person."""

    def __attrs_post_init__(self) -> None:
        _whole(self.max_attempts, "max_attempts", 1, _MOST_ATTEMPTS)
        _whole(self.max_losses, "max_losses", 1, _MOST_ATTEMPTS)
        _number(self.initial, "initial", 0, _LONGEST)
        _number(self.maximum, "maximum", 0, _LONGEST)
        _number(self.factor, "factor", 1, 1000)
        _number(self.jitter, "jitter", 0, 1)
        if not isinstance(self.fresh, bool):
            raise BadInput(f"A retry policy's fresh is {self.fresh!r:.50}.", hint="It is True or False.")

    def again(
        self, attempt: int, category: str, error_types: Iterable[str], *, default: tuple[str, ...] = ("retryable",)
    ) -> bool:
        """Whether attempt number `attempt`, which ended so, is followed by another; `default` is what `retry_on` is."""
        names = {category, *error_types}
        retry_on = default if self.retry_on is None else self.retry_on
        wanted = "*" in retry_on or not names.isdisjoint(retry_on)
        return attempt < self.max_attempts and wanted and names.isdisjoint(self.stop_on)

    def pause_ns(self, attempt: int, seed: bytes, place: str) -> int:
        """The pause behind attempt number `attempt`, in ns: the same for the same run and place."""
        exponent = min(attempt - 1, 1_000)
        try:
            whole = min(self.initial * self.factor**exponent, self.maximum)
        except OverflowError:
            whole = self.maximum
        drawn = int.from_bytes(chain.tag(seed, f"retry:{place}:{attempt}".encode())[:7], "big") / (1 << 56)
        return int(whole * (1 - self.jitter * drawn) * NS)

    def as_json(self) -> dict[str, Any]:
        """The policy as facts hold it."""
        values = attrs.asdict(self)
        retry_on = None if self.retry_on is None else list(self.retry_on)
        return values | {"retry_on": retry_on, "stop_on": list(self.stop_on)}


DEFAULT: Final = RetryPolicy()
OUTAGE: Final = RetryPolicy(max_attempts=_MOST_ATTEMPTS, initial=1.0, maximum=60.0)
"""How an outage is waited for: it is nobody's failure, and is never given up."""


def policy_of(given: RetryPolicy | Mapping[str, Any] | None) -> RetryPolicy:
    """A policy, however it is given; raises `BadInput` for what is none."""
    if given is None:
        return DEFAULT
    if isinstance(given, RetryPolicy):
        return given
    if not isinstance(given, Mapping):
        raise BadInput(f"{given!r:.100} is no retry policy.", hint="Pass RetryPolicy(max_attempts=…), or a dict of it.")
    known = {field.name for field in attrs.fields(RetryPolicy)}
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise BadInput(f"A retry policy has no {', '.join(unknown)}.", hint="It has: " + ", ".join(sorted(known)) + ".")
    return RetryPolicy(**given)
