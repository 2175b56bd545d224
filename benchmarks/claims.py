"""The paper's remaining claims, each as a table: cost against d, the gradient's way, the trace.

    OMP_NUM_THREADS=1 python benchmarks/claims.py --store DIR [--claims step stop gradient trace]
    python benchmarks/claims.py --store DIR --draw

`step`: a training step takes 1.5 to 2 times that of the reconstruction alone, whatever the latent
dimension (section 4.1). Pythae's ResNets on 28 x 28 pixels, all dimensions in turns in one run,
processor time of one thread.

`stop`: FIF trains faster than rectangular flows (table 1), whose authors' conjugate gradients stop
otherwise than ours: after 11 steps at least, however small the system (the linear_cg of the
gpytorch that their code pins), and then at a mean relative residual below 1. Steps of all three, of
freshly initialised models, in turns.

`gradient`: the volume term's gradient to the encoder is more stable than that to the decoder
(section 5, appendix D). `trace`: the trace is better estimated in latent than in data space, with
orthogonal vectors (appendix D); the paper shows the estimator's noise, here is what training ends
with. Both train the free-form nets of appendix E.2, of less width, on a table of numbers with the
one cycle of the tabular studies. Nothing is chosen by a score, and scores are of test rows.

An ensemble of all rates and seeds is one file in the store; what is there is not trained again.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import with_range
from step import NETS, stepper
from torch import Tensor, nn

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble import Ensemble, one_cycle
from pythae_fif.errors import NonFiniteError
from pythae_fif.evaluation.frechet import squared_wasserstein
from pythae_fif.files import write_json
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.reports.grid import Cell, Grid, number, write_grid
from pythae_fif.runs.provenance import processor
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.tabular_plan import TIMED_BATCH
from pythae_fif.studies.tabular_protocol import APPENDIX, CONFIGURATIONS, Nets, Table, load_table
from pythae_fif.training import keep_freed_memory
from pythae_fif.volume_change import conjugate_gradient as rectangular
from pythae_fif.volume_change.loss import Map

BATCH, WIDTH, LIKELIHOOD_ROWS = 128, 40, 1000
DIMENSIONS = (4, 8, 16, 32, 64, 128, 256)
ACTIVATIONS: dict[str, type[nn.Module]] = {"ReLU": nn.ReLU, "SiLU": nn.SiLU}
SCORES = {"distance": "FID-like ↓", "reconstruction": "recon. ↓", "log_likelihood": "log-lik. ↑"}
CLEAR = 5.0  # standard errors of a mean difference that counts: of 8 seeds, one in 600 by chance


@dataclass(frozen=True)
class Case:
    """An ensemble: a choice of the volume term, and its members.

    Attributes:
        claim: ``gradient`` or ``trace``.
        activation: A key of `ACTIVATIONS`.
        rates: The cycle's highest; each with all seeds.
        seeds: Number of them.
        gradient_to, jacobian_at, trace_space, hutchinson_kind, hutchinson_samples: Of `FIFConfig`.
    """

    claim: str
    activation: str
    rates: tuple[float, ...]
    seeds: int
    gradient_to: str = "encoder"
    jacobian_at: str = "data"
    trace_space: str = "latent"
    hutchinson_kind: str = "orthogonal"
    hutchinson_samples: int = 1

    @property
    def choices(self) -> dict[str, Any]:
        """Those of `FIFConfig`."""
        names = ("gradient_to", "jacobian_at", "trace_space", "hutchinson_kind")
        return {name: getattr(self, name) for name in (*names, "hutchinson_samples")}

    @property
    def name(self) -> str:
        return "-".join(map(str, (self.claim, self.activation, *self.choices.values())))


def cases_of(claim: str, columns: int, latent_dim: int) -> Iterator[Case]:
    """The ensembles of a claim, for rows of so many columns."""
    if claim == "gradient":
        for activation in ACTIVATIONS:
            for to, at in itertools.product(("encoder", "decoder"), ("data", "reconstruction")):
                yield Case(claim, activation, (1e-3, 3e-3, 1e-2), 5, to, at)
        return
    for space, dim in {"latent": latent_dim, "data": columns}.items():
        vectors = [("orthogonal", min(k, dim)) for k in (1, 2, 4)]
        vectors += [("scaled_gaussian", 2), ("gaussian", 1), ("rademacher", 1)]
        for kind, k in vectors:
            yield Case(
                claim, "SiLU", (3e-3,), 8,
                trace_space=space, hutchinson_kind=kind, hutchinson_samples=k,
            )  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--store", type=Path, required=True, help="folder of the measurements")
    p.add_argument("--claims", nargs="+", choices=list(TABLES), default=list(TABLES))
    p.add_argument("--dataset", choices=("power", "miniboone"), default="power")
    p.add_argument("--steps", type=int, default=2000, help="of each training")
    p.add_argument("--rounds", type=int, default=15, help="timed steps of each dimension")
    p.add_argument("--draw", action="store_true", help="measures nothing")
    p.add_argument("--data-root")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    keep_freed_memory()
    for claim in flags.claims:
        grid, name = TABLES[claim](claim, flags)
        if grid is not None:
            for path in write_grid(grid, flags.results / "tables" / name, ".md", ".csv"):
                print(path)


# ---------------------------------------------------------------- the cost of a step


def step_table(claim: str, flags: argparse.Namespace) -> tuple[Grid | None, str]:
    """The table of the steps' times."""
    file = flags.store / "step.json"
    if not file.exists() and not flags.draw:
        print(claim, flush=True)
        write_json(file, time_steps(flags.rounds) | {"processor": processor()})
    if not file.exists():
        return None, ""
    found = json.loads(file.read_text())
    rows = []
    for dim, times in zip(DIMENSIONS, zip(found["AE"], found["default"], strict=True), strict=True):
        ratios = [fif / ae for ae, fif in zip(*times, strict=True)]
        ae, fif = (1e3 * statistics.median(of) for of in times)
        rows.append([Cell(str(dim), dim), number(ae), number(fif), with_range(ratios)])
    middle = [row[3].value or math.nan for row in rows]
    low, high = min(middle), max(middle)
    notes = [
        f"Pythae's ResNets, 28 x 28 pixels, batch 100, K = 1, Adam; medians of {len(ratios)} "
        "steps, of the ratio with lowest and highest in brackets. Processor time of one thread, "
        f"all in turns; other jobs used the machine.",
        f"From d = {DIMENSIONS[0]} to {DIMENSIONS[-1]} the median ratio lies between {low:.2f} and "
        f"{high:.2f}: it is "
        + ("independent of d, to 10 %." if high < 1.1 * low else "not independent of d, to 10 %.")
        + " The paper has 1.5 to 2 times the wall clock.",
        made_by("step", found),
    ]
    headings = ["d", "autoencoder, ms", "FIF, ms", "ratio"]
    return Grid("A training step against the latent dimension", headings, "rrrr", rows, notes), (
        "claims-step"
    )


