"""How a tabular score changes with longer training: FID-like of validation rows against steps.

    python benchmarks/tabular_budget.py --dataset power --models fif rectangular_flow

Every length is a training of its own, since the cycle of the learning rate spans it, at the rates
of profile `quick`; the best of them is shown, as `study ablation` chooses it. No test row is
looked at. Finished trainings are kept below `--results`, and its `tables/` gets the table.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from pythae_fif.data.names import TABULAR_DATASETS
from pythae_fif.reports.grid import Cell, Grid, number, spread, write_grid
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.tabular import learning_rate
from pythae_fif.studies.tabular_plan import train_configurations
from pythae_fif.studies.tabular_protocol import APPENDIX, CONFIGURATIONS, load_table

USUAL = [name for name, of in CONFIGURATIONS.items() if of.settings is APPENDIX]
"""Those whose batch and learning rates are the profile's own."""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--dataset", choices=[n for n in TABULAR_DATASETS if n != "csv"], required=True)
    p.add_argument("--models", nargs="+", choices=USUAL, default=USUAL)
    p.add_argument("--epochs", nargs="+", type=int, default=[2, 8, 32])
    p.add_argument("--seeds", nargs="+", type=int, default=[0])
    p.add_argument("--data-root")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    options = StudyOptions(
        flags.results, data_root=flags.data_root, dataset=flags.dataset, seeds=flags.seeds
    )
    table = load_table(flags.dataset, options)
    rows = []
    for model in flags.models:
        for epochs in flags.epochs:
            own = table.profile.own(model)
            profile = own.model_copy(update={"epochs": epochs, "of": {}})
            longer = dataclasses.replace(table, profile=profile)
            (run,) = train_configurations([model], longer, options, report)
            configuration, record = run.configuration, run.record
            rows.append(
                [
                    Cell(f"{configuration.label} {configuration.net}"),
                    Cell(configuration.place),
                    Cell(f"{record.steps:,}", record.steps),
                    spread(record.validation_wasserstein),
                    spread(record.validation_reconstruction),
                    spread(record.code_square),
                    learning_rate(run),
                    number(record.seconds),
                ]
            )
    headings = ["Model", "Jacobian", "steps", "FID-like ↓", "recon. ↓"]
    headings += ["|z|² / d", "learning rate", "training CPU s"]
    rates = ", ".join(f"{rate:g}" for rate in table.profile.learning_rates)
    notes = [
        f"Data: {table.splits.source}; {len(table.val):,} validation rows. Batch "
        f"{table.profile.batch_size}, {torch.get_num_threads()} thread(s); learning rate: the best "
        f"of {rates} at that length, chosen on the rows of these scores, which are too low for it. "
        f"Seeds {', '.join(map(str, flags.seeds))}.",
        "|z|² / d is the mean over validation codes, 1 for the prior. A scaling of the code that "
        "the decoder undoes leaves the reconstruction alone, so where training with eq. 15 rests, "
        "|z|² is on average tr f'(x) g'(z), with ReLU too (derived at `fif_loss`).",
        f"Made by `python benchmarks/tabular_budget.py --dataset {flags.dataset} --models "
        f"{' '.join(flags.models)} --epochs {' '.join(map(str, flags.epochs))} --seeds "
        f"{' '.join(map(str, flags.seeds))}`.",
    ]
    grid = Grid(f"{flags.dataset}: longer training", headings, "llrrrrrr", rows, notes)
    stem = flags.results / "tables" / f"tabular-{flags.dataset}-budget"
    for path in write_grid(grid, stem, ".md", ".csv"):
        print(path)


def report(label: str, share: float) -> None:
    print(f"\r{label} {share:4.0%}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
