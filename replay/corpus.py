"""A golden corpus: recorded runs as files that are kept with the code, and replayed wherever it is tested.

Rules: a run is one file, its evidence with its key: all that a replay needs, and it proves itself. The index says what
the files are called and what is expected of them; where it and a file differ, that is damage. A run is added only if
the code of today does with it what is expected. Adding what is there changes nothing; files are written whole, the
index after them. Code is named so that it is found wherever the directory is checked out: files by their way from it.
What is beside the index's files is said, and never used.

This file does not choose runs (`replay.seeds`), and does not know terminals.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from ledger_core.errors import BadInput, Damaged, Diverged, LedgerError, NotFound, Refused
from ledger_core.events.run import RunCreated
from ledger_core.log.log import Log
from ledger_core.run.divergence import KINDS
from ledger_core.runtime import target as targets
from ledger_core.runtime.folds import stream_of
from ledger_core.secret import VAULT
from projections import evidence, evidence_files, runs
from projections.evidence_check import check as check_bundle
from projections.evidence_json import DIGEST
from projections.evidence_place import cannot, write_whole
from replay.many import Outcome, Progress, Task, replay_tasks

SCHEMA: Final = "agentledger.corpus.v1"
INDEX: Final = "index.json"
CODES: Final = tuple(kind.code for kind in KINDS)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LONGEST_NOTE: Final = 1_000

Verdict = Literal["same", "allowed", "diverged", "failed", "skipped", "damaged"]


@attrs.frozen(kw_only=True)
class Entry:
    """A run of a corpus, as its index has it."""

    name: str
    run_id: str
    agent: str
    target: str | None
    """The code: `module:agent`, or a file by its way from the corpus; None for a run that attached code drove."""
    code_digest: str | None
    """Of the code that was recorded, hex."""
    status: str
    """Of the run, as it was recorded."""
    types: tuple[str, ...]
    """Types of its events."""
    head: str
    """Hash of its last event, hex."""
    bundle_digest: str
    note: str = ""
    allow: tuple[str, ...] = ()
    """Codes of divergences that are expected of the code of today."""


@attrs.frozen(kw_only=True)
class Checked:
    """What a check of one run came to."""

    entry: Entry
    verdict: Verdict
    why: str = ""
    outcome: Outcome | None = None

    def as_json(self) -> dict[str, Any]:
        """What `corpus check --json` prints of it."""
        replay = None if self.outcome is None else self.outcome.as_json()
        said = {"name": self.entry.name, "run_id": self.entry.run_id, "agent": self.entry.agent}
        return {**said, "verdict": self.verdict, "why": self.why, "allow": list(self.entry.allow), "replay": replay}


# Reading


def entries(place: Path) -> dict[str, Entry]:
    """The runs of a corpus by name, in order; none where there is no index. Raises `Damaged`, `BadInput`."""
    path = place / INDEX
    try:
        value = json.loads(path.read_bytes())
        found = {name: _entry(name, said) for name, said in value["runs"].items()}
        if value["schema"] != SCHEMA or len({name.casefold() for name in found}) != len(found):
            raise ValueError("another schema, or two names that some file systems do not tell apart")
    except FileNotFoundError:
        return {}
    except OSError as error:
        cannot("read", path, error)
    except (LedgerError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"[:200]
        raise Damaged(
            f"{path} is no index of a corpus: {said}", hint="Restore it, as it is kept with the code."
        ) from None
    return dict(sorted(found.items()))


def chosen(place: Path, names: Sequence[str] = ()) -> list[Entry]:
    """The named runs, or all. Raises `NotFound`, also where there is no corpus."""
    there = entries(place)
    if not there:
        raise NotFound(f"There is no corpus in {place}.", hint="Make one: agentledger corpus seed, or corpus add RUN.")
    for name in names:
        if name not in there:
            raise NotFound(f"{place} has no run {name!r:.120}.", hint="`agentledger corpus list` lists them.")
    return [there[name] for name in dict.fromkeys(names or there)]


def strangers(place: Path) -> list[str]:
    """Files that look like evidence, and are not the index's."""
    known = {INDEX, *(file_of(place, one).name for one in entries(place).values())}
    return sorted(path.name for path in place.glob("[!.]*.json") if path.name not in known)


def file_of(place: Path, entry: Entry) -> Path:
    """Where a run's evidence is."""
    return place / f"{entry.name}.json"


# Adding