def time_steps(rounds: int) -> dict[str, Any]:
    """Seconds of every step, by variant, dimension and round."""
    torch.set_num_threads(1)
    NETS.update({f"d{d}": ("resnet", (1, 28, 28), d, 100) for d in DIMENSIONS})
    steps = {(v, d): stepper(f"d{d}", v, "cpu") for d in DIMENSIONS for v in ("AE", "default")}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for _ in range(rounds + 1):  # the first warms up
        for key, step in steps.items():
            start = time.process_time()
            step()
            times[key].append(time.process_time() - start)
    return {v: [times[v, d][1:] for d in DIMENSIONS] for v in ("AE", "default")}


# ---------------------------------------------------------------- where conjugate gradients stop

LEAST_STEPS = 11  # gpytorch at fc2053b, linear_cg: k >= min(10, max_iter - 1), k from 0
solve = rectangular.conjugate_gradient
ROWS = {
    "FIF": ("fif", False),
    "rectangular flow, our stop": ("rectangular_flow", False),
    "rectangular flow, its authors' stop": ("rectangular_flow", True),
}


class AuthorsStop:
    """Conjugate gradients with the products that the authors' code makes.

    Attributes:
        residual: The mean relative residual of the first call, which is not timed. It must be below
            1: else the authors' code would go on.
    """

    residual: float | None = None

    def __call__(self, matvec: Map, b: Tensor, **_: Any) -> "rectangular.ConjugateGradientOutput":
        products = 0

        def counted(v: Tensor) -> Tensor:
            nonlocal products
            products += 1
            return matvec(v)

        counted(torch.zeros_like(b))  # of the first guess
        found = solve(counted, b, tolerance=1e-10, max_iterations=LEAST_STEPS)
        while products < LEAST_STEPS + 1:  # it goes on where all are solved
            counted(b)
        if self.residual is None:
            relative = (matvec(found.solution) - b).norm(dim=-1) / b.norm(dim=-1)
            self.residual = float(relative.mean())
        return found


