"""The search for the recipe `fif_plus`, on validation data alone, at equal training time.

    OMP_NUM_THREADS=1 python benchmarks/recipe.py --store DIR [--data-root DIR] [--draw]
    ... [--candidates silu+beta5] for ingredients together

MNIST and faces train as the benchmark's profile `quick` does, POWER as FIF of the tabular study's.
`base` has the steps of these; every other candidate has as many as fit into base's processor time,
by its step's cost in turns with base's. Scored are samples from the prior, before and after
`FIF.whiten`, and from a mixture of ten Gaussians fitted to the codes, by the distance of the data
set's benchmark to validation data; test data are those of `--datasets mnist_test` alone, a check
for when the recipe is chosen.

The rule, written before the search: an ingredient is in the recipe where the distance of samples
from the prior after whitening, its mean over seeds in units of base's, has a geometric mean over
the data sets below 0.97 and is above 1.05 on none, and where the squared error on validation data
is above 1.1 of base's on none. The ingredients that are in are tried together. The recipe is that
union, if it passes the same rule and is ahead of each of its ingredients; else the best of them.
Whitening is in if it lowers base's distance on all data sets. Of images a second seed is trained of
what the first leaves in, and of base.

What fails on one data set need not be tried on the others. As it was run: one seed of faces, and
the union is the one ingredient that was in.

A case is a file in the store, and is not computed again.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from pythae_fif import FIF, FIFConfig
from pythae_fif.benchmark.config import load_experiment
from pythae_fif.benchmark.inputs import load_extractor, load_splits, reference_of
from pythae_fif.data import to_float
from pythae_fif.evaluation import Reference, frechet_distance, score_codes
from pythae_fif.evaluation.frechet import squared_wasserstein
from pythae_fif.files import read_json, write_json
from pythae_fif.nn import build_networks, smooth_networks
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.reports.grid import Cell, Grid, number, spread, write_grid
from pythae_fif.runs.kind import Environment
from pythae_fif.sampling.samplers import generate
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.tabular_protocol import APPENDIX, load_table
from pythae_fif.training import keep_freed_memory

TEST = "mnist_test"
POWER_RATE = 3e-3  # which the study chooses on validation rows for ReLU and for SiLU
ROUNDS, ROUND_SHARE = 8, 100  # of the comparison of costs; a round is that part of the training
MEMBERS, EDGE, ERROR_EDGE = 0.97, 1.05, 1.1  # of the rule


@dataclass(frozen=True)
class Ingredient:
    """What a candidate has beside the base.

    Attributes:
        label: In the table.
        options: Of :class:`~pythae_fif.FIFConfig`.
        smooth: SiLU for every ReLU.
        blocks: What stands behind the architecture's name; of images alone.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    smooth: bool = False
    blocks: str = ""


INGREDIENTS = {
    "base": Ingredient("base: ReLU, beta 10, K = 1"),
    "silu": Ingredient("SiLU", smooth=True),
    "fc2": Ingredient("two latent blocks a side", blocks="_fc2"),
    "quarter": Ingredient("surrogate on a quarter", {"surrogate_fraction": 0.25}),
    "beta5": Ingredient("beta 5", {"beta": 5.0}),
    "falling": Ingredient("beta from 20 to 5", {"beta": 20.0, "beta_final": 5.0}),
}


def ingredients(candidate: str) -> list[Ingredient]:
    """Those of a candidate such as `silu+beta5`."""
    return [INGREDIENTS[name] for name in candidate.split("+")]


@dataclass(frozen=True)
class Data:
    """A data set and how models train on it.

    Attributes:
        name, train, scored: Its name, and what is trained and scored on, float (N, ...).
        latent_dim, steps, batch, rate: d, and of the base's training.
        cycle: Whether the rate goes through one cycle.
        networks: Encoder and decoder, by an architecture's ending and whether they are smooth.
        distance: Of samples to the latter.
        about: A sentence for the table.
    """

    name: str
    train: Tensor
    scored: Tensor
    latent_dim: int
    steps: int
    batch: int
    rate: float
    cycle: bool
    networks: Callable[[str, bool], tuple[Any, Any]]
    distance: Callable[[Tensor], float]
    about: str


