"""Sums and extremes over all pairs of features, from one matrix product a pair of sets.

KID needs the inner products of the pairs, the neighbours' scores their distances, which are inner
products too: a tile of them is made once and shown to every score.
"""

__all__ = [
    "Inside",
    "Kernel",
    "Nearest",
    "OwnPairs",
    "nearest",
    "own_pairs",
    "require_neighbours",
    "watch",
]

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pythae_fif.errors import DataError
from pythae_fif.evaluation.scores import Neighbours
from pythae_fif.volume_change.precision import full_float32

TILE = 1024
"""Features of each set whose pairs are looked at together."""
PART = 128
"""Features whose products with all of another set `nearest` looks at together."""

TIE = 16
"""Squared distances that differ by so many units of rounding of |x|^2 + |y|^2 are equal; of copies,
in 3 to 2,048 dimensions, the measured error of both is up to 12."""

NEAREST, DENSE = 3, 5
"""k of precision and recall, and k of density and coverage."""


class Features(NamedTuple):
    """Some features of a set about a centre c.

    Attributes:
        rows: Which of the set.
        values: x - c, (n, F).
        half: |x - c|^2 / 2, (n), in the type of the features.
        along: (x - c) . c + |c|^2 / 2, (n), float64.
    """

    rows: slice
    values: Tensor
    half: Tensor
    along: Tensor


class Tile(NamedTuple):
    """All pairs of some features x of one set and y of another.

    Attributes:
        x: Those of the one set.
        y: Those of the other.
        products: (x - c) . (y - c), (n, m), in the type of the features; x . y is this and the
            sum of the two `along`.
        alone: Whether both sets are the same one.
    """

    x: Features
    y: Features
    products: Tensor
    alone: bool


@full_float32()
def watch(x: Tensor, y: Tensor, *watchers: Callable[[Tile], None]) -> None:
    """Shows all pairs of two sets (N, F), (M, F) to each watcher, tile by tile.

    Of the pairs of one set with itself (x is y) the tiles below the diagonal are left out, since
    they mirror those above. The centre is the mean of y: distances do not see it, but their
    rounding does.
    """
    centre = y.mean(dim=0)
    columns = [_about(y, rows, centre) for rows in _spans(len(y))]
    for i, rows in enumerate(_spans(len(x))):
        row = columns[i] if x is y else _about(x, rows, centre)
        for column in columns[i if x is y else 0 :]:
            tile = Tile(row, column, row.values @ column.values.T, x is y)
            for watcher in watchers:
                watcher(tile)


def _about(features: Tensor, rows: slice, centre: Tensor) -> Features:
    values, shift = features[rows] - centre, centre.double()
    half = torch.linalg.vector_norm(values, dim=1).square() / 2
    return Features(rows, values, half, values.double() @ shift + shift.square().sum() / 2)


def _spans(count: int) -> list[slice]:
    return [slice(start, min(start + TILE, count)) for start in range(0, count, TILE)]


class Kernel:
    """Weighted means of the kernel over pairs, for S pairs of weights at once.

    Products are in the type of the features, the kernel and its sums in float64: the sums nearly
    cancel.

    Args:
        u: Weights (S, N) of the one set, float64.
        v: Weights (S, M) of the other; u itself for the pairs of one set, of which a feature and
            itself is none.
        dim: Number F of features.
    """

    def __init__(self, u: Tensor, v: Tensor, dim: int) -> None:
        self.u, self.v, self.dim = u, v, dim
        self.sums = torch.zeros(len(u), dtype=torch.float64, device=u.device)

    def see(self, tile: Tile) -> None:
        """Adds the pairs of a tile."""
        inner = (tile.x.along / self.dim + 1)[:, None] + tile.y.along / self.dim
        inner.add_(tile.products, alpha=1 / self.dim)
        values = inner.square().mul_(inner)
        mirrored = 1
        if tile.alone and tile.x is tile.y:
            values.fill_diagonal_(0)
        elif tile.alone:
            mirrored = 2
        sums = ((self.u[:, tile.x.rows] @ values) * self.v[:, tile.y.rows]).sum(dim=1)
        self.sums.add_(sums, alpha=mirrored)

    @property
    def means(self) -> Tensor:
        """(S), float64."""
        pairs = self.u.sum(dim=1) * self.v.sum(dim=1)
        if self.u is self.v:
            pairs -= self.u.square().sum(dim=1)
        return self.sums / pairs


