"""Measures on a GPU what this package says of one, and writes a page of it.

    pip install -e ".[test]"
    python benchmarks/gpu.py                          # under 20 minutes; no data are needed
    python benchmarks/gpu.py --device cpu --tiny      # seconds: whether this script runs

The page is `results/benchmarks/gpu-<name of the GPU>.md`: steps of FIF on the six nets of the paper
in several ways and with their memory, exact likelihoods, scores, an epoch from end to end, and the
hours that the published benchmark takes, with what of them was measured. Images are random, since
no time depends on them. Ways of one net are timed in turns, and medians are taken.
"""

import argparse
import contextlib
import datetime
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from pythae_fif.benchmark.estimate import BatchSeconds, batch_seconds
from step import NETS, build, markdown, seconds
from torch import Tensor

from pythae_fif import FIFTrainer, FIFTrainerConfig
from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.plan import RunSpec, expand
from pythae_fif.data import ImageDataset, Splits, to_float
from pythae_fif.errors import ConfigError, FIFError
from pythae_fif.evaluation import Extractor, Features, score_samples
from pythae_fif.evaluation.scoring import SampleCountWarning
from pythae_fif.files import write_text
from pythae_fif.runs.provenance import processor
from pythae_fif.training import quiet_pythae

ROOT = Path(__file__).resolve().parents[1]
LOW = {"precision": "bfloat16"}
DATASETS = {
    "mnist": ("mnist", 50_000, 10_000),
    "cifar": ("cifar10", 40_000, 10_000),
    "celeba": ("celeba", 162_770, 19_867),
    "digits": ("digits", 1_438, 179),  # for `--tiny`
}
"""Beginning of a net's name -> data set, and its training and validation images."""
TESTED = 10_000  # samples that are scored
NOT_MEASURED = "–"


class Way(NamedTuple):
    """A way to train: options of FIFConfig, None for an autoencoder, and of FIFTrainerConfig."""

    model: dict[str, Any] | None
    trained: dict[str, Any]


AUTHORS, EAGER = "authors'", "FIF"
WAYS = {
    "autoencoder": Way(None, {}),
    AUTHORS: Way({"mode": "mixed"}, {}),
    f"{AUTHORS}, K=2": Way({"mode": "mixed", "hutchinson_samples": 2}, {}),
    EAGER: Way({}, {}),
    f"{EAGER}, K=2": Way({"hutchinson_samples": 2}, {}),
    f"{EAGER} bf16": Way({}, LOW),
}


class Plan(NamedTuple):
    """How much is measured.

    Attributes:
        device: 'cuda' or 'cpu'.
        end: When nothing more is begun, in seconds of `time.monotonic`.
        nets: Names of `NETS`.
        batch: Images of a batch; the published one is 100.
        steps: Of each timed pass.
        rounds: Passes of every way.
        scored: Samples, and as many reference images.
        features: Of each.
        epoch: Training images of the epoch from end to end.
        profile, models: Of the table of hours.
    """

    device: str
    end: float
    nets: tuple[str, ...] = tuple(net for net in NETS if net != "digits-convnet")
    batch: int = 100
    steps: int = 10
    rounds: int = 5
    scored: int = TESTED
    features: int = 2048
    epoch: int = 10_000
    profile: str = "paper"
    models: tuple[str, ...] = ("all",)

    def is_over(self) -> bool:
        return time.monotonic() > self.end


class Step(NamedTuple):
    """Of one way: seconds of a step in every round, and the largest memory of the first steps."""

    seconds: list[float]
    peak_mb: float | None


