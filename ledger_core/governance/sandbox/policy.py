"""What a tool is allowed in its sandbox: a value that is checked when it is made, and can be made tighter.

Rules: pure. A limit is a number in seconds, bytes or processes. Paths are absolute and plain (no `..`, no `.`), so that
two that name one place are equal; symbolic links are resolved where a sandbox is made, not here. `tightened` never
allows what either of its two policies forbids. This file does not know executors, files or processes.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import attrs

from ledger_core import chain, codec
from ledger_core.errors import BadInput
from ledger_core.ids import Hash

_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LONGEST_VALUE: Final = 64 << 10
_MOST: Final = 1024
"""Paths, or variables, in one policy."""
LIMITS: Final = {
    "time": (0.05, 7 * 86_400.0, "seconds"),
    "memory": (64 << 20, 1 << 46, "bytes"),
    "processes": (1, 1 << 20, "processes and threads"),
    "file_size": (0, 1 << 46, "bytes"),
    "output": (1 << 10, codec.MAX_BYTES, "bytes"),
}
"""The numbers of a policy: the least, the most, and what they count."""


def _paths(given: Any) -> tuple[str, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise BadInput(f"{given!r:.100} is no list of paths.", hint='Write read=("/data", …).')
    found = []
    for path in given:
        text = os.fspath(path) if isinstance(path, os.PathLike) else path
        if type(text) is not str or not text.startswith("/") or "\0" in text or len(text) > 4096:
            raise BadInput(f"{text!r:.100} is no absolute path.", hint="A sandbox's paths begin with /.")
        if ".." in text.split("/"):
            raise BadInput(f"The path {text!r:.100} goes upwards.", hint="Write the path that it leads to.")
        found.append("/" + os.path.normpath(text).lstrip("/"))
    if len(found) > _MOST:
        raise BadInput(f"A sandbox has {len(found):,} paths; it may have {_MOST:,}.", hint="Name a directory above.")
    return tuple(sorted(set(found)))


def _passed(given: Any) -> tuple[str, ...]:
    return tuple(sorted(set(_names(given))))


def _variables(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or len(given) > _MOST:
        raise BadInput(f"{given!r:.100} is no environment.", hint='Write environment={"NAME": "value"}.')
    for name, value in given.items():
        if type(value) is not str or "\0" in value or len(value) > _LONGEST_VALUE:
            raise BadInput(f"The environment's {name!r:.60} is no text of at most {_LONGEST_VALUE:,} characters.")
    return dict(zip(_names(given), given.values(), strict=True)) if given else {}


def _names(given: Any) -> tuple[str, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise BadInput(f"{given!r:.100} is no list of names of variables.", hint='Write pass_environment=("TZ", …).')
    names = tuple(given)
    for name in names:
        if type(name) is not str or not _VARIABLE.fullmatch(name):
            raise BadInput(f"{name!r:.60} cannot be the name of an environment variable.")
    return names


@attrs.frozen(kw_only=True)
class SandboxPolicy:
    """What a tool is allowed. Raises `BadInput` for what cannot be meant."""

    executor: str | None = None
    """Name of an executor; None for the configuration's default."""
    network: bool = False
    read: tuple[str, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(_paths))
    """None: the whole root may be read. Else only these, and what Python itself needs."""
    write: tuple[str, ...] = attrs.field(default=(), converter=_paths)
    """What may be written as well; a private /tmp always may."""
    time: float = 60.0
    """Seconds of wall time."""
    memory: int = 1 << 30
    """Bytes."""
    processes: int = 64
    """Processes and threads at once."""
    file_size: int = 1 << 30
    """Bytes: the largest file that it may write."""
    output: int = 16 << 20
    """Bytes: the largest result, and the most that it may print."""
    environment: Mapping[str, str] = attrs.field(factory=dict, converter=_variables, hash=False)
    pass_environment: tuple[str, ...] = attrs.field(default=(), converter=_passed)
    """Names of variables that it inherits; no other."""
    filesystem: Literal["private", "host"] = "private"
    """`host`: it sees and writes what the process that runs it may."""

    def __attrs_post_init__(self) -> None:
        if self.executor is not None and not (type(self.executor) is str and _NAME.fullmatch(self.executor)):
            raise BadInput(f"{self.executor!r:.60} cannot be the name of an executor.", hint="Such as: bubblewrap.")
        if type(self.network) is not bool:
            raise BadInput(f"A sandbox's network is {self.network!r:.50}.", hint="It is True or False.")
        if self.filesystem not in ("private", "host"):
            raise BadInput(f"A sandbox's filesystem is {self.filesystem!r:.50}.", hint="It is private or host.")
        for name, (least, most, unit) in LIMITS.items():
            value = getattr(self, name)
            kinds = (int, float) if name == "time" else (int,)
            if type(value) not in kinds or not least <= value <= most:
                hint = f"It is a number of {unit} from {least:,g} to {most:,g}."
                raise BadInput(f"A sandbox's {name} is {value!r:.50}.", hint=hint)
        object.__setattr__(self, "time", float(self.time))
        if self.filesystem == "host" and (self.read is not None or self.write):
            raise BadInput(
                "A sandbox of the host's file system names paths that may be read or written.",
                hint="With filesystem='host' it sees and writes what this process may: leave read and write out.",
            )

    def as_json(self) -> dict[str, Any]:
        """The policy as plain data; `policy_of` is its inverse."""
        values = attrs.asdict(self)
        return values | {
            "read": None if self.read is None else list(self.read),
            "write": list(self.write),
            "environment": dict(sorted(self.environment.items())),
            "pass_environment": list(self.pass_environment),
        }

    @property
    def digest(self) -> Hash:
        """32 bytes that are the same for the same policy."""
        return Hash(chain.derive(codec.canonical(self.as_json()), "sandbox policy"))

    def tightened(self, rule: Mapping[str, Any]) -> SandboxPolicy:
        """This policy under a rule that names some of its fields: what both allow.

        A rule's executor takes the place of this one's, which must enforce the policy all the same. Raises `BadInput`.
        """
        other = policy_of(rule)
        changes: dict[str, Any] = {
            name: min(getattr(self, name), getattr(other, name)) for name in LIMITS if name in rule
        }
        if other.executor is not None:
            changes["executor"] = other.executor
        if "network" in rule:
            changes["network"] = self.network and other.network
        changes |= self._files_under(rule, other)
        if "environment" in rule:
            changes["environment"] = {
                name: value for name, value in self.environment.items() if other.environment.get(name) == value
            }
        if "pass_environment" in rule:
            changes["pass_environment"] = tuple(set(self.pass_environment) & set(other.pass_environment))
        return attrs.evolve(self, **changes)

    def _files_under(self, rule: Mapping[str, Any], other: SandboxPolicy) -> dict[str, Any]:
        """What becomes of this policy's files under a rule."""
        if other.filesystem == "host":
            return {}
        if self.filesystem == "host":
            limited = "filesystem" in rule or "write" in rule or other.read is not None
            return {"filesystem": "private", "read": other.read, "write": other.write} if limited else {}
        changes: dict[str, Any] = {}
        if other.read is not None:
            changes["read"] = other.read if self.read is None else _both(self.read, other.read)
        if "write" in rule:
            changes["write"] = _both(self.write, other.write)
        return changes


DEFAULT: Final = SandboxPolicy()
FIELDS: Final = tuple(field.name for field in attrs.fields(SandboxPolicy))


def policy_of(value: SandboxPolicy | Mapping[str, Any] | None) -> SandboxPolicy:
    """A policy, however it is given; raises `BadInput` for what is none."""
    if value is None:
        return DEFAULT
    if isinstance(value, SandboxPolicy):
        return value
    if not isinstance(value, Mapping):
        raise BadInput(f"{value!r:.100} is no sandbox policy.", hint="Pass SandboxPolicy(time=…), or a dict of it.")
    unknown = sorted(str(name) for name in value if name not in FIELDS)
    if unknown:
        raise BadInput(f"A sandbox policy has no {', '.join(unknown)}.", hint="It has: " + ", ".join(FIELDS) + ".")
    return SandboxPolicy(**value)


def within(path: str, above: str) -> bool:
    """Whether a path is `above`, or lies in it."""
    return path == above or path.startswith(above.rstrip("/") + "/")


def _both(one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    """The paths that lie in both of two sets of trees."""
    pairs = [(a, b) for a in one for b in other]
    return tuple({a for a, b in pairs if within(a, b)} | {b for a, b in pairs if within(b, a)})
