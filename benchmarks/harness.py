"""Times the benchmark's own machinery: a plan of 10,000 runs, and its share of one run's time.

    python benchmarks/harness.py [--runs 10000] [--rounds 3] [--output F]

**The plan.** A store is filled with the configuration and a record of every run of a plan (the
shape and the size of a real record, sealed). Then, in a fresh process each time and counted from
the end of the imports: the data set is loaded, the plan expanded, every run checked against the
store, and the table built and printed as the terminal shows it, with the look for further runs
that the table in the files has. Two plans: every model with many seeds, and FIF alone with as many
configurations, each of which must be found buildable.

**One run.** The digits with FIF in profile `quick`, the shortest realistic run there is, so that
the share is an upper bound. Counted as the harness: in the run's process the claim, the
configuration, states, checkpoints, the log and the record with its provenance; and, around it,
preparing the folder and starting, watching and ending a process, which is timed with runs that
have nothing left to do. Not counted, since any script must do it: loading data and extractor,
training, sampling, scoring, drawing and saving pictures and model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pythae_fif.benchmark.run as run_module
import pythae_fif.runs.execute as execute_module
import torch
from machine import command, markdown
from pythae_fif.benchmark.inputs import load_splits
from pythae_fif.benchmark.leaderboard import leaderboard
from pythae_fif.benchmark.model_entry import all_models, read_model_entry
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.reports.experiment import constant_error
from pythae_fif.reports.score_table import score_terminal
from pythae_fif.runs.claim import Claim
from pythae_fif.runs.engines.common import Batch, cores
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.execute import execute
from pythae_fif.runs.folder import RunFolder
from pythae_fif.runs.kind import Environment, Job
from pythae_fif.runs.pack import read_packs
from rich.console import Console

from pythae_fif.benchmark.config import Experiment, load_experiment
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.record import ImageRecord
from pythae_fif.benchmark.selection import Result
from pythae_fif.data import Splits
from pythae_fif.files import json_text, write_text
from pythae_fif.reports.report import build_report
from pythae_fif.runs.provenance import processor
from pythae_fif.runs.store import Store, config_text
from pythae_fif.training import FIFTrainer
from pythae_fif.training.checkpoint import RunFiles

ENVIRONMENT = Environment(offline=True)
REFERENCE = Path(__file__).resolve().parents[1] / "results/reference"


def images_of(experiment: Experiment) -> Splits:
    """The images of an experiment."""
    return load_splits(experiment.dataset, experiment.image_size, experiment.settings, ENVIRONMENT)


def experiment_of(kind: str, runs: int) -> Experiment:
    """An experiment with about so many runs."""
    if kind == "configurations":
        flags = {"models": ["fif"], "beta": [1 + i / 8 for i in range(runs // 2)],
                 "hutchinson_samples": [1, 2]}  # fmt: skip
        return load_experiment("digits", None, flags)
    most = load_experiment("digits", None, {}).settings.configurations
    once = sum(len(read_model_entry(name).choices()[:most]) for name in all_models())
    seeds = -(-runs // once)
    return load_experiment("digits", None, {"models": ["all"], "seeds": list(range(seeds))})


def fill(store: Store, kind: str, runs: int) -> None:
    """The configuration and a sealed record of every run, made of a real one."""
    line = next(run for run in read_packs(REFERENCE) if run.run.startswith("digits/convnet/fif/"))
    real = ImageRecord.parse(line.files["result.json"])
    experiment = experiment_of(kind, runs)
    scores = next(iter(real.scores.values()))
    for spec in expand(experiment, images_of(experiment)):
        changes = {"run_id": spec.run_id, "scores": dict.fromkeys(spec.samplers, scores)}
        run_dir = store.run_dir(spec)
        run_dir.mkdir(parents=True, exist_ok=True)
        record = real.model_copy(update=changes).to_dict()
        (run_dir / "result.json").write_text(json_text(record))
        (run_dir / "config.yaml").write_text(config_text(IMAGES, spec))


def plan_times(kind: str, runs: int, results: str) -> dict[str, float]:
    """Seconds of each part, in this process."""
    times: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = function()
        times[name] = time.perf_counter() - start
        return value

    def checked() -> list[Result]:
        assert not [spec for spec in plan if not store.is_done(spec)]
        return [Result(spec, store.record(spec)) for spec in plan]

    def reported() -> None:
        report = build_report(experiment, found, 0, constant_error(splits))
        with open("/dev/null", "w") as nowhere:
            Console(file=nowhere).print(score_terminal(report))
        leaderboard(store, experiment, splits.content_hash, found)

    experiment = timed("experiment", lambda: experiment_of(kind, runs))
    splits = timed("data", lambda: images_of(experiment))
    plan = timed("expand", lambda: expand(experiment, splits))
    store = Store(results, IMAGES)
    found = timed("check", checked)
    timed("table", reported)
    times["runs"] = len(plan)
    return times


class Clock:
    """Adds up the seconds within some functions, each by itself; what one calls is its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.busy = False

    def timing(self, name: str, function: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.busy:
                return function(*args, **kwargs)
            self.busy, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.busy = False
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return timed


HARNESS = {
    "claim": [(execute_module, "mirrored"), (Claim, "acquire"), (Claim, "release"),
              (execute_module, "stop_writes")],
    "configuration": [(execute_module, "read_config"), (execute_module, "whole_record")],
    "states": [(RunFolder, "tell")],
    "log": [(RunFiles, "append_to_log")],
    "checkpoints": [(RunFiles, "write_checkpoint"), (FIFTrainer, "_resume")],
    "provenance": [(run_module, "provenance"), (execute_module, "git_state"),
                   (run_module, "git_state")],
    "record": [(Job, "write_record"), (RunFolder, "checksums"), (RunFolder, "write_json")],
}  # fmt: skip
"""Part of the harness -> functions of a run's process that it is made of."""


def run_times(results: Path) -> dict[str, float]:
    """Seconds of every part of the harness in one run, and of the whole run, in this process."""
    experiment = load_experiment("digits", None, {"models": ["fif"], "samplers": ["normal", "gmm"]})
    splits = images_of(experiment)
    store, clock = Store(results, IMAGES), Clock()
    spec = expand(experiment, splits)[0]
    start = time.perf_counter()
    run_dir = store.prepare(spec, ENVIRONMENT)
    prepared = time.perf_counter() - start
    patches = [
        mock.patch.object(owner, name, clock.timing(part, getattr(owner, name)))
        for part, functions in HARNESS.items()
        for owner, name in functions
    ]
    for patch in patches:
        patch.start()
    start = time.perf_counter()
    execute(run_dir, IMAGES)
    whole = time.perf_counter() - start
    for patch in patches:
        patch.stop()
    return {
        **clock.seconds,
        "folder": prepared,
        "whole": whole,
        "process": _process_seconds(run_dir),
    }


def _process_seconds(run_dir: Path, count: int = 10) -> float:
    """Seconds that a run costs whose record is there: its process and the driver's part."""
    engine = LocalEngine(gpus=[], cpus_per_run=cores())  # one at a time
    engine.run_all(
        Batch(IMAGES, [run_dir]), lambda *_: None
    )  # starts the fork server, once a benchmark
    start = time.perf_counter()
    engine.run_all(Batch(IMAGES, [run_dir] * count), lambda *_: None)
    return (time.perf_counter() - start) / count


def in_process(*arguments: str) -> dict[str, float]:
    """What a fresh process of this script prints."""
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.check_output(command).splitlines()[-1])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--runs", type=int, default=10_000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--output", help="Markdown file to write the tables to")
    p.add_argument("--plan", nargs=2, metavar=("KIND", "RESULTS"), help=argparse.SUPPRESS)
    p.add_argument("--run", metavar="RESULTS", help=argparse.SUPPRESS)
    flags = p.parse_args()
    if flags.plan:
        print(json.dumps(plan_times(flags.plan[0], flags.runs, flags.plan[1])))
        return
    if flags.run:
        print(json.dumps(run_times(Path(flags.run))))
        return

    plans, sections = [], []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("seeds", "configurations"):
            results = f"{folder}/{kind}"
            fill(Store(results, IMAGES), kind, flags.runs)
            arguments = ("--plan", kind, results, "--runs", str(flags.runs))
            rounds = [in_process(*arguments) for _ in range(flags.rounds)]
            middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
            count = int(middle.pop("runs"))
            total = statistics.median(sum(r.values()) - r["runs"] for r in rounds)
            plans.append({"plan": f"{count:,} runs: {kind}", **seconds(middle),
                          "all": f"{total:.2f}"})  # fmt: skip
        sections.append(("A plan against a full store, seconds", markdown(plans)))
        rounds = [in_process("--run", f"{folder}/run{i}") for i in range(flags.rounds)]
        middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        whole = middle.pop("whole") + middle["folder"] + middle["process"]
        rows = [
            {"part": part, "ms": f"{1e3 * value:.1f}", "share": f"{value / whole:.2%}"}
            for part, value in {**middle, "harness": sum(middle.values()), "run": whole}.items()
        ]
        sections.append(("The harness in one run: digits, FIF, profile quick", markdown(rows)))
        text = "\n".join(f"## {title}\n\n{table}" for title, table in sections)
        print(text)
        if flags.output:
            about = (
                f"Made by `{command(flags.output)}`, which says what is counted; medians of "
                f"{flags.rounds} round(s); {processor()}, {torch.get_num_threads()} threads, "
                f"torch {torch.__version__}."
            )
            write_text(Path(flags.output), f"# The harness\n\n{about}\n\n{text}")


def seconds(times: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.2f}" for name, value in times.items()}


if __name__ == "__main__":
    main()
