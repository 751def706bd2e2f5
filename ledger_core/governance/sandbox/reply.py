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

MOST_VALUES: Final = 1_000_000
"""Values in a result, keys of maps among them: an empty list is one byte on its way, and eighty in memory."""
_SIZE: Final = 8
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
        """Whether nothing more is read: what follows an answer is not looked at."""
        return bool(self.wrong or (self.kind and len(self._data) == self._size))

    def feed(self, data: bytes) -> None:
        """Take what came."""
        if self.finished:
            return
        self._data += data
        while self._data and not (self.kind or self.wrong):
            self._mark(chr(self._data[0]))
        if self.kind and self._size is None and len(self._data) >= _SIZE:
            self._size = int.from_bytes(self._data[:_SIZE], "big")
            del self._data[:_SIZE]
            most = self.most if self.kind == "=" else _LONGEST_REPORT
            if self._size > most:
                self.wrong = f"it announced {self._size:,} bytes, and may say {most:,}"
        if self.wrong:
            self._data.clear()
        elif self._size is not None:
            del self._data[self._size :]

    def _mark(self, mark: str) -> None:
        """Take a mark, if it may stand here."""
        del self._data[:1]
        if mark == "R" and not self.ready:
            self.ready = True
        elif mark == "B" and self.ready and not self.began:
            self.began = True
        elif self.ready and (mark == "M" or mark in ("=!O" if self.began else "?")):
            self.kind = mark
            self._size = 0 if mark in ("M", "O") else None
        else:
            self.wrong = "what it wrote is no answer"

    def value(self) -> Any:
        """The result of a reply of the kind `=`; raises `Damaged`."""
        assert self.kind == "="
        if not _few(self._data, MOST_VALUES):
            raise Damaged(f"It has more than {MOST_VALUES:,} values.")
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


_FIXED: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {0xCC + n: 1 << n % 4 for n in range(8)}
_COUNTED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_GROUPS: Final = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


def _few(data: bytes | bytearray, most: int) -> bool:
    """Whether MessagePack holds no more than so many values; what is none of it is left to the codec to refuse."""
    at = found = 0
    end = len(data)
    if end <= most:
        return True
    while at < end and found <= most:
        kind = data[at]
        at, found = at + 1, found + 1
        if kind < 0xA0 or kind >= 0xE0:
            continue
        if kind < 0xC0:
            at += kind & 0x1F
        elif kind in _COUNTED:
            size = _COUNTED[kind]
            at += size + int.from_bytes(data[at : at + size], "big")
        else:
            at += _FIXED.get(kind, 0) + _GROUPS.get(kind, 0)
    return found <= most
