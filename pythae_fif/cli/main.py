"""The command line: `python run_benchmark.py` and `pythae-fif` are this program."""

__all__ = ["main"]

import argparse
import dataclasses
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console

from pythae_fif import studies
from pythae_fif.benchmark.config import Experiment, experiment_file, load_experiment
from pythae_fif.benchmark.display import Display
from pythae_fif.benchmark.inputs import load_extractor, load_splits
from pythae_fif.benchmark.leaderboard import leaderboard
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.benchmark.selection import Result
from pythae_fif.benchmark.shard import parse_shard, shard_of
from pythae_fif.benchmark.yaml_files import names_in, read_yaml
from pythae_fif.cli.listing import print_estimate, print_list, print_plan
from pythae_fif.cli.study import run_command
from pythae_fif.data import Splits, to_float
from pythae_fif.errors import ConfigError, FIFError, did_you_mean
from pythae_fif.reports import (
    Failure,
    build_report,
    constant_error,
    score_terminal,
    write_experiment,
)
from pythae_fif.runs import verify
from pythae_fif.runs.engines import EngineOptions, Outcome, build_engine
from pythae_fif.runs.engines.common import cores
from pythae_fif.runs.engines.options import add_engine_flags, engine_options
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.store import Store
from pythae_fif.training.tensorboard import require_tensorboard

