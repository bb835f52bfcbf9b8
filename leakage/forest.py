"""The outlier score of the published method, bit for bit as scikit-learn computes it, for many items at once.

The method grows `IsolationForest(n_estimators=100, random_state=42)` on the log-probabilities of one item and
takes `decision_function` of the largest. Every item meets the same hundred streams of random numbers, and in
one dimension a tree is a series of cuts through sorted values, so the trees of all items can grow side by
side: 20 minutes of scikit-learn for a benchmark of 12,000 items become seconds. What decides the bits: values
in float32, thresholds in float64, scikit-learn's xorshift generator (one number drawn for the choice of a
feature and one for the threshold), nodes visited depth first and left before right.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from evalkit.leakage.isolation import average_path_length, max_depth
from evalkit.leakage.scores import Floats

Places = NDArray[np.intp]

SEED = 42
N_TREES = 100

MOST_VALUES = 256
"""Of more values scikit-learn gives each tree a sample."""

_RANDOM_MAX = 2**31 - 1
_SAME = np.float32(1e-7)
"""Values that span no more are not split."""
_ITEMS_AT_ONCE = 250


def decision_of_max(values: Floats, seed: int = SEED) -> Floats:
    """`decision_function` of each row's largest value in a forest grown on that row.

    Source: Liu, Ting and Zhou, "Isolation Forest", ICDM 2008, as implemented by scikit-learn 1.5 to 1.9.

    Args:
        values: finite, shape (N, m), with 2 <= m <= 256.
        seed: the forest's `random_state`.

    Returns:
        Shape (N,); the lower, the more of an outlier.

    Raises:
        ValueError: for another shape.
    """
    if values.ndim != 2 or not 2 <= values.shape[1] <= MOST_VALUES:
        raise ValueError(f"a forest needs rows of 2 to {MOST_VALUES} values, not an array of {values.shape}")
    chunks = np.array_split(values, range(_ITEMS_AT_ONCE, len(values), _ITEMS_AT_ONCE))
    lengths = np.concatenate([_path_lengths(chunk.astype(np.float32), seed) for chunk in chunks])
    # Added up tree by tree, as scikit-learn does: another order of summation gives other bits.
    total = np.cumsum(lengths, axis=1)[:, -1]
    expected = average_path_length(np.array([values.shape[1]]))
    return -(2 ** -(total / (N_TREES * expected))) + 0.5


def _path_lengths(values: NDArray[np.float32], seed: int) -> Floats:
    """Path length of each row's largest value in each tree, shape (N, trees)."""
    forest = _Forest(np.sort(values, axis=1), seed)
    lengths = np.empty((len(values), N_TREES))
    for trees, sizes, depths in forest.grow():
        # Scikit-learn counts the root in and then out again, to other bits than if it did not.
        lengths.flat[trees] = (depths + 1) + average_path_length(sizes) - 1.0
    return lengths


class _Forest:
    """Trees that grow side by side, each visiting its own nodes in scikit-learn's order.

    A node is a range of sorted values. Of each tree are known the node it visits, from `begins` to
    `ends[depth]`, and its ancestors, whose ends stand before.
    """

    def __init__(self, values: NDArray[np.float32], seed: int) -> None:
        n, self.m = values.shape
        self.depth_limit = max_depth(self.m)
        self.width = 2 * self.m  # infinite values behind the real ones spare the search for a cut its bounds
        self.values = np.full((n, self.width), np.inf)
        self.values[:, : self.m] = values
        self.values = self.values.ravel()
        self.limits = np.pad((values + _SAME).astype(np.float64), ((0, 0), (0, self.m))).ravel()
        self.numbers = _random_numbers(seed, 2 * self.m).ravel()

        self.trees = np.arange(n * N_TREES)
        self.row = self.trees // N_TREES * self.width
        self.next_number = self.trees % N_TREES * 2 * self.m
        self.begins = np.zeros(n * N_TREES, np.intp)
        self.depths = np.zeros(n * N_TREES, np.intp)
        self.ends = np.zeros((n * N_TREES, self.depth_limit + 1), np.intp)
        self.ends[:, 0] = self.m

    def grow(self) -> Iterator[tuple[Places, Places, Places]]:
        """Yield trees that are complete, with size and depth of the leaf of the largest value."""
        while len(self.trees):
            ends = self.ends[np.arange(len(self.trees)), self.depths]
            sizes = ends - self.begins
            cuts = ends.copy()
            inner = np.flatnonzero((sizes > 1) & (self.depths < self.depth_limit))
            cuts[inner] = self._cuts(inner, ends[inner])
            cut = np.flatnonzero(cuts < ends)
            self.depths[cut] += 1
            self.ends[cut, self.depths[cut]] = cuts[cut]

            leaf = cuts >= ends
            complete = leaf & (ends == self.m)
            yield self.trees[complete], sizes[complete], self.depths[complete]
            self._move_on(np.flatnonzero(leaf & ~complete), ends)
            self._keep(~complete)

    def _cuts(self, nodes: Places, ends: Places) -> Places:
        """Where the values above a random threshold begin; the end where there is nothing to cut."""
        row, begins = self.row[nodes], self.begins[nodes]
        low, high = self.values[row + begins], self.values[row + ends - 1]
        several = high > self.limits[row + begins]
        number = self.numbers[self.next_number[nodes] + 1]
        self.next_number[nodes] += 1 + several
        threshold = (high - low) * number / _RANDOM_MAX + low
        threshold = np.where(threshold == high, low, threshold)
        cuts = begins
        for step in _powers(self.m):
            cuts = cuts + step * (self.values[row + cuts + step - 1] <= threshold)
        return np.where(several, cuts, ends)

    def _move_on(self, leaves: Places, ends: Places) -> None:
        """Go on behind a leaf, with the other child of its closest ancestor that does not end there."""
        self.begins[leaves] = ends[leaves]
        # What earlier nodes left in `ends` ends before this one.
        depths = (self.ends[leaves] > ends[leaves, None]).sum(axis=1)
        self.ends[leaves, depths] = self.ends[leaves, depths - 1]
        self.depths[leaves] = depths

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        if not kept.all():
            for name in ("trees", "row", "next_number", "begins", "depths", "ends"):
                setattr(self, name, getattr(self, name)[kept])


def _powers(m: int) -> list[int]:
    """Powers of two from the largest one not above m down to 1."""
    return [1 << i for i in reversed(range(m.bit_length()))]


@cache
def _random_numbers(seed: int, n: int) -> Floats:
    """The first n numbers that each tree draws, shape (trees, n).

    The forest's seed gives each tree a seed, which gives that of its generator (xorshift, Marsaglia 2003).
    """
    top = np.iinfo(np.int32).max
    seeds = np.random.RandomState(seed).randint(top, size=N_TREES)
    of_trees = [np.random.RandomState(s).randint(top) for s in seeds]
    state = np.array([np.random.RandomState(s).randint(0, _RANDOM_MAX) for s in of_trees], np.uint32)
    state[state == 0] = 1
    drawn = np.empty((N_TREES, n))
    for i in range(n):
        state ^= state << np.uint32(13)
        state ^= state >> np.uint32(17)
        state ^= state << np.uint32(5)
        drawn[:, i] = state % np.uint32(_RANDOM_MAX + 1)
    return drawn
