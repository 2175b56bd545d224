"""Injective flows on toy manifolds: the density that is learnt beside the true one."""

__all__ = ["ToyModels", "run"]

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from pythae_fif import FIF, FIFConfig
from pythae_fif.data.toy import TOY_DATA, ToySample
from pythae_fif.ensemble import Ensemble
from pythae_fif.nn.tabular import WideDecoder, WideEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import Finding, StudySpec, Tell, results_of
from pythae_fif.studies.study import StudyOptions

NOISE, BETA, LEARNING_RATE, BATCH = 0.02, 100.0, 2e-3, 200
BLOCKS = 2
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"points": 4000, "epochs": 300, "width": 64},
    "paper": {"points": 100_000, "epochs": 50, "width": 256},
}
QUICK_CIRCLE = {"epochs": 140}
"""Newcomers start with the circle, which is to end within a minute on two cores."""
TEST_POINTS = 2000


def held_out(dataset: str) -> ToySample:
    """Points without noise, and their true density."""
    return TOY_DATA[dataset].sample(TEST_POINTS, torch.Generator().manual_seed(1))


class ToyModels(StudySpec):
    """The models of a data set, one a seed, with networks of some width."""

    kind: ClassVar[str] = "toy"

    dataset: str
    seeds: tuple[int, ...]
    points: int
    epochs: int
    width: int

    def compute(self, tell: Tell) -> dict[str, Any]:
        """Trains and measures them; the noise is added in training, as FIF does.

        Returns:
            `rows`: means over the held-out points, of every seed, `nll` in nats. `samples` (N, D)
            and their `density` (N,), of the model of lowest loss.
        """
        manifold, test = TOY_DATA[self.dataset], held_out(self.dataset)
        dim, latent_dim = manifold.dim, manifold.latent_dim

        def build(seed: int) -> FIF:
            torch.manual_seed(seed)
            config = FIFConfig(input_dim=(dim,), latent_dim=latent_dim, beta=BETA, noise=NOISE)
            nets = dim, latent_dim, BLOCKS, self.width
            return FIF(config, WideEncoder(*nets), WideDecoder(*nets))

        ensemble = Ensemble([build(seed) for seed in self.seeds], self.seeds)
        ensemble.train(
            manifold.sample(self.points, torch.Generator().manual_seed(0)).points,
            epochs=self.epochs,
            batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            one_cycle=True,
            on_epoch=lambda epoch: tell(epoch / self.epochs),
        )
        nll = -ensemble.log_prob(test.points).mean(1)
        errors = ensemble.reconstruction_error(test.points).mean(1)
        losses = BETA * errors + nll  # eq. 7 with the exact likelihood
        best = int(losses.where(losses.isfinite(), torch.inf).argmin())
        latent = torch.randn(TEST_POINTS, latent_dim, generator=torch.Generator().manual_seed(2))
        samples = ensemble.decode(latent)[best]
        rows = pd.DataFrame({"seed": self.seeds, "nll": nll, "reconstruction": errors})
        return {
            "rows": rows.to_dict("records"),
            "samples": samples.tolist(),
            "density": ensemble.log_prob(samples)[best].exp().tolist(),
        }


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Trains on one toy data set; densities beside each other, and the numbers of every model."""
    name, size = str(options.dataset), SIZES[options.profile]
    if (name, options.profile) == ("circle", "quick"):
        size = size | QUICK_CIRCLE
    spec = ToyModels(dataset=name, seeds=tuple(options.seeds), **size)
    (found,) = results_of([spec], options, on_change)
    test, rows = held_out(name), pd.DataFrame(found["rows"])
    finding = Finding(
        f"toy-{name}-{options.profile}",
        f"The density on {name.replace('_', ' ')}: {TOY_DATA[name].description}",
        f"True density, and density and samples of the one of {len(rows)} models of the lowest "
        "loss. The learnt manifold has the topology of the plane or the line: it cuts closed "
        f"manifolds open, and joins pieces. Beta {BETA:g}, noise {NOISE:g}; measured on "
        f"{TEST_POINTS:,} held-out points without noise.",
        rows.assign(entropy_of_data=-float(test.log_density.mean())),
        figure=_figure(found, test),
    )
    return [finding]


def _figure(found: dict[str, Any], test: ToySample) -> Any:
    """Both densities, on the same axes and colours; what is not finite is not drawn."""
    figure: Any = new_figure(9, 4.2)
    points, truth = test.points.numpy(), test.log_density.exp().numpy()
    low, high = points.min(0), points.max(0)
    margin, top = 0.2 * (high - low).max(), 1.5 * float(np.quantile(truth, 0.99))
    projection = {"projection": "3d"} if points.shape[1] == 3 else {}
    learnt = np.array(found["samples"]), found["density"]
    for column, (title, shown, density) in enumerate(
        (("true", points, truth), ("learnt", *learnt)), start=1
    ):
        axis = figure.add_subplot(1, 2, column, title=f"{title} density", **projection)
        dots = axis.scatter(*shown.T, c=density, s=4, vmin=0, vmax=top)
        for name, a, b in zip("xyz", low - margin, high + margin, strict=False):
            axis.set(**{f"{name}lim": (a, b)})
        axis.set_aspect("equal")
    figure.colorbar(dots, ax=figure.axes, label="density on the manifold", shrink=0.8)
    return figure
