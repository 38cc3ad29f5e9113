"""Run the code of docs/figures.md and make its pictures: python docs/examples/gallery.py.

Needs `stores/demo.zarr`, which `mlem-xr demo` makes; computes and saves there what is missing.
"""

import re
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

ROOT = Path(__file__).parents[2]
COLORS = 128
"""Of a picture: enough for lines and text, in a third of the bytes."""


def simulated() -> xr.Dataset:
    """Return importance over training, of five seeds: features are learned one after another."""
    rng = np.random.default_rng(0)
    step = np.array([0, *(2 ** np.arange(4, 17)).tolist(), -1])
    layer, feature = [2, 6, 10], ["word order", "number", "tense", "animacy", "clause type"]
    time = np.where(step == -1, 17, np.log2(np.maximum(step, 8)))[:, np.newaxis]
    learned = 1 / (1 + np.exp(-1.5 * (time - np.linspace(5, 13, len(feature)))))
    depth = rng.uniform(0.2, 1, (len(layer), len(feature)))
    noise = np.exp(rng.normal(0, 0.15, (5, step.size, len(layer), len(feature))))
    values = noise * (1e-5 + 2e-2 * learned[np.newaxis, :, np.newaxis] * depth)
    return xr.Dataset(
        {"importance": (("seed", "step", "layer", "feature"), values)},
        coords={"seed": range(5), "step": step, "layer": layer, "feature": feature},
        attrs={"features": feature},
    )


def main() -> None:
    """Run every block of the page, in order, and make the pictures small."""
    page = (ROOT / "docs/figures.md").read_text()
    known = {"simulated": simulated()}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, known)
        for name in re.findall(r'"(docs/images/[^"]+)"', block):
            picture = Image.open(ROOT / name).convert("RGB")
            picture.quantize(COLORS).save(ROOT / name, optimize=True)
            print(name, (ROOT / name).stat().st_size)


if __name__ == "__main__":
    main()