def random_images(count: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def model_of(net: str, options: dict[str, Any] | None) -> Any:
    """A FIF, or an autoencoder without options."""
    return build(net, options, "cpu")[0]


def memory(device: str) -> tuple[float, float]:
    """Memory in use and the largest since the last call, in MiB; nothing of a CPU."""
    if device == "cpu":
        return 0.0, 0.0
    found = torch.cuda.memory_allocated() / 2**20, torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return found


# ------------------------------------------------------------------ the step


def steps_of(net: str, plan: Plan) -> dict[str, Step]:
    """Every way of a net, in turns; those that it, the memory or the time forbids are left out."""
    images = random_images(plan.steps * plan.batch, NETS[net][1])
    passes: dict[str, Callable[[], Any]] = {}
    peaks: dict[str, float | None] = {}
    with contextlib.ExitStack() as stack:
        for name, way in WAYS.items():
            if plan.is_over():
                continue
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            config = FIFTrainerConfig(per_device_train_batch_size=plan.batch, **way.trained)
            try:
                model = model_of(net, way.model)
            except ConfigError:  # BatchNorm, with several products of mode `mixed`
                continue
            trainer = FIFTrainer(model, ImageDataset(images), None, config, run_dir=folder)
            trainer.prepare_training()
            before, _ = memory(plan.device)
            try:
                trainer.train_step(1)
            except torch.OutOfMemoryError:
                continue
            peaks[name] = memory(plan.device)[1] - before if plan.device == "cuda" else None
            passes[name] = partial(trainer.train_step, 1)
        times: dict[str, list[float]] = {name: [] for name in passes}
        for _ in range(plan.rounds):
            for name, one_pass in passes.items():
                times[name].append(seconds(one_pass, plan.device) / plan.steps)
    return {name: Step(times[name], peaks[name]) for name in passes}


def ratio(steps: dict[str, Step], above: str, below: str) -> float | None:
    """The median over the rounds of the times of one way over those of another."""
    if above not in steps or below not in steps:
        return None
    pairs = zip(steps[above].seconds, steps[below].seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)


def shown(value: float | None, form: str = ".2f") -> str:
    return NOT_MEASURED if value is None else f"{value:{form}}"


def step_tables(found: dict[str, dict[str, Step]]) -> dict[str, list[dict[str, str]]]:
    times, ratios, peaks = [], [], []
    for net, steps in found.items():
        row, peak = {"net": net}, {"net": net}
        for name in WAYS:
            step = steps.get(name)
            median = None if step is None else 1e3 * statistics.median(step.seconds)
            row[name] = shown(median)
            peak[name] = shown(None if step is None else step.peak_mb, ".0f")
        times.append(row)
        peaks.append(peak)
        ratios.append(
            {
                "net": net,
                "authors' / FIF": shown(ratio(steps, AUTHORS, EAGER)),
                "the same, K=2": shown(ratio(steps, f"{AUTHORS}, K=2", f"{EAGER}, K=2")),
                "FIF / bf16": shown(ratio(steps, EAGER, f"{EAGER} bf16")),
                "FIF / autoencoder": shown(ratio(steps, EAGER, "autoencoder")),
            }
        )
    return {
        "A training step, milliseconds": times,
        "How many times as fast": ratios,
        "Peak memory of the first steps above model and data, MiB": peaks,
    }


# ------------------------------------------------------------------ evaluation


def evaluation_rows(plan: Plan) -> list[dict[str, str]]:
    """Exact likelihoods of a batch of every net."""
    rows = []
    for net in plan.nets:
        model = model_of(net, {}).to(plan.device).eval()
        x = to_float(random_images(plan.batch, NETS[net][1])).to(plan.device)
        model.log_prob(x)
        before, _ = memory(plan.device)
        times = [seconds(partial(model.log_prob, x), plan.device) for _ in range(3)]
        peak = memory(plan.device)[1] - before if plan.device == "cuda" else None
        median = statistics.median(times)
        rows.append(
            {
                "net": net,
                "d": str(model.latent_dim),
                "ms": shown(1e3 * median, ".1f"),
                "images a second": shown(plan.batch / median, ",.0f"),
                "peak MiB": shown(peak, ".0f"),
            }
        )
    return rows


class Projection(torch.nn.Module):
    """Features and logits of any number, which cost next to nothing: random projections."""

    def __init__(self, side: int, features: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(3 * side**2, features, generator=generator) / side
        classes = torch.randn(features, 1008, generator=generator) / features**0.5
        self.register_buffer("weights", weights)
        self.register_buffer("classes", classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = (images.flatten(1) @ self.weights).relu()
        return features, features @ self.classes


def inception_seconds(plan: Plan) -> float | None:
    """Of the Inception features of an image of 64 x 64, random weights; None without GPU."""
    if plan.device == "cpu":
        return None
    from evaluation import random_state

    from pythae_fif.evaluation.inception import inception

    torch.manual_seed(0)
    extractor = inception(random_state(), plan.device)
    images = torch.from_numpy(random_images(1000, (3, 64, 64)))
    extractor(images[:250])
    return seconds(lambda: [extractor(part) for part in images.split(250)], plan.device) / 1000


def scores(plan: Plan) -> tuple[list[dict[str, str]], float]:
    """The table of scores, and the seconds that a sampler's scores take with a warm cache."""
    side = 32 if plan.features > 256 else 8
    network = Projection(side, plan.features)
    extractor = Extractor("projection", "FD", network, "random", plan.device, score_name="IS")
    images = torch.from_numpy(random_images(2 * plan.scored, (3, side, side)))
    samples, held_out = images.split(plan.scored)
    rows, spent = [], 0.0
    with tempfile.TemporaryDirectory() as folder:

        def scored() -> None:
            reference = Features.of(held_out, extractor, cache_dir=folder)
            score_samples(samples, extractor, {"test": reference})

        for what in ("first, with the reference", "with the reference on disk"):
            spent = seconds(scored, plan.device)
            rows.append({"scores": what, "seconds": shown(spent)})
    return rows, spent


# ------------------------------------------------------------------ an epoch


class Epochs(TrainingCallback):
    """Notes when epochs begin and end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def epoch_rows(plan: Plan) -> list[dict[str, str]]:
    """Two epochs of the first net by Pythae's trainer and by ours, evaluation included."""
    net = plan.nets[0]
    shape = NETS[net][1]
    train, val = random_images(plan.epoch, shape), random_images(max(10, plan.epoch // 10), shape)
    sizes = {
        "num_epochs": 2,
        "per_device_train_batch_size": plan.batch,
        "per_device_eval_batch_size": plan.batch,
    }
    programs = {
        "Pythae's trainer, authors' formulation": None,
        "FIFTrainer": {},
        "FIFTrainer, bfloat16": LOW,
    }
    rows = []
    for name, options in programs.items():
        clock = Epochs()
        with tempfile.TemporaryDirectory() as folder, quiet_pythae():
            if options is None:
                model = model_of(net, {"mode": "mixed"})
                pipeline = TrainingPipeline(model, BaseTrainerConfig(output_dir=folder, **sizes))
                data = [BaseDataset(to_float(part), torch.ones(len(part))) for part in (train, val)]
                pipeline(train_data=data[0], eval_data=data[1], callbacks=[clock])
            else:
                config = FIFTrainerConfig(**sizes, **options)
                data = [ImageDataset(part) for part in (train, val)]
                FIFTrainer(model_of(net, {}), *data, config, [clock], run_dir=folder).train()
        first, second = clock.seconds
        row = {"program": name, "first epoch, s": shown(first), "second epoch, s": shown(second)}
        rows.append({**row, "images a second": shown(plan.epoch / second, ",.0f")})
    return rows


# ------------------------------------------------------------------ hours of the benchmark


class Hours(NamedTuple):
    """Of one data set and architecture.

    Attributes:
        runs: Of all models and configurations that were measured.
        steps: Hours of FIF's training steps.
        evaluations: Hours of FIF's evaluations.
        others: Hours of the other models.
        unmeasured: Models that the time did not suffice for, or that failed.
    """

    runs: int
    steps: float
    evaluations: float
    others: float
    unmeasured: list[str]


def hours_of(net: str, plan: Plan) -> Hours:
    """Timed batches of every model's first configuration, of FIF's first for each K."""
    arch, shape, _, _ = NETS[net]
    dataset, train, val = DATASETS[net.partition("-")[0]]
    flags = {"models": list(plan.models), "arch": arch, "profile": plan.profile}
    experiment = load_experiment(dataset, None, flags)
    few = random_images(5 * experiment.settings.batch_size, shape)
    splits = Splits(dataset, few, few, few, None, "random images")
    runs, steps, evaluations, others, unmeasured = 0, 0.0, 0.0, 0.0, []
    specs: dict[str, list[RunSpec]] = {}
    for spec in expand(experiment, splits):
        specs.setdefault(spec.model, []).append(spec)
    for model, of_model in specs.items():
        chosen = of_model[: 2 if model == "fif" else 1]
        try:
            if plan.is_over():
                raise TimeoutError
            found = [batch_seconds(spec, splits) for spec in chosen]
        except (TimeoutError, FIFError, RuntimeError):
            unmeasured.append(model)
            continue
        mean = BatchSeconds(*(statistics.mean(values) for values in zip(*found, strict=True)))
        settings = chosen[0].settings
        scale = len(of_model) * (settings.epochs or 1) / 3600
        batches = [-(-size // settings.batch_size) for size in (train, val)]
        runs += len(of_model)
        of_steps = scale * batches[0] * mean.step
        of_evaluations = scale * mean.evaluations(batches[1])
        if model == "fif":
            steps, evaluations = of_steps, of_evaluations
        else:
            others += of_steps + of_evaluations
    return Hours(runs, steps, evaluations, others, unmeasured)


def hours_tables(
    plan: Plan, steps: dict[str, dict[str, Step]], a_score: float
) -> tuple[list[dict[str, str]], list[str]]:
    """The table of hours, and which models are not in it."""
    rows, notes = [], []
    total = {"FIF": 0.0, "others": 0.0, "scores": 0.0, "all": 0.0}
    for net in plan.nets:
        hours = hours_of(net, plan)
        timed = "fif" not in hours.unmeasured
        fif = hours.steps + hours.evaluations
        of_scores = hours.runs * 2 * a_score / 3600
        slower = ratio(steps[net], AUTHORS, EAGER)
        authors = hours.steps * slower + hours.evaluations if timed and slower else None
        for key, value in (("FIF", fif), ("others", hours.others), ("scores", of_scores)):
            total[key] += value
        rows.append(
            {
                "net": net,
                "runs": str(hours.runs),
                "FIF": shown(fif if timed else None),
                "authors'": shown(authors),
                "other models": shown(hours.others),
                "scores": shown(of_scores),
                "all": shown(fif + hours.others + of_scores),
            }
        )
        if hours.unmeasured:
            notes.append(f"{net}: without {', '.join(hours.unmeasured)}")
    total["all"] = sum(total.values())
    sums = {key: shown(total[key]) for key in ("FIF", "scores", "all")}
    rows.append(
        {**dict.fromkeys(rows[0], ""), "net": "sum", **sums, "other models": shown(total["others"])}
    )
    return rows, notes


# ------------------------------------------------------------------ the page


def machine(device: str) -> dict[str, str]:
    """Where this runs."""
    facts = {"torch": torch.__version__, "Python": platform.python_version()}
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        facts["revision"] = subprocess.check_output(git, text=True).strip()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "GPU": properties.name,
            "its memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
            "TF32 of convolutions, of products": (
                f"{torch.backends.cudnn.allow_tf32}, {torch.backends.cuda.matmul.allow_tf32}"
            ),
        }
    facts["processor"] = f"{processor()}, {os.cpu_count()} cores"
    facts["date"] = datetime.date.today().isoformat()
    return facts


class Warnings(logging.Handler):
    """Keeps what the package warns of, such as a way that is slower."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def page(plan: Plan, command: str, tiny: bool, warned: Warnings) -> str:
    """All measurements, in Markdown; each table is printed when it is there."""
    start = time.monotonic()
    sections: list[str] = []

    def add(title: str, rows: list[dict[str, str]]) -> None:
        sections.append(f"## {title}\n\n{markdown(rows)}")
        print(sections[-1], flush=True)

    found = {net: steps_of(net, plan) for net in plan.nets}
    for title, rows in step_tables(found).items():
        add(title, rows)
    add(f"Exact `log_prob` of {plan.batch} images", evaluation_rows(plan))
    of_scores, a_score = scores(plan)
    an_image = inception_seconds(plan)
    if an_image is not None:
        of_scores.append(
            {"scores": "Inception features, 1,000 images", "seconds": shown(1e3 * an_image)}
        )
    add(f"Scores of {plan.scored:,} samples, {plan.features:,} features", of_scores)
    add(f"An epoch of {plan.epoch:,} images and its evaluation: {plan.nets[0]}", epoch_rows(plan))
    a_sampler = a_score * TESTED / plan.scored + TESTED * (an_image or 0.0)
    hours, unmeasured = hours_tables(plan, found, a_sampler)
    add("Hours of the published benchmark on this device", hours)

    facts = "".join(f"* {name}: {value}\n" for name, value in machine(plan.device).items())
    about = [
        f"Made by `{command}` in {(time.monotonic() - start) / 60:.0f} minutes. {NOT_MEASURED}: "
        "not measured, for want of time or memory.",
        "**Tiny: it only shows that the script runs.**" if tiny else "",
    ]
    return "\n".join(
        [
            "# This package on one device\n",
            *(f"{line}\n" for line in about if line),
            facts,
            *sections,
            NOTES.format(batch=plan.batch, steps=plan.steps, rounds=plan.rounds),
            *(f"* {note}" for note in (*unmeasured, *dict.fromkeys(warned.lines))),
            "",
        ]
    )


NOTES = """## What was measured, and what was extrapolated

* **Measured.** Steps: batches of {batch}, passes of {steps} steps with loader and optimizer,
  medians of {rounds} rounds in turns. Authors': their formulation, a
  forward-mode product by a pass of its own through the decoder and a vector-Jacobian product for
  every Hutchinson vector (mode `mixed`), in the same trainer. bf16: autocast and channels_last.
  Likelihoods, scores, Inception features (random weights) and the epoch were run as they stand.
* **Extrapolated.** Hours: of every model's first configuration (of FIF's first two, K = 1 and
  K = 2) three steps and up to five evaluation batches were timed, and taken times the published
  numbers of batches, epochs and configurations. `authors'` is FIF's steps times
  the measured ratio of steps at K = 1. Scores are those of two samplers a run, with their features.
* **Not in the hours.** Fits of samplers (mixtures are fitted on the CPU), drawing samples,
  pictures, checkpoints and the start of processes.
"""


def main(arguments: list[str]) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--tiny", action="store_true", help="a few steps of one small net, two models")
    p.add_argument("--minutes", type=float, default=18, help="after which nothing more is begun")
    p.add_argument("--output", type=Path, help="the page; tiny prints it only, by default")
    flags = p.parse_args(arguments)
    if flags.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU: --device cpu --tiny shows that the script runs")
    plan = Plan(flags.device, time.monotonic() + 60 * flags.minutes)
    with contextlib.ExitStack() as stack:
        if flags.device == "cpu":
            stack.enter_context(mock.patch.object(torch.cuda, "is_available", lambda: False))
        if flags.tiny:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", SampleCountWarning)
            plan = plan._replace(
                nets=("digits-convnet",), batch=4, steps=1, rounds=2, scored=20, features=16,
                epoch=12, profile="quick", models=("fif", "ae"),
            )  # fmt: skip
        warned = Warnings()
        logger = logging.getLogger("pythae_fif")
        logger.addHandler(warned)
        stack.callback(logger.removeHandler, warned)
        text = page(plan, " ".join(["python benchmarks/gpu.py", *arguments]), flags.tiny, warned)
    output = flags.output
    if output is None and not flags.tiny:
        name = torch.cuda.get_device_name() if flags.device == "cuda" else platform.machine()
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        output = ROOT / "results" / "benchmarks" / f"gpu-{slug}.md"
    if output is not None:
        write_text(output, text)


if __name__ == "__main__":
    main(sys.argv[1:])
