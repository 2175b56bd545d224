"""How long a run takes to have its images, and what memory: 200,000 synthetic faces.

    git worktree add ../before COMMIT
    python benchmarks/start.py --before ../before [--output results/benchmarks/start.md]

JPEG files of 178 x 218 pixels in CelebA's layout are loaded at 64 x 64 by this checkout and, if
named, by another one, each with a cache of its own, in turns. **A command** is what its process
does before the first run starts: images found, checked and hashed, with the cache full. **A run**
is what each run's process does from the end of its imports to its first batch of 100 images. Every
measurement is a process of its own. Anonymous memory is what the process holds for itself
(`RssAnon`); the peak counts the pages of mapped files that were touched, too, which all processes
share.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from machine import processor

ROOT = Path(__file__).resolve().parents[1]
DISTINCT = 64
"""Different images; the files are copies of these."""


def write_faces(root: Path, count: int) -> None:
    """Files and list, in CelebA's proportions of training, validation and test images."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    contents = []
    for _ in range(DISTINCT):
        small = random.integers(0, 256, (11, 9, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((178, 218), Image.Resampling.BICUBIC).save(file, "JPEG")
        contents.append(file.getvalue())
    folder = root / "celeba/img_align_celeba"
    folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        name = f"{index + 1:06d}.jpg"
        (folder / name).write_bytes(contents[index % DISTINCT])
        lines.append(f"{name} {int(index >= 0.8 * count) + int(index >= 0.9 * count)}\n")
    (root / "celeba/list_eval_partition.txt").write_text("".join(lines))


def anonymous() -> float:
    """Megabytes of this process that are no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no RssAnon: Linux is needed")


def measure(stage: str, root: str, data_hash: str) -> dict[str, float | str]:
    """Seconds and memory of a command's or a run's start, in this process."""
    import torch

    from pythae_fif.benchmark import run
    from pythae_fif.benchmark.inputs import load_splits
    from pythae_fif.data import ImageDataset
    from pythae_fif.runs.kind import Environment

    environment = Environment(data_root=root, offline=True)
    sizes = SimpleNamespace(train_size=None, val_size=None, test_size=None, crop=None)
    torch.zeros(1)
    start, before = time.perf_counter(), anonymous()
    if stage == "command":
        splits = load_splits("celeba", None, sizes, environment)
        data_hash = splits.content_hash
    else:
        spec = SimpleNamespace(
            dataset="celeba", image_size=None, settings=sizes, data_hash=data_hash
        )
        job = SimpleNamespace(spec=spec, lent=None, environment=environment)
        splits = run._splits_of(job)
        train, _ = ImageDataset(splits.train), ImageDataset(splits.val)
        train.batch(torch.randperm(len(train))[:100])
    return {
        "seconds": time.perf_counter() - start,
        "anonymous": anonymous() - before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "hash": data_hash,
    }


def in_process(checkout: Path, cache: Path, *arguments: str) -> dict[str, float | str]:
    """What a fresh process measures with the package of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHAE_FIF_CACHE": str(cache)}
    command = [sys.executable, __file__, "--measure", *arguments]
    # From the checkout, so that an installed package does not come first.
    done = subprocess.check_output(command, env=environment, cwd=checkout)
    return json.loads(done.splitlines()[-1])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--before", type=Path, help="another checkout to compare with")
    p.add_argument("--images", type=int, default=200_000)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--output", help="Markdown file to write the table to")
    p.add_argument("--measure", nargs=3, metavar=("STAGE", "ROOT", "HASH"), help=argparse.SUPPRESS)
    flags = p.parse_args()
    if flags.measure:
        print(json.dumps(measure(*flags.measure)))
        return

    checkouts = {"before": flags.before.resolve()} if flags.before else {}
    checkouts["now"] = ROOT
    found: dict[tuple[str, str], list[dict[str, float | str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data")
        write_faces(root, flags.images)
        caches = {name: Path(folder, f"cache-{name}") for name in checkouts}
        hashes = set()
        for name, checkout in checkouts.items():  # decodes, once
            filled = in_process(checkout, caches[name], "command", str(root), "-")
            hashes.add(str(filled["hash"]))
        (data_hash,) = hashes
        for _ in range(flags.rounds):
            for stage in ("command", "run"):
                for name, checkout in checkouts.items():
                    once = in_process(checkout, caches[name], stage, str(root), data_hash)
                    found.setdefault((stage, name), []).append(once)
    lines = ["| start of | package | seconds | anonymous memory, MB | peak memory, MB |"]
    lines += ["|---|---|--:|--:|--:|"]
    for (stage, name), rounds in found.items():
        middle = {
            key: statistics.median(float(once[key]) for once in rounds)
            for key in ("seconds", "anonymous", "peak")
        }
        lines.append(
            f"| a {stage} | {name} | {middle['seconds']:.2f} | {middle['anonymous']:,.0f} | "
            f"{middle['peak']:,.0f} |"
        )
    table = "\n".join(lines) + "\n"
    print(table)
    if flags.output:
        text = (
            f"# The start of a run\n\n{flags.images:,} images of 64 x 64, medians of "
            f"{flags.rounds} rounds, in turns; {processor()}, {os.cpu_count()} cores. Made by "
            "`python benchmarks/start.py`, which says what is counted.\n\n"
        )
        Path(flags.output).write_text(text + table)


if __name__ == "__main__":
    main()