def add(
    log: Log,
    run_id: str,
    place: Path,
    *,
    name: str | None = None,
    note: str = "",
    target: str | None = None,
    allow: Iterable[str] = (),
    replace: bool = False,
    limit_s: float | None = None,
) -> tuple[Entry, bool]:
    """Add a run, or find that it is there; gives its entry, and whether anything was written.

    The code is what was recorded, unless `target` names it. The name of another run is taken only with `replace`.
    Raises `BadInput`; `Refused` where the run cannot be replayed from a file, or holds a secret; `Diverged` where the
    code of today does something else than was recorded and is allowed.
    """
    made = evidence.bundle(log, run_id)
    with _locked(place):
        there = entries(place)
        old = next((one for one in there.values() if one.run_id == run_id), None)
        entry = _made(log, made, place, old, name=name, note=note, target=target, allow=allow)
        if old is not None and attrs.evolve(entry, bundle_digest=old.bundle_digest) == old and _whole(place, old):
            return old, False
        others = [one for one in there.values() if one.name.casefold() == entry.name.casefold() or one is old]
        for one in others:
            if not replace and (one.run_id != run_id or one.name != entry.name):
                what = f"{place} has run {one.run_id} as {one.name}"
                raise BadInput(f"{what}: not added.", hint="Give this one a --name of its own, or write --replace.")
        _prove(made, entry, place, limit_s)
        evidence_files.write_file(made, file_of(place, entry))
        kept = {one.name: one for one in there.values() if one not in others}
        _write_index(place, [*kept.values(), entry])
        for one in others:
            if one.name != entry.name:
                file_of(place, one).unlink(missing_ok=True)
    return entry, True


def _made(
    log: Log,
    made: Mapping[str, Any],
    place: Path,
    old: Entry | None,
    *,
    name: str | None,
    note: str,
    target: str | None,
    allow: Iterable[str],
) -> Entry:
    """The entry of a run; what nobody says is as it was, or as it was recorded. Raises `BadInput`, `Refused`."""
    run_id = made["run_id"]
    state = runs.of_stream(log, stream_of(run_id))
    created = next(log.stream(stream_of(run_id))).body
    assert isinstance(created, RunCreated)
    if made["stream"]["key"] is None:
        raise Refused(f"What run {run_id} said was forgotten, or its key is not here: it cannot be replayed.")
    if created.ancestor is not None:
        raise Refused(
            f"Run {run_id} was forked from {created.ancestor}: a corpus has runs that stand by themselves.",
            hint=f"Add that one: agentledger corpus add {created.ancestor}",
        )
    if target is None and old is not None:
        code = old.target
    elif state.driver == "external":
        code = None
    else:
        origin = created.origin if isinstance(created.origin, str) else None
        asked = target or targets.recorded(state.entry_point, origin)
        if asked is None:
            raise BadInput(f"Run {run_id} does not say where its code is.", hint="Name it: --target file.py:agent")
        code = portable(asked, place)
    if len(note) > _LONGEST_NOTE:
        raise BadInput(f"The note has {len(note):,} letters; it may have {_LONGEST_NOTE:,}.")
    return Entry(
        name=_checked_name(name if name is not None else old.name if old else _default_name(state.agent, run_id)),
        run_id=run_id,
        agent=state.agent,
        target=code,
        code_digest=None if state.code_digest is None else state.code_digest.hex(),
        status=state.status,
        types=tuple(sorted(state.counts)),
        head=made["stream_head"]["hash"],
        bundle_digest=made[DIGEST],
        note=VAULT.clean_text(note) or (old.note if old else ""),
        allow=_codes(allow) or (old.allow if old else ()),
    )


def portable(target: str, place: Path) -> str:
    """A target as an index has it: a file by its way from the corpus."""
    file, colon, agent = _parts(target)
    if not file.endswith(".py"):
        return target
    return Path(os.path.relpath(os.path.realpath(file), os.path.realpath(place))).as_posix() + colon + agent


def found_from(target: str, place: Path) -> str:
    """The inverse of `portable`."""
    file, colon, agent = _parts(target)
    return (
        target if not file.endswith(".py") else os.path.normpath(os.path.realpath(place) + "/" + file) + colon + agent
    )


def _parts(target: str) -> tuple[str, str, str]:
    return target.rpartition(":") if ":" in target else (target, "", "")


def _prove(made: Mapping[str, Any], entry: Entry, place: Path, limit_s: float | None) -> None:
    """Raise unless the code of today does with a bundle what is expected."""
    with tempfile.TemporaryDirectory(prefix="agentledger-corpus-") as held:
        path = Path(held) / f"{entry.name}.json"
        evidence_files.write_file(made, path)
        (outcome,) = replay_tasks([_task(entry, place, path)], limit_s=limit_s)
    found = _verdict(entry, outcome)
    if found.verdict == "diverged":
        codes = " ".join(f"--allow {code}" for code in sorted({one["code"] for one in outcome.divergences}))
        raise Diverged(
            f"The code of today does not do what run {entry.run_id} recorded: {found.why}",
            hint=f"Add a run of today's code; or, if that is meant: {codes}",
            divergences=list(outcome.divergences),
        )
    if found.verdict not in ("same", "allowed"):
        raise BadInput(f"Run {entry.run_id} cannot be replayed: {found.why}", hint="Name its code: --target")


