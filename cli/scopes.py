"""Options that say which runs a command is about: RUN, --session, --since, --until.

Rules: nothing given is the whole ledger. A time is a date, a date with a time, or how long ago; one without a zone is
local. This file opens nothing: the command hands over its log.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import attrs
import click

from ledger_core.clock import NS
from ledger_core.errors import BadInput, NotFound
from ledger_core.log.log import Log
from projections import runs
from projections.scope import Scope

_AGO: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|min|m|h|d|w)(?: ago)?")
_SECONDS: Final = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen(kw_only=True)
class Asked:
    """What somebody wrote."""

    run_name: str | None = None
    session: str | None = None
    since: str | None = None
    until: str | None = None

    def scope(self, log: Log) -> Scope:
        """The scope that is meant, of this ledger; raises `BadInput`, `NotFound`."""
        if self.run_name is not None:
            if (self.session, self.since, self.until) != (None, None, None):
                raise BadInput("A run is named, and others besides.", hint="Leave RUN out, or the options.")
            return Scope(run=runs.resolve(log, self.run_name))
        if self.session is not None and log.stream_head(f"session/{self.session}") is None:
            raise NotFound(f"There is no session {self.session!r:.100}.", hint="`agentledger sessions` lists them.")
        since, until = (None if text is None else time_of(text) for text in (self.since, self.until))
        if since is not None and until is not None and until <= since:
            raise BadInput(f"{self.until!r} is not after {self.since!r}.", hint="--since is the earlier one.")
        return Scope(session=self.session, since_ns=since, until_ns=until)


def scoped(function: F) -> F:
    """Give a command `asked`, of RUN, --session, --since and --until."""

    @click.argument("run_name", metavar="[RUN]", required=False)
    @click.option("--session", help="Only runs of this session.")
    @click.option("--since", metavar="WHEN", help="Only runs created from then on: 2026-11-23, 2026-11-23T10:00Z, 3d.")
    @click.option("--until", metavar="WHEN", help="Only runs created before then.")
    @functools.wraps(function)
    def command(
        *args: Any, run_name: str | None, session: str | None, since: str | None, until: str | None, **options: Any
    ) -> Any:
        return function(*args, asked=Asked(run_name=run_name, session=session, since=since, until=until), **options)

    return command  # type: ignore[return-value]  # click has wrapped it


def time_of(text: str, now_ns: int | None = None) -> int:
    """The time in ns that a person means; raises `BadInput`."""
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        now_ns = time.time_ns() if now_ns is None else now_ns
        return now_ns - int(float(ago[1]) * _SECONDS[ago[2]] * NS)
    try:
        found = datetime.fromisoformat(text.strip())
        return int(found.timestamp()) * NS + found.microsecond * 1_000
    except (ValueError, OverflowError, OSError):
        hint = "Write a date (2026-11-23), a time (2026-11-23T10:30, 2026-11-23T10:30+01:00), or how long ago (2h, 3d)."
        raise BadInput(f"{text!r:.60} is no time.", hint=hint) from None
