"""The page: a run's evidence in one HTML file that checks itself in its reader's browser.

Rules: one file, nothing beside it, no network: its policy (CSP) allows its own scripts and styles by their digests, and
nothing else. What comes from the log is data: it stands in a block of JSON that no parser of markup sees the end of,
and scripts make text of it, never markup. This file knows neither what the scripts do nor what a bundle says.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from ledger_core.errors import BadInput
from ledger_core.events.base import REGISTRY
from projections.evidence_records import SCHEMA

SCRIPTS: Final = (
    "blake3.js",
    "exact.js",
    "msgpack.js",
    "record.js",
    "shown.js",
    "calls.js",
    "fold.js",
    "follow.js",
    "rows.js",
    "verify.js",
    "dom.js",
    "values.js",
    "changes.js",
    "run.js",
    "messages.js",
    "streamed.js",
    "transcript.js",
    "used.js",
    "moment.js",
    "lists.js",
    "charts.js",
    "report.js",
    "overview.js",
    "events.js",
    "timeline.js",
    "tree.js",
    "tables.js",
    "main.js",
)
"""In this order: each uses only what stands before it."""
STYLES: Final = ("look.css", "talk.css", "fit.css")
_ESCAPES: Final = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
"""In JSON these stand inside texts only, so the text stays the same document."""


def render(bundle: Mapping[str, Any]) -> str:
    """The page of a bundle of evidence (`projections.evidence.bundle`). Raises `BadInput` for anything else."""
    from jinja2 import Environment  # noqa: PLC0415 - heavy, and only whoever renders a page pays for it

    if not isinstance(bundle, Mapping) or bundle.get("schema") != SCHEMA:
        raise BadInput(
            f"A page is made of a bundle of evidence, whose schema is {SCHEMA}.",
            hint="Make one: agentledger evidence RUN.",
        )
    try:
        data = json.dumps(bundle, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"The bundle is no JSON: {error}.", hint="Make one: agentledger evidence RUN.") from None
    kinds = {name: [kind.version, *kind.content] for name, kind in REGISTRY.items()}
    scripts, styles = [_read(name) for name in SCRIPTS], "\n".join(map(_read, STYLES))
    environment = Environment(autoescape=True, keep_trailing_newline=True)
    return environment.from_string(_read("page.html")).render(
        run=str(bundle.get("run_id")),
        policy=_policy(scripts, styles),
        styles=styles,
        scripts=scripts,
        bundle=data.translate(_ESCAPES),
        kinds=json.dumps(kinds, separators=(",", ":")).translate(_ESCAPES),
    )


def _policy(scripts: list[str], styles: str) -> str:
    """The content security policy (CSP level 3): scripts and styles by digest, images that are data, nothing else."""
    allowed = " ".join(map(_digest, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_digest(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