# Checking


def check(
    place: Path,
    names: Sequence[str] = (),
    *,
    target: str | None = None,
    mode: str = "strict",
    jobs: int = 1,
    limit_s: float | None = None,
    progress: Progress | None = None,
) -> list[Checked]:
    """Check the named runs' files, or all, and replay them; in the order of their names. Raises as `chosen` does.

    With `target`, that code is replayed, and not what the index names.
    """
    asked = chosen(place, names)
    found = {one.name: damage for one in asked if (damage := _damage(place, one)) is not None}
    whole = {one.run_id: one for one in asked if one.name not in found}
    tasks = [_task(one, place, file_of(place, one), target, mode) for one in whole.values()]
    for outcome in replay_tasks(tasks, jobs=jobs, limit_s=limit_s, progress=progress):
        one = whole[outcome.run_id]
        found[one.name] = _verdict(one, outcome)
    return [found[one.name] for one in asked]


def exit_code(found: Iterable[Checked]) -> int:
    """3 where a file is damaged, 4 where code diverged, 1 where it could not be executed, 6 for what was skipped."""
    verdicts = {one.verdict for one in found}
    codes = {"damaged": 3, "diverged": 4, "failed": 1, "skipped": 6}
    return next((code for verdict, code in codes.items() if verdict in verdicts), 0)


def _damage(place: Path, entry: Entry) -> Checked | None:
    """What is wrong with a run's file; None if nothing is."""
    try:
        made = evidence_files.read(file_of(place, entry))
    except LedgerError as error:
        return Checked(entry=entry, verdict="damaged", why=error.sentence)
    report = check_bundle(made)
    if report.findings:
        first, more = report.findings[0], len(report.findings) - 1
        why = f"{first.kind}: {first.detail}" + (f", and {more:,} more" if more else "")
        return Checked(entry=entry, verdict="damaged", why=why)
    if (made["run_id"], made[DIGEST]) != (entry.run_id, entry.bundle_digest):
        return Checked(entry=entry, verdict="damaged", why="The file is not the one that the index names.")
    return None


def _task(entry: Entry, place: Path, path: Path, target: str | None = None, mode: str = "strict") -> Task:
    code = target or (None if entry.target is None else found_from(entry.target, place))
    mode = "collect" if entry.allow else mode  # what stands behind a divergence that is allowed must be seen
    return Task(run_id=entry.run_id, place=str(path), bundled=True, target=code, mode=mode, group=code or "")


def _verdict(entry: Entry, outcome: Outcome) -> Checked:
    verdict: Verdict = outcome.status
    if verdict == "diverged" and {one["code"] for one in outcome.divergences} <= set(entry.allow):
        verdict = "allowed"
    return Checked(entry=entry, verdict=verdict, why=outcome.words(), outcome=outcome)


# Files


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Nobody else writes the corpus meanwhile. Raises `BadInput`."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_RDONLY)
    except OSError as error:
        cannot("written", place, error)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_index(place: Path, found: Iterable[Entry]) -> None:
    rows = {one.name: {name: value for name, value in attrs.asdict(one).items() if name != "name"} for one in found}
    value = {"schema": SCHEMA, "runs": dict(sorted(rows.items()))}
    text = json.dumps(value, ensure_ascii=False, indent=2)
    write_whole(place / INDEX, [text.encode(errors="replace"), b"\n"], private=False)


def _whole(place: Path, entry: Entry) -> bool:
    return _damage(place, entry) is None


def _entry(name: str, said: Any) -> Entry:
    """An entry of an index; raises `BadInput`, `TypeError` for what is none."""
    lists = {key: tuple(said[key]) for key in ("types", "allow")}
    made = Entry(name=_checked_name(name), **{**said, **lists})
    texts = [made.run_id, made.agent, made.status, made.head, made.bundle_digest, made.note, *made.types]
    maybe = [made.target, made.code_digest]
    if not all(isinstance(text, str) for text in (*texts, *(one for one in maybe if one is not None))):
        raise TypeError(f"{name} has values of other types")
    _codes(made.allow)
    return made


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name.casefold() == "index":
        raise BadInput(
            f"{name!r:.120} cannot be the name of a run in a corpus.",
            hint="A name has 1 to 100 of: letters, digits, and . _ -, begins with a letter or digit, and is not index.",
        )
    return name


def _default_name(agent: str, run_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{agent}-{run_id.removeprefix('run_')}").lstrip("-._")[:100]


def _codes(codes: Iterable[str]) -> tuple[str, ...]:
    found = tuple(sorted(set(codes)))
    for code in found:
        if code not in CODES:
            raise BadInput(f"{code!r:.40} is no code of a divergence.", hint=f"They are: {', '.join(CODES)}.")
    return found
