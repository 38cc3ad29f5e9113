"""How often 95 % intervals hold the importance of a fit on fresh sentences, which is known here.

Sentences have four features; the second copies the first with some probability. Every unit is
normal noise plus an effect of each level, so that the sums over all pairs of fresh sentences that a
fit is judged by are known, without simulating any.
"""

from itertools import product

import numpy as np
import xarray as xr

import mlem_xr as mx

SIZES = (1.2, 0.8, 0.5, 0.0)
"""Standard deviations of the effects of the levels of each feature; the last one has none."""


class World:
    """A population of sentences and a layer of units."""

    def __init__(self, rng, *, n_levels, copied, n_units):
        self.n_levels, self.copied, self.n_units = n_levels, copied, n_units
        shape = (n_levels, n_units)
        self.effects = [rng.normal(size=shape) * size for size in SIZES]

    def sample(self, rng, n):
        """n sentences and their activations."""
        codes = rng.integers(0, self.n_levels, size=(n, len(SIZES)))
        same = rng.random(n) < self.copied
        codes[same, 1] = codes[same, 0]
        values = rng.normal(size=(n, self.n_units))
        for k, effect in enumerate(self.effects):
            values += effect[codes[:, k]]
        features = {f"f{k}": ("sentence", codes[:, k]) for k in range(len(SIZES))}
        return xr.Dataset({"activation": (("sentence", "unit"), values)}, features)

    def moments(self):
        """Means over pairs of fresh sentences of x, x x', and, for each target, y, x y and y^2.

        The targets are the units, and last the layer. With the difference of two sentences' means
        m, y is noncentral chi-squared: mean 2 + m^2 and variance 8 + 8 m^2 per unit.
        """
        cells = np.array(list(product(range(self.n_levels), repeat=len(SIZES))))
        share = np.full(len(cells), 1.0 / self.n_levels ** len(SIZES)) * (1 - self.copied)
        equal = cells[:, 0] == cells[:, 1]
        share[equal] += self.copied / self.n_levels ** (len(SIZES) - 1)
        mean = sum(effect[cells[:, k]] for k, effect in enumerate(self.effects))
        found = [np.zeros((4,)), np.zeros((4, 4))]
        found += [np.zeros((*shape, self.n_units + 1)) for shape in ((), (4,), ())]
        for cell, weight, own in zip(cells, share, mean, strict=True):
            weights = weight * share
            x = (cells != cell).astype(float)
            squared = (mean - own) ** 2
            squared = np.column_stack([squared, squared.sum(axis=1)])
            n_axes = np.append(np.ones(self.n_units), self.n_units)
            y = 2 * n_axes + squared
            yy = y**2 + 8 * n_axes + 8 * squared
            parts = (
                weights @ x,
                (x.T * weights) @ x,
                weights @ y,
                (x.T * weights) @ y,
                weights @ yy,
            )
            for total, part in zip(found, parts, strict=True):
                total += part
        return found


def truth(moments, target, weight, intercept):
    """Importances (feature) and R2 of one fit, over all pairs of fresh sentences."""
    x, xx, y, xy, yy = moments
    y, xy, yy = y[target], xy[:, target], yy[target]
    gram, cross = xx - np.outer(x, x), xy - x * y
    importance = 2 * weight * (weight * np.diag(gram) + cross - gram @ weight)
    error = yy - 2 * (intercept * y + weight @ xy) + intercept**2
    error += 2 * intercept * (weight @ x) + weight @ xx @ weight
    return importance, 1 - error / (yy - y**2)


def covered(result, moments, target):
    """Whether the intervals of importances (NaN without an error) and of R2 hold the truth."""
    folds = [
        truth(moments, target, result["weight"].values[fold], result["intercept"].values[fold])
        for fold in (0, 1)
    ]
    importance, r2 = (np.mean(parts, axis=0) for parts in zip(*folds, strict=True))
    error = result["std_error"].values
    inside = np.abs(result["importance"].values - importance) <= 1.96 * error
    hits = np.where(error > 0, inside, np.nan)
    if "r2_std_error" not in result:
        return hits, np.nan
    return hits, float(abs(result["r2"] - r2) <= 1.96 * result["r2_std_error"])


def coverage(n, *, n_levels, copied, repeats, n_units=6, folds="sentences", seed=0):
    """Shares of intervals that hold the truth, of layers and of units: (feature), and of R2."""
    rng = np.random.default_rng(seed)
    hits: dict[str, list] = {"layer": [], "unit": []}
    for _ in range(repeats):
        world = World(rng, n_levels=n_levels, copied=copied, n_units=n_units)
        moments = world.moments()
        data = world.sample(rng, n)
        options = {"folds": folds, "min_max": False}
        hits["layer"].append(covered(mx.multivariate_importance(data, **options), moments, -1))
        scan = mx.univariate_importance(data, **options)
        hits["unit"] += [covered(scan.isel(unit=u), moments, u) for u in range(n_units)]
    shares = {}
    for name, own in hits.items():
        importance, r2 = (np.array(column, dtype=float) for column in zip(*own, strict=True))
        counted = np.maximum(1, (~np.isnan(importance)).sum(axis=0))
        shares[name] = np.nansum(importance, axis=0) / counted, r2.mean()
    return shares
