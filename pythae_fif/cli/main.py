"""The program: finds the subcommand, and turns errors into one line and an exit code."""

__all__ = ["main"]

import io
import logging
import signal
import sys
import warnings
from collections.abc import Sequence

from pythae_fif import studies
from pythae_fif.cli.list import list_command
from pythae_fif.cli.request import read_request, run_parser
from pythae_fif.cli.study import study_command
from pythae_fif.cli.terminal import PlainFormatter
from pythae_fif.cli.verify import verify_command
from pythae_fif.errors import (
    ConfigError,
    FIFError,
    ProblemsError,
    RunsLeftError,
    did_you_mean,
    printable,
)

EXIT_RUNS_LEFT, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
COMMANDS = ("run", "study", "list", "verify", "score")
DESCRIPTION = (
    "Trains generative autoencoders on a data set, samples, scores and compares. Other commands "
    "are: `study NAME`, an experiment of the paper; `list`, what there is to choose from; `verify "
    "RESULTS`, what in a store can be trusted; `score SAMPLES REFERENCE`, scores of two folders of "
    "images, or of a saved model. Each has a --help of its own; without the name of "
    "a command, run is meant."
)
EPILOG = "exit codes: 0 all done, 1 some runs failed, 2 bad input, 130 interrupted"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Returns:
        The exit code; see :data:`EPILOG`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # one that lacks a β gets a question mark
            stream.reconfigure(errors="replace")
    to_terminal = logging.StreamHandler()
    to_terminal.setFormatter(PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[to_terminal])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = "run"
    try:
        command, rest = _command_of(words)
        with warnings.catch_warnings():
            # In place of Python's, which adds a file and a line of source.
            warnings.showwarning = lambda message, *_, **__: _tell("warning", message)
            return _dispatch(command, rest)
    except (FIFError, OSError) as error:
        for line in error.problems if isinstance(error, ProblemsError) else [str(error)]:
            _tell("error", line)
        return EXIT_RUNS_LEFT if isinstance(error, RunsLeftError) else EXIT_BAD_INPUT
    except KeyboardInterrupt as interrupt:
        usual = "nothing was written"
        if command in ("run", "study"):
            usual = "finished runs are kept; the same command goes on from the last checkpoints"
        _tell("interrupted", str(interrupt) or usual)
        return EXIT_INTERRUPTED


def _tell(kind: str, text: object) -> None:
    """Prints one line on standard error."""
    print(f"{kind}:", " ".join(printable(text).split()), file=sys.stderr)


def _dispatch(command: str, rest: list[str]) -> int:
    if command == "list":
        return list_command(rest)
    if command == "verify":
        return verify_command(rest)
    if command == "study":
        return study_command(rest)
    if command == "score":
        from pythae_fif.cli.score import score_command  # which imports torch

        return score_command(rest)
    request = read_request(run_parser(DESCRIPTION, EPILOG).given(rest))
    from pythae_fif.cli.run import run_benchmark  # which imports torch

    return 0 if run_benchmark(request) else EXIT_RUNS_LEFT


def _command_of(words: list[str]) -> tuple[str, list[str]]:
    """The subcommand and its words; without its name, a study's data set says that it is meant."""
    if words[:1] and words[0] in COMMANDS[1:]:
        return words[0], words[1:]
    if words[:1] and words[0] != "run" and not words[0].startswith("-"):
        raise ConfigError(f"unknown command {words[0]!r}: {did_you_mean(words[0], COMMANDS)}")
    rest = words[1:] if words[:1] == ["run"] else words
    dataset = _dataset(rest)
    if dataset in studies.DATASETS:
        return "study", [studies.DATASETS[dataset], *rest]
    return "run", rest


def _dataset(words: list[str]) -> str:
    """The value of `--dataset`, the last if there are several; empty if there is none."""
    found = ""
    for word, after in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name == "--dataset":
            found = value if equals else after
    return found
