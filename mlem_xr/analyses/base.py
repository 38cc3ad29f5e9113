"""What an analysis is: one record, and what follows from it.

An analysis is one record, `Analysis`. Its packing and unpacking, labels, settings, table columns,
command, and how it is saved and opened follow from the record; they are written nowhere else.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.analyses.layers import layer_settings
from mlem_xr.analyses.lifting import Output, lift
from mlem_xr.analyses.options import Options
from mlem_xr.analyses.origin import with_origin
from mlem_xr.kernels.distances import PRECOMPUTED
from mlem_xr.schema import (
    MIN_SENTENCES,
    InputError,
    check_activations,
    check_dataset,
    check_dimensions,
    check_features,
    check_same_sentences,
    choose,
    listed,
    shown,
)
from mlem_xr.stimuli.items import items_of_features, warn_of_undeclared_items
from mlem_xr.stimuli.pairs import feature_arrays, feature_codes, feature_measures
from mlem_xr.stimuli.table import Codes, stimuli_attributes, warn_of_measurements

Stage = Literal["distances", "mds", "importance"]


@dataclass(frozen=True)
class Source:
    """The result of another analysis, from which an analysis takes arrays."""

    argument: str
    """What the public function calls it."""
    arrays: Callable[[Any, Any], Mapping[str, xr.DataArray]]
    """Takes the result and the options; returns arrays by name."""
    analysis: str | None = None
    """Which analysis; None: any that has the arrays."""
    kept: bool = False
    """Whether its variables are part of the new result, where that has no others."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All there is to know about an analysis."""

    name: str
    """Name of the public function."""
    help: str
    """One sentence."""
    command: str
    """Name on the command line."""
    function: Callable[..., Mapping[str, NDArray]]
    """Takes the inputs by name, and `options`; returns the outputs of one representation by name.
    An output that is missing is NaN."""
    inputs: Mapping[str, tuple[str, ...]]
    """Arrays of the function, and their dimensions in one representation: `activation` and `codes`
    of the features and their `items` come from the activations, all others from the `source`.
    Units without a number (NaN) are left out before the function sees them, and are NaN in the
    outputs."""
    outputs: Callable[[Any], Mapping[str, Output]]
    """Takes the options; returns the outputs that there are with them, by name."""
    options: type[Options] = Options
    labels: Callable[[Any, Sequence[str]], Mapping[str, Sequence[Any]]] = lambda options, names: {}
    """Labels of the outputs' own dimensions, for the options and the names of the features."""
    check: Callable[[Mapping[str, xr.DataArray], Any], None] = lambda arrays, options: None
    """Checks and warnings that need arrays and options, before anything is computed."""
    with_items: Callable[[Any], bool] = lambda options: True
    """Takes the options; says whether items make a difference, where they are an input."""
    without_items: str = ""
    """Why they make none."""
    source: Source | None = None
    along: str | None = None
    """A dimension that the function goes along one by one, so that tasks may cut it; the first of
    all outputs."""
    per_task: Callable[[int, Any], int] = lambda n_sentences, options: 1
    """How much of it a task takes at most, for so many sentences and these options."""
    stage: Stage = "importance"
    """What `refresh` calls it."""
    original: str | None = None
    """The original program's name, in the column `Method` of its tables."""
    leading: str = "importance"
    """The output whose largest values the command line prints, if it has features."""

    def options_of(self, settings: Mapping[str, Any]) -> Any:
        """Return the options of a result, out of its settings."""
        return self.options(**{k: settings[k] for k in self.options.names() if k in settings})

    def __call__(
        self,
        activations: xr.Dataset | None,
        options: Any,
        *,
        features: Iterable[str] | None = None,
        items: Mapping[str, str] | None = None,
        source: xr.Dataset | None = None,
    ) -> xr.Dataset:
        """Apply the function to every representation, lazily if an input is lazy.

        `activations` has `activation` (..., sentence, unit), or is None if the analysis takes none;
        `source` is the result that it starts from. The outputs have the coordinates of the one or
        the other. `items` maps features to the columns of their items. Raises
        `InputError` if an input is not what it should be; when computed, if activations hold NaN or
        infinite values, or have no answer: the message names the representation.
        """
        if activations is not None and getattr(options, "distance", None) == PRECOMPUTED:
            activations = _of_distances(activations, options)
        known = None if activations is None else Codes(activations)
        arrays = _inputs(self, activations, options, features, items, source, known)
        self.check(arrays, options)
        _check_names(self, arrays, options)
        like = activations if activations is not None else source
        assert like is not None
        variables = lift(
            self.function,
            arrays,
            options,
            inputs=self.inputs,
            outputs=self.outputs(options),
            labels=self.labels(options, _features(arrays)),
            along=self.along,
            per_task=self.per_task,
        )
        if self.source is not None and self.source.kept:
            result = like.assign({name: (v.dims, v.data) for name, v in variables.items()})
            for name in variables:
                result[name] = result[name].transpose(*like[name].dims)
                result[name].attrs = like[name].attrs
        else:
            coords = _coordinates(self, variables, arrays, options, like)
            for name in variables.keys() & coords.keys():
                raise InputError(
                    f"activations: they have the coordinate {name!r}, as is called what "
                    f"{self.name} returns; expected another name: rename it"
                )
            result = xr.Dataset(variables, coords)
        if source is not None and "computed_from" in source.coords:
            # A result of results that are not there, or not any more, is not there either.
            result = result.assign_coords(computed_from=source["computed_from"])
        result = result.assign_attrs(_attributes(self, activations, options, arrays, source, known))
        return with_origin(result, activations, source)


