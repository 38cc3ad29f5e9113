"""Simulated results to draw, and a look into what was drawn."""

import numpy as np
import xarray as xr

FEATURES = ["subj_NUM", "subj_GEN", "sentence_TENSE", "verb_ZIPF", "subj_TYPE", "subj_PERS"]
POOLINGS = ["first-token", "mean", "last-token"]


def importances(**changed) -> xr.Dataset:
    sizes = {"model": 2, "seed": 5, "step": 3, "pooling": 2, "layer": 4, "feature": 6} | changed
    rng = np.random.default_rng(0)
    values = 10 ** rng.uniform(-6, -1.5, tuple(sizes.values()))
    labels = {
        "model": ["bert", "mini"],
        "seed": range(5),
        "step": [0, 20_000, -1],
        "pooling": POOLINGS,
        "layer": [1, 2, 3, 4],
        "feature": FEATURES,
    }
    return xr.Dataset(
        {"importance": (tuple(sizes), values)},
        coords={dim: labels[dim][:size] for dim, size in sizes.items()},
    )


def profile() -> xr.Dataset:
    return importances(model=1, step=1, pooling=1)


def numbers(overlay, feature):
    return overlay.Points.I[feature].dframe()


def parts(**changed) -> xr.Dataset:
    """Return shares of which some are below 0, R2 and its ceiling, above their sum."""
    result = importances(**({"model": 1, "seed": 1, "step": 1, "pooling": 1} | changed))
    rng = np.random.default_rng(4)
    share = result.importance.copy(data=rng.uniform(-0.02, 0.12, result.importance.shape))
    whole = share.sum("feature")
    subsets = ["none", "+".join(FEATURES)]
    return xr.Dataset(
        {
            "share": share,
            "r2": xr.concat([0 * whole, whole], "subset").transpose(..., "subset"),
            "r2_ceiling": xr.concat([whole + 0.1, whole + 0.15], "bound").transpose(..., "bound"),
        }
    ).assign_coords(subset=subsets, bound=["lower", "upper"])


def top_units() -> xr.Dataset:
    rng = np.random.default_rng(2)
    return xr.Dataset(
        {
            "importance": (("seed", "layer", "k", "feature"), rng.uniform(size=(3, 2, 4, 6))),
            "r2": (("seed", "layer", "k"), rng.uniform(size=(3, 2, 4))),
        },
        coords={"seed": [0, 1, 2], "layer": [1, 2], "k": [1, 8, 55, 384], "feature": FEATURES},
    )


def one_seed(over: str = "sentences") -> xr.Dataset:
    """Return a profile of one seed, with the errors that an analysis gives, and what they are over.

    Errors are a fourth of the importance, and of R2.
    """
    rng = np.random.default_rng(3)
    result = importances(model=1, seed=1, step=1, pooling=1).squeeze("seed")
    dims = result.importance.dims
    result = result.assign(
        variance=(dims[:-1], rng.uniform(0.01, 0.1, result.importance.shape[:-1])),
        r2=(dims[:-1], rng.uniform(0.1, 0.9, result.importance.shape[:-1])),
    )
    result["std_error"] = result.importance / 4
    result["std_error"].attrs["long_name"] = f"standard error of the importance over {over}"
    if over == "sentences":
        result["r2_std_error"] = result.r2 / 4
        result["r2_std_error"].attrs["long_name"] = "standard error of R2 over sentences"
    return result
