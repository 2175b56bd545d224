"""Times a training step of FIF against that of an autoencoder, for every network.

    python benchmarks/step.py [--nets mnist-resnet ...] [--rounds 15] [--device cuda]

A plain autoencoder's step is 1. The time bound is what no exact FIF step can beat: the
autoencoder's step, plus a forward and backward pass of the encoder (the tangents and their
gradient) and a forward pass of the decoder (the other tangents), each timed here. Rounds are
interleaved and medians are taken, since machines are noisy; peak memory is measured in a process
of its own for every variant (--memory).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import AE, AEConfig
from rich.console import Console
from rich.table import Table

from pythae_fif import FIF, FIFConfig
from pythae_fif.nn import build_networks

NETS = {
    "mnist-resnet": ("resnet", (1, 28, 28), 16, 100),
    "cifar-resnet": ("resnet", (3, 32, 32), 256, 100),
    "celeba-resnet": ("resnet", (3, 64, 64), 64, 100),
    "mnist-convnet": ("convnet", (1, 28, 28), 16, 100),
    "cifar-convnet": ("convnet", (3, 32, 32), 256, 32),
    "celeba-convnet": ("convnet", (3, 64, 64), 64, 16),
    "digits-convnet": ("convnet", (1, 8, 8), 8, 50),
}
VARIANTS = {
    "AE": {},
    "replay K=1": {"mode": "replay"},
    "mixed K=1": {"mode": "mixed"},
    "backward K=1": {"mode": "backward"},
    "replay K=2": {"mode": "replay", "hutchinson_samples": 2},
    "replay K=4": {"mode": "replay", "hutchinson_samples": 4},
}


def build(net: str, options: dict, device: str):
    """A model and a batch of data for it."""
    arch, shape, latent_dim, batch = NETS[net]
    torch.manual_seed(0)
    networks = build_networks(arch, shape, latent_dim)
    if options:
        model = FIF(FIFConfig(input_dim=shape, latent_dim=latent_dim, **options), *networks)
    else:
        model = AE(AEConfig(input_dim=shape, latent_dim=latent_dim), *networks)
    return model.to(device).train(), torch.rand(batch, *shape, device=device)


def stepper(model, x):
    """A training step: forward, backward, fused Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        model(DatasetOutput(data=x)).loss.backward()
        optimizer.step()

    return step


def parts(model, x):
    """The passes that the time bound adds to an autoencoder's step."""
    weight = torch.rand(len(x), model.latent_dim, device=x.device)

    def encoder():
        (model.encoder(x).embedding * weight).sum().backward()

    @torch.no_grad()
    def decoder():
        model.decoder(weight)

    return encoder, decoder


def seconds(function, device: str) -> float:
    """One timed call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_net(net: str, rounds: int, device: str) -> dict[str, float]:
    """Median time of every variant and of the bound, in units of the autoencoder's step."""
    functions = {name: stepper(*build(net, o, device)) for name, o in VARIANTS.items()}
    functions["encoder"], functions["decoder"] = parts(*build(net, {}, device))
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    ratios = {
        name: statistics.median(t / ae for t, ae in zip(values, times["AE"], strict=True))
        for name, values in times.items()
    }
    ratios["bound"] = 1 + ratios.pop("encoder") + ratios.pop("decoder")
    ratios["AE ms"] = 1e3 * statistics.median(times["AE"])
    return ratios


def peak_memory(net: str, variant: str, device: str) -> float:
    """Peak memory above the start of three steps, in MB; call it in a fresh process."""
    model, x = build(net, VARIANTS[variant], device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
    else:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = stepper(model, x)
    for _ in range(3):
        step()
    if device == "cuda":
        return (torch.cuda.max_memory_allocated() - start) / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--memory", action="store_true", help="peak memory too")
    p.add_argument("--peak", nargs=2, metavar=("NET", "VARIANT"), help=argparse.SUPPRESS)
    flags = p.parse_args()
    if flags.peak:
        print(json.dumps(peak_memory(*flags.peak, flags.device)))
        return
    console = Console(width=140)
    columns = ["AE ms", "bound", *[name for name in VARIANTS if name != "AE"]]
    table = Table(title=f"step time, autoencoder = 1 ({flags.device}, torch {torch.__version__})")
    for name in ("net", *columns):
        table.add_column(name, justify="left" if name == "net" else "right")
    for net in flags.nets:
        ratios = time_net(net, flags.rounds, flags.device)
        table.add_row(net, *(f"{ratios[c]:.1f}" if c == "AE ms" else f"{ratios[c]:.2f}"
                             for c in columns))  # fmt: skip
    console.print(table)
    if flags.memory:
        memory = Table(title="peak memory above the start, MB")
        for name in ("net", *VARIANTS):
            memory.add_column(name, justify="left" if name == "net" else "right")
        for net in flags.nets:
            cells = []
            for variant in VARIANTS:
                command = [sys.executable, __file__, "--peak", net, variant]
                command += ["--device", flags.device]
                cells.append(json.loads(subprocess.check_output(command)))
            memory.add_row(net, *(f"{cell:.0f}" for cell in cells))
        console.print(memory)


if __name__ == "__main__":
    main()