def _of_distances(data: Any, options: Any) -> xr.Dataset:
    """Put distances of the sentences, which are there already, in the place of activations."""
    check_dataset("activations", data)
    if "distance" not in data.data_vars:
        raise InputError(
            f"activations: no variable 'distance', which distance={PRECOMPUTED!r} takes; "
            f"found: {listed(data.data_vars)}"
        )
    for dim in ("sentence", "other_sentence"):
        if dim not in data["distance"].dims:
            raise InputError(f"activations: 'distance' has no dimension {dim!r}")
    if options.zscore:
        raise InputError(f"zscore: found True; expected False with distance={PRECOMPUTED!r}")
    check_same_sentences("activations", data["distance"])
    # Units that they were computed from may still be there.
    kept = data.drop_vars(["activation", "other_sentence"], errors="ignore")
    kept = kept.drop_dims("unit", errors="ignore")
    # Another Dataset than what a store holds: there is nothing that its results could stand beside.
    kept = kept.drop_attrs(deep=False).assign_attrs(
        {name: value for name, value in data.attrs.items() if name != "store"}
    )
    distance = kept["distance"].rename(other_sentence="unit")
    return kept.drop_vars("distance").assign(activation=distance.astype(np.float64))


def _inputs(
    analysis: Analysis,
    activations: xr.Dataset | None,
    options: Any,
    features: Iterable[str] | None,
    items: Mapping[str, str] | None,
    source: xr.Dataset | None,
    known: Codes | None,
) -> dict[str, xr.DataArray]:
    arrays: dict[str, xr.DataArray] = {}
    if analysis.source is not None:
        arrays |= analysis.source.arrays(source, options)
    if "activation" in analysis.inputs:
        check_activations(activations)
        assert activations is not None
        n = activations.sizes["sentence"]
        if n < MIN_SENTENCES:
            raise InputError(f"activations: {n} sentences; expected at least {MIN_SENTENCES}")
        arrays["activation"] = activations["activation"]
    if activations is not None and "codes" in analysis.inputs:
        arrays["codes"] = codes = feature_codes(activations, features, known=known)
        arrays |= feature_arrays(activations, codes)
        if "stimuli" not in activations.attrs:
            warn_of_measurements(activations, codes["feature"].values.tolist())
    if activations is not None and "measure" in analysis.inputs:
        arrays["measure"] = feature_measures(activations, arrays["codes"])
    if activations is not None and "groups" in analysis.inputs:
        arrays["groups"] = _groups(options, arrays["codes"]["feature"].values.tolist())
    if activations is not None and "items" in analysis.inputs:
        arrays["items"] = _item_numbers(
            analysis, activations, arrays["codes"], options, items, known
        )
    return {name: arrays[name] for name in analysis.inputs}


def _check_names(analysis: Analysis, arrays: Mapping[str, xr.DataArray], options: Any) -> None:
    """Refuse a dimension of the caller's that is called like a variable of the result."""
    outputs = analysis.outputs(options)
    for array in arrays.values():
        for dim in outputs.keys() & set(map(str, array.dims)):
            raise InputError(
                f"activations: they have the dimension {dim!r}, as is called what {analysis.name} "
                "returns; expected another name: rename it"
            )


