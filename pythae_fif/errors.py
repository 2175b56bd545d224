"""Typed exceptions; every message is one line that says what, where and what would be right."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches


class FIFError(Exception):
    """Base class of all errors that this package raises on purpose."""


class ConfigError(FIFError, ValueError):
    """A flag, YAML key or value that is unknown or out of range; of several each is an argument."""


class DataError(FIFError, ValueError):
    """A data set that is missing, unreadable or not what its name promises."""


class NonFiniteError(FIFError, ArithmeticError):
    """NaN or infinity where a finite number is needed; the message names the samples."""


class UnsupportedOperationError(FIFError, NotImplementedError):
    """A network that cannot be replayed; the message names the operation."""


class StoreError(FIFError, OSError):
    """A results folder that cannot be written, or a record in it that cannot be read."""


class RunsLeftError(FIFError):
    """Runs failed that a study is drawn from, or that a dry run made; each has a line."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The end of an error line: the valid name that is spelled most alike or has the initials of
    the given one, then all of them.

    Example:
        >>> did_you_mean("lr", ["seed", "learning_rate"])
        "did you mean 'learning_rate'? valid: seed, learning_rate"
    """
    choices, given = [str(choice) for choice in valid], str(name).lstrip("-")
    bare = {choice.lstrip("-"): choice for choice in choices}  # dashes make all flags alike
    parts = {choice: re.split("[-_]", choice) for choice in reversed(bare)}
    known = {"".join(part[:1] for part in of): choice for choice, of in parts.items()}
    nearest = get_close_matches(given, bare, n=1) or [known[of] for of in [given] if of in known]
    hint = f"did you mean {bare[nearest[0]]!r}? " if nearest else ""
    return f"{hint}valid: {', '.join(choices)}"


@contextlib.contextmanager
def requires_extra(extra: str, what: str) -> Iterator[None]:
    """Within the block packages of one of our extras are imported; a missing one is one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        name, install = (error.name or "").partition(".")[0], f"pip install 'pythae-fif[{extra}]'"
        raise ConfigError(f"{what} needs the package {name}: {install}") from error


def format_error(error: BaseException) -> str:
    """An error as one line: the message, and of others than ours the type, cut off."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FIFError) else f"{type(error).__name__}: {text}"[:200]


def pluralized(number: int, thing: str) -> str:
    """A number of things, such as `2,000 runs`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def strip_control_characters(text: object) -> str:
    """Text without what a terminal would obey, for all that others may have written. Taken out is
    what Unicode calls not printable, but for tabs and line ends."""
    return "".join(one for one in str(text) if one.isprintable() or one in "\t\n")
