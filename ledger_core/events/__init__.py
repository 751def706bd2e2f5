"""Event bodies by family, and their registry: what can happen in a ledger.

A new event type is one class in its family's file. Importing this package registers them all.
"""

from ledger_core.events import effect, govern, ledger, run, session, step, wait
from ledger_core.events.base import FORGOTTEN, REGISTRY, UNREAD, Body, EventType, Missing, Unknown

__all__ = [
    "FORGOTTEN",
    "REGISTRY",
    "UNREAD",
    "Body",
    "EventType",
    "Missing",
    "Unknown",
    "effect",
    "govern",
    "ledger",
    "run",
    "session",
    "step",
    "wait",
]
