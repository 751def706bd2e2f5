"""Deployment units for workers, as text: systemd, compose, kubernetes.

Rules: pure; the same arguments give the same bytes. Every unit runs the same command, and everything in it is quoted
for its format, so that no name of a target or a path is ever read as something else. What a format cannot hold is
refused with `BadInput`. All workers of a ledger are on ONE host: LMDB does not work over network file systems, the
lock that is a worker's sign of life is the host's, and LMDB tells its users apart by their process ids, so that
containers have to share the host's.

This file starts nothing, looks at no file, and does not know what a worker does.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from ledger_core.errors import BadInput

NAME: Final = "agentledger-worker"
SLACK_S: Final = 10
"""What a supervisor waits beyond a worker's own grace before it kills it."""
RESTART_S: Final = 5
_LONGEST_S: Final = 10_000_000
_PREFIXES: Final = "@:+!|"
"""What systemd reads as a switch, where a command begins with it."""
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - names of what systemd hides, not files of ours


@attrs.frozen(kw_only=True)
class _Wanted:
    """What was asked for, checked."""

    program: str
    targets: tuple[str, ...]
    root: str
    directory: str | None
    image: str
    replicas: int
    concurrency: int
    capabilities: tuple[str, ...]
    lease_s: float
    grace_s: float

    @property
    def command(self) -> list[str]:
        """The worker's command, not quoted."""
        return [
            *(self.program, "--root", self.root, "worker", *self.targets),
            *("--concurrency", str(self.concurrency)),
            *(word for name in self.capabilities for word in ("--capability", name)),
            *("--lease", _number(self.lease_s), "--grace", _number(self.grace_s)),
        ]

    @property
    def stop_s(self) -> int:
        """Seconds from SIGTERM to SIGKILL."""
        return math.ceil(self.grace_s) + SLACK_S


def plan(
    kind: str,
    *,
    targets: Sequence[str],
    root: str,
    replicas: int,
    concurrency: int,
    capabilities: Sequence[str],
    lease_s: float,
    grace_s: float,
    program: str = "agentledger",
    directory: str | None = None,
    image: str = NAME,
) -> dict[str, str]:
    """The files of a deployment, by name: `kind` is one of `KINDS`; `root` is an absolute path.

    `directory` is where modules and relative files of the targets are found; `program` is the command's own name or
    path; `image` is the container's. Times are in seconds. Raises `BadInput`.
    """
    if kind not in KINDS:
        raise BadInput(f"There is no kind of deployment {kind!r:.100}.", hint=f"Kinds are: {', '.join(KINDS)}.")
    if isinstance(targets, str) or not targets:
        raise BadInput("A worker needs at least one target.", hint="A target is file.py, file.py:agent, module:agent.")
    wanted = _Wanted(
        program=_checked(program, "program"),
        targets=tuple(_checked(target, "target") for target in targets),
        root=_checked_path(root, "root"),
        directory=None if directory is None else _checked_path(directory, "directory"),
        image=_checked(image, "image"),
        replicas=_checked_count(replicas, "replicas"),
        concurrency=_checked_count(concurrency, "concurrency"),
        capabilities=tuple(_checked(name, "capability") for name in capabilities),
        lease_s=_checked_time(lease_s, "lease_s"),
        grace_s=_checked_time(grace_s, "grace_s", zero=True),
    )
    return KINDS[kind](wanted)


# systemd


