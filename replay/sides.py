"""The two sides of a comparison, read from wherever they are: a run of the ledger, evidence, a saved replay.

Rules: what a person names is a run where there is one of that name, unless it is written as a path. A bundle is checked
before it is believed, and what is damaged is refused, whatever it says. A saved replay proves nothing, and is looked at
field by field, because it may be anybody's. This file does not know what is compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import attrs

from ledger_core.errors import BadInput, Damaged, LedgerError, NotFound, Refused
from ledger_core.events.run import RunCreated
from ledger_core.log.log import Log
from ledger_core.runtime import lineage
from ledger_core.runtime.folds import stream_of
from projections import course, evidence_files, runs
from projections.course import AMOUNTS, Course, Effect
from projections.evidence_check import check
from projections.evidence_records import SCHEMA as EVIDENCE
from replay.replaying import SAVED
from replay.unpacked import ledger_of

_FILES: Final = (".json", ".html")
_DEEPEST: Final = 100
"""Levels of a document that somebody wrote; one that was recorded has at most 64."""
_HINT: Final = "Make one: agentledger evidence RUN --out FILE, or agentledger replay RUN --save FILE"
_OUTCOMES: Final = frozenset(get_args(course.Outcome))
_TEXT: Final = (str,)
_TEXT_OR_NOT: Final = (str, type(None))
_NUMBER_OR_NOT: Final = (int, type(None))
_OF_EFFECT: Final[dict[str, tuple[type, ...]]] = {
    "path": _TEXT,
    "kind": _TEXT,
    "name": _TEXT,
    "outcome": _TEXT,
    "error_type": _TEXT_OR_NOT,
    "policy": _TEXT_OR_NOT,
    "version": _TEXT_OR_NOT,
    "writes": (bool,),
    "cost": (dict,),
    "seq": _NUMBER_OR_NOT,
    "log_seq": _NUMBER_OR_NOT,
    "hash": _TEXT_OR_NOT,
    "line": _TEXT_OR_NOT,
}
_OF_COURSE: Final[dict[str, tuple[type, ...]]] = {
    "run_id": _TEXT,
    "agent": _TEXT,
    "role": _TEXT_OR_NOT,
    "code_digest": _TEXT_OR_NOT,
    "status": _TEXT,
    "error_type": _TEXT_OR_NOT,
    "message": _TEXT_OR_NOT,
    "events": (dict,),
}


def load(text: str, log: Log | None) -> Course:
    """The course of what a person names: a run (an id, a unique prefix, `latest`), or a file.

    A file is a bundle of evidence (JSON, a page, a directory), a saved replay, or a course. Raises `NotFound`,
    `BadInput`, `Refused` for what was sealed or forgotten, and `Damaged`.
    """
    path = Path(text)
    if log is None or is_file_name(text):
        return of_file(path)
    try:
        run_id = runs.resolve(log, text)
    except (NotFound, BadInput):
        if text and path.exists():
            return of_file(path)
        raise
    return of_run(log, run_id)


def is_file_name(text: str) -> bool:
    """Whether a text can only mean a file."""
    return os.sep in text or Path(text).suffix in _FILES


def of_run(log: Log, run_id: str) -> Course:
    """The course of a run of a ledger. Raises `NotFound`, `Refused` where its words were forgotten, and `Damaged`."""
    if log.stream_head(stream_of(run_id)) is None:
        raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them; `latest` is the newest.")
    return course.of_events(log.stream(stream_of(run_id)), run_id, partial(lineage.shared, log))


def of_file(path: Path) -> Course:
    """The course in a file. Raises as `load` does."""
    if path.is_dir():
        return of_bundle(evidence_files.read(path), str(path))
    if path.exists() and not path.is_file():
        raise BadInput(f"{str(path)!r:.200} is no file that ends: a device, a pipe or a socket.", hint=_HINT)
    try:
        data = path.read_bytes().decode()
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", hint=_HINT) from None
    except UnicodeDecodeError:
        raise Damaged(f"{path} is no text in UTF-8: it is damaged, or no evidence.", hint=_HINT) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r:.200} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if data[:100].lstrip().startswith("<"):
        return of_bundle(evidence_files.read(path), str(path))
    value = _document(data, path)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema == EVIDENCE:
        return of_bundle(value, str(path))
    if schema == SAVED and isinstance(value.get("course"), dict):
        value, schema = value["course"], value["course"].get("schema")
    if schema != course.SCHEMA:
        said = f"its schema is {schema!r:.60}" if schema is not None else "it has no schema"
        raise BadInput(f"{path} is neither evidence nor a saved replay: {said}.", hint=_HINT)
    return _of_document(value, path)


def of_bundle(bundle: Mapping[str, Any], source: str) -> Course:
    """The course of a run in its evidence. Raises `Damaged`, and `Refused` where nobody can read it."""
    report = check(bundle)
    if report.findings:
        first = report.findings[0]
        raise Damaged(
            f"{source} is not what was recorded: {first.kind}: {first.detail}",
            hint=f"All that was found: agentledger evidence-check {source}",
        )
    if bundle["stream"]["key"] is None:
        why = "is sealed" if report.sealed else "has no key, because the run was forgotten or its key was not at hand"
        raise Refused(
            f"{source} {why}: nobody can see what the run did.",
            hint="Export it again where its key is, without --sealed.",
        )
    with ledger_of(bundle) as log:
        stream = stream_of(bundle["run_id"])
        begun = next(iter(log.stream(stream))).body
        if isinstance(begun, RunCreated) and begun.ancestor is not None:
            raise Refused(
                f"{source} is of a fork: what it shares with run {begun.ancestor} is not in it.",
                hint="Compare it where both runs are: give the run, and --root.",
            )
        return course.of_events(log.stream(stream), source)


def _document(data: str, path: Path) -> Any:
    """The value of a JSON text that JSON can say again. Raises `Damaged`, `BadInput`."""
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is no JSON of evidence or of a replay: {error}."[:300], hint=_HINT) from None
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > _DEEPEST:
            raise BadInput(f"{path} has a document of more than {_DEEPEST} levels.", hint=_HINT)
        inside = [one.values() if isinstance(one, dict) else one for one in layer if isinstance(one, (dict, list))]
        layer = [item for items in inside for item in items]
    return value


def _of_document(value: Mapping[str, Any], path: Path) -> Course:
    """A course that somebody wrote. Raises `BadInput`."""
    try:
        _fits(value, _OF_COURSE, attrs.fields_dict(Course), "the course")
        _counts(value.get("events", {}), "events")
        effects = value["effects"]
        if not isinstance(effects, list) or not all(isinstance(one, dict) for one in effects):
            raise TypeError("its effects are no list of objects")
        for number, one in enumerate(effects):
            _fits(one, _OF_EFFECT, attrs.fields_dict(Effect), f"effect {number + 1}")
            _counts(one.get("cost", {}), "cost")
            if one["outcome"] not in _OUTCOMES:
                raise ValueError(f"effect {number + 1} has the outcome {one['outcome']!r:.40}")
        if len({one["path"] for one in effects}) != len(effects):
            raise ValueError("two of its effects have one path")
        found = course.of_json(value, str(path))
        _ = [one.place for one in found.effects]
    except KeyError as missing:
        raise BadInput(f"{path} is no course: {missing} is missing.", hint=_HINT) from None
    except (TypeError, ValueError, LedgerError) as wrong:
        raise BadInput(f"{path} is no course: {wrong}."[:300], hint=_HINT) from None
    return found


def _fits(value: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], known: Mapping[str, Any], what: str) -> None:
    for name, allowed in types.items():
        if name in value and type(value[name]) not in allowed:
            raise TypeError(f"{name} of {what} is a {type(value[name]).__name__}")
    required = {name for name, field in known.items() if field.default is attrs.NOTHING} - {"source", "request"}
    for name in sorted(required):
        value[name]
    more = [name for name in value if name not in known and name != "schema"]
    if more and what != "the course":
        raise TypeError(f"{what} has an unknown field {more[0]!r:.40}")


def _counts(value: Mapping[str, Any], what: str) -> None:
    if not all(type(number) is int for number in value.values()):
        raise TypeError(f"its {what} are no whole numbers")
    if what == "cost" and not set(value) <= set(AMOUNTS):
        raise TypeError("an effect has costs that nobody counts")
