"""The program: finds the command, and turns errors into one line and an exit code."""

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Sequence

from pythae_fif.cli.flags import read_request
from pythae_fif.cli.show import list_command, verify_command
from pythae_fif.cli.study import study_command
from pythae_fif.errors import (
    ConfigError,
    FIFError,
    RunsLeftError,
    did_you_mean,
    strip_control_characters,
)
from pythae_fif.studies import study as studies

MISSING_RUNS, WRONG_INPUT, INTERRUPTED = 1, 2, 130
COMMANDS = {"study": study_command, "list": list_command, "verify": verify_command}
"""Those that wait for no torch before their words are read; `run` and `score` are the others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 0 all records are there, 1 runs are left, 2 wrong
    input, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, handlers=[_TerminalHandler()])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command, *words = _command(list(sys.argv[1:] if arguments is None else arguments))
    try:
        with warnings.catch_warnings():
            # In place of Python's, which adds a file and a line of source.
            warnings.showwarning = lambda message, *_, **__: _print_line("warning", message)
            if command == "run":
                request = read_request(words)
                from pythae_fif.cli.benchmark import run_benchmark  # which imports torch

                whole = run_benchmark(*request)
            elif command == "score":
                from pythae_fif.cli.score import score_command  # so does this

                whole = score_command(words)
            elif command in COMMANDS:
                whole = COMMANDS[command](words)
            else:
                valid = ("run", *COMMANDS, "score")
                raise ConfigError(f"unknown command {command!r}: {did_you_mean(command, valid)}")
            return 0 if whole else MISSING_RUNS
    except (FIFError, OSError) as error:
        for line in error.args if isinstance(error, FIFError) else [error]:
            _print_line("error", line)
        return MISSING_RUNS if isinstance(error, RunsLeftError) else WRONG_INPUT
    except KeyboardInterrupt:
        kept = "finished runs are kept, and Slurm's jobs go on; the same command does the rest"
        _print_line("interrupted", kept)
        return INTERRUPTED


def _command(words: list[str]) -> list[str]:
    """The command and its words: `run` if none is named, a study if the data set is of one."""
    command, *rest = words if words and not words[0].startswith("-") else ("run", *words)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset", nargs="?")
    study = studies.DATASETS.get(parser.parse_known_args(rest)[0].dataset)
    return ["study", study, *rest] if command == "run" and study else [command, *rest]


class _TerminalHandler(logging.Handler):
    """Tells what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        _print_line(record.levelname.lower(), record.getMessage())


def _print_line(kind: str, text: object) -> None:
    """Prints one line on standard error."""
    print(f"{kind}:", " ".join(strip_control_characters(text).split()), file=sys.stderr)
