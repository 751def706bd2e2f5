"""States of runs as bytes, so that a fold goes on where it was left: derived, and refolded from the log if in doubt.

Rules: a snapshot says how many events it stands for; whoever thaws one checks that. This file does not know where they
are kept.
"""

from __future__ import annotations

import functools
from collections import Counter

from cattrs import Converter

from ledger_core import codec
from ledger_core.run.state import RunState


@functools.cache
def _converter() -> Converter:
    converter = Converter(unstruct_collection_overrides={set: list, tuple: list})
    converter.register_structure_hook(Counter, lambda value, _: Counter(value))
    return converter


def freeze(state: RunState) -> bytes:
    """The bytes of a state."""
    return codec.encode_trusted(_converter().unstructure(state))


def thaw(data: bytes) -> RunState:
    """The inverse of `freeze`."""
    return _converter().structure(codec.decode_trusted(data), RunState)
