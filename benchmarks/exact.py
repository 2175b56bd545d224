"""Counts and times exact volumes of FIF against another checkout of this package.

    python benchmarks/exact.py --old ../before [--nets cifar-resnet ...] [--output F]

`evaluation` is the exact loss of evaluation mode, by rows of f', `log_prob` the density, by columns
of g'. Operations are those that PyTorch dispatches for one batch of 1 image (the share of 64 images
of a set that a batch of 100 of 10,000 has), without views, which start no kernel. Times and peak
memory are those of processes of their own after a call with 1 image, old and new in turns, for as
many images as in the table; memory is that above the model and this call. GFLOP/s say how near the
call is to what the processor can do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import peak_kilobytes, processor

NETS = {
    "mnist-resnet": ("resnet", (1, 28, 28), 16, 32),
    "cifar-resnet": ("resnet", (3, 32, 32), 256, 32),
    "celeba-resnet": ("resnet", (3, 64, 64), 64, 32),
    "mnist-convnet": ("convnet", (1, 28, 28), 16, 32),
    "cifar-convnet": ("convnet", (3, 32, 32), 256, 4),
    "celeba-convnet": ("convnet", (3, 64, 64), 64, 4),
    "tabular": ("mlp", (43,), 21, 2048),
}
TASKS = ("evaluation", "log_prob")
VIEWS = (
    "view", "expand", "select", "detach", "unsqueeze", "squeeze", "t", "transpose", "permute",
    "slice", "alias", "split", "unbind", "diagonal", "as_strided", "new_empty", "empty",
)  # fmt: skip


def measure(net: str, task: str, images: int) -> dict[str, float]:
    """Operations, seconds and peak megabytes of one call, with the package on the path."""
    import torch
    from flops import count_flops
    from torch.utils._python_dispatch import TorchDispatchMode

    from pythae_fif import FIF, FIFConfig
    from pythae_fif.nn import build_networks

    class Count(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func._schema.name.split("::")[1].removeprefix("_unsafe_")
            self.count += name not in VIEWS
            return func(*args, **(kwargs or {}))

    torch.set_num_threads(1)
    torch.manual_seed(0)
    arch, shape, latent_dim, _ = NETS[net]
    networks = () if arch == "mlp" else build_networks(arch, shape, latent_dim)
    model = FIF(FIFConfig(input_dim=shape, latent_dim=latent_dim), *networks).eval()

    def call(x):
        return model.log_prob(x) if task == "log_prob" else model({"data": x}).loss

    call(torch.rand(1, *shape))
    x, one = torch.rand(images, *shape), torch.rand(1, *shape)
    before = peak_kilobytes()
    start = time.perf_counter()
    call(x)
    seconds = time.perf_counter() - start
    peak = peak_kilobytes() - before
    with Count() as counter:
        call(one)
    return {
        "operations": counter.count,
        "seconds": seconds,
        "MB": peak / 1024,
        "GFLOP/s": count_flops(lambda: call(x)) / 1e9 / seconds,
        "matmul": matmul_rate(),
    }


def matmul_rate() -> float:
    """GFLOP/s of a product of large matrices with one thread: what this processor can do."""
    import torch

    a = torch.rand(1024, 1024)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / 1e9 / min(times)


def in_process(package: Path, *arguments: str) -> dict[str, float]:
    """`measure` in a fresh process with a checkout of the package."""
    environment = {**os.environ, "PYTHONPATH": str(package.resolve())}
    command = [sys.executable, __file__, "--measure", *arguments]
    out = subprocess.run(
        command, env=environment, cwd=package, check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--old", type=Path, help="another checkout")
    p.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    p.add_argument("--images", type=int, help="for all nets; by default as in NETS")
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--output", help="Markdown file to write the table to")
    p.add_argument("--measure", nargs=3, metavar=("NET", "TASK", "IMAGES"), help=argparse.SUPPRESS)
    flags = p.parse_args()
    if flags.measure:
        net, task, images = flags.measure
        print(json.dumps(measure(net, task, int(images))))
        return
    checkouts = {"new": Path(__file__).resolve().parents[1]}
    if flags.old:
        checkouts = {"old": flags.old.resolve(), **checkouts}
    import torch

    rows, rates = [], []
    for net in flags.nets:
        images = flags.images or NETS[net][3]
        for task in TASKS:
            found = {name: [] for name in checkouts}
            for _ in range(flags.rounds):
                for name, path in checkouts.items():
                    found[name].append(in_process(path, net, task, str(images)))
            row = {"net": net, "task": task, "images": f"{images}"}
            for key, digits in (("operations", 0), ("seconds", 2), ("MB", 0)):
                for name, values in found.items():
                    middle = statistics.median(value[key] for value in values)
                    row[f"{key}, {name}"] = f"{middle:,.{digits}f}"
            new = found["new"]
            row["GFLOP/s, new"] = f"{statistics.median(value['GFLOP/s'] for value in new):.0f}"
            rates.append(max(value["matmul"] for value in new))
            rows.append(row)
            print(row, flush=True)
    lines = [list(rows[0]), ["---"] * 2 + ["--:"] * (len(rows[0]) - 2)]
    lines += [list(row.values()) for row in rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    print(table)
    if flags.output:
        command = " ".join(["python", *sys.argv]).replace(f" --output {flags.output}", "")
        about = (
            f"Made by `{command}`, which says what is counted; medians of {flags.rounds} round(s); "
            f"{processor()}, 1 thread, torch {torch.__version__}. A product of large matrices runs "
            f"at {max(rates):.0f} GFLOP/s here."
        )
        Path(flags.output).write_text(f"# Exact volumes\n\n{about}\n\n{table}")


if __name__ == "__main__":
    main()
