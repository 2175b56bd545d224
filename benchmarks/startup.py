"""Times what every command waits for: imports, `--help`, `list` and a run that is done already.

    python benchmarks/startup.py [--rounds 5] [--output F]

Seconds of processor time of a whole process, the least of the rounds; memory in MB.
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


def cpu_seconds(words: list[str]) -> float:
    """Of one process and its children, which succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--output", help="Markdown file to write the table to")
    flags = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = [PROGRAM, "--models", "ae", "--epochs", "1", "--results", folder]
        waits = {
            "python": ["-c", ""],
            "import pythae": ["-c", "import pythae.models, pythae.trainers"],
            "import pythae_fif": ["-c", "import pythae_fif; pythae_fif.FIF"],
            "--help": [PROGRAM, "--help"],
            "list": [PROGRAM, "list"],
            "a run": run,
            "the same run again": run,
        }
        least = {}
        for name, words in waits.items():
            rounds = 1 if name == "a run" else flags.rounds
            least[name] = min(cpu_seconds(words) for _ in range(rounds))
    rows = [{"what": name, "seconds": f"{value:.2f}"} for name, value in least.items()]
    text = f"{markdown(rows)}\nOn {processor()}. Made by `{command(flags.output)}`.\n"
    print(text)
    if flags.output:
        write_bytes(Path(flags.output), f"# Start-up\n\n{text}".encode())


if __name__ == "__main__":
    main()
