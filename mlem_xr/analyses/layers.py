"""All layers of a network as one, lazily."""

from typing import Any

import xarray as xr

from mlem_xr.schema import InputError, check_activations, leading_dims

NET = "net"
"""Label of the layer that holds the units of all layers."""

UNIT_LABELS = {
    "unit_layer": "layer of the unit",
    "unit_number": "position of the unit in its layer's output",
}
"""Coordinates that say which unit of which layer a unit is."""

_LONG_NAMES = {"unit": "position of the unit among the units of all layers"} | UNIT_LABELS


def concatenate_layers(activations: xr.Dataset) -> xr.Dataset:
    """Put the units of all layers side by side, as one layer labeled "net".

    Its squared Euclidean distances are the sums of those of the layers. Every analysis takes the
    result like any other activations; select layers beforehand to concatenate some of them.

    Parameters
    ----------
    activations : xr.Dataset
        With a variable `activation` (..., layer, sentence, unit), NumPy- or Dask-backed.

    Returns
    -------
    xr.Dataset
        `activation` (..., layer, sentence, unit) of the same dtype and measure, where `layer` is
        "net" alone and `unit` runs over the units of the first layer, the second one, ..., NaN
        where a network lacks a layer or unit; lazy if `activations` is, a chunk per
        representation. New coordinates over `unit`: `unit` int64 (0, 1, ...), `unit_layer` and
        `unit_number`, the layer that a unit comes from and its number there. What has neither units
        nor layers is as it was; `n_units` is the sum over layers; other variables over units or
        layers now run over `unit`.

    Raises
    ------
    InputError
        If `activations` is not what it should be, has no dimension `layer`, or was concatenated
        before.

    Examples
    --------
    >>> data = xr.Dataset(
    ...     {"activation": (("layer", "sentence", "unit"), [[[1.0, 2.0]], [[3.0, 4.0]]])},
    ...     coords={"layer": [5, 6], "tense": ("sentence", ["past"])},
    ... )
    >>> whole = concatenate_layers(data)
    >>> whole.activation.sel(layer="net").values.tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    >>> whole.unit_layer.values.tolist(), whole.unit_number.values.tolist()
    ([5, 5, 6, 6], [0, 1, 0, 1])
    """
    check_activations(activations)
    if "layer" not in activations["activation"].dims:
        raise InputError("activations: 'activation' has no dimension 'layer' to concatenate")
    if "unit_layer" in activations.coords:
        raise InputError("activations: their layers have been concatenated already")
    # A dimension without labels is numbered from 0.
    labeled = activations.assign_coords({dim: activations[dim] for dim in ("layer", "unit")})
    stacked = labeled.stack(net=("layer", "unit"), create_index=False)
    whole = stacked.rename(layer="unit_layer", unit="unit_number").rename(net="unit")
    whole = whole.assign_coords(unit=range(whole.sizes["unit"]))
    if "n_units" in activations.data_vars:
        whole["n_units"] = units_of_all_layers(activations["n_units"])
    for name, long_name in _LONG_NAMES.items():
        whole[name].attrs["long_name"] = long_name
    return whole.assign(activation=_one_layer(whole["activation"].variable)).assign_coords(
        layer=[NET]
    )


def units_of_all_layers(n_units: xr.DataArray) -> xr.DataArray:
    """Count the units of networks whose layers are one."""
    counts = n_units.sum("layer", keep_attrs=True)
    return counts.expand_dims({"layer": [NET]}, axis=-1)


def _one_layer(activation: xr.Variable) -> xr.Variable:
    """Give the activations their dimension `layer` back, and one chunk per representation."""
    own = ("sentence", "unit")
    activation = activation.set_dims(["layer", *activation.dims])
    activation = activation.transpose(*leading_dims(activation.dims), *own)
    if activation.chunks is None:
        return activation
    return activation.chunk({dim: -1 if dim in own else 1 for dim in activation.dims})


def layer_settings(activations: xr.Dataset, *, per_unit: bool = False) -> dict[str, Any]:
    """Name the layers that were concatenated, in their order, as part of an analysis' settings.

    Units are numbered through all layers: where layers have room for more units, because a wider
    network was recorded, the same number is another unit. So results per unit have the number of
    units among their settings.
    """
    if "unit_layer" not in activations.coords:
        return {}
    layers = list(dict.fromkeys(activations["unit_layer"].values.tolist()))
    return {"layers": layers} | ({"n_units": activations.sizes["unit"]} if per_unit else {})
