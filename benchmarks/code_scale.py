"""Why the code of FIF with ReLU is narrower than its prior: |z|^2 beside tr f'(x) g'(z).

    python benchmarks/code_scale.py [--dataset power] [--steps 6000] [--seeds 0 1 2]

A scaling of the code that the decoder undoes changes no reconstruction, so that a training with
eq. 15 that rests has |z|^2 = tr f'(x) g'(z) on average. The free-form nets of profile `quick` are
trained on the rows, on few of them, with more noise, on Gaussian rows of the same mean and
covariance, and with SiLU for the paper's ReLU: that alone brings the two together, since automatic
differentiation does not see what moving kinks do to f'. The models of the first training go on with
their code scaled to |z|^2 = d, too: it shrinks again.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap
from torch.optim.lr_scheduler import OneCycleLR

from pythae_fif import FIF
from pythae_fif.data.names import TABULAR_DATASETS
from pythae_fif.ensemble.ensemble import Ensemble
from pythae_fif.reports.grid import Cell, Grid, write_grid
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.tabular import spread
from pythae_fif.studies.tabular_protocol import CONFIGURATIONS, NOISE, WEIGHT_DECAY, load_table
from pythae_fif.training import keep_freed_memory

LEARNING_RATE, BATCH, FEW, MORE_NOISE, MEASURED = 1e-3, 128, 1250, 0.3, 2000


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    datasets = [name for name in TABULAR_DATASETS if name != "csv"]
    p.add_argument("--dataset", choices=datasets, default="power")
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--data-root")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    keep_freed_memory()
    options = StudyOptions(results=flags.results, data_root=flags.data_root, dataset=flags.dataset)
    table = load_table(flags.dataset, options)

    def models(configuration: str = "fif", noise: float = NOISE) -> list[FIF]:
        made = []
        for seed in flags.seeds:
            torch.manual_seed(seed)
            shape = table.splits.input_dim, table.latent_dim
            made.append(CONFIGURATIONS[configuration].build(*shape, table.profile.nets))
            made[-1].model_config.noise = noise
        return made

    def train(models: list[FIF], x: Tensor, rate: float, cycle: bool) -> list[FIF]:
        ensemble = Ensemble(models, flags.seeds)
        ensemble.train(
            x,
            epochs=max(1, flags.steps // (len(x) // BATCH)),
            batch_size=BATCH,
            learning_rate=rate,
            weight_decay=WEIGHT_DECAY,
            schedule=(lambda o, steps: OneCycleLR(o, rate, total_steps=steps)) if cycle else None,
        )
        return ensemble.members()

    x, rows = table.train, []
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(x.shape, generator=generator) @ torch.linalg.cholesky(x.T.cov()).T
    gaussian = normal + x.mean(0)
    cases: dict[str, tuple[str, Tensor, float]] = {
        "the rows": ("fif", x, NOISE),
        f"the first {FEW:,} rows": ("fif", x[:FEW], NOISE),
        f"noise {MORE_NOISE:g}": ("fif", x, MORE_NOISE),
        "Gaussian rows": ("fif", gaussian, NOISE),
        "the rows, with SiLU": ("fif_silu", x, NOISE),
        "Gaussian rows, with SiLU": ("fif_silu", gaussian, NOISE),
    }
    for name, (configuration, data, noise) in cases.items():
        trained = train(models(configuration, noise), data, LEARNING_RATE, cycle=True)
        rows.append(row(name, trained, data, noise))
        if name == "the rows":
            first = [{k: v.clone() for k, v in model.state_dict().items()} for model in trained]
    for rate in (LEARNING_RATE / 10, LEARNING_RATE):
        scaled = models()
        for model, state in zip(scaled, first, strict=True):
            model.load_state_dict(state)
            rescale(model, float(model.embed(x[:MEASURED]).square().mean()) ** -0.5)
        if rate < LEARNING_RATE:
            rows.append(row("the rows, code scaled", scaled, x, NOISE))
        name = f"... and trained on at {rate:g}"
        rows.append(row(name, train(scaled, x, rate, cycle=False), x, NOISE))
    notes = [
        f"Data: {table.splits.source}. {flags.steps:,} steps of batch {BATCH}, the nets of profile "
        f"`quick`, one cycle of a learning rate up to {LEARNING_RATE:g} (constant where trained "
        f"on), noise {NOISE:g} if not said otherwise, mean ± standard deviation over seeds "
        f"{', '.join(map(str, flags.seeds))}, on {MEASURED:,} training rows with noise.",
        f"Made by `python benchmarks/code_scale.py --dataset {flags.dataset}`.",
    ]
    headings = ["Trained on", "|z|² / d", "tr f'(x) g'(z) / d", "recon. ↓"]
    grid = Grid(f"{flags.dataset}: the scale of the code", headings, "lrrr", rows, notes)
    stem = flags.results / "tables" / f"code-scale-{flags.dataset}"
    for path in write_grid(grid, stem, ".md", ".csv"):
        print(path)


def row(name: str, models: list[FIF], data: Tensor, noise: float) -> list[Cell]:
    """A case's numbers."""
    values = [measure(model, data, noise) for model in models]
    print(name, values, flush=True)
    return [Cell(name), *(spread(of_seeds) for of_seeds in zip(*values, strict=True))]


@torch.no_grad()
def measure(model: FIF, data: Tensor, noise: float) -> tuple[float, float, float]:
    """|z|^2 / d, tr f'(x) g'(z) / d and squared error a row, of noisy rows."""
    x = data[:MEASURED]
    x = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    model.eval()
    z, error = model.embed(x), (model.reconstruct(x) - x).square().sum(1).mean()
    encoder = vmap(jacrev(lambda row: model.encoder(row[None]).embedding[0]))(x)
    decoder = vmap(jacfwd(lambda code: model.decoder(code[None])["reconstruction"][0]))(z)
    trace = (encoder.mT * decoder).sum((1, 2)).mean() / z.shape[1]
    return float(z.square().mean()), float(trace), float(error)


@torch.no_grad()
def rescale(model: FIF, scale: float) -> None:
    """Multiplies the code by a number and undoes it in the decoder, in their weights."""
    (before, *encoder_blocks), (*decoder_blocks, after) = model.encoder.layers, model.decoder.layers
    for layer in (before[-1], *(block.layers[-1] for block in (*encoder_blocks, *decoder_blocks))):
        layer.weight *= scale
        layer.bias *= scale
    for layer in (after[0], *(block.layers[0] for block in (*encoder_blocks, *decoder_blocks))):
        layer.weight /= scale


if __name__ == "__main__":
    main()
