"""Every error this package raises on purpose; all derive from one base class.

A message names the value that was given, what is legal, and the fix. Catch `RecovGraphError` to
catch them all.
"""

from __future__ import annotations


class RecovGraphError(Exception):
    """Base class of every error raised by recov_graph."""


class InvalidInputError(RecovGraphError, ValueError):
    """A value handed in is of the wrong shape, type or range."""


class ProblemFileError(InvalidInputError):
    """A line of a problem file cannot be read; the message starts with file and line number."""


class ModelError(RecovGraphError):
    """A model call failed."""


class PolicyError(RecovGraphError):
    """A policy file is damaged, of a newer version, or does not fit."""


class TapeError(RecovGraphError):
    """A tape or a file of recorded outcomes cannot be used."""


class StoreError(RecovGraphError):
    """The trace store cannot be opened, read or written."""
