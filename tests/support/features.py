"""Images and features that are drawn with a seed."""

from pathlib import Path

import torch

from pythae_fif.evaluation import Features


def noise_images(rows: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Draws uint8 images (rows, *shape) with uniformly distributed values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, *shape), generator=generator, dtype=torch.uint8)


def normal(rows: int, dim: int, *, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Draws points (rows, dim) from a shifted standard normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator) + shift


def correlated(rows: int, dim: int, *, seed: int) -> torch.Tensor:
    """Draws points (rows, dim), float64, of differing scales and with a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64) + 2 * torch.eye(dim)
    return x @ mixing + torch.randn(dim, generator=generator, dtype=torch.float64)


def features(rows: int, dim: int, *, seed: int, shift: float = 0.0) -> Features:
    """Draws features from a shifted standard normal distribution."""
    return Features(normal(rows, dim, seed=seed, shift=shift))


def names_in(folder: Path) -> list[str]:
    """Returns the sorted names of a folder's files, without locks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
