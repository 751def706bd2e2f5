"""RFC 7396 merge patches: how a run's state document changes.

Rules: pure; documents go in and come out, nothing is changed in place. None deletes a key, as the RFC says.
"""

from __future__ import annotations

from typing import Any

from ledger_core import codec


def merge(document: Any, patch: Any) -> Any:
    """`document` after `patch` (RFC 7396 section 2)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def diff(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The patch that turns `before` into `after`. Patches themselves cannot be joined: none says "replace this"."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif isinstance(value, dict) and isinstance(before[key], dict):
            if inner := diff(before[key], value):
                patch[key] = inner
        elif codec.encode(value) != codec.encode(before[key]):  # not `!=`: 1, 1.0 and True are three values
            patch[key] = value
    return patch
