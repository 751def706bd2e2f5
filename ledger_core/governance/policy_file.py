"""Reading a policy from a file: YAML, TOML or JSON by its suffix, with the lines of mistakes where the parser has them.

Rules: the same data in any of the three is the same policy. A key that stands twice is refused, for whoever reads the
file may see the other one. So are aliases, tags, dates and other words that YAML turns into something: a policy is
plain data, and says what it says where it stands. PyYAML is imported when a YAML file is read. This file does not know
what the fields mean.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ledger_core.errors import BadInput
from ledger_core.governance.policy_document import parse_policy
from ledger_core.governance.policy_reading import Place
from ledger_core.governance.policy_rule import Policy

MAX_FILE: Final = 256 * 1024
"""Largest file, bytes: YAML takes about two seconds for it."""
MAX_DEPTH: Final = 50
MAX_DOTS: Final = 200
"""Dots in one line of TOML."""
SUFFIXES: Final = (".yaml", ".yml", ".toml", ".json")
_PLAIN: Final = ("null", "bool", "int", "float", "str")
_QUOTE: Final = "Write it in quotes."

Parsed = tuple[Any, Mapping[Place, int]]
Signature = tuple[int, int, int, int]
"""What changes when a file does: mtime and ctime in ns, size, inode."""


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """The policy of a file; raises `BadInput` with the line of what is wrong, where it is known."""
    raw, _ = read(path)
    return policy_of(raw, path)


def policy_of(raw: bytes, path: str | os.PathLike[str]) -> Policy:
    """The policy that the bytes of a file are; raises `BadInput`."""
    document, lines = parse(raw, path)
    return parse_policy(document, source=str(path), lines=lines)


def read(path: str | os.PathLike[str]) -> tuple[bytes, Signature]:
    """The bytes of a regular file of a bounded size, and its signature before they were read; raises `BadInput`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise BadInput(f"{path} is no file.", hint="Name a policy file, not a directory or a device.")
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(f"{path} cannot be read: {why}.", hint="Name a policy file that can be read.") from None
    if len(raw) > MAX_FILE:
        raise BadInput(
            f"{path} has more than {MAX_FILE:,} bytes, which is the most for a policy.",
            hint="Say the same with patterns, or in several files.",
        )
    return raw, signature(found)


def signature(found: os.stat_result) -> Signature:
    """What tells one state of a file from another."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def parse(raw: bytes, path: str | os.PathLike[str]) -> Parsed:
    """The plain data of a file, and the lines of its places where the parser has them; raises `BadInput`."""
    kind = Path(path).suffix.lower()
    parsers: dict[str, Callable[[str, str], Parsed]] = {".toml": _toml, ".json": _json}
    if kind not in SUFFIXES:
        raise BadInput(f"{path} has no suffix of a policy file.", hint=f"It is one of: {', '.join(SUFFIXES)}.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is no UTF-8 text: byte {error.start:,} is wrong.", hint="Save it as UTF-8.") from None
    try:
        return parsers.get(kind, _yaml)(text, str(path))
    except RecursionError:
        raise BadInput(f"{path} is nested too deep.", hint=f"A policy has at most {MAX_DEPTH} levels.") from None


def _toml(text: str, path: str) -> Parsed:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DOTS:  # of a key of n parts tomllib keeps every prefix: n² in memory
            hint = f"{MAX_DOTS} are the most: break the line."
            raise BadInput(f"{path}, line {number}: this line has {line.count('.'):,} dots.", hint=hint, line=number)
    try:
        return tomllib.loads(text), {}
    except ValueError as error:
        raise BadInput(f"{path} is no TOML: {error}.", hint="Look at the line that it names.") from None


def _json(text: str, path: str) -> Parsed:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r:.60} stands twice in one object")
        return found

    def refused(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refused), {}
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}, line {error.lineno}: this is no JSON: {error.msg}.", line=error.lineno) from None
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {error}.") from None


def _yaml(text: str, path: str) -> Parsed:
    import yaml  # noqa: PLC0415 - of all that read a policy, only YAML files need it

    class Loader(yaml.SafeLoader):
        """Composes nodes, without aliases: each thing stands where it is used, and nothing can be multiplied."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent):
                raise _bad(path, event, "this is an alias (*name).", "Write out what it stands for.")
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise _bad(path, event, "this is nested too deep.", f"{MAX_DEPTH} levels are the most.")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        loader = Loader(text)
        root = loader.get_single_node()
        lines: dict[Place, int] = {}
        return (None if root is None else _plain(loader, root, (), path, lines)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        said = " ".join(str(part) for part in (error.context, error.problem) if part)
        where = f"{path}, line {line}" if line else path
        raise BadInput(f"{where}: this is no YAML: {said}.", line=line) from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is no YAML: {' '.join(str(error).split())[:200]}.") from None


def _plain(loader: Any, node: Any, place: Place, path: str, lines: dict[Place, int]) -> Any:
    """The plain data of a node; raises `BadInput` for what only YAML has."""
    lines.setdefault(place, node.start_mark.line + 1)
    kind = node.tag.rpartition(":")[2]
    if node.id == "sequence" and kind == "seq":
        return [_plain(loader, one, (*place, at), path, lines) for at, one in enumerate(node.value)]
    if node.id == "mapping" and kind == "map":
        found: dict[str, Any] = {}
        for key, value in node.value:
            if key.id != "scalar" or key.tag.rpartition(":")[2] != "str":
                raise _bad(path, key, f"the key {str(key.value)[:60]!r} is no text.", _QUOTE)
            if key.value in found:
                raise _bad(path, key, f"the key {key.value[:60]!r} stands twice in one map.", "Leave one of them out.")
            lines[(*place, key.value)] = key.start_mark.line + 1
            found[key.value] = _plain(loader, value, (*place, key.value), path, lines)
        return found
    if node.id != "scalar" or kind not in _PLAIN or not node.tag.startswith("tag:yaml.org,2002:"):
        raise _bad(path, node, f"this is a {kind[:60]}, which is no plain data.", _QUOTE)
    try:
        value = loader.construct_object(node)
    except ValueError as error:
        raise _bad(path, node, f"this is no {kind}: {error}.", _QUOTE) from None
    if kind in ("int", "float") and (":" in node.value or not math.isfinite(value)):
        raise _bad(path, node, f"{node.value[:60]} is {value} in YAML.", "Write it in quotes, or as a plain number.")
    return value


def _bad(path: str, at: Any, sentence: str, hint: str) -> BadInput:
    line = at.start_mark.line + 1
    return BadInput(f"{path}, line {line}: {sentence}", hint=hint, line=line)
