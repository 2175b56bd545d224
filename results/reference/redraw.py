"""Draws the benchmark's tables again from the packed records of `results/reference`.

    python results/reference/redraw.py --data-root DIR [--only NAME ...]

It trains nothing and replaces the pages in `tables/`. The data are needed, because they identify
the runs of an experiment. A page keeps its links to pictures, and the pictures stay as they are.
It also keeps the table of FIF's configurations, which only earlier reports had.
"""

import argparse
import re
import tempfile
from pathlib import Path

from pythae_fif.benchmark.plan import plan
from pythae_fif.benchmark.results import read, read_comparable
from pythae_fif.benchmark.training import Training
from pythae_fif.cli.flags import read_request
from pythae_fif.data.load import load
from pythae_fif.files import write_bytes
from pythae_fif.reports.report import Report
from pythae_fif.runs.store import Store

REFERENCE = Path("results/reference")
CONFIGURATIONS_TABLE = r"^## FIF's configurations.*?(?=^## )"

CIFAR10 = "--dataset cifar10 --profile medium --precision bfloat16"
CONVNETS = "--arch convnet --profile quick --precision bfloat16"
CONVNET_BETAS = f"{CONVNETS} --models fif --max-configurations 5"
FACES = "--dataset celeba --arch resnet"
MNIST = "--dataset mnist --profile medium --precision bfloat16"
MNIST_FLOAT32 = "--dataset mnist --profile medium --models fif"
MNIST_PAPER = "--dataset mnist --arch resnet --profile paper --precision bfloat16"
TABLE_6 = "--experiment table6 --wall-clock 90s"
TABLE_2 = "--experiment table2 --profile table2-quick --wall-clock 5min --max-configurations 1"

COMMANDS = {
    "tables/celeba-convnet-quick": f"{CONVNETS} --dataset celeba --num-samples 300",
    "tables/celeba-fif_convnet-table2-quick": f"{TABLE_2} --dataset celeba --image-size 32",
    "tables/celeba-resnet-medium": f"{FACES} --profile medium --epochs 32 --precision bfloat16",
    "tables/celeba-resnet-quick": f"{FACES} --profile quick --models all",
    "tables/cifar10-convnet-medium": f"{CIFAR10} --arch convnet --epochs 5",
    "tables/cifar10-resnet-medium-20epochs": f"{CIFAR10} --arch resnet",
    "tables/cifar10-resnet-medium": f"{CIFAR10} --arch resnet --epochs 60",
    "tables/digits-convnet-quick": "--dataset digits --models all",
    "tables/miniboone-tabular_small-equal_time": f"{TABLE_6} --dataset miniboone",
    "tables/mnist-convnet-medium": f"{MNIST} --arch convnet --epochs 2",
    "tables/mnist-convnet-medium-float32": f"{MNIST_FLOAT32} --arch convnet --epochs 2",
    "tables/mnist-fif_convnet-table2-quick": f"{TABLE_2} --dataset mnist --train-size 20000",
    "tables/mnist-resnet-medium": MNIST,
    "tables/mnist-resnet-medium-float32": MNIST_FLOAT32,
    "tables/mnist-resnet-paper": f"{MNIST_PAPER} --extractor classifier --max-configurations 1",
    "tables/mnist-resnet-paper-efficientnet": (
        f"{MNIST_PAPER} --extractor efficientnet-lite0 --max-configurations 1"
    ),
    "tables/mnist-resnet-quick": "--dataset mnist --profile quick --models all",
    "tables/mnist-resnet_fc2-medium": f"{MNIST} --arch resnet_fc2",
    "tables/mnist-resnet_fc4-medium": f"{MNIST} --arch resnet_fc4",
    "tables/power-tabular_small-equal_time": f"{TABLE_6} --dataset power",
    "beta/tables/cifar10-convnet-quick": f"{CONVNET_BETAS} --dataset cifar10 --num-samples 1000",
    "beta/tables/mnist-convnet-quick": f"{CONVNET_BETAS} --dataset mnist --num-samples 500",
    "beta/tables/mnist-resnet-medium": f"{MNIST} --models fif",
    "beta/tables/mnist-resnet-medium-4epochs": f"{MNIST_FLOAT32} --epochs 4",
    "beta/tables/mnist-resnet-medium-float32": MNIST_FLOAT32,
    "beta/tables/mnist-resnet-paper": f"{MNIST_PAPER} --models fif --extractor classifier",
    "beta/tables/mnist-resnet-paper-efficientnet": (
        f"{MNIST_PAPER} --models fif --extractor efficientnet-lite0"
    ),
    "best_of_ten/tables/mnist-resnet-medium": f"{MNIST} --seeds 1 --max-configurations 10",
    "best_of_ten/seeds/tables/mnist-resnet-medium": (
        "--config benchmark_configs/experiments/best_of_ten.yaml"
    ),
}
"""Page below `results/reference`, without its suffix -> flags that select its runs."""


def make_report(store: Store, flags: list[str]) -> Report:
    """Makes the report of all stored runs that can be compared with the runs of a command.

    Args:
        store: The packed runs.
        flags: The flags of the command.

    Returns:
        The report. A run counts as missing if the store has the run without its result.
    """
    _, experiment, _ = read_request(flags)
    selection = experiment.active_profile.data_selection
    splits = load(experiment.dataset, experiment, image_size=experiment.image_size, **selection)
    jobs = plan(experiment, splits)
    results = read_comparable(store, experiment, jobs, splits)

    stored = {*store.iterate_specs(Training)}
    missing = sum(job.training in stored and read(store, job) is None for job in jobs)
    return Report(experiment, results, splits, missing)


def markdown_page(report: Report, previous_page: str) -> str:
    """Returns the page of a report, with the parts of the previous page that reports do not draw.

    Args:
        report: The report.
        previous_page: The page in the store.
    """
    with tempfile.TemporaryDirectory() as folder:
        report.write(Store(folder))
        new_page = Path(folder, f"tables/{report.name}.md").read_text(encoding="utf-8")

    lines = [line for line in new_page.splitlines() if not line.startswith("![")]
    tables, notes = "\n".join(lines).split("## Notes")

    configurations = re.findall(CONFIGURATIONS_TABLE, previous_page, re.S | re.M)
    pictures = [line for line in previous_page.splitlines() if line.startswith("![")]
    parts = [tables, *configurations, f"## Notes{notes}", *pictures]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> None:
    """Draws the pages that the command line names, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", required=True, metavar="DIR", help="folder of the data")
    parser.add_argument(
        "--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME",
        help="pages below results/reference, such as tables/digits-convnet-quick",
    )  # fmt: skip
    options = parser.parse_args()

    for name in options.only:
        path = REFERENCE / f"{name}.md"
        store = Store(path.parents[1])
        flags = [*COMMANDS[name].split(), "--data-root", options.data_root, "--offline"]
        page = markdown_page(make_report(store, flags), path.read_text(encoding="utf-8"))
        write_bytes(path, page.encode())
        print(path)


if __name__ == "__main__":
    main()
