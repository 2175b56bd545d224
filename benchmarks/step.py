"""Times a training step of FIF against that of an autoencoder, for every network.

    python benchmarks/step.py [--nets mnist-resnet ...] [--rounds 15] [--device cuda] [--output F]

An autoencoder's step is 1. The bound is what no exact FIF step can beat: that step, plus a forward
and backward pass of the encoder (the tangents and their gradient), a forward pass of the decoder
(the other tangents) and the noise on the data, each timed here. `replayed` and `published` are the
two surrogates, `1/4` the first of a quarter of the batch, `bf16` the whole step in bfloat16. Rounds
are interleaved and medians are taken, since machines are noisy. Peak memory is that of a process of
its own for every variant.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from machine import command, markdown, peak_memory_mb, seconds
from pythae.data.datasets import DatasetOutput
from pythae.models import AE, AEConfig, BaseAE
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.files import write_bytes
from pythae_fif.nn import build_networks
from pythae_fif.runs.provenance import processor
from pythae_fif.training import keep_freed_memory

NETS = {
    "mnist-resnet": ("resnet", (1, 28, 28), 16, 100),
    "cifar-resnet": ("resnet", (3, 32, 32), 256, 100),
    "celeba-resnet": ("resnet", (3, 64, 64), 64, 100),
    "mnist-convnet": ("convnet", (1, 28, 28), 16, 100),
    "cifar-convnet": ("convnet", (3, 32, 32), 256, 32),
    "celeba-convnet": ("convnet", (3, 64, 64), 64, 16),
    "digits-convnet": ("convnet", (1, 8, 8), 8, 50),
}
"""Name -> architecture, shape of an image, latent dimension, batch size."""


class Variant(NamedTuple):
    """Options of FIFConfig, None for an autoencoder; the surrogate; and the precision."""

    options: dict | None = None
    surrogate: str | None = None
    half: bool = False


VARIANTS = {
    "AE": Variant(),
    "replayed": Variant({}),
    "published": Variant({}, "published"),
    "K=2": Variant({"hutchinson_samples": 2}),
    "1/4": Variant({"surrogate_fraction": 0.25}),
    "AE bf16": Variant(half=True),
    "bf16": Variant({}, half=True),
}


def build(net: str, variant: Variant, device: str) -> tuple[BaseAE, Tensor]:
    """A model and a batch of data for it."""
    arch, shape, latent_dim, batch = NETS[net]
    torch.manual_seed(0)
    networks = build_networks(arch, shape, latent_dim)
    if variant.options is None:
        model = AE(AEConfig(input_dim=shape, latent_dim=latent_dim), *networks)
    else:
        config = FIFConfig(input_dim=shape, latent_dim=latent_dim, **variant.options)
        model = FIF(config, *networks)
        model.surrogate_mode = variant.surrogate
    return model.to(device).train(), torch.rand(batch, *shape, device=device)


def stepper(net: str, variant: Variant, device: str) -> Callable[[], None]:
    """A training step: forward, backward, fused Adam."""
    model, x = build(net, variant, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=variant.half):
            loss = model(DatasetOutput(data=x)).loss
        loss.backward()
        optimizer.step()

    return step


def parts(net: str, device: str) -> dict[str, Callable[[], object]]:
    """The passes that the bound adds to an autoencoder's step."""
    model, x = build(net, VARIANTS["AE"], device)
    weight = torch.rand(len(x), model.latent_dim, device=device)

    @torch.no_grad()
    def decoder() -> None:
        model.decoder(weight)

    return {
        "encoder": lambda: (model.encoder(x).embedding * weight).sum().backward(),
        "decoder": decoder,
        "noise": lambda: x + 0.01 * torch.randn_like(x),
    }


def time_net(net: str, rounds: int, device: str) -> dict[str, float]:
    """Median time of every variant and of the bound, in units of the autoencoder's step."""
    steps = {name: stepper(net, variant, device) for name, variant in VARIANTS.items()}
    added = parts(net, device)
    functions = {**steps, **added}
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    of_bound = [times["AE"], *(times.pop(name) for name in added)]
    times["bound"] = [sum(of_round) for of_round in zip(*of_bound, strict=True)]

    def ratio(name: str, unit: str) -> float:
        return statistics.median(t / u for t, u in zip(times[name], times[unit], strict=True))

    ratios = {name: ratio(name, "AE") for name in times if name != "AE"}
    ratios["replayed / bound"] = ratio("replayed", "bound")
    return {"AE ms": 1e3 * statistics.median(times["AE"]), **ratios}


def peak_memory(net: str, variant: str, device: str) -> float:
    """Peak memory of three steps above the model and its batch, in MB; in a fresh process."""
    torch.set_num_threads(1)
    step = stepper(net, VARIANTS[variant], device)
    start = peak_memory_mb(device, reset=True)
    for _ in range(3):
        step()
    return peak_memory_mb(device) - start


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--output", help="Markdown file to write the tables to")
    p.add_argument("--peak", nargs=2, metavar=("NET", "VARIANT"), help=argparse.SUPPRESS)
    flags = p.parse_args()
    if flags.peak:
        print(json.dumps(peak_memory(*flags.peak, flags.device)))
        return
    keep_freed_memory()
    name = torch.cuda.get_device_name() if flags.device == "cuda" else processor()
    where = f"{flags.device} ({name}), {torch.get_num_threads()} threads, torch {torch.__version__}"
    times, peaks = [], []
    for net in flags.nets:
        found = time_net(net, flags.rounds, flags.device)
        times.append({"net": net, **{key: f"{value:.3g}" for key, value in found.items()}})
        words = [sys.executable, __file__, "--device", flags.device, "--peak", net]
        used = {v: json.loads(subprocess.check_output([*words, v])) for v in VARIANTS}
        peaks.append({"net": net, **{name: f"{peak:.0f}" for name, peak in used.items()}})
    text = (
        f"## Time of a step, autoencoder = 1: {where}\n\n{markdown(times)}\n"
        f"## Peak memory of a step above model and batch, MB\n\n{markdown(peaks)}"
    )
    print(text)
    if flags.output:
        made = f"Made by `{command(flags.output)}`."
        write_bytes(Path(flags.output), f"# The training step\n\n{made}\n\n{text}".encode())


if __name__ == "__main__":
    main()
