"""Commands that read code without running it: lint boundary."""

from __future__ import annotations

import io
import os
import stat
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import click

from cli.boundary import look
from cli.boundary_allow import Finding
from cli.boundary_rules import Rules, parse_rules
from cli.options import pass_settings
from cli.output import Settings, count, emit, harmless, say
from ledger_core.errors import BadInput
from ledger_core.governance import policy_file

MAX_SOURCE: Final = 2 * 1024 * 1024
"""Largest file that is looked at, bytes."""
_SKIPPED: Final = ("__pycache__", "node_modules")
_NO_PROOF: Final = "A lint is no proof: it does not follow calls into other files, nor names made while the code runs."


@click.group()
def lint() -> None:
    """Read code without running it."""


@lint.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--rules", "rules_file", metavar="FILE", type=click.Path(path_type=Path), help="More rules: YAML, TOML, JSON."
)
@click.option("--all", "everywhere", is_flag=True, help="Look at all code but tools, not only at agents'.")
@pass_settings
def boundary(settings: Settings, paths: tuple[Path, ...], rules_file: Path | None, everywhere: bool) -> int:
    """Find code of agents that goes round the boundary.

    The clock, chance, the network, processes, files written, order by chance, threads and the environment, in
    functions decorated with @agent or with a context, and what they call in the same file. PATH is a file or a
    directory. Exits with 1 for findings, and with 6 if something could not be looked at.
    """
    rules = Rules() if rules_file is None else _rules(rules_file)
    report = _Report()
    for path in _files(paths, report):
        try:
            found = look(_source(path), str(path), rules, everywhere=everywhere)
        except BadInput as error:
            report.problem(path, error.sentence)
            continue
        report.files += 1
        report.findings += found.findings
        report.agents += [f"{path}:{name.removeprefix('.')}" for name in found.agents]
        report.others += [f"{path}:{name.removeprefix('.')}" for name in found.others]
    report.findings.sort()
    emit(settings, report.as_json(), lambda: report.show(everywhere))
    return 1 if report.findings else 6 if report.problems else 0


@attrs.define
class _Report:
    """What was looked at, what was found, and what could not be looked at."""

    files: int = 0
    findings: list[Finding] = attrs.field(factory=list)
    agents: list[str] = attrs.field(factory=list)
    others: list[str] = attrs.field(factory=list)
    problems: list[tuple[str, str]] = attrs.field(factory=list)

    def problem(self, path: Path, sentence: str) -> None:
        self.problems.append((str(path), sentence))

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.findings and not self.problems,
            "findings": [one.as_json() for one in self.findings],
            "not_looked_at": [{"file": file, "message": message} for file, message in self.problems],
            "looked_at": {"files": self.files, "agent_functions": self.agents, "other_functions": self.others},
            "note": _NO_PROOF,
        }

    def show(self, everywhere: bool) -> None:
        for one in self.findings:
            place = f"{one.file}:{one.line}:{one.column}"
            click.echo(harmless(f"{place} {one.code} {one.call}: {one.message}; instead: {one.instead}"))
        for _, message in self.problems:
            click.echo(harmless(f"not looked at: {message}"))
        parts = [count(self.files, "file"), count(len(self.agents), "agent function"), f"{len(self.others):,} more"]
        say(f"{count(len(self.findings), 'finding')}; looked at {', '.join(parts)}")
        if not self.agents and not everywhere:
            say("There is no agent here: nothing is decorated with @agent or takes a ctx. --all looks at all code.")
        say(_NO_PROOF)


def _rules(path: Path) -> Rules:
    raw, _ = policy_file.read(path)
    document, lines = policy_file.parse(raw, path)
    return parse_rules(document, source=str(path), lines=lines)


def _files(paths: tuple[Path, ...], report: _Report) -> Iterator[Path]:
    """The files that the paths name, each once; links to directories are not followed."""
    seen: set[Path] = set()
    for path in paths:
        each = iter([path])
        if path.is_dir():
            each = _below(path, report)
        empty = True
        for one in each:
            empty = False
            try:
                real = one.resolve()
            except (OSError, RuntimeError, ValueError):  # a loop of links: reading it says so
                real = one
            if real not in seen:
                seen.add(real)
                yield one
        if empty:
            report.problem(path, f"{path}: there are no Python files in it.")


def _below(root: Path, report: _Report) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report.problem(Path(error.filename), f"{error.filename}: this directory cannot be read: {error.strerror}.")

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(
            one
            for one in folders
            if not one.startswith(".")
            and one not in _SKIPPED
            and not os.path.exists(os.path.join(folder, one, "pyvenv.cfg"))
        )
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _source(path: Path) -> str:
    """The text of a file, in the encoding that it declares (PEP 263); raises `BadInput`."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadInput(f"{path}: this is no file.")
            raw = file.read(MAX_SOURCE + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(f"{path}: it cannot be read: {why}.") from None
    if len(raw) > MAX_SOURCE:
        raise BadInput(f"{path}: it has more than {MAX_SOURCE:,} bytes, which is the most that is looked at.")
    if b"\0" in raw:
        raise BadInput(f"{path}: this is no text: it has a zero byte at {raw.index(0):,}.")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = io.TextIOWrapper(io.BytesIO(raw), encoding).read()
    except (SyntaxError, UnicodeError, LookupError) as error:
        raise BadInput(f"{path}: its encoding is wrong: {error}.") from None
    return text
