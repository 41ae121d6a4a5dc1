"""Every error this package raises on purpose; all derive from one base class.

A message names the value that was given, what is legal, and the fix. Catch `RecovGraphError` to
catch them all.
"""

from __future__ import annotations

from typing import Any


class RecovGraphError(Exception):
    """Base class of every error raised by recov_graph."""


class InvalidInputError(RecovGraphError, ValueError):
    """A value handed in is of the wrong shape, type or range."""


class ProblemFileError(InvalidInputError):
    """A line of a problem file cannot be read; the message starts with file and line number."""


class ModelError(RecovGraphError):
    """A model call failed.

    Attributes:
        status: the HTTP status, where there is one.
        said: the server's own words, where there are any.
        usage: the `recov_graph.rollout.Usage` of what was spent before it did, or None.
    """

    def __init__(
        self, message: str, *, status: int | None = None, said: str = "", usage: Any = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.said = said
        self.usage = usage


class ModelAccessError(ModelError):
    """The model is not to be had: a wrong key, name or address, or a request it does not take."""


class ModelUnavailableError(ModelError):
    """The model did not answer, or said that it cannot now, however often it was asked."""


class ModelReplyError(ModelError):
    """The model's answer is cut short, malformed or impossible."""


class NotScorableError(ModelError):
    """A rollout cannot be scored, as where two tokenizers cut it differently."""


class MissingExtraError(RecovGraphError, ImportError):
    """An optional package is needed; the message says how to install it."""


# Built-in errors as well, where one fits: the LangGraph server shows messages only of those.
class PolicyError(RecovGraphError, ValueError):
    """A policy file is damaged, of a newer version, or does not fit."""


class TapeError(RecovGraphError):
    """A tape or a file of recorded outcomes cannot be used."""


class StoreError(RecovGraphError, RuntimeError):
    """The trace store cannot be opened, read or written."""