def images(name: str, data_root: str | None, split: str = "val") -> Data:
    experiment = load_experiment(name, None, {"profile": "quick"})
    settings, environment = experiment.settings, Environment(data_root=data_root, offline=True)
    splits = load_splits(name, experiment.image_size, settings, environment)
    extractor = load_extractor(experiment.extractor_name, splits, environment)
    reference = reference_of(splits, split, extractor)
    dim, batch = experiment.latent_dim, settings.batch_size

    def distance(samples: Tensor) -> float:
        drawn = Reference.of(samples.clamp(0, 1), extractor).statistics
        return frechet_distance(drawn, reference.statistics)

    return Data(
        name if split == "val" else TEST, to_float(splits.train), to_float(splits[split]), dim,
        (settings.epochs or 0) * math.ceil(len(splits.train) / batch), batch,
        settings.learning_rate, False,
        lambda ending, smooth: (smooth_networks if smooth else build_networks)(
            experiment.arch + ending, splits.input_dim, dim
        ),
        distance, f"{splits.source}; {extractor.distance_name}",
    )  # fmt: skip


def power(data_root: str | None) -> Data:
    options = StudyOptions(results=Path(), data_root=data_root, dataset="power")
    table = load_table("power", options)
    budget, shape, dim = table.profile, table.splits.input_dim, table.latent_dim
    width = budget.nets.hidden_dim
    return Data(
        "power", table.train, table.val, dim,
        budget.epochs * (len(table.train) // budget.batch_size), budget.batch_size, POWER_RATE,
        True,
        lambda _, smooth: (
            TabularEncoder(shape, dim, width, nn.SiLU if smooth else nn.ReLU),
            TabularDecoder(shape, dim, width, nn.SiLU if smooth else nn.ReLU),
        ),
        lambda samples: squared_wasserstein(samples, table.val),
        f"{table.splits.source}; FID-like metric of the rows",
    )  # fmt: skip


class Trainee:
    """A model in training.

    Args:
        data, candidate, seed: Which.
        steps: Of the whole training.
    """

    def __init__(self, data: Data, candidate: str, seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        parts = ingredients(candidate)
        smooth = any(part.smooth for part in parts)
        networks = data.networks("".join(part.blocks for part in parts), smooth)
        options = {key: value for part in parts for key, value in part.options.items()}
        shape = tuple(data.train.shape[1:])
        self.model = FIF(FIFConfig(shape, data.latent_dim, **options), *networks).train()
        decay = APPENDIX.weight_decay if data.cycle else 0.0
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=data.rate, weight_decay=decay, fused=True
        )
        self.schedule: LRScheduler | None = None
        if data.cycle:
            self.schedule = OneCycleLR(self.optimizer, data.rate, total_steps=steps)
        self.batches, self.steps, self.done = batches(data), steps, 0

    def train(self, steps: int) -> float:
        """Makes some steps; their processor time in seconds."""
        start = time.process_time()
        for batch in itertools.islice(self.batches, steps):
            self.optimizer.zero_grad()
            self.model({"data": batch}, share_done=self.done / self.steps).loss.backward()
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            self.done += 1
        return time.process_time() - start


def batches(data: Data) -> Iterator[Tensor]:
    """Batches without end; a last small one is left out."""
    while True:
        for rows in torch.randperm(len(data.train)).split(data.batch):
            if len(rows) == data.batch:
                yield data.train[rows]


def cost_of(data: Data, candidate: str) -> float:
    """A step's processor time in units of base's, the median of a few rounds in turns.

    It is 1 where beta alone differs.
    """
    if all(
        part.options.keys() <= {"beta", "beta_final"} and not (part.smooth or part.blocks)
        for part in ingredients(candidate)
    ):
        return 1.0
    pair = [Trainee(data, name, 0, data.steps) for name in ("base", candidate)]
    steps = max(1, data.steps // ROUND_SHARE)
    rounds = [[trainee.train(steps) for trainee in pair] for _ in range(1 + ROUNDS)]
    return statistics.median(other / base for base, other in rounds[1:])


@torch.no_grad()
def scores(data: Data, model: FIF, seed: int) -> dict[str, float]:
    """Of a trained model; it is whitened on the way."""
    model.eval()

    def prior() -> float:
        torch.manual_seed(seed)
        parts = [model.sample(len(part)) for part in data.scored.split(500)]
        return data.distance(torch.cat(parts))

    codes = score_codes(torch.cat([model.embed(x) for x in data.train.split(500)]))
    x_hat = torch.cat([model.reconstruct(x) for x in data.scored.split(500)])
    error = (x_hat - data.scored).square().flatten(1).sum(1).mean()
    found = {"prior": prior(), "divergence": codes.divergence if codes else math.inf}
    start = time.process_time()
    model.whiten(data.train)
    found |= {"whiten_seconds": time.process_time() - start, "whitened": prior()}
    whitened = torch.cat([model.embed(x) for x in data.train.split(500)])
    mixture = generate("gmm", model, whitened, num_samples=len(data.scored), seed=seed)
    return found | {"gmm": data.distance(mixture), "error": float(error)}


def run(data: Data, candidate: str, seed: int, store: Path) -> None:
    """A case, unless the store has it."""
    trained = data.name.removesuffix("_test")
    cost_file = store / f"{trained}-{candidate}-cost.json"
    if not cost_file.exists():
        write_json(cost_file, {"cost": cost_of(data, candidate)})
    file = store / f"{data.name}-{candidate}-{seed}.json"
    if file.exists():
        return
    steps = round(data.steps / (read_json(cost_file) or {})["cost"])
    trainee = Trainee(data, candidate, seed, steps)
    weights = store / f"{trained}-{candidate}-{seed}.pt"
    if weights.exists():
        seconds, state = torch.load(weights)
        trainee.model.load_state_dict(state)
    else:
        seconds = trainee.train(steps)
        torch.save((seconds, trainee.model.state_dict()), weights)
    found = {"steps": steps, "seconds": seconds, **scores(data, trainee.model, seed)}
    write_json(file, found)
    print(file.stem, json.dumps({key: round(value, 4) for key, value in found.items()}), flush=True)


@dataclass(frozen=True)
class Row:
    """A candidate on a data set.

    Attributes:
        data, candidate: Which.
        cost: Of a step, in units of base's.
        cases: Its scores by seed, and base's.
        base: Likewise.
    """

    data: str
    candidate: str
    cost: float
    cases: dict[int, dict[str, float]]
    base: dict[int, dict[str, float]]

    def values(self, key: str) -> list[float]:
        return [case[key] for case in self.cases.values()]

    def ratio(self, key: str) -> float:
        """The mean in units of base's, over its own seeds."""
        return sum(self.values(key)) / sum(self.base[seed][key] for seed in self.cases)


def read(store: Path) -> list[Row]:
    """What the store has, a data set after the other."""
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for file in sorted(store.glob("*-*-[0-9].json")):
        name, candidate, seed = file.stem.split("-")
        found.setdefault((name, candidate), {})[int(seed)] = read_json(file) or {}
    order = [*INGREDIENTS, *sorted({candidate for _, candidate in found} - INGREDIENTS.keys())]

    def cost(name: str, candidate: str) -> float:
        trained = name.removesuffix("_test")
        return (read_json(store / f"{trained}-{candidate}-cost.json") or {})["cost"]

    return [
        Row(*pair, cost(*pair), found[pair], found[pair[0], "base"])
        for pair in itertools.product(SETS, order)
        if pair in found
    ]


def verdict(rows: list[Row]) -> str:
    """What the rule says of a candidate, whose rows are given."""
    ratios = [row.ratio("whitened") for row in rows]
    mean = statistics.geometric_mean(ratios)
    error = max(row.ratio("error") for row in rows)
    passes = mean < MEMBERS and max(ratios) <= EDGE and error <= ERROR_EDGE
    return (
        f"{rows[0].candidate} {'passes' if passes else 'does not'} (geometric mean {mean:.3f}, "
        f"highest {max(ratios):.3f}, squared error at most {error:.3f})"
    )


def draw(store: Path, results: Path) -> list[Path]:
    """The table."""
    rows = read(store)
    names = dict.fromkeys(row.candidate for row in rows if row.candidate != "base")
    verdicts = [
        verdict([row for row in rows if row.candidate == name and row.data != TEST])
        for name in names
    ]
    lines = [
        [
            Cell(row.data),
            Cell(" + ".join(part.label for part in ingredients(row.candidate))),
            Cell(str(len(row.cases))),
            Cell(f"{row.cost:.2f}", row.cost),
            Cell(f"{row.values('steps')[0]:,.0f}"),
            *(spread(row.values(k)) for k in ("prior", "whitened", "gmm", "divergence", "error")),
            number(sum(row.values("whitened")) / sum(row.values("prior"))),
            number(row.ratio("whitened")),
            number(row.ratio("error")),
        ]
        for row in rows
    ]
    notes = [f"{row.data}: {read_json(store / f'{row.data}.json')['about']}." for row in rows
             if row.candidate == "base"]  # fmt: skip
    share = {
        row.data: statistics.fmean(row.values("whiten_seconds")) / sum(row.values("seconds"))
        * len(row.cases) for row in rows if row.candidate == "base"
    }  # fmt: skip
    notes += [
        f"Validation data, but for {TEST}; equal processor time of the steps. N, whitened and "
        "GMM: distance of samples from the prior, from the prior after whitening, and from a "
        "mixture of ten Gaussians. KL: of the Gaussian of the codes' moments from the prior, "
        "before whitening. "
        "Last two columns: whitened and squared error in units of base's, over the same seeds. "
        "Mean ± standard deviation over seeds.",
        f"The rule: the geometric mean of whitened by base's below {MEMBERS}, on no data set above "
        f"{EDGE}, and the squared error by base's nowhere above {ERROR_EDGE}. "
        f"{'; '.join(verdicts)}.",
        f"The pass of whitening takes "
        f"{', '.join(f'{value:.1%} of the training on {name}' for name, value in share.items())}.",
        "Made by `python benchmarks/recipe.py --store DIR --draw`.",
    ]
    headings = [
        "Data", "candidate", "seeds", "step by base's", "steps", "N ↓", "whitened ↓", "GMM ↓",
        "KL, nats", "squared error ↓", "whitened / N", "whitened / base's", "error / base's",
    ]  # fmt: skip
    groups = frozenset(i for i, row in enumerate(rows) if row.candidate == "base" and i)
    grid = Grid("The recipe: candidates", headings, "ll" + 11 * "r", lines, notes, groups)
    return write_grid(grid, results / "tables" / "recipe", ".md", ".csv")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--store", type=Path, required=True, help="folder of the cases")
    p.add_argument("--datasets", nargs="+", choices=SETS, default=[n for n in SETS if n != TEST])
    p.add_argument("--candidates", nargs="+", default=list(INGREDIENTS))
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    p.add_argument("--draw", action="store_true", help="trains nothing")
    p.add_argument("--data-root")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    keep_freed_memory()
    for name in () if flags.draw else flags.datasets:
        data = SETS[name](flags.data_root)
        write_json(flags.store / f"{name}.json", {"about": data.about})
        for seed, candidate in itertools.product(flags.seeds, flags.candidates):
            if not (name == "power" and "fc2" in candidate):
                run(data, candidate, seed, flags.store)
    if flags.draw:
        print(*draw(flags.store, flags.results), sep="\n")


SETS: dict[str, Callable[[str | None], Data]] = {
    "mnist": lambda root: images("mnist", root),
    "celeba": lambda root: images("celeba", root),
    "power": power,
    TEST: lambda root: images("mnist", root, "test"),
}


if __name__ == "__main__":
    main()
