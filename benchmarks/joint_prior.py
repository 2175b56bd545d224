"""Why a prior that is learnt together with the networks makes codes collapse.

    python benchmarks/joint_prior.py [OUT]     a table of courses of the training

Let f become mean + c (f - mean), and g undo it: the reconstruction stays. The derivative of the
loss (eq. 7) by log c is then E[-(z - mean) . grad log p(z)] - E[tr f'(x) g'(z)]. The first is d for
a prior that fits the codes, whatever their scale, as integration by parts shows. Where the second
is below d, nothing holds the scale, and codes shrink.
"""

import sys
from pathlib import Path

import pandas as pd
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from torch import Tensor, nn

from pythae_fif.data import load_images, to_float
from pythae_fif.models import FIF, FIFConfig
from pythae_fif.models.fitted_priors import FlowPrior, fitted_prior
from pythae_fif.nn import build_networks
from pythae_fif.nn.base import HeadedEncoder, LayeredDecoder
from pythae_fif.reports.tables import Table
from pythae_fif.volume_change.exact import decoder_jacobian, encoder_jacobian

STEPS, SHOWN = 2000, (0, 100, 500, 1000, 2000)


class Standardised(BaseEncoder):
    """An encoder with BatchNorm without weights behind it."""

    def __init__(self, encoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.norm = encoder, nn.BatchNorm1d(latent_dim, affine=False)

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(embedding=self.norm(self.encoder(x).embedding))


def course(data: str, prior: str, x: Tensor, model: FIF, seed: int = 0) -> list[dict[str, str]]:
    """Trains, and measures the two parts of the derivative, the codes' scale and the error."""
    torch.manual_seed(seed)
    d, rows = model.latent_dim, []
    if prior.startswith("flow"):
        model.prior = FlowPrior(d, 0).requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(STEPS + 1):
        if step in SHOWN:
            model.eval()
            z = model.encode(x[:300]).requires_grad_()
            (pull,) = torch.autograd.grad(model.latent_distribution(z).log_prob(z).sum(), z)
            with torch.no_grad():
                f = encoder_jacobian(model.networks_at()[0], x[:300]).flatten(2)
                g = decoder_jacobian(model.networks_at()[1], z.detach())
                rows.append({
                    "data": data, "prior": prior, "step": f"{step:,}",
                    "inwards": f"{float(-((z - z.mean(0)) * pull).sum(1).mean()):.2f}",
                    "outwards": f"{float((f @ g).diagonal(dim1=1, dim2=2).sum(1).mean()):.2f}",
                    "d": str(d), "deviation of codes": f"{float(z.std(0).mean()):.3g}",
                    "MSE": f"{float((model.reconstruct(x) - x).square().mean()):.4f}",
                })  # fmt: skip
            model.train()
        if prior == "Gaussian, refitted each step":
            model.prior = fitted_prior("gaussian", model.encode(x))
        optimizer.zero_grad()
        model({"data": x[torch.randint(len(x), (50,))]}).loss.backward()
        optimizer.step()
    return rows


def digits(prior: str) -> list[dict[str, str]]:
    """scikit-learn's digits, d = 8."""
    torch.manual_seed(0)
    encoder, decoder = build_networks("convnet", (1, 8, 8), 8)
    if prior.endswith("standardised codes"):
        encoder = Standardised(encoder, 8)
    model = FIF(FIFConfig((1, 8, 8), 8), encoder, decoder)
    return course("digits", prior, to_float(load_images("digits").train), model)


def linear(prior: str) -> list[dict[str, str]]:
    """A Gaussian of 6 dimensions of falling variance, linear networks, d = 2."""
    torch.manual_seed(0)
    x = torch.randn(1000, 6) * torch.tensor([2.0, 1.5, 0.7, 0.5, 0.3, 0.1])
    encoder = HeadedEncoder(nn.Identity(), nn.Linear(6, 2))
    model = FIF(FIFConfig((6,), 2, noise=0.0), encoder, LayeredDecoder(nn.Linear(2, 6)))
    return course("linear", prior, x, model)


if __name__ == "__main__":
    joint = "Gaussian, refitted each step"
    rows = [row for prior in ("standard normal", joint) for row in linear(prior)]
    for prior in ("standard normal", joint, "flow", "flow, standardised codes"):
        rows += digits(prior)
    notes = [
        "Beta 10, Adam at 1e-3, batches of 50. Inwards and outwards: the two parts of the "
        "derivative of the loss by the log of the codes' scale, which rests where both agree.",
        "Made by `python benchmarks/joint_prior.py`.",
    ]
    text = Table("A prior learnt with the networks", pd.DataFrame(rows), notes=notes).to_markdown()
    Path(*sys.argv[1:2] or ["joint-prior.md"]).write_text(text, "utf-8")
