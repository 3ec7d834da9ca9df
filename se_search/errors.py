"""Exceptions for mistakes of the user; each message is one sentence."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LONGEST = 2000
_on_command_line = ContextVar("on_command_line", default=False)


class SeSearchError(ValueError):
    """A mistake of the user; its message is one sentence that can be shown as it is."""

    def __str__(self) -> str:
        """Return the message on one line, shortened: names in it may contain line breaks or be very long."""
        text = super().__str__()
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
        return printable(text)


class BackboneError(SeSearchError):
    """The backbone is unknown or offers no place for an SE block."""


class ClusterError(SeSearchError):
    """A Ray cluster cannot be used or is lost."""


class ConfigurationError(SeSearchError):
    """An SE configuration has an impossible value or does not fit its backbone."""


class DefinitionError(SeSearchError):
    """A space or study file is missing or malformed, or a setting is impossible on this machine."""


class DataError(SeSearchError):
    """The data do not exist or cannot be read."""


class EvaluationError(SeSearchError):
    """A network cannot be trained, evaluated or timed: its outputs are not finite, or a compiler refuses it."""


class DivergenceError(EvaluationError):
    """The loss of a training or the outputs of a network are not finite."""


class ExportError(SeSearchError):
    """A network cannot be written in a format, or an exported one cannot be read."""


class OutputError(SeSearchError):
    """Standard output cannot be written, such as on a full device."""


class RunFolderError(SeSearchError):
    """A run folder is unwritable, damaged, in use or belongs to another study."""


@contextmanager
def naming_options() -> Iterator[None]:
    """Let messages name options of the command line instead of arguments in Python."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def as_given(argument: str, option: str = "") -> str:
    """Return an argument as the user gives it: ``max_params`` in Python, ``--max-params`` on the command line.

    ``option`` replaces an option that is not the argument with hyphens.
    """
    if not _on_command_line.get():
        return argument
    return option or f"--{argument.replace('_', '-')}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; near names: a, b"`` for the names in ``known`` that resemble ``name``, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; near names: {', '.join(near)}" if near else ""


def first_reason(error: BaseException) -> str:
    """Return the first line of the root cause's message, or the name of its class."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__


def printable(text: str) -> str:
    """Return text on one line; characters that are not printable, such as line breaks, are escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
