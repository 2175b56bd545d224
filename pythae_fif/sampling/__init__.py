"""Samples of Pythae's models by Pythae's samplers; what is odd in Pythae 0.1.2 is known here alone:

* No fit takes a seed, embeds data once a sampler, and trains for epochs:
  :func:`~pythae_fif.sampling.samplers.generate` seeds, and fits to codes that are computed once a
  model, for a number of steps, a flow to standardised ones.
* `VAMPSampler` decodes the first of its pseudo-inputs in every batch: `draw` asks for whole
  multiples of their number.
* Samples of a mixture and of VAMP come grouped by component: `generate` shuffles all.
* Density models that a fit has loaded from a file stay in training mode: `draw` sets all of a
  sampler's networks to evaluation mode.
* `PixelCNNSampler` calls the code vectors, which are a buffer where they are moving averages.
* Forward passes of HVAE, RHVAE and RAE_GP differentiate, and fail under `torch.no_grad`.
* FactorVAE's forward pass gives codes of one half of a batch:
  :func:`~pythae_fif.sampling.samplers.embed` encodes by itself.
"""

__all__ = ["FIT_STEPS", "SAMPLERS", "Sampler"]

from typing import NamedTuple


class Sampler(NamedTuple):
    """What is told of a sampler: its name in tables, N for the standard normal, and a line."""

    label: str
    line: str


SAMPLERS = {
    "normal": Sampler("N", "standard normal codes"),
    "gaussian": Sampler("Gaussian", "one Gaussian of full covariance fitted to the training codes"),
    "gmm": Sampler("GMM", "Gaussian mixture of ten components fitted to the training codes"),
    "maf": Sampler("MAF", "masked autoregressive flow fitted to the training codes"),
    "iaf": Sampler("IAF", "inverse autoregressive flow fitted to the training codes"),
    "two_stage": Sampler("2-stage", "a second VAE fitted to the codes, for VAEs"),
    "vamp": Sampler("VAMP", "VAMP's own prior: the posteriors of its pseudo-inputs"),
    "hypersphere": Sampler("sphere", "uniform codes on the sphere, for SVAE"),
    "poincare": Sampler("Poincaré", "wrapped normal codes in the Poincaré ball, for PoincareVAE"),
    "rhvae": Sampler("RHVAE", "RHVAE's own prior, its metric's volume, by Hamiltonian Monte Carlo"),
    "pixelcnn": Sampler("PixelCNN", "PixelCNN fitted to the codes' indices, for VQVAE"),
}
"""By their names in configurations and records."""

FIT_STEPS = 600
"""Steps in which a density model is fitted, where the profile does not say."""
