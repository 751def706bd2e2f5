"""Bundles of evidence as files: one JSON, a directory with extracts for people, a page; and any of them read back.

Rules: what carries a key is readable by its owner only. The bundle proves itself; the files beside it are extracts,
and are held against it by whoever checks (`beside`). A file that is read may be anybody's: one that cannot be read as
what it should be is `Damaged`. This file does not know what a bundle says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from ledger_core import __version__, chain
from ledger_core.errors import Damaged, LedgerError, NotFound
from ledger_core.ids import format_hash
from ledger_core.log.verify import Finding
from projections.evidence_json import DIGEST, canonical, same
from projections.evidence_place import cannot, new_directory, write_whole
from projections.evidence_records import SCHEMA
from projections.page import render

DIRECTORY: Final = "agentledger.evidence.directory.v1"
FAMILY: Final = "agentledger.evidence.family.v1"
MANIFEST: Final = "manifest.json"
BUNDLE: Final = "bundle.json"
EVENTS: Final = "events.jsonl"
INDEX: Final = "index.json"
EXTRACTS: Final = {
    f"{name}.json": name
    for name in (
        "summary",
        "steps",
        "tool_ledger",
        "approvals",
        "cost_records",
        "artifacts",
        "media_artifacts",
        "stream_checkpoints",
        "final_state",
    )
}
"""Files beside the bundle, each with one of its parts."""
NAMES: Final = frozenset((MANIFEST, BUNDLE, EVENTS, *EXTRACTS))
_DATA: Final = re.compile(r'<script\b[^>]*\btype="application/json"[^>]*>(.*?)</script>', re.DOTALL | re.IGNORECASE)


# Writing


def text(bundle: Mapping[str, Any]) -> Iterator[bytes]:
    """The JSON of a bundle, in the order of its fields, in pieces."""
    begin = b"{"
    for name, value in bundle.items():
        yield begin + canonical(name) + b":" + _json(value)
        begin = b",\n"
    yield b"}\n"


def write_file(bundle: Mapping[str, Any], path: Path) -> None:
    """Write a bundle as one JSON file. Raises `BadInput`."""
    write_whole(path, text(bundle), private=_keyed(bundle))


def write_page(bundle: Mapping[str, Any], path: Path) -> None:
    """Write a bundle as a page. Raises `BadInput`."""
    write_whole(path, [render(bundle).encode()], private=_keyed(bundle))


def write_directory(bundle: Mapping[str, Any], path: Path) -> None:
    """Write a bundle as a directory, in place of another one of evidence, if one is there. Raises `BadInput`."""
    with new_directory(path, ours=_is_ours, private=_keyed(bundle)) as made:
        _fill(bundle, made)


def write_family(bundles: Iterable[Mapping[str, Any]], path: Path) -> dict[str, str]:
    """Write the bundles of a run, the first, and its children, each as a directory; their digests by run id."""
    index: dict[str, dict[str, str]] = {}
    with new_directory(path, ours=_is_ours, private=True) as made:
        for number, bundle in enumerate(bundles, 1):
            name = f"{number:04}-{bundle['run_id']}"  # numbered: some file systems do not tell `A` from `a`
            (made / name).mkdir(mode=0o700)
            _fill(bundle, made / name)
            index[bundle["run_id"]] = {"directory": name, DIGEST: bundle[DIGEST]}
        said = {"schema": FAMILY, "run_id": next(iter(index)), "agentledger": __version__, "bundles": index}
        write_whole(made / INDEX, [_pretty(said)], private=False)
    return {run: one[DIGEST] for run, one in index.items()}


def _fill(bundle: Mapping[str, Any], made: Path) -> None:
    private = _keyed(bundle)
    write_whole(made / BUNDLE, text(bundle), private=private)
    write_whole(made / EVENTS, (_json(event) + b"\n" for event in bundle["events"]), private=private)
    for name, part in EXTRACTS.items():
        write_whole(made / name, [_pretty(bundle[part])], private=private)
    write_whole(made / MANIFEST, [_pretty(_manifest(bundle, made))], private=private)


def _manifest(bundle: Mapping[str, Any], path: Path) -> dict[str, Any]:
    files = {}
    for name in sorted(NAMES - {MANIFEST}):
        data = (path / name).read_bytes()
        files[name] = {"size": len(data), "digest": format_hash(chain.evidence_digest(data))}
    said = ("run_id", "ledger_id", "exported", "agentledger", "sealed", DIGEST)
    return {"schema": DIRECTORY, **{name: bundle[name] for name in said}, "files": files}


def _is_ours(path: Path) -> bool:
    """Whether a directory holds evidence, and nothing else."""
    try:
        names = set(os.listdir(path))
        if INDEX in names:
            schema = _object(path / INDEX).get("schema")
            return schema == FAMILY and all(_is_ours(path / name) for name in names - {INDEX})
        return MANIFEST in names <= NAMES and _object(path / MANIFEST).get("schema") == DIRECTORY
    except (LedgerError, OSError):
        return False


# Reading


def read(path: Path) -> dict[str, Any]:
    """The bundle in a JSON file, a page, or a directory (of a family: the first run's).

    Raises `NotFound`, `BadInput`, and `Damaged` for what is no bundle any more.
    """
    if is_family(path):
        return next(iter(read_family(path).values()))
    if path.is_dir():
        return _bundle(_object(path / BUNDLE), path / BUNDLE)
    data = _read(path)
    if not _is_page(data):
        return _bundle(_mapping(data, path), path)
    found = [_mapping(block, path) for block in _DATA.findall(data) if SCHEMA in block]
    bundles = [one for one in found if one.get("schema") == SCHEMA]
    if len(bundles) != 1:
        raise Damaged(f"{path} is a page with {len(bundles)} bundles of evidence in it, and should have one.")
    return bundles[0]


def family(path: Path) -> dict[str, Path]:
    """The directories of a run's evidence and its children's, by run id, the first run's first. Raises `Damaged`."""
    index = _object(path / INDEX)
    listed, names = index.get("bundles"), set(os.listdir(path))
    if index.get("schema") != FAMILY or not isinstance(listed, dict) or index.get("run_id") not in listed:
        raise Damaged(f"{path / INDEX} is no index of evidence.")
    found: dict[str, Path] = {}
    for run in sorted(listed, key=lambda run: run != index["run_id"]):
        name = listed[run].get("directory") if isinstance(listed[run], dict) else None
        if not isinstance(name, str) or name not in names:
            raise Damaged(f"{path} has no directory with the evidence of run {run[:140]}.")
        found[run] = path / name
    return found


def read_family(path: Path) -> dict[str, dict[str, Any]]:
    """The bundles of such a directory. Raises as `read` does."""
    found = {}
    listed = _object(path / INDEX)["bundles"]
    for run, place in family(path).items():
        found[run] = read(place) if not is_family(place) else {}
        if found[run].get("run_id") != run or found[run].get(DIGEST) != listed[run].get(DIGEST):
            raise Damaged(f"{place} is not the evidence of run {run[:140]} that the index names.")
    return found


def is_family(path: Path) -> bool:
    """Whether a directory holds the evidence of a run and its children."""
    return path.is_dir() and (path / INDEX).exists()


def beside(path: Path, bundle: Mapping[str, Any]) -> tuple[list[Finding], list[str]]:
    """What the files around a bundle say otherwise than the bundle, and what of them cannot be compared with it."""
    if path.is_dir():
        return _extracts(path, bundle)
    if not path.is_file():  # a pipe: what was read is gone
        return [], []
    data = _read(path)
    if not _is_page(data):
        return [], []
    if bundle.get("agentledger") != __version__:
        made_by = str(bundle.get("agentledger"))[:40]
        return [], [f"what the page shows: version {made_by} made it, and only that version can compare it"]
    if render(bundle) == data:
        return [], []
    return [
        Finding(kind="page", detail="the page is not the one that is made of its data: do not trust what it shows")
    ], []


def _extracts(path: Path, bundle: Mapping[str, Any]) -> tuple[list[Finding], list[str]]:
    findings = []
    wanted: dict[str, Any] = {name: bundle.get(part) for name, part in EXTRACTS.items()}
    try:
        wanted[MANIFEST] = _manifest(bundle, path)
    except (OSError, KeyError):  # a file is missing: it is found below
        wanted[MANIFEST] = None
    for name, part in wanted.items():
        try:
            fits = same(_parsed(_read(path / name), path / name), part)
        except LedgerError:
            fits = False
        if not fits:
            findings.append(Finding(kind="file", detail=f"{name} does not say what the bundle says"))
    try:
        said = _read(path / EVENTS).removesuffix("\n")
        lines = said.split("\n") if said else []  # at nothing else: JSON has U+2028 and its like as they are
        fits = same([_parsed(line, path / EVENTS) for line in lines], bundle.get("events"))
    except LedgerError:
        fits = False
    if not fits:
        findings.append(Finding(kind="file", detail=f"{EVENTS} does not say what the bundle says"))
    return findings, _strangers(set(os.listdir(path)) - NAMES)


def beside_family(path: Path) -> list[str]:
    """What is in such a directory beside the bundles that its index names, and cannot be compared with them."""
    return _strangers(set(os.listdir(path)) - {INDEX} - {place.name for place in family(path).values()})


def _strangers(names: set[str]) -> list[str]:
    if not names:
        return []
    more = f", … ({len(names):,})" if len(names) > 8 else ""
    return [f"files that do not belong to the bundle: {', '.join(sorted(names)[:8])}{more}"]


def _bundle(value: dict[str, Any], path: Path) -> dict[str, Any]:
    if value.get("schema") != SCHEMA:
        raise Damaged(f"{path} is no bundle of evidence: its schema is not {SCHEMA}.")
    return value


def _object(path: Path) -> dict[str, Any]:
    return _mapping(_read(path), path)


def _mapping(data: str, path: Path) -> dict[str, Any]:
    value = _parsed(data, path)
    if not isinstance(value, dict):
        raise Damaged(f"{path} is no JSON of a bundle: it is no object.")
    return value


def _is_page(data: str) -> bool:
    return data[:100].lstrip().startswith("<")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", hint="Make one: agentledger evidence RUN --out FILE") from None
    except UnicodeDecodeError:
        raise Damaged(f"{path} is no text in UTF-8: it is damaged, or no bundle of evidence.") from None
    except OSError as error:
        cannot("read", path, error)


def _parsed(data: str, path: Path) -> Any:
    """The value of a JSON text that says everything once. Raises `Damaged`."""
    try:
        return json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is no JSON of a bundle: {error}."[:300]) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _pretty(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode() + b"\n"


def _keyed(bundle: Mapping[str, Any]) -> bool:
    return bundle["stream"]["key"] is not None
