"""Times a training step of FIF against that of an autoencoder, for every network.

    python benchmarks/step.py [--nets mnist-resnet ...] [--rounds 15] [--device cuda] [--output F]

A plain autoencoder's step is 1. The time bound is what no exact FIF step can beat: the
autoencoder's step, plus a forward and backward pass of the encoder (the tangents and their
gradient), a forward pass of the decoder (the other tangents) and the noise on the data, each timed
here. `default / bound` is their quotient round by round. `vjp` is FIF's
mode `backward` (vector-Jacobian products alone, double backward), `differences` its mode
`central_difference` (not with BatchNorm), `default` replayed tangents,
`1/4` the surrogate of a quarter of the batch, `bf16` its products in bfloat16, `+` the whole step
in bfloat16. Rounds are interleaved and medians are taken, since machines are noisy; peak memory is
that of a process of its own for every variant.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from machine import command, markdown, seconds
from pythae.data.datasets import DatasetOutput
from pythae.models import AE, AEConfig
from torch.utils.flop_counter import FlopCounterMode

from pythae_fif import FIF, FIFConfig
from pythae_fif.files import write_text
from pythae_fif.nn import build_networks
from pythae_fif.runs.provenance import peak_memory_mb, processor
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
# Name -> options of FIFConfig, or None for an autoencoder; with + the whole step is in bfloat16.
VARIANTS: dict[str, dict | None] = {
    "AE": None,
    "vjp": {"mode": "backward"},
    "differences": {"mode": "central_difference"},
    "default": {},
    "K=2": {"hutchinson_samples": 2},
    "K=4": {"hutchinson_samples": 4},
    "1/2": {"surrogate_fraction": 0.5},
    "1/4": {"surrogate_fraction": 0.25},
    "bf16": {"surrogate_precision": "bfloat16"},
    "1/4 bf16": {"surrogate_fraction": 0.25, "surrogate_precision": "bfloat16"},
    "AE +": None,
    "default +": {},
}


def variants_of(net: str) -> list[str]:
    """Those that a network can have: Pythae's ConvNets have BatchNorm."""
    normalised = net.endswith("convnet") and not net.startswith("digits")
    return [name for name in VARIANTS if not (normalised and name == "differences")]


def build(net: str, options: dict | None, device: str):
    """A model and a batch of data for it."""
    arch, shape, latent_dim, batch = NETS[net]
    torch.manual_seed(0)
    networks = build_networks(arch, shape, latent_dim)
    if options is None:
        model = AE(AEConfig(input_dim=shape, latent_dim=latent_dim), *networks)
    else:
        model = FIF(FIFConfig(input_dim=shape, latent_dim=latent_dim, **options), *networks)
    return model.to(device).train(), torch.rand(batch, *shape, device=device)


def stepper(net: str, variant: str, device: str):
    """A training step: forward, backward, fused Adam."""
    model, x = build(net, VARIANTS[variant], device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=variant.endswith("+")):
            loss = model(DatasetOutput(data=x)).loss
        loss.backward()
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

    def noise():
        return x + 0.01 * torch.randn_like(x)

    return {"encoder": encoder, "decoder": decoder, "noise": noise}


def time_net(net: str, rounds: int, device: str) -> dict[str, float]:
    """Median time of every variant and of the bound, in units of the autoencoder's step."""
    functions = {name: stepper(net, name, device) for name in variants_of(net)}
    added = parts(*build(net, None, device))
    functions |= added
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    bound = [times["AE"], *(times.pop(name) for name in added)]
    times["bound"] = [sum(of_round) for of_round in zip(*bound, strict=True)]

    def ratio(name: str, unit: str) -> float:
        return statistics.median(t / u for t, u in zip(times[name], times[unit], strict=True))

    ratios = {name: ratio(name, "AE") for name in times}
    ratios["default / bound"] = ratio("default", "bound")
    ratios["AE ms"] = 1e3 * statistics.median(times["AE"])
    return ratios


