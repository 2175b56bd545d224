"""Does the surrogate on a part of the batch train as well? Full against 1/2, 1/4 and 1/10.

    python benchmarks/fraction.py --dataset mnist --steps 500 --out results/surrogate_fraction
    python benchmarks/fraction.py --dataset celeba --steps 250 --batch-size 50 --data-root DIR ...

Every fraction and seed is a training of the paper's ResNet with the same steps, learning rate and
order of the first pass over the data. Along the way and in the end: the squared error, the exact
negative log-likelihood and the loss beta * error + nll of validation images, and in the end the
Frechet distance of samples from the model's own latent distribution to test images. Finished
trainings are kept and not run again. Times are those of this machine while it may do other things:
`benchmarks/step.py` has the ratios.
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import torch
from pythae.data.datasets import DatasetOutput

from pythae_fif import FIF, FIFConfig
from pythae_fif.data import ImageDataset, load_images, to_float
from pythae_fif.data.locations import cache_home
from pythae_fif.evaluation import Reference, build_extractor, frechet_distance
from pythae_fif.files import write_json
from pythae_fif.nn import build_networks
from pythae_fif.runs.provenance import processor
from pythae_fif.training import BatchLoader, keep_freed_memory

LATENT_DIM = {"digits": 8, "mnist": 16, "celeba": 64, "cifar10": 256}
BETA = 10.0
FRACTIONS = (1.0, 0.5, 0.25, 0.1)


def batches(splits, batch_size: int):
    """Training batches without end, in an order of the seed."""
    loader = BatchLoader(ImageDataset(splits.train), batch_size, shuffle=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


@torch.no_grad()
def validation(model: FIF, images: torch.Tensor, nll_images: int) -> dict[str, float]:
    """Squared error of all images, exact negative log-likelihood of the first few, in nats."""
    model.eval()
    error = torch.cat(
        [(model.reconstruct(x) - x).square().flatten(1).sum(1) for x in images.split(100)]
    )
    nll = -model.log_prob(images[:nll_images]).mean().item()
    model.train()
    recon = error.mean().item()
    return {"recon": recon, "nll": nll, "loss": BETA * recon + nll}


def train(flags, splits, fraction: float, seed: int, extractor, reference) -> dict:
    """One training and its scores."""
    torch.manual_seed(seed)
    shape, latent_dim = splits.input_dim, LATENT_DIM[flags.dataset]
    config = FIFConfig(
        input_dim=shape, latent_dim=latent_dim, beta=BETA, surrogate_fraction=fraction
    )
    model = FIF(config, *build_networks(flags.arch, shape, latent_dim)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    images = to_float(splits.val, limit=flags.val_images)
    log, seconds = [], 0.0
    for step, batch in zip(range(1, flags.steps + 1), batches(splits, flags.batch_size)):  # noqa: B905
        start = time.perf_counter()
        optimizer.zero_grad()
        model(DatasetOutput(data=batch.data)).loss.backward()
        optimizer.step()
        seconds += time.perf_counter() - start
        if step % -(-flags.steps // 4) == 0 or step == flags.steps:
            log.append({"step": step, **validation(model, images, flags.nll_images)})
    torch.manual_seed(seed)
    samples = torch.cat([model.sample(100) for _ in range(flags.samples // 100)])
    drawn = Reference.of(samples.clamp(0, 1), extractor).statistics
    return {
        "fraction": fraction, "seed": seed, "log": log,
        "frechet": frechet_distance(drawn, reference.statistics),
        "ms_per_step": 1e3 * seconds / flags.steps,
    }  # fmt: skip


def table(result: dict) -> str:
    """Mean and standard deviation over the seeds, a row a fraction."""
    lines = [
        f"| fraction | loss after {result['log_steps'][0]} steps | loss | exact nll | error | "
        f"{result['distance']} |",
        "|--:|--:|--:|--:|--:|--:|",
    ]

    def cell(values: list[float]) -> str:
        return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"

    for fraction in FRACTIONS:
        runs = [run for run in result["runs"] if run["fraction"] == fraction]
        if len(runs) > 1:
            last = [run["log"][-1] for run in runs]
            cells = [
                cell([run["log"][0]["loss"] for run in runs]),
                *(cell([row[key] for row in last]) for key in ("loss", "nll", "recon")),
                cell([run["frechet"] for run in runs]),
            ]
            lines.append(f"| {fraction:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--dataset", choices=LATENT_DIM, default="mnist")
    p.add_argument("--arch", default="resnet")
    p.add_argument("--steps", type=int, default=500)
    p.add_argument("--batch-size", type=int, default=100)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--val-images", type=int, default=500)
    p.add_argument("--nll-images", type=int, default=100)
    p.add_argument("--samples", type=int, default=2000)
    p.add_argument("--extractor", default="efficientnet-lite0")
    p.add_argument("--data-root")
    p.add_argument("--out", default="results/surrogate_fraction")
    flags = p.parse_args()
    keep_freed_memory()
    splits = load_images(flags.dataset, flags.data_root, download=False).subset(test=2000)
    extractor = build_extractor(flags.extractor, splits.input_dim)
    reference = Reference.of(torch.from_numpy(splits.test), extractor, cache_dir=cache_home())
    path = Path(flags.out) / f"{flags.dataset}.json"
    settings = {
        key: value for key, value in vars(flags).items() if key not in ("data_root", "out", "seeds")
    }
    result = {"settings": settings, "runs": []}
    if path.exists():
        result = json.loads(path.read_text())
        if result["settings"] != settings:
            p.error(f"{path} was made with other settings: {result['settings']}")
    done = {(run["fraction"], run["seed"]) for run in result["runs"]}
    for seed, fraction in itertools.product(flags.seeds, FRACTIONS):
        if (fraction, seed) not in done:
            result["runs"].append(train(flags, splits, fraction, seed, extractor, reference))
            result |= {
                "distance": f"{extractor.distance_name} of {flags.samples} samples to "
                f"{len(splits.test)} test images",
                "log_steps": [row["step"] for row in result["runs"][-1]["log"]],
                "data": splits.source,
                "machine": f"{processor()}, {torch.get_num_threads()} threads, "
                f"torch {torch.__version__}",
            }
            write_json(path, result)
            print(json.dumps(result["runs"][-1]), flush=True)
    print(table(result))


if __name__ == "__main__":
    main()
