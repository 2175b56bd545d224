"""Where the codes of FIF come to rest, and how long that takes, by activation, rate, width and K.

    OMP_NUM_THREADS=1 python benchmarks/code_scale.py --store DIR [--cases relu silu] [--draw]

Scaling the code (f to s f, g to g(. / s)) leaves the reconstructions alone and moves no kink, so
that the gradient of the loss along it is E|z|^2 - E tr f'(x) g'(z), whatever the activation. Where
training rests, the two are equal; while they differ, it does not rest. The free-form nets of
appendix E.2, of less width, are trained on POWER at constant rates, without weight decay, and then
for a tenth of the steps at a tenth of the rate: a gap that only the noise of the steps keeps open
closes there. At numbers of steps that grow by a constant factor the gradient of the mean loss, with
the exact trace, is taken in float64 on the same noisy rows.

A case is one ensemble: the seeds of all its rates. Its measurements are a file in the store, row by
row; a case whose file is whole is not trained again. Figure and table show what the store has.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble import Ensemble
from pythae_fif.ensemble.stacking import Nets
from pythae_fif.files import write_text
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.tabular_protocol import BETA, NOISE, Table, load_table
from pythae_fif.training import keep_freed_memory
from pythae_fif.volume_change import fif_loss

BATCH, WIDTH, WIDE = 128, 40, 80  # the latter is that of the tables' profile `quick`
MEASURED, CHUNK = 4096, 1024  # rows
RATES, LAST = (1e-3, 1e-2), 0.1  # what comes at a tenth of the rate, in units of `--steps`
POINTS = 20  # measurements at the constant rate

ACTIVATIONS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "relu": ("ReLU", nn.ReLU),
    "leaky_relu": ("LeakyReLU, slope 0.01", nn.LeakyReLU),
    "softplus100": ("softplus, sharpness 100", partial(nn.Softplus, beta=100)),
    "softplus10": ("softplus, sharpness 10", partial(nn.Softplus, beta=10)),
    "softplus1": ("softplus, sharpness 1", nn.Softplus),
    "gelu": ("GELU", nn.GELU),
    "silu": ("SiLU", nn.SiLU),
}


@dataclass(frozen=True)
class Case:
    """An ensemble: an activation, the number K of Hutchinson vectors, a width and the rates."""

    activation: str
    exact: bool = False  # K = d instead of 1
    width: int = WIDTH
    rates: tuple[float, ...] = RATES


CASES = {
    "relu": Case("relu"),
    "silu": Case("silu"),
    "softplus10": Case("softplus10"),
    "gelu": Case("gelu"),
    "leaky_relu": Case("leaky_relu"),
    "softplus100": Case("softplus100"),
    "softplus1": Case("softplus1"),
    "relu_wide": Case("relu", width=WIDE, rates=RATES[:1]),
    "relu_exact": Case("relu", exact=True, rates=RATES[:1]),
    "silu_wide": Case("silu", width=WIDE, rates=RATES[:1]),
    "silu_exact": Case("silu", exact=True, rates=RATES[:1]),
}  # in the order of their training


@dataclass(frozen=True)
class Point:
    """The state of a case's members after a number of steps, in the order rate, seed.

    Attributes:
        steps, seconds: Of training, all members together.
        code: |z|^2 / d of each.
        trace: tr f'(x) g'(z) / d.
        weights: Norm of all parameters.
        gradient: Norm of the mean loss's gradient.
        along: Its component along the scaling of the code, a direction of norm 1.
        derivative: Its product with that direction itself, over d: `code` - `trace`, in theory.
        reconstruction: Squared error a row.
    """

    steps: int
    seconds: float
    code: list[float]
    trace: list[float]
    weights: list[float]
    gradient: list[float]
    along: list[float]
    derivative: list[float]
    reconstruction: list[float]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--store", type=Path, required=True, help="folder of the measurements")
    p.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    p.add_argument("--steps", type=int, default=100_000)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--draw", action="store_true", help="trains nothing")
    p.add_argument("--data-root")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    options = StudyOptions(results=flags.results, data_root=flags.data_root, dataset="power")
    table = load_table("power", options)
    if not flags.draw:
        keep_freed_memory()
        for name in flags.cases:
            file = flags.store / f"{name}.jsonl"
            settings = asdict(CASES[name]) | {"steps": flags.steps, "seeds": flags.seeds}
            if not is_whole(file, settings):
                print(name, flush=True)
                train(CASES[name], settings, table, file)


def is_whole(file: Path, settings: dict[str, Any]) -> bool:
    """Whether a case's measurements are complete; an error where they have other settings."""
    if not file.exists():
        return False
    head, *points = map(json.loads, file.read_text().splitlines())
    if head != json.loads(json.dumps(settings)):
        raise SystemExit(f"{file} has measurements of other settings: give another --store")
    return bool(points) and points[-1]["last"]


