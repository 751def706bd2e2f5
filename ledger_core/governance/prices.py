"""What models cost: a table of prices, and the price of one answer.

Rules: pure. Prices are US dollars for a million tokens; amounts are billionths of a dollar, whole numbers. A table has
a digest, so that a record says which prices were used; what an answer says of its own cost counts before any table. A
price that is not known is None, never 0. This file ships no prices: they change.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from typing import Any, Final

import attrs

from ledger_core import chain, codec
from ledger_core.errors import BadInput
from ledger_core.run.budget import MOST, USD

_FIELDS: Final = ("input", "output", "cached")
_MEDIA: Final = ("image", "audio", "video", "file", "document")
_MILLION: Final = 1_000_000
_TOKENS_A_MESSAGE: Final = 16
"""What providers add to a message at most."""


@attrs.frozen(kw_only=True)
class Usage:
    """What an answer says that it took; None where it does not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    """Of the input tokens, those that the provider had kept."""
    usd_nano: int | None = None
    """Its cost, if the answer says so itself."""


@attrs.frozen(kw_only=True)
class Prices:
    """A table of prices: by model, or by a pattern of models' names; the first that fits counts."""

    table: tuple[tuple[str, Mapping[str, float]], ...] = ()
    digest: bytes | None = None

    def of(self, model: str) -> Mapping[str, float] | None:
        """The prices of a model; None if they are not known."""
        exact = next((prices for name, prices in self.table if name == model), None)
        return exact or next((prices for name, prices in self.table if fnmatch.fnmatchcase(model, name)), None)

    def cost(self, model: str, usage: Usage) -> int | None:
        """What an answer cost; None if nobody knows."""
        if usage.usd_nano is not None:
            return usage.usd_nano
        prices = self.of(model)
        if prices is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        cached = min(usage.cached_tokens or 0, usage.input_tokens)
        dollars = (
            (usage.input_tokens - cached) * prices["input"]
            + cached * prices.get("cached", prices["input"])
            + usage.output_tokens * prices["output"]
        )
        return min(math.ceil(dollars * USD / _MILLION), MOST)

    def bounds(self, document: Mapping[str, Any]) -> dict[str, int | None]:
        """The most that a request can take: no text has more tokens than bytes; None where nobody knows.

        Nobody knows it of media, nor of an answer whose length the request does not limit.
        """
        if _holds_media(document["messages"]):
            return dict.fromkeys(("input_tokens", "cached_tokens", "output_tokens", "tokens", "usd_nano"))
        said = codec.encode([document["messages"], document["parameters"]])
        sent = len(said) + _TOKENS_A_MESSAGE * (len(document["messages"]) + 1)
        parameters = document["parameters"]
        limits = (parameters.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
        got = next((limit for limit in limits if type(limit) is int and limit >= 0), None)
        answers = parameters.get("n", 1)
        got = None if got is None or type(answers) is not int else got * max(1, answers)
        prices = self.of(document["model"])
        usd = None
        if got is not None and prices is not None:
            dear = max(prices["input"], prices.get("cached", 0))
            usd = min(math.ceil((sent * dear + got * prices["output"]) * USD / _MILLION), MOST)
        return {
            "input_tokens": sent,
            "cached_tokens": sent,
            "output_tokens": got,
            "tokens": None if got is None else sent + got,
            "usd_nano": usd,
        }


NO_PRICES: Final = Prices()


def prices_of(given: Prices | Mapping[str, Any] | None) -> Prices:
    """A table, however it is given: `{"gpt-x*": {"input": 2.5, "output": 10, "cached": 1.25}}`; raises `BadInput`."""
    if given is None:
        return NO_PRICES
    if isinstance(given, Prices):
        return given
    if not isinstance(given, Mapping):
        raise BadInput(f"{given!r:.60} is no table of prices.", hint='Pass {"model": {"input": 2.5, "output": 10}}.')
    rows = []
    for model, prices in given.items():
        fits = isinstance(model, str) and isinstance(prices, Mapping) and {"input", "output"} <= prices.keys()
        if not fits or not all(name in _FIELDS and _is_price(price) for name, price in prices.items()):
            raise BadInput(
                f"The prices of model {model!r:.60} are none.",
                hint='Write {"input": 2.5, "output": 10, "cached": 1.25}: US dollars for a million tokens.',
            )
        rows.append((model, {name: float(price) for name, price in prices.items()}))
    digest = chain.tag(bytes(32), b"prices:" + codec.encode([[name, dict(prices)] for name, prices in rows]))
    return Prices(table=tuple(rows), digest=digest)


def usage_of(response: Any) -> Usage:
    """What an answer says that it took, in the words of the usual providers."""
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return Usage()

    def count(*paths: str) -> int | None:
        for path in paths:
            found: Any = usage
            for name in path.split("."):
                found = found.get(name) if isinstance(found, dict) else None
            if type(found) is int and 0 <= found < 1 << 62:
                return min(found, 1 << 53)
        return None

    sent = count("input_tokens", "prompt_tokens")
    kept = count("cached_tokens", "input_tokens_details.cached_tokens", "prompt_tokens_details.cached_tokens")
    beside = count("cache_read_input_tokens")
    if beside is not None and sent is not None:  # Anthropic counts what it had kept beside the input, not in it
        sent, kept = sent + beside + (count("cache_creation_input_tokens") or 0), beside
    dollars = next((usage[name] for name in ("cost_usd", "cost") if _is_price(usage.get(name))), None)
    return Usage(
        input_tokens=sent,
        output_tokens=count("output_tokens", "completion_tokens"),
        cached_tokens=kept,
        usd_nano=None if dollars is None else round(dollars * USD),
    )


def usage_of_chunks(chunks: list[Any]) -> Usage:
    """What chunks say that the answer took: the last word on each count."""
    found: dict[str, int] = {}
    for chunk in chunks:
        if isinstance(chunk, dict):
            for said in (chunk, chunk.get("message"), chunk.get("response")):
                usage = usage_of(said)
                for name in ("input_tokens", "output_tokens", "cached_tokens", "usd_nano"):
                    if (value := getattr(usage, name)) is not None:
                        found[name] = value
    return Usage(**found)


def _holds_media(value: Any) -> bool:
    """Whether messages have a part that is no text: what it takes does not follow from its length."""
    if isinstance(value, dict):
        kind = value.get("type")
        media = isinstance(kind, str) and any(word in kind for word in _MEDIA)
        return media or any(map(_holds_media, value.values()))
    return isinstance(value, list) and any(map(_holds_media, value))


def _is_price(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e9
