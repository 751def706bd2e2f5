"""The configuration of sandboxes, read from a file or a mapping: which executors, which limits, what for which tools.

    executors: {process: {enabled: false}}     # all are enabled that are not named
    default: bubblewrap                        # what a policy means that names none
    limits: {time: 30, memory: 536870912}      # what a policy gets that does not say: time, memory, processes, …
    hide: [/srv/secrets, ~/.vault]             # hidden from every sandbox, beside what always is
    tools:
      "shell.*": {network: false, time: 10}    # by tool's name, with * and ?: makes tighter what a tool asks for

Rules: pure but for reading the file; YAML, TOML or JSON by its suffix. A field that is not known is refused, with its
line where the parser has it. This file does not know whether an executor is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from ledger_core.errors import BadInput
from ledger_core.governance.policy_reading import Place, Reading, shown, spelled
from ledger_core.governance.sandbox.policy import FIELDS, LIMITS, SandboxPolicy, policy_of

LATER: Final = ("docker", "kubernetes", "e2b")
"""Executors that are known by name, and come as adapters."""
BUILT_IN: Final = ("bubblewrap", "process")
DEFAULT: Final = "bubblewrap"
_TOP: Final = ("executors", "default", "limits", "hide", "tools")


@attrs.frozen(kw_only=True)
class Configuration:
    """What a configuration says."""

    default: str = DEFAULT
    disabled: frozenset[str] = frozenset()
    limits: Mapping[str, Any] = attrs.field(factory=dict)
    hide: tuple[str, ...] = ()
    tools: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Patterns of names, and rules for what they match, in the order of the file."""


def read_configuration(given: str | os.PathLike[str] | Mapping[str, Any], known: Iterable[str]) -> Configuration:
    """The configuration of a file, or of a mapping; `known` names the executors. Raises `BadInput`."""
    if isinstance(given, Mapping):
        return _configuration(Reading(), _plain(given), known)
    if not isinstance(given, (str, os.PathLike)):
        raise BadInput(f"{given!r:.100} is no configuration of sandboxes.", hint="Name a file, or pass a mapping.")
    from ledger_core.governance import policy_file  # noqa: PLC0415 - parsers are imported where a file is read

    raw, _ = policy_file.read(given)
    document, lines = policy_file.parse(raw, given)
    return _configuration(Reading(source=os.fspath(given), lines=lines), {} if document is None else document, known)


def _configuration(reading: Reading, document: Any, known: Iterable[str]) -> Configuration:
    names = tuple(dict.fromkeys([*BUILT_IN, *known, *LATER]))
    top = reading.fields((), document, _TOP, "a configuration of sandboxes")
    disabled = []
    for name, said in reading.fields(("executors",), top.get("executors", {}), names, "the executors").items():
        place = ("executors", name)
        enabled = reading.fields(place, said, ("enabled",), "an executor").get("enabled", True)
        if type(enabled) is not bool:
            raise reading.bad((*place, "enabled"), f"{spelled((*place, 'enabled'))} is {shown(enabled)}.", _YES_OR_NO)
        disabled += [] if enabled else [name]
    limits = reading.fields(("limits",), top.get("limits", {}), tuple(LIMITS), "the limits")
    _checked(reading, ("limits",), limits)
    rules = top.get("tools", {})
    if type(rules) is not dict:
        raise reading.bad(("tools",), f"tools is {shown(rules)}.", "It is a map: patterns of names, and rules.")
    for pattern, rule in rules.items():
        place = ("tools", pattern)
        if not pattern or len(pattern) > 256:
            raise reading.bad(place, f"A pattern of {len(pattern)} characters matches no tool.")
        _checked(reading, place, reading.fields(place, rule, FIELDS, "a sandbox policy"))
    return Configuration(
        default=reading.one_of(("default",), top.get("default", DEFAULT), names),
        disabled=frozenset(disabled),
        limits=limits,
        hide=_hidden(reading, top.get("hide", [])),
        tools=tuple(rules.items()),
    )


_YES_OR_NO: Final = "It is true or false."


def _checked(reading: Reading, place: Place, fields: dict[str, Any]) -> SandboxPolicy:
    """A policy of these fields; each is checked alone first, so that the error has its line."""
    for name, value in fields.items():
        try:
            policy_of({name: value})
        except BadInput as error:
            raise reading.bad((*place, name), f"{spelled((*place, name))}: {error.sentence}", error.hint) from None
    try:
        return policy_of(fields)
    except BadInput as error:
        raise reading.bad(place, f"{spelled(place)}: {error.sentence}", error.hint) from None


def _hidden(reading: Reading, value: Any) -> tuple[str, ...]:
    if type(value) is not list:
        raise reading.bad(("hide",), f"hide is {shown(value)}.", "It is a list of paths.")
    found = []
    for number, path in enumerate(value):
        full = os.path.expanduser(path) if type(path) is str else path
        if type(full) is not str or not full.startswith("/") or "\0" in full:
            where = ("hide", number)
            raise reading.bad(where, f"{spelled(where)} is {shown(path)}.", "It is a path that begins with / or ~.")
        found.append(full)
    return tuple(found)


def _plain(value: Any) -> Any:
    """The same in maps and lists: a configuration that was written in Python may have others."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
