"""Commands that analyse a store: compute what is missing, save it beside the activations."""

from pathlib import Path
from typing import Any

import xarray as xr

import mlem_xr as mx
from mlem_xr.analyses import ANALYSES
from mlem_xr.cli.options import (
    DECODING,
    EMBEDDING,
    SAVING,
    SELECTION,
    SETTINGS,
    Store,
    TableFile,
    with_options,
)
from mlem_xr.cli.output import out, print_profile
from mlem_xr.schema import InputError, choose, select
from mlem_xr.tables import check_table_path, to_dataframe, write_table


@with_options(selection=SELECTION, settings=SETTINGS, saving=SAVING)
def multivariate(store: Store, output: TableFile = None, **given: dict[str, Any]) -> None:
    """Explain the distances over all units of each layer."""
    print_profile(_analyse("multivariate_importance", store, output, **given))


@with_options(selection=SELECTION, settings=SETTINGS, saving=SAVING)
def univariate(store: Store, output: TableFile = None, **given: dict[str, Any]) -> None:
    """Explain the distances over every unit alone."""
    _analyse("univariate_importance", store, output, **given)


@with_options(selection=SELECTION, settings=DECODING, saving=SAVING)
def decoding(store: Store, output: TableFile = None, **given: dict[str, Any]) -> None:
    """Score how well a linear classifier reads each feature from each layer."""
    print_profile(_analyse("decoding_baseline", store, output, **given), leading="auc")


@with_options(selection=SELECTION, settings=EMBEDDING, saving=SAVING)
def mds(store: Store, output: TableFile = None, **given: dict[str, Any]) -> None:
    """Embed the sentences in a plane that keeps their distances."""
    _analyse("mds", store, output, **given)


def saved(
    analysis: str, store: Path, selection: dict[str, Any], settings: dict[str, Any]
) -> xr.Dataset:
    """Open the saved results of an analysis."""
    return select(mx.open_results(store, analysis, **_options(settings)), selection)


def _analyse(
    analysis: str,
    store: Path,
    output: Path | None,
    *,
    selection: dict[str, Any],
    settings: dict[str, Any],
    saving: dict[str, Any],
) -> xr.Dataset:
    choose("names", saving["names"], ("mlem_xr", "original"))
    if output is not None:
        check_table_path(output)
    activations = select(mx.open_store(store), selection)
    result = ANALYSES[analysis](activations, **_options(settings))
    status = mx.save_results(result, store, refresh=saving["refresh"] or ())
    counts = status["status"].value_counts()
    if set(counts.index) == {"not recorded"}:
        raise InputError("selection: nothing is recorded for it; see mlem-xr info")
    out.print(", ".join(f"{count} cells {name}" for name, count in counts.items()))
    found = saved(analysis, store, selection, settings)
    if output is not None:
        write_table(to_dataframe(found, names=saving["names"]), output)
        out.print(f"wrote {output}")
    return found


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    """Turn the options of the command line into those of the analysis functions."""
    given = {name: value for name, value in settings.items() if value is not None and value != []}
    if "conditional" in given:
        answers = {"no": False, "yes": True, "exact": "exact"}
        given["conditional"] = answers[choose("conditional", given["conditional"], answers)]
    return given
