"""Samples from Pythae's models with Pythae's samplers.

This package is the only place that works around the peculiarities of Pythae 0.1.2:

* A sampler's fit takes no seed, computes the codes again for every sampler, and trains for epochs.
  :func:`~pythae_fif.sampling.samplers.generate` sets the seed, and fits a sampler for a number of
  steps to codes that are computed once for each model. Flows are fitted to standardised codes.
* `VAMPSampler` starts with the first pseudo-input in every batch, so
  :func:`~pythae_fif.sampling.samplers.draw_samples` draws whole multiples of their number.
* Samples of a mixture and of VAMP are grouped by component: `generate` shuffles all samples.
* Density models that were loaded from a file stay in training mode: `draw_samples` sets all
  networks of a sampler to evaluation mode.
* `PixelCNNSampler` calls the code vectors, which are a buffer if they are moving averages.
* Forward passes of HVAE, RHVAE and RAE_GP differentiate, and fail under `torch.no_grad`.
* FactorVAE's forward pass returns codes for only half of a batch, so
  :func:`~pythae_fif.sampling.samplers.embed` calls its encoder.

Import :mod:`~pythae_fif.sampling.samplers` to draw samples. The command line needs only the
torch-free :mod:`~pythae_fif.sampling.catalog` at its start.
"""
