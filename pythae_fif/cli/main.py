"""The program: finds the command, and turns errors into one line and an exit code."""

__all__ = ["main"]

import argparse
import io
import logging
import signal
import sys
import warnings
from collections.abc import Sequence

from pythae_fif.cli.flags import read_request, run_parser
from pythae_fif.cli.show import list_command, verify_command
from pythae_fif.cli.study import study_command
from pythae_fif.errors import (
    ConfigError,
    FIFError,
    ProblemsError,
    RunsLeftError,
    did_you_mean,
    printable,
)
from pythae_fif.studies import study as studies

RUNS_LEFT, WRONG_INPUT, INTERRUPTED = 1, 2, 130
COMMANDS = ("run", "study", "list", "verify", "score")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Returns:
        The exit code: 0 all records are there, 1 runs failed or are left, 2 wrong input, 130
        interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # one that lacks a β gets a question mark
            stream.reconfigure(errors="replace")
    logging.basicConfig(level=logging.WARNING, handlers=[_ToTerminal()])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = "run"
    try:
        command, rest = _command_of(words)
        with warnings.catch_warnings():
            # In place of Python's, which adds a file and a line of source.
            warnings.showwarning = lambda message, *_, **__: _tell("warning", message)
            return 0 if _run(command, rest) else RUNS_LEFT
    except (FIFError, OSError) as error:
        for line in error.problems if isinstance(error, ProblemsError) else [str(error)]:
            _tell("error", line)
        return RUNS_LEFT if isinstance(error, RunsLeftError) else WRONG_INPUT
    except KeyboardInterrupt as interrupt:
        kept = "finished runs are kept; the same command goes on from the last checkpoints"
        usual = kept if command in ("run", "study") else "nothing was written"
        _tell("interrupted", str(interrupt) or usual)
        return INTERRUPTED


class _ToTerminal(logging.Handler):
    """Tells what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell(record.levelname.lower(), record.getMessage())


def _tell(kind: str, text: object) -> None:
    """Prints one line on standard error."""
    print(f"{kind}:", " ".join(printable(text).split()), file=sys.stderr)


def _run(command: str, words: list[str]) -> bool:
    """Runs a command; whether all is done and nothing is wrong."""
    if command == "list":
        return list_command(words)
    if command == "verify":
        return verify_command(words)
    if command == "study":
        return study_command(words)
    if command == "score":
        from pythae_fif.cli.score import score_command  # which imports torch

        return score_command(words)
    request = read_request(run_parser().given(words))
    from pythae_fif.cli.benchmark import run_benchmark  # which imports torch

    return run_benchmark(request)


def _command_of(words: list[str]) -> tuple[str, list[str]]:
    """The command and its words; without its name, a study's data set says that it is meant."""
    command, rest = "run", words
    if words and not words[0].startswith("-"):
        command, *rest = words
    if command not in COMMANDS:
        raise ConfigError(f"unknown command {command!r}: {did_you_mean(command, COMMANDS)}")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset", nargs="?")
    dataset = parser.parse_known_args(rest)[0].dataset
    if command == "run" and dataset in studies.DATASETS:
        return "study", [studies.DATASETS[dataset], *rest]
    return command, rest