def build(case: Case, seed: int, table: Table) -> FIF:
    """A freshly initialised member."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"input_dim": table.splits.input_dim, "latent_dim": table.latent_dim}
    config = FIFConfig(**shape, beta=BETA, noise=NOISE)
    sizes: Any = {"hidden_dim": case.width, "activation": ACTIVATIONS[case.activation][1]}
    return FIF(config, TabularEncoder(**shape, **sizes), TabularDecoder(**shape, **sizes))


def train(case: Case, settings: dict[str, Any], table: Table, file: Path) -> None:
    """Trains a case and writes its measurements."""
    pairs = [(rate, seed) for rate in case.rates for seed in settings["seeds"]]
    kind = ExactEnsemble if case.exact else Ensemble
    ensemble = kind([build(case, seed, table) for _, seed in pairs], [seed for _, seed in pairs])
    epoch_steps = len(table.train) // BATCH
    constant = math.ceil(settings["steps"] / epoch_steps)
    epochs = math.ceil((1 + LAST) * constant)
    growth = constant ** (1 / (POINTS - 1))
    measured = {round(growth**point) for point in range(POINTS)} | {epochs}
    x = table.train[torch.randperm(len(table.train), generator=torch.Generator().manual_seed(1))]
    x = x[:MEASURED].double()
    x += NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    write_text(file, json.dumps(settings) + "\n")
    spent, since = 0.0, time.process_time()

    def on_epoch(epoch: int) -> None:
        nonlocal spent, since
        if epoch not in measured:
            return
        spent += time.process_time() - since
        found = [measure(model, x) for model in ensemble.members()]
        columns = {name: [of[name] for of in found] for name in found[0]}
        point = asdict(Point(epoch * epoch_steps, spent, **columns)) | {"last": epoch == epochs}
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(point) + "\n")
        shown = [round(a - b, 3) for a, b in zip(point["code"], point["trace"], strict=True)]
        print(f"  {point['steps']:,} steps, {spent:.0f} s", shown, flush=True)
        since = time.process_time()

    ensemble.train(
        table.train,
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=[rate for rate, _ in pairs],
        schedule=lambda optimizer, steps: LambdaLR(
            optimizer, lambda step: 1.0 if step < constant * epoch_steps else 0.1
        ),
        on_epoch=on_epoch,
    )


class ExactEnsemble(Ensemble):
    """An ensemble with the exact trace, of K = d vectors along the axes, in place of the drawn."""

    def _loss(self, nets: Nets, x: Tensor, eps: Tensor, betas: Tensor) -> Tensor:
        vectors = axes(eps.shape[-1], eps)[:, None].expand(-1, *eps.shape[1:])
        return super()._loss(nets, x, vectors, betas)


def axes(d: int, like: Tensor) -> Tensor:
    """Hutchinson vectors along the axes, (d, 1, d), of which the estimate is the trace itself."""
    return math.sqrt(d) * torch.eye(d, dtype=like.dtype, device=like.device)[:, None]


def measure(model: FIF, x: Tensor) -> dict[str, float]:
    """The numbers of a :class:`Point` for one member, at rows in float64."""
    model, d = copy.deepcopy(model).double(), model.latent_dim
    normal = model.latent_distribution(x)
    code, trace, error = 0.0, 0.0, 0.0
    for rows in x.split(CHUNK):
        share = len(rows) / len(x)
        loss = fif_loss(
            lambda rows: model.encoder(rows).embedding,
            lambda z: model.decoder(z)["reconstruction"],
            normal.log_prob,
            rows,
            axes(d, x).expand(-1, len(rows), -1),
            BETA,
            reduce=lambda values, share=share: share * values.mean(),
        )
        loss.loss.backward()
        code += share * float(loss.z.detach().square().mean())
        log_prob = share * float(normal.log_prob(loss.z.detach()).mean())
        trace -= (float(loss.nll.detach()) + log_prob) / d
        error += float(loss.reconstruction.detach())
    product, direction_square = 0.0, 0.0
    for parameter, sign in scaled_parameters(model):
        assert parameter.grad is not None
        product += sign * float((parameter.grad * parameter.detach()).sum())
        direction_square += float(parameter.detach().square().sum())
    return {
        "code": code,
        "trace": trace,
        "weights": norm(model.parameters()),
        "gradient": norm(parameter.grad for parameter in model.parameters()),
        "along": product / math.sqrt(direction_square),
        "derivative": product / d,
        "reconstruction": error,
    }


def norm(tensors: Iterable[Tensor | None]) -> float:
    """Of all tensors together."""
    return math.sqrt(
        sum(float(tensor.detach().square().sum()) for tensor in tensors if tensor is not None)
    )


def scaled_parameters(model: FIF) -> Iterator[tuple[nn.Parameter, int]]:
    """The parameters that a scaling of the code by s multiplies by s (1) or divides by it (-1)."""
    (before, *encoder_blocks), (*decoder_blocks, after) = model.encoder.layers, model.decoder.layers
    blocks = [block.layers for block in (*encoder_blocks, *decoder_blocks)]
    for layers in (before, *blocks):
        yield layers[-1].weight, 1
        yield layers[-1].bias, 1
    for layers in (after, *blocks):
        yield layers[0].weight, -1


if __name__ == "__main__":
    main()
