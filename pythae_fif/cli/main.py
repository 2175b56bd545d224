"""The program: finds the command, and turns errors into one line and an exit code."""

import argparse
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
    logging.basicConfig(level=logging.WARNING, handlers=[_ToTerminal()])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with warnings.catch_warnings():
            # In place of Python's, which adds a file and a line of source.
            warnings.showwarning = lambda message, *_, **__: _tell("warning", message)
            return 0 if _run(list(sys.argv[1:] if arguments is None else arguments)) else RUNS_LEFT
    except (FIFError, OSError) as error:
        for line in error.problems if isinstance(error, ProblemsError) else [str(error)]:
            _tell("error", line)
        return RUNS_LEFT if isinstance(error, RunsLeftError) else WRONG_INPUT
    except KeyboardInterrupt as interrupt:
        kept = "finished runs are kept; the same command goes on from the last checkpoints"
        _tell("interrupted", str(interrupt) or kept)
        return INTERRUPTED


class _ToTerminal(logging.Handler):
    """Tells what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell(record.levelname.lower(), record.getMessage())


def _tell(kind: str, text: object) -> None:
    """Prints one line on standard error."""
    print(f"{kind}:", " ".join(printable(text).split()), file=sys.stderr)


def _run(words: list[str]) -> bool:
    """Runs a command, `run` where none is named; whether all is done and nothing is wrong."""
    command, *rest = words if words and not words[0].startswith("-") else ("run", *words)
    if command not in COMMANDS:
        raise ConfigError(f"unknown command {command!r}: {did_you_mean(command, COMMANDS)}")
    if command == "list":
        return list_command(rest)
    if command == "verify":
        return verify_command(rest)
    if command == "study":
        return study_command(rest)
    if command == "score":
        from pythae_fif.cli.score import score_command  # which imports torch

        return score_command(rest)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset", nargs="?")
    dataset = parser.parse_known_args(rest)[0].dataset
    if dataset in studies.DATASETS:  # which says that its study is meant
        return study_command([studies.DATASETS[dataset], *rest])
    request = read_request(run_parser().given(rest))
    from pythae_fif.cli.benchmark import run_benchmark  # which imports torch

    return run_benchmark(request)
