"""A command for every analysis: compute what is missing, save it beside the activations."""

from typing import Any

import click
import xarray as xr

import mlem_xr as mx
from mlem_xr.analyses import ANALYSES, Analysis
from mlem_xr.cli.options import (
    NAMES,
    REFRESH,
    STORE,
    TABLE_FILE,
    given,
    on_cluster,
    selection,
    settings,
)
from mlem_xr.cli.output import print_profile
from mlem_xr.running.writing import TABLES, check_path
from mlem_xr.schema import REPRESENTATION, choose, select


def command(analysis: Analysis) -> click.Command:
    """Make the command of an analysis."""
    source = [] if analysis.source is None else settings(*_source(analysis))

    def run(store: str, output: str | None, names: str, **values: Any) -> None:
        choose("names", names, ("mlem_xr", "original"))
        if output is not None:
            check_path(output, TABLES)
        found = _analyze(analysis, store, values)
        leading = found[analysis.leading].dims if analysis.leading in found else ()
        if "feature" in leading and "unit" not in leading:
            print_profile(found, leading=analysis.leading)
        if output is not None:
            mx.write_table(mx.to_dataframe(found, names=names), output)
            click.echo(f"wrote {output}")

    return on_cluster(
        click.Command(
            analysis.command,
            callback=run,
            params=[STORE, TABLE_FILE, *selection(), *settings(analysis), *source, REFRESH, NAMES],
            help=analysis.help,
        )
    )


def saved(analysis: Analysis, store: str, values: dict[str, Any]) -> xr.Dataset:
    """Open the saved results of an analysis."""
    labels = {dim: values.pop(dim) for dim in REPRESENTATION}
    return select(mx.open_results(store, analysis.name, **given(analysis, values)), labels)


def _source(analysis: Analysis) -> tuple[Analysis, str]:
    """Return the analysis whose result another one starts from, and the prefix of its options."""
    assert analysis.source is not None and analysis.source.analysis is not None
    of = ANALYSES[analysis.source.analysis]
    return of, f"{of.command}_"


def _analyze(analysis: Analysis, store: str, values: dict[str, Any]) -> xr.Dataset:
    labels = {dim: values.pop(dim) for dim in REPRESENTATION}
    refresh = values.pop("refresh")
    options = given(analysis, values)
    features, items = options.pop("features", None), options.pop("items", None)
    checked = analysis.options(**options)
    activations = select(mx.open_store(store), labels)
    source = None
    if analysis.source is not None:
        of, prefix = _source(analysis)
        own = given(of, values, prefix)
        chosen, of_items = own.pop("features", features), own.pop("items", None)
        scan = of(activations, of.options(**own), features=chosen, items=of_items)
        source = mx.save_results(scan, store, refresh=refresh)
    own_activations = activations if "activation" in analysis.inputs else None
    result = analysis(own_activations, checked, features=features, items=items, source=source)
    return mx.save_results(result, store, refresh=refresh)
