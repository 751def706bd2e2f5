"""The log, and the runtime that writes it."""

__version__ = "0.1.0"
