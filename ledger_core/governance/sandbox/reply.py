"""What a sandbox says, read without trust: the tool may have written every byte of it.

Rules: pure. Bytes go in as they come; the first that cannot be right ends it, and nothing is kept beyond the limit.
What is made of a reply is a result or a failure of the tool: nobody else's. The protocol stands in `inside`. This file
does not know pipes or processes.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from ledger_core import codec
from ledger_core.errors import Damaged

_LONGEST_REPORT: Final = 256 << 10
_TEXTS: Final = {"error_type": 200, "message": 10_000 * 10}


@attrs.frozen(kw_only=True)
class Raised:
    """An exception of the other side, in plain data."""

    error_type: str
    message: str
    types: tuple[str, ...]
    no_effect: bool
    unavailable: bool
    errno: int


@attrs.define
class Reply:
    """A reply under way."""

    most: int
    """Bytes: the largest result."""
    ready: bool = False
    began: bool = False
    """The tool's function was called, as the other side says."""
    kind: str = ""
    """How it ended: `=`, `!`, `?`, `M` or `O`; empty as long as it has not."""
    wrong: str = ""
    """Why it is no reply."""
    _data: bytearray = attrs.field(factory=bytearray, repr=False)
    _size: int | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more is read."""
        return bool(self.wrong or (self.kind and (self._size is None or len(self._data) == self._size)))

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._data += data
        while self._data and not self.kind and not self.wrong:
            self._mark(chr(self._data[0]))
        if self.kind in ("=", "!", "?") and self._size is None and len(self._data) >= 8 and not self.wrong:
            size = int.from_bytes(self._data[:8], "big")
            del self._data[:8]
            if size > (self.most if self.kind == "=" else _LONGEST_REPORT):
                self.wrong = f"it announced {size:,} bytes, more than the {self.most:,} that a result may have"
            self._size = size
        if self.kind and not self.wrong and len(self._data) > (8 if self._size is None else self._size):
            self.wrong = "it said more than its answer"
        if self.wrong:
            self._data.clear()

    def _mark(self, mark: str) -> None:
        del self._data[:1]
        if mark == "R" and not self.ready:
            self.ready = True
        elif mark == "B" and self.ready and not self.began:
            self.began = True
        elif mark in ("=", "!", "M", "O") and self.began:
            self.kind = mark
        elif mark == "?" and self.ready and not self.began:
            self.kind = mark
        else:
            self.wrong = "what it wrote is no answer"
        if self.kind in ("M", "O"):
            self._size = 0

    def value(self) -> Any:
        """The result of a reply of the kind `=`; raises `Damaged`."""
        assert self.kind == "="
        return codec.decode(bytes(self._data))

    def raised(self) -> Raised:
        """The exception of a reply of the kinds `!` and `?`; raises `Damaged`."""
        assert self.kind in ("!", "?")
        said = codec.decode(bytes(self._data))
        names = [field.name for field in attrs.fields(Raised)]
        if type(said) is not dict or list(said) != names:
            raise Damaged("A report of an exception has other fields than one has.")
        texts = [said["error_type"], said["message"]]
        types = said["types"]
        fine = (
            all(type(text) is str for text in texts)
            and len(texts[0]) <= _TEXTS["error_type"]
            and len(texts[1]) <= _TEXTS["message"]
            and type(types) is list
            and len(types) <= 64
            and all(type(one) is str and len(one) <= _TEXTS["error_type"] for one in types)
            and all(type(said[name]) is bool for name in ("no_effect", "unavailable"))
            and type(said["errno"]) is int
        )
        if not fine:
            raise Damaged("A report of an exception has values that none has.")
        return Raised(**{**said, "types": tuple(types)})
