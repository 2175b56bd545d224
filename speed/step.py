"""Compares a training step of FIF with one of an autoencoder, for every network.

    python speed/step.py [--nets mnist-resnet ...] [--variants AE-traced ...] [--rounds 15]
                              [--threads 1] [--no-memory] [--device cuda] [--output F]

An autoencoder's step is 1. The columns of the variants are:

* `traced`: the step as a graph; all variants without this word are eager
* `AE-traced`: the autoencoder's step as a graph, which no trainer makes
* `replayed`, `published` and `double backward`: ways to compute the volume term
* `K=2`: two Hutchinson vectors
* `1/4` and `1/10`: the surrogate on the first part of the batch
* `bf16`: the whole step in bfloat16

The bound is what no exact eager FIF step can beat. It adds to the autoencoder's step a forward and
backward pass of the encoder (the tangents and their gradient), a forward pass of the decoder (the
other tangents) and the noise on the data; each is timed here.

Variants take turns in every round, and medians are reported, since machines are noisy. In a round
of the small networks each takes `REPEATS` steps. With one thread on a CPU the time is the
processor's, which does not count other programs. Every peak of memory is measured in a separate
process.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from machine import command, markdown, peak_memory_mb, seconds
from own_networks import OWN_NETWORKS
from pythae.data.datasets import DatasetOutput
from pythae.models import AE, AEConfig, BaseAE
from torch import Tensor

from pythae_fif import FIF, FIFConfig
from pythae_fif.files import write_bytes
from pythae_fif.nn import build_networks
from pythae_fif.runs.provenance import processor
from pythae_fif.training import TracedStep, keep_freed_memory

NETS = {
    "mnist-resnet": ("resnet", (1, 28, 28), 16, 100),
    "cifar-resnet": ("resnet", (3, 32, 32), 256, 100),
    "celeba-resnet": ("resnet", (3, 64, 64), 64, 100),
    "mnist-convnet": ("convnet", (1, 28, 28), 16, 100),
    "cifar-convnet": ("convnet", (3, 32, 32), 256, 32),
    "celeba-convnet": ("convnet", (3, 64, 64), 64, 16),
    "digits-convnet": ("convnet", (1, 8, 8), 8, 50),
    "tabular-43": ("tabular", (43,), 21, 128),
    "tabular-6": ("tabular", (6,), 3, 512),
    **{name: (name, (1, 28, 28), 16, 100) for name in OWN_NETWORKS},
}
"""Name -> architecture or own networks, shape of an image, latent dimension, batch size."""

SMALL_NETS = ("digits-convnet", "tabular-43", "tabular-6", "mlp-silu", "mlp-layernorm-gelu")
REPEATS = dict.fromkeys(SMALL_NETS, 5)
"""Steps of a variant in a round; 1 for other networks."""

STEPS_BEFORE_TRACE = 2
"""Eager steps of a traced variant: the first one chooses the surrogate, and is not counted."""

MEMORY_STEPS = 3


class Variant(NamedTuple):
    """A kind of training step.

    Attributes:
        options: Options of FIFConfig; None for an autoencoder.
        surrogate: FIF's `surrogate_mode`.
        half: Whether the step runs in bfloat16.
        trace: Whether the step is traced before it is timed.
    """

    options: dict | None = None
    surrogate: str | None = None
    half: bool = False
    trace: bool = False


VARIANTS = {
    "AE": Variant(),
    "AE-traced": Variant(trace=True),
    "traced": Variant({}, trace=True),
    "traced-1/4": Variant({"surrogate_fraction": 0.25}, trace=True),
    "traced-1/10": Variant({"surrogate_fraction": 0.1}, trace=True),
    "replayed": Variant({}),
    "published": Variant({}, "published"),
    "double backward": Variant({}, "double backward"),
    "K=2": Variant({"hutchinson_samples": 2}),
    "1/4": Variant({"surrogate_fraction": 0.25}),
    "AE bf16": Variant(half=True),
    "bf16": Variant({}, half=True),
}


def build(net: str, variant: Variant, device: str) -> tuple[BaseAE, Tensor]:
    """Builds a model and a batch of random data.

    Args:
        net: A key of `NETS`.
        variant: The model and its options.
        device: 'cpu' or 'cuda'.
    """
    arch, shape, latent_dim, batch_size = NETS[net]
    torch.manual_seed(0)
    if arch in OWN_NETWORKS:
        networks = OWN_NETWORKS[arch](latent_dim)
    else:
        networks = build_networks(arch, shape, latent_dim)
    if variant.options is None:
        model = AE(AEConfig(input_dim=shape, latent_dim=latent_dim), *networks)
    else:
        config = FIFConfig(input_dim=shape, latent_dim=latent_dim, **variant.options)
        model = FIF(config, *networks)
        model.surrogate_mode = variant.surrogate
    return model.to(device).train(), torch.rand(batch_size, *shape, device=device)


def stepper(net: str, variant: Variant, device: str) -> Callable[[], None]:
    """Returns a function that makes one training step: forward, backward, fused Adam.

    Args:
        net: A key of `NETS`.
        variant: The model and its options.
        device: 'cpu' or 'cuda'.
    """
    model, x = build(net, variant, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    compute_output = TracedStep(model, min_steps=STEPS_BEFORE_TRACE - 1) if variant.trace else model

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=variant.half):
            loss = compute_output(DatasetOutput(data=x)).loss
        loss.backward()
        optimizer.step()

    return step


def bound_passes(net: str, device: str) -> dict[str, Callable[[], object]]:
    """Returns the passes that the bound adds to an autoencoder's step.

    Args:
        net: A key of `NETS`.
        device: 'cpu' or 'cuda'.
    """
    model, x = build(net, VARIANTS["AE"], device)
    weight = torch.rand(len(x), model.latent_dim, device=device)

    @torch.no_grad()
    def decode() -> None:
        model.decoder(weight)

    return {
        "encoder": lambda: (model.encoder(x).embedding * weight).sum().backward(),
        "decoder": decode,
        "noise": lambda: x + 0.01 * torch.randn_like(x),
    }


def time_net(net: str, variants: list[str], rounds: int, device: str) -> dict[str, float]:
    """Times variants and the bound in turns.

    Args:
        net: A key of `NETS`.
        variants: Keys of `VARIANTS`; the autoencoder is one of them.
        rounds: How often each is timed.
        device: 'cpu' or 'cuda'.

    Returns:
        Milliseconds of the autoencoder's step, medians of the ratios to it and to the bound, and
        the longest time in seconds of a step that is traced.
    """
    steps = {name: stepper(net, VARIANTS[name], device) for name in variants}
    trace_times = [_trace(step, device) for name, step in steps.items() if VARIANTS[name].trace]
    passes = bound_passes(net, device)
    functions = {**steps, **passes}
    times = _time_in_turns(functions, rounds, REPEATS.get(net, 1), device)

    summands = [times["AE"]]
    summands += [times.pop(name) for name in passes]
    times["bound"] = [sum(times_of_round) for times_of_round in zip(*summands, strict=True)]

    medians = {"AE ms": 1e3 * statistics.median(times["AE"])}
    for name in times:
        if name != "AE":
            medians[name] = _median_ratio(times[name], times["AE"])
    for name in (name for name in ("traced", "replayed") if name in times):
        medians[f"{name} / bound"] = _median_ratio(times[name], times["bound"])
    return medians | {"tracing s": max(trace_times, default=math.nan)}


def _trace(step: Callable[[], None], device: str) -> float:
    """Makes a step trace itself, and returns the seconds of this step."""
    for _ in range(STEPS_BEFORE_TRACE):
        step()
    return _step_seconds(step, device)


def _step_seconds(function: Callable[[], object], device: str) -> float:
    """Seconds of one call, without the time of other processes if it has one thread."""
    if device == "cuda" or torch.get_num_threads() > 1:
        return seconds(function, device)

    start = time.process_time()
    function()
    return time.process_time() - start


def _time_in_turns(
    functions: dict[str, Callable[[], object]], rounds: int, repeats: int, device: str
) -> dict[str, list[float]]:
    for function in functions.values():
        function()  # the first call also allocates

    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            total = _step_seconds(partial(_repeat, function, repeats), device)
            times[name].append(total / repeats)
    return times


def _repeat(function: Callable[[], object], repeats: int) -> None:
    for _ in range(repeats):
        function()


def _median_ratio(times: list[float], units: list[float]) -> float:
    return statistics.median(time / unit for time, unit in zip(times, units, strict=True))


def peak_memory(net: str, variant: str, device: str) -> float:
    """Measures the peak memory of three steps, in a process that does nothing more.

    Args:
        net: A key of `NETS`.
        variant: A key of `VARIANTS`.
        device: 'cpu' or 'cuda'.

    Returns:
        Memory above the model and its batch, in MB.
    """
    torch.set_num_threads(1)
    step = stepper(net, VARIANTS[variant], device)
    start = peak_memory_mb(device, reset=True)
    for _ in range(STEPS_BEFORE_TRACE + MEMORY_STEPS):
        step()
    return peak_memory_mb(device) - start


def measure_peaks(net: str, variants: list[str], device: str) -> dict[str, float]:
    """Measures the peak memory of variants in a process for each.

    Args:
        net: A key of `NETS`.
        variants: Keys of `VARIANTS`.
        device: 'cpu' or 'cuda'.
    """
    words = [sys.executable, __file__, "--device", device, "--peak", net]
    peaks = {}
    for variant in variants:
        peaks[variant] = json.loads(subprocess.check_output([*words, variant]))
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, help="PyTorch's number if left out")
    parser.add_argument("--no-memory", action="store_true", help="measure the time only")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", help="Markdown file to write the tables to")
    parser.add_argument("--peak", nargs=2, metavar=("NET", "VARIANT"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.peak:
        net, variant = flags.peak
        print(json.dumps(peak_memory(net, variant, flags.device)))
        return

    keep_freed_memory()
    if flags.threads:
        torch.set_num_threads(flags.threads)
    start_load = os.getloadavg()[0]
    time_rows = []
    memory_rows = []
    for net in flags.nets:
        ratios = time_net(net, flags.variants, flags.rounds, flags.device)
        time_rows.append({"net": net, **{key: f"{value:.3g}" for key, value in ratios.items()}})
        if flags.no_memory:
            continue
        peaks = measure_peaks(net, flags.variants, flags.device)
        memory_rows.append({"net": net, **{name: f"{peak:.0f}" for name, peak in peaks.items()}})

    processor_name = torch.cuda.get_device_name() if flags.device == "cuda" else processor()
    machine = (
        f"{flags.device} ({processor_name}), {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, load average {start_load:.1f} to {os.getloadavg()[0]:.1f}"
    )
    text = f"## Time of a step, autoencoder = 1: {machine}\n\n{markdown(time_rows)}"
    if memory_rows:
        title = "## Peak memory of a step above model and batch, MB"
        text += f"\n{title}\n\n{markdown(memory_rows)}"
    print(text)
    if flags.output:
        purpose = (
            "This page compares a FIF's training step with an autoencoder's, by time and memory."
        )
        origin = f"Made by `{command(flags.output)}`."
        page = f"# The training step\n\n{purpose}\n\n{origin}\n\n{text}"
        write_bytes(Path(flags.output), page.encode())


if __name__ == "__main__":
    main()
