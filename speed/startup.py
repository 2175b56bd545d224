"""Times what every command waits for: imports, `--help`, `list` and a finished run.

    python speed/startup.py [--rounds 5] [--output F]

Prints the processor time of a whole process in seconds, the least of all rounds.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import command, markdown

from pythae_fif.files import write_bytes
from pythae_fif.runs.provenance import processor

PROGRAM = str(Path(__file__).resolve().parents[1] / "run_benchmark.py")


def cpu_seconds(arguments: list[str]) -> float:
    """Returns the processor time of Python with these arguments, and of its child processes.

    Raises:
        subprocess.CalledProcessError: If the process fails.
    """
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (end.ru_utime - start.ru_utime) + (end.ru_stime - start.ru_stime)


def time_commands(rounds: int) -> dict[str, float]:
    """Times each command, the first run of a model once and everything after it `rounds` times."""
    with tempfile.TemporaryDirectory() as folder:
        run = [PROGRAM, "--models", "ae", "--epochs", "1", "--results", folder]
        commands = {
            "python": ["-c", ""],
            "import pythae": ["-c", "import pythae.models, pythae.trainers"],
            "import pythae_fif": ["-c", "import pythae_fif; pythae_fif.FIF"],
            "--help": [PROGRAM, "--help"],
            "list": [PROGRAM, "list"],
            "a run": run,
            "the same run again": run,
        }

        least: dict[str, float] = {}
        for name, arguments in commands.items():
            repeats = 1 if name == "a run" else rounds
            least[name] = min(cpu_seconds(arguments) for _ in range(repeats))
    return least


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="Markdown file to write the table to")
    flags = parser.parse_args()

    least = time_commands(flags.rounds)
    rows = [{"what": name, "seconds": f"{value:.2f}"} for name, value in least.items()]
    text = f"{markdown(rows)}\nOn {processor()}. Made by `{command(flags.output)}`.\n"
    print(text)
    if flags.output:
        write_bytes(Path(flags.output), f"# Start-up\n\n{text}".encode())


if __name__ == "__main__":
    main()