class Nearest:
    """Squared distances of N features to their nearest others."""

    def __init__(self, count: int) -> None:
        self.half: list[Tensor] = []
        self.closest: list[list[Tensor]] = [[] for _ in _spans(count)]

    def see(self, tile: Tile) -> None:
        """Keeps the nearest of a tile: |x - y|^2 / 2 = |x|^2 / 2 - (x . y - |y|^2 / 2)."""
        self._keep(tile.x.rows, tile.products - tile.y.half)
        if tile.x is tile.y:
            self.half.append(tile.x.half)
        else:
            self._keep(tile.y.rows, (tile.products - tile.x.half[:, None]).T.contiguous())

    def _keep(self, rows: slice, closeness: Tensor) -> None:
        most = min(DENSE + 1, closeness.shape[1])
        self.closest[rows.start // TILE].append(closeness.topk(most, dim=1).values)

    @property
    def radii(self) -> Tensor:
        """Squared distance to the `NEAREST`-th and the `DENSE`-th nearest other, (N, 2)."""
        closest = torch.cat([torch.cat(kept, 1).topk(DENSE + 1, 1).values for kept in self.closest])
        # of all, each is nearest to itself
        kth = torch.stack([closest[:, NEAREST], closest[:, DENSE]], dim=1)
        return 2 * (torch.cat(self.half)[:, None] - kth)


@full_float32()
def nearest(x: Tensor, y: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Distances (N) of each of x (N, F) to its k-th nearest of y (M, F), and which these are (N).

    Inner products about the mean of y find the nearest, as in :func:`watch`; the distance to that
    is exact, 0 for equal features.
    """
    centre = y.mean(dim=0)
    about = y - centre
    half = torch.linalg.vector_norm(about, dim=1).square() / 2
    which = torch.cat(
        [
            ((part - centre) @ about.T).sub_(half).topk(k, dim=1).indices[:, -1]
            for part in x.split(PART)
        ]
    )
    return torch.linalg.vector_norm(x - y[which], dim=1), which


class Inside:
    """Which of N samples lie near which of M references, from the radii of both (see `Nearest`).

    d^2 <= r^2 is compared as x . y - |x|^2 / 2 >= (|y|^2 - r^2) / 2, one subtraction a pair. What
    differs by rounding alone is a tie, which <= takes and < does not: features of tables of
    integers, or of copies, are often as far off as the radius is long.
    """

    def __init__(self, samples: Tensor, reference: Tensor) -> None:
        self.samples, self.reference = samples[:, 0], reference
        empty = samples.new_full
        self.precise, self.recalled, self.covered = (
            empty((len(held),), -torch.inf) for held in (samples, reference, reference)
        )
        self.dense = torch.zeros((), dtype=torch.int64, device=samples.device)

    def see(self, tile: Tile) -> None:
        """Adds the pairs of a tile, samples times references."""
        x, y, products = tile.x.rows, tile.y.rows, tile.products
        slack = TIE * torch.finfo(products.dtype).eps
        less_x, less_y = (of.half * (1 - slack) for of in (tile.x, tile.y))
        more_x, more_y = (of.half * (1 + slack) for of in (tile.x, tile.y))
        near, dense = less_y - self.reference[y, 0] / 2, more_y - self.reference[y, 1] / 2
        _raise_to(self.precise[x], (products - near).amax(dim=1) - less_x)
        mine = less_x - self.samples[x] / 2
        _raise_to(self.recalled[y], (products - mine[:, None]).amax(dim=0) - less_y)
        closeness = products - more_x[:, None]
        _raise_to(self.covered[y], closeness.amax(dim=0) - dense)
        self.dense += (closeness > dense).sum()

    @property
    def scores(self) -> Neighbours:
        """The scores of all pairs."""
        # Naeem et al. compare with <, Kynkaanniemi et al. with <=
        return Neighbours(
            precision=float((self.precise >= 0).double().mean()),
            recall=float((self.recalled >= 0).double().mean()),
            density=int(self.dense) / (DENSE * len(self.precise)),
            coverage=float((self.covered > 0).double().mean()),
        )


def _raise_to(held: Tensor, values: Tensor) -> None:
    torch.maximum(held, values, out=held)


class OwnPairs(NamedTuple):
    """What the scores need of the pairs of one set.

    Attributes:
        radii: See `Nearest`, (N, 2).
        kernel: Mean kernel of the pairs of each subset, (S), float64.
    """

    radii: Tensor
    kernel: Tensor


def own_pairs(features: Tensor, weights: Tensor) -> OwnPairs:
    """What the scores need of the pairs of N features and of S subsets, (S, N), of them.

    Raises:
        DataError: Too few features for a neighbourhood.
    """
    require_neighbours(len(features))
    nearest, kernel = Nearest(len(features)), Kernel(weights, weights, features.shape[1])
    watch(features, features, nearest.see, kernel.see)
    return OwnPairs(nearest.radii, kernel.means)


def require_neighbours(count: int) -> None:
    """Raises a DataError where so many features have no neighbourhoods."""
    if count <= DENSE:
        raise DataError(
            f"precision, recall, density and coverage need more than {DENSE} samples and as many "
            f"references, not {count}"
        )
