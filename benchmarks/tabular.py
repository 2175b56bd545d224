"""Two tables of POWER and MINIBOONE: longer trainings, by committed records, and times of a step.

    OMP_NUM_THREADS=1 python benchmarks/tabular.py {longer,steps} [--rounds 15]

`longer`: of each length the learning rate that is best on validation rows, and its scores on test
rows. `steps`: fresh models of the paper's sizes, batch 512, K = 1, in turns; processor time.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import torch
from machine import markdown

from pythae_fif.data.tables import load_tabular
from pythae_fif.files import write_bytes
from pythae_fif.reports.tables import number
from pythae_fif.runs.provenance import processor
from pythae_fif.runs.store import Store
from pythae_fif.studies.tabular_models import CONFIGURATIONS, Nets, Scores, TabularModels

REFERENCE = Path("results/reference")
LATENT_DIM = {"power": 3, "miniboone": 21}
LONGER = ["fif", "fif_silu", "fif_silu_on"]
FLOW = "rectangular_flow"
TIMED = ["fif", "fif_silu", "fif_silu_on", "fif_coupling", "fif_coupling_on"]
TIMED += ["rectangular_flow_off", "rectangular_flow_published"]


def longer(dataset: str) -> tuple[list[dict[str, str]], str]:
    """A row a configuration and length, with how many of the rates fail."""
    splits = load_tabular(dataset)
    mean_row = float(((splits.test - splits.train.mean(0)) ** 2).sum(1).mean())
    store, rows = Store(REFERENCE), []
    for name in LONGER:
        specs = list(store.specs(TabularModels, f"studies/tabular/{dataset}/{name}"))
        for spec in sorted(specs, key=lambda spec: spec.budget.epochs):
            if len(rates := spec.learning_rates) == 1 or len({*rates}) < len(rates):
                continue
            results = [store.record(spec, output, Scores).result for output in spec.outputs]
            best = min(results, key=lambda scores: scores.validation_wasserstein)
            failed = [
                scores.reconstruction > mean_row
                or not math.isfinite(scores.wasserstein + scores.log_likelihood)
                for scores in results
            ]
            row = {
                "net": CONFIGURATIONS[name].net,
                "Jacobian": CONFIGURATIONS[name].place,
                "steps": f"{spec.budget.steps(len(splits.train)):,}",
                "FID-like ↓": number(best.wasserstein),
                "recon. ↓": number(best.reconstruction),
                "learning rate": f"{rates[results.index(best)]:g}",
                "failed": f"{sum(failed)} of {len(rates)}",
            }
            rows.append(row)
    return rows, f"The mean row has a squared error of {mean_row:.3g}."


def steps(dataset: str, rounds: int) -> list[dict[str, str]]:
    """A row a configuration: its step's processor time, and that of rectangular flows in it."""
    splits = load_tabular(dataset)
    x = torch.from_numpy(splits.train[:512])
    models, optimizers = {}, {}
    for name in [FLOW, *TIMED]:
        torch.manual_seed(0)
        of = CONFIGURATIONS[name].build(splits.input_dim, LATENT_DIM[dataset], Nets()).train()
        models[name], optimizers[name] = of, torch.optim.Adam(of.parameters(), 1e-4, fused=True)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.process_time()
            optimizers[name].zero_grad()
            model({"data": x}).loss.backward()
            optimizers[name].step()
            times[name].append(1e3 * (time.process_time() - start))
    rows = []
    for name, of in times.items():
        quotients = [flow / own for flow, own in zip(times[FLOW][1:], of[1:], strict=True)]
        row = {
            "data": dataset,
            "model": "FIF" if name.startswith("fif") else "rectangular flow",
            "net": CONFIGURATIONS[name].net,
            "Jacobian": CONFIGURATIONS[name].place,
            "CPU ms a step": number(statistics.median(of[1:])),
            "speedup ↑": number(statistics.median(quotients)),
            "lowest to highest": f"{number(min(quotients))} to {number(max(quotients))}",
        }
        rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=["longer", "steps"])
    parser.add_argument("--rounds", type=int, default=15)
    words = parser.parse_args()
    made = f"* Made by `python benchmarks/tabular.py {words.table}`"
    if words.table == "steps":
        rows = [row for dataset in LATENT_DIM for row in steps(dataset, words.rounds)]
        text = (
            f"# A training step of table 6's models\n\n{markdown(rows)}\n"
            "* Fresh models of the paper's sizes, batch 512, K = 1, one thread, in turns: medians "
            f"of {words.rounds} steps and of quotients of a rectangular flow's step on the "
            "manifold and the row's.\n"
            f"{made} on {processor()}, which other jobs used, too.\n"
        )
        write_bytes(REFERENCE / "tables/tabular-steps.md", text.encode())
    for dataset in LATENT_DIM if words.table == "longer" else ():
        rows, note = longer(dataset)
        text = (
            f"# {dataset}: longer training\n\n{markdown(rows)}\n"
            "* One seed, batch 128; rates 0.0003, 0.001, 0.003 and 0.01. The one with the lowest "
            "FID-like metric on validation rows is shown, by scores of test rows. Failed: a score "
            f"is not finite, or reconstruction is worse than by the mean row. {note}\n{made}.\n"
        )
        write_bytes(REFERENCE / f"tables/tabular-{dataset}-budget.md", text.encode())