def stop_table(claim: str, flags: argparse.Namespace) -> tuple[Grid | None, str]:
    """The table of the steps' times."""
    file = flags.store / "stop.json"
    if not file.exists() and not flags.draw:
        print(claim, flush=True)
        of = {dataset: time_stops(dataset, flags) for dataset in ("power", "miniboone")}
        write_json(file, of | {"processor": processor()})
    if not file.exists():
        return None, ""
    found = json.loads(file.read_text())
    rows = []
    for dataset in ("power", "miniboone"):
        of = found[dataset]
        for row in ROWS:
            quotients = [a / b for a, b in zip(of["times"][row], of["times"]["FIF"], strict=True)]
            steps = f"{of['steps'][row]:g}" if row in of["steps"] else "–"
            middle = 1e3 * statistics.median(of["times"][row])
            quotient = with_range(quotients)
            rows.append([Cell(dataset), Cell(row), number(middle), Cell(steps), quotient])
    residuals = ", ".join(f"{found[d]['residual']:.2g} ({d})" for d in ("power", "miniboone"))
    notes = [
        f"Nets of appendix E.2 at the paper's sizes, ReLU, freshly initialised, batch "
        f"{TIMED_BATCH}, K = 1; medians of {len(quotients)} steps, of quotients with lowest and "
        "highest in brackets. Processor time of one thread, in turns; other jobs used the machine.",
        "CG steps: those of the batch, of which each is a product. Our stop: when each vector "
        "has a relative residual of 0.001. Its authors' code: after "
        f"{LEAST_STEPS} steps at least, when the mean relative residual is below 1; after "
        f"{LEAST_STEPS} it was {residuals}.",
        made_by("stop", found),
    ]
    headings = ["Data", "Model", "ms a step", "CG steps", "of FIF's time"]
    return Grid("A step of FIF and of rectangular flows", headings, "llrrr", rows, notes), (
        "claims-stop"
    )