def _item_numbers(
    analysis: Analysis,
    activations: xr.Dataset,
    codes: xr.DataArray,
    options: Any,
    items: Mapping[str, str] | None,
    known: Codes | None,
) -> xr.DataArray:
    """Say which item every sentence has for each feature: int32 (sentence, feature).

    A feature without items has an item per sentence, as has a sentence whose item is undefined. The
    attribute `items` says which features belong to the items of which columns.
    """
    names = codes["feature"].values.tolist()
    known = Codes(activations) if known is None else known
    chosen = items_of_features(activations, names, items, codes=known)
    if not analysis.with_items(options):
        if chosen and items is not None:
            raise InputError(
                f"items: found {shown(items)}; expected none: {analysis.without_items}"
            )
        chosen = {}
    elif items is None or items:
        warn_of_undeclared_items(activations, names, chosen, codes=known)
    n = codes.sizes["sentence"]
    numbers = np.repeat(np.arange(n, dtype=np.int32)[:, np.newaxis], len(names), axis=1)
    for feature, column in chosen.items():
        item = known[column]
        has = item >= 0
        numbers[has, names.index(feature)] = n + item[has]
    return codes.copy(data=numbers).assign_attrs(items=chosen)


def _features(arrays: Mapping[str, xr.DataArray]) -> list[str]:
    return arrays["codes"]["feature"].values.tolist() if "codes" in arrays else []


def _coordinates(
    analysis: Analysis,
    variables: Mapping[str, xr.Variable],
    arrays: Mapping[str, xr.DataArray],
    options: Any,
    like: xr.Dataset,
) -> dict[Hashable, Any]:
    dims = {dim for variable in variables.values() for dim in variable.dims}
    labels = analysis.labels(options, _features(arrays))
    coords: dict[Hashable, Any] = {
        name: coordinate.variable
        for name, coordinate in like.coords.items()
        if set(coordinate.dims) <= dims
    }
    if "codes" in arrays:
        coords["feature"] = arrays["codes"]["feature"].values
    for dim in map(str, dims):
        if dim.startswith("other_"):
            own = dim.removeprefix("other_")
            coords[own] = coords[dim] = like[own].values
    return coords | {dim: list(values) for dim, values in labels.items()}


def _groups(options: Any, names: list[str]) -> xr.DataArray:
    """Say which features each group has: bool (group, feature)."""
    members = np.zeros((len(options.groups), len(names)), bool)
    for own, (group, features) in zip(members, options.groups, strict=True):
        if group in names:
            raise InputError(f"groups: {group!r} is a feature; expected another name")
        for feature in features:
            own[names.index(choose(f"groups: {group!r}", feature, names))] = True
    labels = [group for group, _ in options.groups]
    return xr.DataArray(
        members, dims=("group", "feature"), coords={"group": np.array(labels, dtype=object)}
    )


def _attributes(
    analysis: Analysis,
    activations: xr.Dataset | None,
    options: Any,
    arrays: Mapping[str, xr.DataArray],
    source: xr.Dataset | None,
    known: Codes | None,
) -> dict[str, Any]:
    """Say what a result is: its analysis, all its settings, and what it was made from."""
    attrs: dict[str, Any] = {} if source is None else dict(source.attrs)
    settings = options.settings()
    if activations is not None:
        attrs |= stimuli_attributes(activations, codes=known)
        per_unit = any("unit" in output.dims for output in analysis.outputs(options).values())
        settings |= layer_settings(activations, per_unit=per_unit)
    if "codes" in arrays:
        chosen = settings["features"] = arrays["codes"]["feature"].values.tolist()
        # All features of the data: their order gives each its color, whichever were chosen.
        attrs["features"] = chosen if activations is None else check_features(activations)
    if "items" in arrays:
        settings["items"] = arrays["items"].attrs["items"]
    if source is not None and analysis.source is not None:
        nested = dict(source.attrs.get("settings", {}))
        # Results that were not concatenated from layers have no such settings.
        settings = {k: nested[k] for k in ("layers", "n_units") if k in nested} | settings
        name = source.attrs.get("analysis", analysis.source.analysis)
        settings[analysis.source.argument] = {"analysis": name} | nested
    return attrs | {"analysis": analysis.name, "settings": settings}


def check_result(result: Any, variables: Mapping[str, Sequence[str]], *, argument: str) -> None:
    """Check that a result has variables of a floating type, each with certain dimensions.

    `argument` is its name.
    """
    check_dataset(argument, result)
    for name, dims in variables.items():
        if name not in result.data_vars:
            raise InputError(f"{argument}: no variable {name!r}; found: {listed(result.data_vars)}")
        for dim in dims:
            if dim not in result[name].dims:
                raise InputError(
                    f"{argument}: {name!r} has no dimension {dim!r}; "
                    f"found: {listed(result[name].dims)}"
                )
        if result[name].dtype.kind != "f":
            raise InputError(
                f"{argument}: {name!r} has dtype {result[name].dtype}; expected a floating type"
            )
        check_dimensions(argument, result[name])
