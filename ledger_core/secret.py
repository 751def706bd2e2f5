"""Secrets: values that may be used, and that nothing may keep: no event, payload, artifact, report, log line or error.

Rules: a `Secret` is known to this process from the moment it is made until it ends. Whatever is to be recorded is
cleaned first: every form of a known value (as it is, escaped for JSON or a URL, in base64 at any offset, in hex) and
every text of a named pattern gives way to its name. Tags and digests are made of what was cleaned, so they reveal
nothing. A clean document is searched in its encoded bytes and not walked: what nobody hides costs a few searches.

This file does not know where values come from, nor where they go.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

from ledger_core import codec
from ledger_core.errors import BadInput, NotStorable

SHORTEST: Final = 6
"""Letters that a secret has at least: what is shorter is found everywhere."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MARKED: Final = re.compile(r"\[secret:[A-Za-z0-9_.:-]{1,64}\]")
PATTERNS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "model-provider-key": (("sk-",), r"\bsk-(?:(?:ant|proj|svcacct|admin)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})"),
    "github-token": (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    "github-fine-grained-token": (("github_pat_",), r"\bgithub_pat_[A-Za-z0-9_]{50,}"),
    "aws-access-key": (("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "google-api-key": (("AIza",), r"\bAIza[0-9A-Za-z_-]{35}"),
    "slack-token": (("xox",), r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "private-key": (
        ("-----BEGIN",),
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    ),
}
"""Patterns that are looked for everywhere: what a match begins with, and its regular expression."""


class Secret:
    """A value that is used and never kept: `Secret("stripe", os.environ["STRIPE_KEY"])`, passed as an argument.

    A tool is given the value itself; what is recorded, compared and shown is its name. Raises `BadInput` for a value
    that is too short to be told from other text.
    """

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInput("A secret's name has 1 to 64 of: letters, digits, and _ . : -.", hint="Name what it is for.")
        if not isinstance(value, str) or len(value) < SHORTEST:
            raise BadInput(
                f"The secret {name} is no text of at least {SHORTEST} letters.",
                hint="What is shorter would be found in all kinds of text; do not pass it to the runtime at all.",
            )
        self.name = name
        self._value = value
        VAULT.add(name, value)

    @classmethod
    def from_env(cls, variable: str) -> Secret:
        """The secret in an environment variable; raises `BadInput` if it is not set."""
        if not (value := os.environ.get(variable)):
            raise BadInput(f"The environment variable {variable} is not set.", hint="Set it where the worker starts.")
        return cls(variable, value)

    def reveal(self) -> str:
        """The value."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __str__(self) -> str:
        return marker(self.name)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} is not copied or sent elsewhere; make it again where it is used")


class Vault:
    """The secrets that a process knows, and the patterns it looks for."""

    def __init__(self, patterns: Mapping[str, tuple[tuple[str, ...], str]] = PATTERNS) -> None:
        self._mutex = threading.Lock()
        self._forms: dict[bytes, bytes] = {}
        """Every form of every secret, and what stands in its place."""
        self._patterns: dict[str, tuple[tuple[bytes, ...], re.Pattern[bytes]]] = {}
        self._search: tuple[tuple[bytes, ...], re.Pattern[bytes] | None] = ((), None)
        for name, (begins, expression) in patterns.items():
            self._patterns[name] = (tuple(one.encode() for one in begins), re.compile(expression.encode()))
        self._needles: tuple[bytes, ...] = ()
        self._sharpen()

    def add(self, name: str, value: str) -> None:
        """Know one more secret."""
        with self._mutex:
            for form in forms(value):
                self._forms[form] = marker(name).encode()
            found = sorted(self._forms, key=len, reverse=True)
            self._search = (tuple(found), re.compile(b"|".join(map(re.escape, found))))
            self._sharpen()

    def look_for(self, name: str, expression: str) -> None:
        """Look for a pattern of the user's, by its name; raises `BadInput`."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInput("A pattern's name has 1 to 64 of: letters, digits, and _ . : -.")
        try:
            pattern = re.compile(expression.encode())
        except (re.error, AttributeError) as error:
            raise BadInput(f"The pattern {name} is no regular expression: {error}.") from None
        if pattern.search(b""):
            raise BadInput(f"The pattern {name} finds the empty text.", hint="Let it begin with what it looks for.")
        with self._mutex:
            self._patterns[name] = ((b"",), pattern)
            self._sharpen()

    def _sharpen(self) -> None:
        """What bytes have to hold at least for anything to be hidden in them."""
        self._needles = (*self._search[0], *(begin for begins, _ in self._patterns.values() for begin in begins))

    @property
    def armed(self) -> bool:
        """Whether there is any secret."""
        return bool(self._forms)

    def holds(self, data: bytes) -> bool:
        """Whether bytes hold a known secret; patterns are not looked for."""
        return any(form in data for form in self._search[0])

    def clean(self, value: Any) -> Any:
        """A plain value without what is to be hidden; the same object where there is nothing."""
        kind = type(value)
        if kind in (type(None), bool, int, float):
            return value
        data = value if kind is bytes else value.encode(errors="replace") if kind is str else codec.encode(value)
        return self._walk(value) if self.suspects(data) else value

    def clean_text(self, text: str) -> str:
        """A text without what is to be hidden."""
        return str(self.clean(text))

    def suspects(self, data: bytes) -> bool:
        """Whether bytes hold anything that is to be hidden, in the encoding of a document or as they are."""
        for needle in self._needles:  # no generator: this is asked of every value that is recorded
            if needle in data:
                return self.holds(data) or any(_found(*one, data) for one in list(self._patterns.values()))
        return False

    def _walk(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._replaced(value.encode(errors="replace")).decode(errors="replace")
        if kind is bytes:
            return self._replaced(value)
        if kind is list:
            return [self._walk(item) for item in value]
        if kind is dict:
            return {self._walk(key): self._walk(item) for key, item in value.items()}
        return value

    def _replaced(self, data: bytes) -> bytes:
        _, search = self._search
        if search is not None:
            data = search.sub(lambda found: self._forms[found.group()], data)
        for name, (begins, pattern) in list(self._patterns.items()):
            if any(begin in data for begin in begins):
                data = pattern.sub(marker(name).encode(), data)
        return data


def _found(begins: tuple[bytes, ...], pattern: re.Pattern[bytes], data: bytes) -> bool:
    return any(begin in data for begin in begins) and pattern.search(data) is not None


def marker(name: str) -> str:
    """What stands where a secret was."""
    return f"[secret:{name}]"


def plain(value: Any) -> Any:
    """What is recorded of a value, and what code gets back of it: plain data, without secrets; raises `NotStorable`."""
    return both(value)[1]


def hides(value: Any) -> bool:
    """Whether a recorded value has something hidden in it."""
    return _MARKED.search(codec.encode(value).decode(errors="replace")) is not None


def both(value: Any) -> tuple[Any, Any]:
    """A value as whoever is called is given it, and as it is recorded; raises `NotStorable`."""
    if value is None or type(value) is bool:
        return value, value
    try:
        data = codec.stored(value)
    except NotStorable:  # only what is no plain data can hold a Secret
        data = codec.stored(_revealed(value))
    raw = codec.decode_trusted(data)
    return raw, VAULT._walk(raw) if VAULT.suspects(data) else raw


def forms(value: str) -> Iterator[bytes]:
    """The forms in which a secret may stand in other text, each long enough to be meant."""
    raw = value.encode()
    seen = {raw, json.dumps(value)[1:-1].encode(), json.dumps(value, ensure_ascii=False)[1:-1].encode()}
    seen |= {quote(value, safe="").encode(), quote(value).encode(), quote_plus(value).encode()}
    seen |= {raw.hex().encode(), raw.hex().upper().encode(), repr(raw)[2:-1].encode()}
    seen |= {repr(value)[1:-1].encode(errors="replace"), ascii(value)[1:-1].encode()}
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + raw)
        first = (0, 2, 3)[offset]  # letters that the bytes before it have a part in
        last = len(text) - (0, 3, 2)[(offset + len(raw)) % 3]  # and those that padding, or what follows, has
        seen |= {text[first:last], text[first:last].translate(bytes.maketrans(b"+/", b"-_"))}
    return (form for form in sorted(seen) if len(form) >= SHORTEST)


class LogFilter(logging.Filter):
    """Cleans log lines, and the errors that they carry."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Put the cleaned message into the record; it is always logged."""
        try:
            message = record.getMessage()
        except Exception:  # a broken log call is the handler's to report
            return True
        record.msg, record.args = VAULT.clean_text(message), None
        if record.exc_info:
            text = logging.Formatter().formatException(record.exc_info)
            record.exc_text, record.exc_info = VAULT.clean_text(text), None
        return True


def _revealed(value: Any) -> Any:
    """A value with every `Secret` in it replaced by what it holds."""
    kind = type(value)
    if kind is Secret:
        return value.reveal()
    if kind is dict:
        return {key: _revealed(item) for key, item in value.items()}
    return [_revealed(item) for item in value] if kind is list else value


VAULT: Final = Vault()
"""What this process knows. One for all its ledgers: a secret of one is none of the others' business."""
logging.getLogger("agentledger").addFilter(LogFilter())
