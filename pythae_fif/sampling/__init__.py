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
