"""Exception classes. Every message is one line: what was wrong, where, and what would be right."""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches


class FIFError(Exception):
    """Base class of all errors that this package raises on purpose."""


class ConfigError(FIFError, ValueError):
    """A flag, YAML key or value is unknown or out of range. Each argument is one error line."""


class DataError(FIFError, ValueError):
    """A data set is missing, unreadable, or not what its name promises."""


class DownloadError(ConfigError, DataError):
    """A file is missing, and its download failed or was forbidden.

    Args:
        message: The error line.
        download: What is missing, its size and its place.
        substitute: Keys of an experiment with which it can be timed without the file.
        num_train: Number of missing training images.
    """

    def __init__(
        self, message: str, download: str, substitute: dict[str, str], num_train: int = 0
    ) -> None:
        super().__init__(message)
        self.download = download
        self.substitute = substitute
        self.num_train = num_train


class MissingFileError(DataError, FileNotFoundError):
    """A file of a saved model is missing. Pythae raises a FileNotFoundError."""


class MissingInputDimError(ConfigError, AttributeError):
    """A configuration lacks `input_dim`. Pythae raises an AttributeError."""


class NonFiniteError(FIFError, ArithmeticError):
    """A number that must be finite is NaN or infinite. The message names the samples."""


class TooSlowError(FIFError):
    """A computation was left out, because it would take too long. The message says how long."""


class UnsupportedOperationError(FIFError, NotImplementedError):
    """A network uses an operation that cannot be replayed. The message names the operation."""


class StoreError(FIFError, OSError):
    """A results folder cannot be written, or a record in it cannot be read."""


class FailedRunsError(FIFError):
    """Runs failed, or are corrupt. Each argument is one error line."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns the end of an error line: the nearest valid name, then all valid names.

    The nearest name is the one with the most similar spelling. If none is similar, it is the first
    one with `name` as its initials.

    Args:
        name: The unknown name.
        valid: The valid names.

    Example:
        >>> did_you_mean("lr", ["seed", "learning_rate"])
        "did you mean 'learning_rate'? valid: seed, learning_rate"
    """
    choices = [str(choice) for choice in valid]
    query = str(name).lstrip("-")

    # Leading dashes would make all flags look alike.
    by_bare_name = {choice.lstrip("-"): choice for choice in choices}
    by_initials: dict[str, str] = {}
    for bare_name in by_bare_name:
        initials = "".join(word[:1] for word in re.split("[-_]", bare_name))
        by_initials.setdefault(initials, bare_name)

    close_matches = get_close_matches(query, by_bare_name, n=1)
    nearest = close_matches[0] if close_matches else by_initials.get(query)
    hint = "" if nearest is None else f"did you mean {by_bare_name[nearest]!r}? "
    return f"{hint}valid: {', '.join(choices)}"


def check_choice(name: str, valid: Collection[str], problem: str) -> None:
    """Checks that a name is valid.

    Args:
        name: The name.
        valid: The valid names.
        problem: The beginning of the error line, which :func:`did_you_mean` completes.

    Raises:
        ConfigError: The name is not valid.
    """
    if name not in valid:
        raise ConfigError(f"{problem}: {did_you_mean(name, valid)}")


@contextlib.contextmanager
def requires_extra(extra: str, feature: str) -> Iterator[None]:
    """Wraps imports of optional packages.

    Args:
        extra: The extra of this package that installs them.
        feature: The feature that needs them, which begins the error line.

    Raises:
        ConfigError: A package is missing. The message names the extra to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ConfigError(
            f"{feature} needs the package {package}: pip install 'pythae-fif[{extra}]'"
        ) from error


def format_error(error: BaseException) -> str:
    """Returns an error as one line.

    An error of this package is its message. Any other error begins with its type and is cut off
    after 200 characters.
    """
    message = " ".join(str(error).split())
    return message if isinstance(error, FIFError) else f"{type(error).__name__}: {message}"[:200]


def pluralized(number: int, thing: str) -> str:
    """Returns a number with its noun, such as `1 run` or `2,000 runs`.

    Args:
        number: The number of things.
        thing: The noun in the singular.
    """
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


class SlowerTrainingWarning(UserWarning):
    """Training is slower because of a network; the message says why."""