def _systemd(wanted: _Wanted) -> dict[str, str]:
    hidden = [path for path in (wanted.root, wanted.directory, *wanted.targets) if path and _is_temporary(path)]
    directory = wanted.directory
    if directory is not None and directory != directory.strip().rstrip("\\"):
        raise BadInput(f"systemd has no way to write a directory that ends in {directory[-1]!r}.", hint="Rename it.")
    if wanted.program[0] in _PREFIXES or ("/" in wanted.program and not posixpath.isabs(wanted.program)):
        raise BadInput(f"systemd does not start {wanted.program!r:.100}.", hint="Give a name or an absolute path.")
    service = [
        "# One worker of an AgentLedger. All workers of a ledger are on this ONE host: LMDB does not work over network",
        "# file systems, and whether a worker lives is known by a lock of this host.",
        "# Before the first start: create the ledger's directory, and set User= to its owner with",
        f"#   systemctl edit {NAME}@.service",
        "[Unit]",
        "Description=AgentLedger worker %i",
        f"PartOf={NAME}.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_systemd_command(wanted.command)}",
        *([] if directory is None else [f"WorkingDirectory={directory.replace('%', '%%')}"]),
        "# SIGTERM to the worker alone: it ends its steps within its grace, with the tools' own processes alive.",
        "KillSignal=SIGTERM",
        "KillMode=mixed",
        f"TimeoutStopSec={wanted.stop_s}",
        "Restart=always",
        f"RestartSec={RESTART_S}",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        f"ReadWritePaths={_systemd_word(wanted.root)}",
        *(["PrivateTmp=no", f"ReadWritePaths={' '.join(_TEMPORARY)}"] if hidden else ["PrivateTmp=yes"]),
        "PrivateDevices=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectControlGroups=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
    ]
    target = [
        f"# All workers: systemctl enable --now {NAME}.target",
        "[Unit]",
        "Description=AgentLedger workers",
        *(f"Wants={NAME}@{number}.service" for number in range(1, wanted.replicas + 1)),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return {f"{NAME}@.service": _lines(service), f"{NAME}.target": _lines(target)}


def _systemd_command(command: Sequence[str]) -> str:
    """A command line of a unit: what it starts, then its words, in which `$` would name a variable."""
    return " ".join([_systemd_word(command[0]), *(_systemd_word(word).replace("$", "$$") for word in command[1:])])


def _systemd_word(text: str) -> str:
    """One word of a unit's setting, in quotes, in which `%` would name a specifier."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _is_temporary(path: str) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in _TEMPORARY)


# Containers


def _compose(wanted: _Wanted) -> dict[str, str]:
    def text(value: str) -> str:
        return _yaml(value.replace("$", "$$"))

    lines = [
        "# Workers of an AgentLedger. All of them are on ONE host, so this is no file for a swarm of several: LMDB",
        "# does not work over network file systems, and whether a worker lives is known by a lock of the host.",
        "services:",
        "  worker:",
        "    # An image with agentledger and the code of the targets.",
        f"    image: {text(wanted.image)}",
        "    entrypoint: []",
        "    command:",
        *(f"      - {text(word)}" for word in wanted.command),
        *([] if wanted.directory is None else [f"    working_dir: {text(wanted.directory)}"]),
        "    # LMDB tells its users apart by their process ids: two containers with ids of their own collide on 1.",
        '    pid: "host"',
        "    deploy:",
        f"      replicas: {wanted.replicas}",
        '    restart: "always"',
        '    stop_signal: "SIGTERM"',
        f'    stop_grace_period: "{wanted.stop_s}s"',
        "    security_opt:",
        '      - "no-new-privileges:true"',
        "    volumes:",
        "      # The ledger's directory, on a disk of this host.",
        '      - type: "bind"',
        f"        source: {text(wanted.root)}",
        f"        target: {text(wanted.root)}",
    ]
    return {"compose.yaml": _lines(lines)}


def _kubernetes(wanted: _Wanted) -> dict[str, str]:
    if ":" in wanted.root:
        raise BadInput("Kubernetes mounts nothing at a path with a colon in it.", hint="Choose another root.")

    def text(value: str) -> str:
        return _yaml(value.replace("$", "$$"))

    lines = [
        "# Workers of an AgentLedger. All of them are on ONE node: LMDB does not work over network file systems, and",
        "# whether a worker lives is known by a lock of the node. So every pod is drawn to the node of the others, and",
        "# the volume is a disk that one node at a time has (ReadWriteOnce). Not ReadWriteOncePod, which lets in one",
        "# pod only, and never ReadWriteMany, which is a network file system.",
        "apiVersion: v1",
        "kind: PersistentVolumeClaim",
        "metadata:",
        "  name: agentledger",
        "spec:",
        "  # The storage class has to be a local or a block device.",
        '  accessModes: ["ReadWriteOnce"]',
        "  resources:",
        "    requests:",
        '      storage: "10Gi"',
        "---",
        "apiVersion: apps/v1",
        "kind: Deployment",
        "metadata:",
        f"  name: {NAME}",
        "spec:",
        f"  replicas: {wanted.replicas}",
        "  selector:",
        "    matchLabels:",
        f"      app: {NAME}",
        "  strategy:",
        "    rollingUpdate:",
        "      maxSurge: 0",
        "      maxUnavailable: 1",
        "  template:",
        "    metadata:",
        "      labels:",
        f"        app: {NAME}",
        "    spec:",
        "      affinity:",
        "        podAffinity:",
        "          requiredDuringSchedulingIgnoredDuringExecution:",
        '            - topologyKey: "kubernetes.io/hostname"',
        "              labelSelector:",
        "                matchLabels:",
        f"                  app: {NAME}",
        "      # LMDB tells its users apart by their process ids: two pods with ids of their own collide on 1. (The",
        "      # namespace's pod security level has to be `privileged` for this.)",
        "      hostPID: true",
        "      # Kubernetes sends SIGTERM, unless the image names another signal, and SIGKILL after this time.",
        f"      terminationGracePeriodSeconds: {wanted.stop_s}",
        "      containers:",
        "        - name: worker",
        "          # An image with agentledger and the code of the targets.",
        f"          image: {_yaml(wanted.image)}",
        "          command:",
        *(f"            - {text(word)}" for word in wanted.command),
        *([] if wanted.directory is None else [f"          workingDir: {_yaml(wanted.directory)}"]),
        "          securityContext:",
        "            allowPrivilegeEscalation: false",
        "            capabilities:",
        '              drop: ["ALL"]',
        "          volumeMounts:",
        "            - name: ledger",
        f"              mountPath: {_yaml(wanted.root)}",
        "      volumes:",
        "        - name: ledger",
        "          persistentVolumeClaim:",
        "            claimName: agentledger",
    ]
    return {"kubernetes.yaml": _lines(lines)}


KINDS: Final[dict[str, Callable[[_Wanted], dict[str, str]]]] = {
    "systemd": _systemd,
    "compose": _compose,
    "kubernetes": _kubernetes,
}
"""The kinds of deployment, by name."""


def _yaml(text: str) -> str:
    """A string of YAML: JSON's, with escapes that YAML knows too for what it does not print."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


# What is refused


def _checked(text: Any, what: str) -> str:
    """A text that is one word of a command in every format."""
    if not isinstance(text, str) or not text:
        raise BadInput(f"The {what} is {text!r:.100}; it must be a text that is not empty.")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or _is_nothing(char) for char in text):
        raise BadInput(f"The {what} {text!r:.100} has a line break or a control character in it.", hint="Rename it.")
    if text.startswith("-"):
        raise BadInput(f"The {what} {text!r:.100} begins like an option.", hint="Write ./ before a file's name.")
    return text


def _is_nothing(char: str) -> bool:
    """Whether a code point is one of those that Unicode keeps out of texts for ever."""
    return ord(char) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF


def _checked_path(path: Any, what: str) -> str:
    text = _checked(path, what)
    parts = re.split("/+", text)
    if not text.startswith("/") or ".." in parts or not any(part not in ("", ".") for part in parts):
        raise BadInput(
            f"The {what} {text!r:.100} is no absolute path below /, without `..`.", hint="Give its absolute path."
        )
    return "/" + posixpath.normpath(text).lstrip("/")


def _checked_count(value: Any, what: str) -> int:
    if type(value) is not int or not 1 <= value <= 10_000:
        raise BadInput(f"{what} is {value!r:.100}; it must be a whole number from 1 to 10,000.")
    return value


def _checked_time(value: Any, what: str, *, zero: bool = False) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise BadInput(f"{what} is {value!r:.100}; it must be a number of seconds {'from 0' if zero else 'above 0'}.")
    if value > _LONGEST_S:
        raise BadInput(f"{what} is {value!r:.100}; it must be at most {_LONGEST_S:,} seconds.")
    return float(value)