EXIT_FAILED_RUNS, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        known, unknown = self.parse_known_args(args, namespace)
        for word in unknown:
            flag = word.partition("=")[0]
            raise ConfigError(
                f"unknown flag {flag!r}: {did_you_mean(flag, self._option_string_actions)}"
            )
        return known

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parser() -> argparse.ArgumentParser:
    """The flags; a flag that is not given leaves the value of the YAML file."""
    p = _Parser(
        prog="pythae-fif",
        description="Trains generative autoencoders on a data set, samples, scores and compares.",
        epilog="pythae-fif verify RESULTS re-reads a store and says what in it can be trusted; "
        "exit codes: 0 all done, 1 some runs failed, 2 bad input, 130 interrupted",
        allow_abbrev=False,
    )
    p.add_argument("--dataset", help="a data set of --list (default: digits)")
    p.add_argument("--study", help="a study of --list, instead of a benchmark")
    p.add_argument("--arch", help="convnet, resnet or fif_convnet")
    p.add_argument("--models", nargs="+", metavar="MODEL", help="models of --list, or 'all'")
    p.add_argument("--beta", nargs="+", type=float, help="FIF's reconstruction weights")
    p.add_argument("--hutchinson-samples", nargs="+", type=int, metavar="K", help="FIF's K")
    p.add_argument("--samplers", nargs="+", metavar="SAMPLER", help="samplers of --list, or 'all'")
    p.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="one run a seed")
    p.add_argument("--latent-dim", type=int, metavar="D", help="latent dimension")
    p.add_argument("--image-size", type=int, metavar="PIXELS", help="of resized images")
    p.add_argument("--extractor", help="feature extractor of --list")
    p.add_argument(
        "--inception-weights", metavar="FILE", help="of inception or tf-inception, if elsewhere"
    )
    p.add_argument(
        "--wall-clock",
        metavar="TIME",
        help="train every model for that long instead of epochs (5h, 1h30m, 10min, 90s); on a CPU "
        "one run at a time",
    )
    p.add_argument(
        "--table",
        type=int,
        metavar="N",
        help="the models and settings of the paper's table 2 (default data set: celeba)",
    )
    p.add_argument("--profile", help="paper (published protocol) or quick (sized for a CPU)")
    p.add_argument(
        "--config", metavar="FILE", help="YAML file of an experiment's keys and your own profiles"
    )
    p.add_argument("--data-root", metavar="DIR", help="where data sets are (PYTHAE_FIF_DATA)")
    p.add_argument(
        "--data", metavar="PATH", help="your images or table, with --dataset folder, npz or csv"
    )
    p.add_argument(
        "--results", default="results", metavar="DIR", help="or an fsspec URL (default: results)"
    )
    p.add_argument("--offline", action="store_true", help="never download")
    p.add_argument("--skip-undecodable", action="store_true", help="leave out broken images")
    p.add_argument(
        "--max-failures", type=int, metavar="N", help="after N failed runs start no other"
    )
    p.add_argument("--list", action="store_true", help="show what there is, and stop")
    p.add_argument(
        "--dry-run", action="store_true", help="show the plan and estimate its time, and stop"
    )
    p.add_argument("--quiet", action="store_true", help="no display while it runs")
    p.add_argument("--shard", metavar="I/N", help="the I-th of N parts of the plan, I from 0")
    p.add_argument(
        "--tensorboard", action="store_true", help="losses as TensorBoard events in every run"
    )
    add_engine_flags(p)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program.

    Returns:
        The exit code: 0 all done, 1 some runs failed, 2 bad input, 130 interrupted.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["verify"]:
            return verify.main(given[1:], _Parser)
        flags = parser().parse_args(given)
        if flags.list:
            print_list(Console())
            return 0
        study = flags.study or studies.DATASETS.get(flags.dataset)
        return run_command(study, flags) if study else _benchmark(flags)
    except (FIFError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt as interrupt:
        kept = str(interrupt) or "finished runs are kept; the same command goes on from here"
        print(f"interrupted: {kept}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _benchmark(flags: argparse.Namespace) -> int:
    console = Console(highlight=False)
    experiment = _experiment(flags)
    engine = build_engine(_engine_options(flags, experiment), flags.results)
    shard = parse_shard(flags.shard) if flags.shard else (0, 1)
    environment = Environment(
        data_root=flags.data_root,
        data=experiment.data,
        offline=flags.offline,
        skip_undecodable=flags.skip_undecodable,
        inception_weights=flags.inception_weights,
        tensorboard=flags.tensorboard,
    )
    if flags.tensorboard:
        require_tensorboard()
    display = Display(console, quiet=flags.quiet)
    with display.stage(f"loading {experiment.dataset}") as progress:
        splits = load_splits(
            experiment.dataset, experiment.image_size, experiment.settings, environment, progress
        )
    plan = expand(experiment, splits)
    ours = shard_of(plan, *shard)
    if flags.dry_run:
        print_plan(console, experiment, splits, ours)
        print_estimate(console, display, experiment, splits, ours, engine)
        return 0

    store = Store(flags.results, IMAGES)
    specs = {store.run_dir(spec): spec for spec in plan}
    todo = [spec for spec in ours if not store.is_done(spec)]
    outcomes: list[Outcome] = []
    if todo:
        with display.stage(f"preparing extractor {experiment.extractor}"):
            extractor = load_extractor(experiment.extractor, splits, environment)
            extractor(to_float(splits.test, limit=2))
        names = {
            store.run_dir(spec): f"{spec.model} {spec.configuration}"
            + (f" seed {spec.seed}" if len(experiment.seeds) > 1 else "")
            for spec in todo
        }
        with display.runs(names, done=len(ours) - len(todo)) as on_change:
            outcomes = engine.run_all(
                IMAGES,
                [store.run_dir(spec) for spec in todo],
                on_change,
                max_failures=flags.max_failures,
                lent=splits,
                prepare=lambda run_dir: store.prepare(specs[run_dir], environment),
            )

    store.refresh()
    results = [Result(spec, record) for spec in plan if (record := store.record(spec)) is not None]
    failed = [outcome for outcome in outcomes if outcome.state != "finished"]
    if results:
        missing = len(plan) - len(results)
        failures = [
            Failure(specs[f.run_dir].model, specs[f.run_dir].configuration, str(f.error))
            for f in failed
        ]
        _report(console, store, experiment, splits, results, missing, failures)
    for outcome in failed:
        console.print(
            f"{outcome.state}: {outcome.run_dir}: {outcome.error}", markup=False, soft_wrap=True
        )
    if engine.parting:
        console.print(engine.parting, markup=False)
    elif left := len(todo) - len(outcomes):
        console.print(f"{left} runs not started after {len(failed)} failures (--max-failures)")
    return EXIT_FAILED_RUNS if failed else 0


def _engine_options(flags: argparse.Namespace, experiment: Experiment) -> EngineOptions:
    """Those of the flags; runs under a wall clock do not share this machine's cores."""
    options = engine_options(flags)
    timed = experiment.settings.wall_clock is not None and options.engine == "local"
    if timed and options.cpus_per_run is None and not torch.cuda.is_available():
        return dataclasses.replace(options, cpus_per_run=cores())
    return options


def _experiment(flags: argparse.Namespace) -> Experiment:
    """The experiment of the flags, checked for what only makes sense together."""
    keys = (
        "arch", "models", "beta", "hutchinson_samples", "samplers", "seeds", "latent_dim",
        "image_size", "extractor", "profile", "data", "wall_clock",
    )  # fmt: skip
    values = {key: getattr(flags, key) for key in keys}
    dataset, file = flags.dataset, flags.config
    if flags.table is not None:
        if file is not None:
            raise ConfigError("--table and --config: give one of the two, each is a file of keys")
        file = experiment_file(flags.table)
        dataset = dataset or "celeba"
    if dataset is None:
        in_file = read_yaml(Path(flags.config)).get("dataset") if flags.config else None
        dataset = in_file or "digits"
    known = [*names_in(), *studies.DATASETS]
    if dataset not in known:
        raise ConfigError(f"--dataset {dataset!r} is unknown: {did_you_mean(dataset, known)}")
    experiment = load_experiment(dataset, file, values)
    if flags.max_failures is not None and flags.max_failures < 1:
        raise ConfigError(f"--max-failures {flags.max_failures}: at least 1 is needed")
    if dataset in ("folder", "npz") and experiment.data is None:
        raise ConfigError(f"--dataset {dataset} needs --data PATH")
    if dataset not in ("folder", "npz") and experiment.data is not None:
        raise ConfigError(f"--data is for --dataset folder or npz, not {dataset}")
    return experiment


def _report(
    console: Console,
    store: Store,
    experiment: Experiment,
    splits: Splits,
    results: list[Result],
    missing: int,
    failures: list[Failure],
) -> None:
    """Prints the table of this command's runs, and writes that of all runs that are like them, with
    figures and the page, below the results folder."""
    guess = constant_error(splits)
    report = build_report(experiment, results, missing, guess)
    console.print(score_terminal(report))
    for note in report.notes:
        console.print(f"· {note}", markup=False)
    everything = leaderboard(store, experiment, splits.content_hash, results)
    report = build_report(experiment, everything, missing, guess)
    paths = write_experiment(store, splits, report, failures)
    store.publish(paths)
    (page,) = [path for path in paths if path.suffix == ".html"]
    console.print(
        f"written: {page}; its tables and figures are tables/{page.stem}* and figures/{page.stem}*",
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
