"""The program: finds the command, and turns errors into one line and an exit code."""

import argparse
import logging
import pkgutil
import signal
import sys
import warnings
from collections.abc import Sequence

from pythae_fif.errors import (
    FailedRunsError,
    FIFError,
    check_choice,
    requires_extra,
)

COMMANDS = {
    "run": "pythae_fif.cli.main:run_command",
    "study": "pythae_fif.cli.study:study_command",
    "list": "pythae_fif.cli.show:list_command",
    "verify": "pythae_fif.cli.show:verify_command",
    "score": "pythae_fif.cli.saved_models:score_command",
    "sample": "pythae_fif.cli.saved_models:sample_command",
    "likelihood": "pythae_fif.cli.saved_models:likelihood_command",
}
"""Name of a command -> import path of the function that executes it, given its arguments."""

FAILED_RUNS = 1
WRONG_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        arguments: The command's name, its arguments and flags; `sys.argv` if None.

    Returns:
        The exit code: 0 for success, 1 if runs failed or are corrupt, 2 for wrong input, 130 if the
        user interrupted.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, handlers=[_TerminalHandler()])
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    try:
        with warnings.catch_warnings(), requires_extra("benchmark", "the command line"):
            # Python's own function would add the file and the line of source code.
            warnings.showwarning = lambda message, *_, **__: _print_line("warning", message)
            command, command_argv = _split_command(argv)
            execute = pkgutil.resolve_name(COMMANDS[command])
            execute(command_argv)
            return 0
    except (FIFError, OSError) as error:
        lines = error.args if isinstance(error, FIFError) else [error]
        for line in lines:
            _print_line("error", line)
        return FAILED_RUNS if isinstance(error, FailedRunsError) else WRONG_INPUT
    except KeyboardInterrupt:
        jobs = " and Slurm's jobs continue" if "slurm" in argv else ""
        _print_line("interrupted", f"finished runs are kept{jobs}; the same command resumes")
        return INTERRUPTED


def _split_command(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the command and its arguments.

    The command is `run` if none is named. `run` with the data set of a study is that study.

    Raises:
        ConfigError: The command is unknown.
    """
    if not argv or argv[0].startswith("-"):
        argv = ["run", *argv]
    command, *arguments = argv
    check_choice(command, COMMANDS, f"unknown command {command!r}")

    from pythae_fif.study import STUDY_OF_DATASET  # needs packages of the extra `benchmark`

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset", nargs="?")
    study = STUDY_OF_DATASET.get(parser.parse_known_args(arguments)[0].dataset)
    if command == "run" and study:
        return "study", [study, *arguments]
    return command, arguments


def run_command(argv: list[str]) -> None:
    """Executes `run`."""
    from pythae_fif.cli.flags import read_request

    request = read_request(argv)
    # Imported here, because it imports torch, and `--help` would wait for that.
    from pythae_fif.cli.benchmark import run_benchmark

    run_benchmark(*request)


class _TerminalHandler(logging.Handler):
    """Prints log records on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        _print_line(record.levelname.lower(), record.getMessage())


def _print_line(kind: str, text: object) -> None:
    """Prints one line on standard error."""
    print(f"{kind}:", *str(text).split(), file=sys.stderr)