def peak_memory(net: str, variant: str, device: str) -> float:
    """Peak memory of three steps above the model and its batch, in MB; in a fresh process."""
    torch.set_num_threads(1)
    step = stepper(net, variant, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
    else:
        start = peak_memory_mb()
    for _ in range(3):
        step()
    if device == "cuda":
        return (torch.cuda.max_memory_allocated() - start) / 2**20
    return peak_memory_mb() - start


def gradient_errors(net: str, device: str) -> dict[str, float]:
    """Distance of a step's gradient from that in float32 with the same draw, over its norm.

    `another draw` is what the Hutchinson vectors alone make of it, `another batch` the data.
    """

    def gradient(options: dict, seed: int = 0, low: bool = False, other: bool = False):
        model, x = build(net, {"noise": 0.0, **options}, device)
        if other:
            x = torch.rand_like(x)
        torch.manual_seed(seed)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=low):
            loss = model(DatasetOutput(data=x)).loss
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    full = gradient({})
    found = {
        "another draw": gradient({}, seed=1),
        "another batch": gradient({}, other=True),
        "bf16 surrogate": gradient({"surrogate_precision": "bfloat16"}),
        "bf16 whole step": gradient({}, low=True),
    }
    return {name: ((g - full).norm() / full.norm()).item() for name, g in found.items()}


class _NoModules(contextlib.AbstractContextManager):
    """Counts no module by itself: the tracker's hooks refuse `autograd.grad` for a leaf."""

    parents = frozenset({"Global"})

    def __exit__(self, *_):
        pass


def count_flops(function: Callable[[], object]) -> int:
    """The floating-point operations of one call, by PyTorch's formulas."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with counter:
        function()
    return counter.get_total_flops()


def flops(net: str, device: str) -> dict[str, float]:
    """Floating-point operations of a step of every variant, in units of the autoencoder's."""

    def count(function) -> int:
        function()  # FIF's first step tries the recorder out besides
        return count_flops(function)

    names = [name for name in variants_of(net) if not name.endswith(("+", "bf16"))]
    counts = {name: count(stepper(net, name, device)) for name in names}
    counts["bound"] = counts["AE"] + sum(map(count, parts(*build(net, None, device)).values()))
    return {name: value / counts["AE"] for name, value in counts.items()}


def measured_in_a_process(net: str, variant: str, device: str) -> float:
    """`peak_memory` of a fresh process."""
    command = [sys.executable, __file__, "--peak", net, variant, "--device", device]
    return json.loads(subprocess.check_output(command))


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
    tables: dict[str, list[dict[str, str]]] = {}
    others = [name for name in VARIANTS if name != "AE"]
    columns = ("bound", "default / bound", *others)
    for net in flags.nets:
        time_of = time_net(net, flags.rounds, flags.device)
        row = {"net": net, "AE ms": f"{time_of['AE ms']:.0f}"}
        row |= {k: f"{time_of[k]:.2f}" if k in time_of else "" for k in columns}
        tables.setdefault(f"Time of a step, autoencoder = 1: {where}", []).append(row)
        flops_of = flops(net, flags.device)
        counted = [k for k in ("bound", *others) if not k.endswith(("+", "bf16"))]
        row = {k: f"{flops_of[k]:.2f}" if k in flops_of else "" for k in counted}
        row = {"net": net, **row}
        tables.setdefault("Floating-point operations of a step, autoencoder = 1", []).append(row)
        errors = gradient_errors(net, flags.device)
        row = {"net": net, **{name: f"{error:.1e}" for name, error in errors.items()}}
        tables.setdefault("Relative change of a step's gradient, fresh weights", []).append(row)
        peak = {v: measured_in_a_process(net, v, flags.device) for v in variants_of(net)}
        row = {"net": net, **{v: f"{peak[v]:.0f}" if v in peak else "" for v in VARIANTS}}
        tables.setdefault("Peak memory of a step above model and batch, MB", []).append(row)
    text = "\n".join(f"## {title}\n\n{markdown(rows)}" for title, rows in tables.items())
    print(text)
    if flags.output:
        made = f"Made by `{command(flags.output)}`."
        write_text(Path(flags.output), f"# The training step\n\n{made}\n\n{text}")


if __name__ == "__main__":
    main()
