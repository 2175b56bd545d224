"""The built-in samplers, one record each; :data:`~pythae_fif.sampling.fits.FITS` fits them.

The module does not import torch: the command line reads its names at every start.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.names import is_user_object

if TYPE_CHECKING:
    from pythae_fif.models.priors import PriorKind


@dataclass(frozen=True)
class SamplerRecord:
    """A sampler.

    Attributes:
        label: Its name in tables, such as N for the standard normal.
        description: A one-line description.
        prior_kind: The kind of fitted prior from which it draws codes, see
            :func:`~pythae_fif.models.fitted_priors.fit_new_prior`.
        has_density: Whether its codes have a density on R^d that this package computes.
        min_latent_dim: Smallest latent dimension that it works with.
        takes_steps: Whether its fit is a training in steps.
    """

    label: str
    description: str
    prior_kind: "PriorKind | None" = None
    has_density: bool = False
    min_latent_dim: int = 1
    takes_steps: bool = False


SAMPLERS = {
    "normal": SamplerRecord("N", "standard normal codes", has_density=True),
    "own_prior": SamplerRecord(
        "own prior",
        "the prior with which an injective flow was trained",
        has_density=True,
    ),
    "gaussian": SamplerRecord(
        "Gaussian",
        "one Gaussian with full covariance, fitted to the training codes",
        prior_kind="gaussian",
        has_density=True,
    ),
    "gmm": SamplerRecord(
        "GMM",
        "Gaussian mixture with ten components, fitted to the training codes",
        prior_kind="mixture",
        has_density=True,
    ),
    "maf": SamplerRecord(
        "MAF",
        "masked autoregressive flow, fitted to the training codes",
        min_latent_dim=2,
        takes_steps=True,
    ),
    "iaf": SamplerRecord(
        "IAF",
        "inverse autoregressive flow, fitted to the training codes",
        min_latent_dim=2,
        takes_steps=True,
    ),
    "flow": SamplerRecord(
        "NSF",
        "neural spline flow (from zuko), fitted to the training codes",
        prior_kind="flow",
        has_density=True,
        takes_steps=True,
    ),
    "flow_matching": SamplerRecord(
        "FM",
        "flow trained by flow matching on the training codes",
        prior_kind="flow_matching",
        has_density=True,
        takes_steps=True,
    ),
    "two_stage": SamplerRecord(
        "2-stage", "a second VAE, fitted to the codes, for VAEs", takes_steps=True
    ),
    "vamp": SamplerRecord(
        "VAMP",
        "VAMP's own prior: the posteriors of its pseudo-inputs",
    ),
    "hypersphere": SamplerRecord("sphere", "uniform codes on the sphere, for SVAE"),
    "poincare": SamplerRecord(
        "Poincaré",
        "wrapped normal codes in the Poincaré ball, for PoincareVAE",
    ),
    "pixelcnn": SamplerRecord(
        "PixelCNN",
        "PixelCNN, fitted to the codebook indices, for VQVAE",
        takes_steps=True,
    ),
}
"""Name of a sampler in configurations and records -> its record."""


def find_sampler(name: str) -> SamplerRecord:
    """Returns the record of a sampler.

    Args:
        name: A key of :data:`SAMPLERS`, or `module:Class` for a user's own, see
            :func:`~pythae_fif.sampling.fits.fit_user_sampler`.

    Raises:
        ConfigError: The name is unknown.
    """
    if is_user_object(name):
        return SamplerRecord(name.rpartition(":")[2], f"your sampler {name}")
    if name not in SAMPLERS:
        raise ConfigError(
            f"sampler {name!r} is unknown: {did_you_mean(name, SAMPLERS)}, or module:Class"
        )
    return SAMPLERS[name]


def check_sampler_name(name: str) -> str:
    """Returns the name of a sampler unchanged.

    Raises:
        ConfigError: See :func:`find_sampler`.
    """
    find_sampler(name)
    return name


def sampler_position(name: str) -> tuple[int, str]:
    """Returns a key that sorts samplers in the order of :data:`SAMPLERS`, a user's own last."""
    names = list(SAMPLERS)
    position = names.index(name) if name in SAMPLERS else len(names)
    return position, name