def time_stops(dataset: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every step, by row; steps of conjugate gradients; the residual at the end."""
    torch.set_num_threads(1)
    options = StudyOptions(results=flags.results, data_root=flags.data_root, command="")
    table = load_table(dataset, options)
    x = table.train[torch.arange(TIMED_BATCH) % len(table.train)]
    stop, models = AuthorsStop(), {}
    for row, (configuration, _) in ROWS.items():
        torch.manual_seed(0)
        shape = table.splits.input_dim, table.latent_dim
        model = CONFIGURATIONS[configuration].build(*shape, Nets()).train()
        models[row] = model, torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    times: dict[str, list[float]] = {row: [] for row in ROWS}
    steps: dict[str, list[float]] = {row: [] for row in list(ROWS)[1:]}
    for _ in range(flags.rounds + 1):  # the first warms up
        for row, (model, optimizer) in models.items():
            way = patch.object(rectangular, "conjugate_gradient", stop if ROWS[row][1] else solve)
            with way:
                start = time.process_time()
                optimizer.zero_grad()
                model({"data": x}).loss.backward()
                optimizer.step()
                times[row].append(time.process_time() - start)
            if row in steps:
                slowest = float(model.cg_iterations.max())
                steps[row].append(LEAST_STEPS if ROWS[row][1] else slowest)
    return {
        "times": {row: of[1:] for row, of in times.items()},
        "steps": {row: statistics.fmean(of[1:]) for row, of in steps.items()},
        "residual": stop.residual,
    }


# ---------------------------------------------------------------- what training ends with


def training_table(claim: str, flags: argparse.Namespace) -> tuple[Grid | None, str]:
    """The table of the trainings of a claim."""
    options = StudyOptions(
        results=flags.results, data_root=flags.data_root, dataset=flags.dataset, command=""
    )
    table = load_table(flags.dataset, options)
    (columns,) = table.splits.input_dim
    found = {}
    for case in cases_of(claim, columns, table.latent_dim):
        file = flags.store / f"{flags.dataset}-{flags.steps}-{case.name}.json"
        if not file.exists() and not flags.draw:
            print(file.stem, flush=True)
            write_json(file, train(case, table, flags.steps) | {"processor": processor()})
        if file.exists():
            found[case] = json.loads(file.read_text())
    if not found:
        return None, ""
    first = next(iter(found.values()))
    seeds = next(iter(found)).seeds
    rows = []
    for case, scores in found.items():
        head = gradient_cells(case) if claim == "gradient" else trace_cells(case, table)
        for i, rate in enumerate(case.rates):
            mine = slice(i * case.seeds, (i + 1) * case.seeds)
            failed = sum(failures(scores, mine, table))
            cells = [with_range(scores[name][mine]) for name in (*SCORES, "code_square")]
            rows.append([*head, Cell(f"{rate:g}", rate), Cell(f"{failed}", failed), *cells])
    say = gradient_notes if claim == "gradient" else trace_notes
    notes = [
        f"Data: {table.splits.source}. Nets of appendix E.2 with width {WIDTH}, d = "
        f"{table.latent_dim}, beta {APPENDIX.beta:g}, noise {APPENDIX.noise:g}, batch {BATCH}, "
        f"{first['steps']:,} steps in one cycle up to the rate; {seeds} seeds: medians, with "
        f"lowest and highest in brackets, of all test rows (log-likelihood: exact, on the "
        f"manifold, of the first {LIKELIHOOD_ROWS:,}). Failed: a score that is not finite, or a "
        f"reconstruction worse than the mean row, which has {mean_row_error(table):.2f}.",
        *say(found, table),
        made_by(claim if flags.dataset == "power" else f"{claim} --dataset {flags.dataset}", first),
    ]
    headings = ["rate", "failed", *SCORES.values(), "|z|²/d"]
    own = ["Nets", "gradient to", "encoder's Jacobian at"]
    own = own if claim == "gradient" else ["trace in", "vectors", "K"]
    title = {
        "gradient": "The volume term's gradient, to the encoder or to the decoder",
        "trace": "The estimate of the trace, in training",
    }[claim]
    grid = Grid(f"{flags.dataset}: {title}", own + headings, "lll" + 6 * "r", rows, notes)
    return grid, f"claims-{claim}-{flags.dataset}"


def train(case: Case, table: Table, steps: int) -> dict[str, Any]:
    """Trains the members of a case; their scores in the order rate, seed."""
    pairs = list(itertools.product(case.rates, range(case.seeds)))
    shape: dict[str, Any] = {"input_dim": table.splits.input_dim, "latent_dim": table.latent_dim}
    sizes: Any = {"hidden_dim": WIDTH, "activation": ACTIVATIONS[case.activation]}
    models = []
    for _, seed in pairs:
        torch.manual_seed(seed)
        config = FIFConfig(**shape, beta=APPENDIX.beta, noise=APPENDIX.noise, **case.choices)
        models.append(
            FIF(config, TabularEncoder(**shape, **sizes), TabularDecoder(**shape, **sizes))
        )
    ensemble = Ensemble(models, [seed for _, seed in pairs])
    epoch_steps = len(table.train) // BATCH
    epochs = math.ceil(steps / epoch_steps)
    start = time.process_time()
    ensemble.train(
        table.train,
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=[rate for rate, _ in pairs],
        weight_decay=APPENDIX.weight_decay,
        schedule=one_cycle,
    )
    seconds = time.process_time() - start
    test = torch.from_numpy(table.splits.test)
    distances = []
    for model, (_, seed) in zip(ensemble.members(), pairs, strict=True):
        torch.manual_seed(seed)
        try:
            distances.append(squared_wasserstein(model.sample(len(test)), test))
        except NonFiniteError:
            distances.append(math.nan)
    return {
        "distance": distances,
        "reconstruction": ensemble.reconstruction_error(test).mean(1).tolist(),
        "log_likelihood": ensemble.log_prob(test[:LIKELIHOOD_ROWS]).mean(1).tolist(),
        "code_square": ensemble.encode(test).square().mean((1, 2)).tolist(),
        "steps": epochs * epoch_steps,
        "seconds": seconds,
    }


def mean_row_error(table: Table) -> float:
    """The squared error of the mean training row for every test row."""
    return float(((table.splits.test - table.splits.train.mean(0)) ** 2).sum(1).mean())


def failures(scores: dict[str, Any], members: slice, table: Table) -> list[bool]:
    """Which of some members failed."""
    worst = mean_row_error(table)
    of_members = zip(*(scores[name][members] for name in SCORES), strict=True)
    return [not all(map(math.isfinite, of)) or of[1] > worst for of in of_members]


def gradient_cells(case: Case) -> list[Cell]:
    place = "x" if case.jacobian_at == "data" else "g(f(x))"
    return [Cell(case.activation), Cell(case.gradient_to), Cell(place)]


def trace_cells(case: Case, table: Table) -> list[Cell]:
    dim = table.latent_dim if case.trace_space == "latent" else table.splits.input_dim[0]
    exact = case.hutchinson_kind == "orthogonal" and case.hutchinson_samples == dim
    k = case.hutchinson_samples
    shown = Cell(f"{k}, exact" if exact else str(k), k)
    return [Cell(case.trace_space), Cell(case.hutchinson_kind.replace("_", " ")), shown]


def gradient_notes(found: dict[Case, dict[str, Any]], table: Table) -> list[str]:
    """What the trainings say of the claim."""
    lost: dict[tuple[str, str], list[bool]] = {}
    distances: dict[str, dict[tuple[str, str, float], list[float]]] = {"encoder": {}, "decoder": {}}
    for case, scores in found.items():
        failed = failures(scores, slice(None), table)
        lost.setdefault((case.gradient_to, case.jacobian_at), []).extend(failed)
        for i, rate in enumerate(case.rates):
            mine = scores["distance"][i * case.seeds : (i + 1) * case.seeds]
            key = (case.activation, case.jacobian_at, rate)
            distances[case.gradient_to][key] = [v if math.isfinite(v) else math.inf for v in mine]
    counts = "; ".join(
        f"to the {to}, Jacobian at {'x' if at == 'data' else 'g(f(x))'}, {sum(of)} of {len(of)}"
        for (to, at), of in lost.items()
    )
    encoder, decoder = distances.values()
    pairs = [(encoder[key], decoder[key]) for key in encoder if key in decoder]
    median = sum(statistics.median(e) < statistics.median(d) for e, d in pairs)
    worst = sum(max(e) < max(d) for e, d in pairs)
    ends = " and ".join(
        f"{max(map(max, of.values())):.3g} with the {to}" for to, of in distances.items() if of
    )
    return [
        f"Failed: {counts}. At the same nets, Jacobian and rate the FID-like distance is lower "
        f"with the gradient to the encoder in {median} of {len(pairs)} pairs by the median seed, "
        f"and in {worst} by the worst; the highest of all trainings is {ends}."
    ]


def trace_notes(found: dict[Case, dict[str, Any]], table: Table) -> list[str]:
    """Which choices end clearly elsewhere than the paper's, K = 1."""
    base, *others = found
    first = found[base]["distance"]
    moved = [abs(statistics.fmean(found[c]["distance"]) - statistics.fmean(first)) for c in others]
    lines = []
    for name, heading in SCORES.items():
        apart = []
        for case in others:
            z = standard_errors(found[case][name], found[base][name])
            if abs(z) > CLEAR:
                cells = trace_cells(case, table)
                apart.append(
                    f"{' '.join(c.text for c in cells[:2])} K = {cells[2].text} ({z:+.1f})"
                )
        lines.append(f"{heading[:-2]}: {'; '.join(apart) or 'none'}")
    return [
        f"Members of a seed start from the same weights. Mean differences from the paper's choice "
        f"with K = 1 (first row; with K = 1 scaled Gaussian vectors are the same) of more than "
        f"{CLEAR:g} standard errors, with sign: {'. '.join(lines)}. Of the others we do not know "
        f"whether they differ. No choice moves the mean FID-like distance by more than "
        f"{max(moved, default=0):.2g}; its standard deviation over seeds is "
        f"{statistics.stdev(first):.2g}."
    ]


def standard_errors(values: Sequence[float], base: Sequence[float]) -> float:
    """The mean difference of trainings from the same weights, in standard errors of it."""
    differences = [value - other for value, other in zip(values, base, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences) / error if error else math.nan


# ---------------------------------------------------------------- what tables share


def made_by(claims: str, found: dict[str, Any]) -> str:
    command = f"python benchmarks/claims.py --store DIR --claims {claims}"
    return f"Made by `{command}` on {found['processor']}."


TABLES = {
    "step": step_table,
    "stop": stop_table,
    "gradient": training_table,
    "trace": training_table,
}


if __name__ == "__main__":
    main()
