"""Score tables in the shapes of other tools: a row per score, and AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from genobird import extras
from genobird.errors import TableError
from genobird.scoring.alleles import COLUMNS
from genobird.scoring.regions import KEYS, LIFTED

if TYPE_CHECKING:
    from anndata import AnnData

_VALUES = {"REF": "ref", "ALT": "alt", "delta": "delta", "quantile": "quantile"}


def tidy_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Lay a table of variants out with one row per variant and feature.

    Args:
        table: of `screen_variants`, n rows with F outputs.

    Returns:
        n F rows: `variant` (1-based, as `chr20:1000:A>G`), `feature`, `REF`, `ALT` and `delta`
        (ALT - REF), in the units of the output: logits, for `llr` nats; with a background also
        `quantile`. They are NaN where nothing was scored.

    Raises:
        TableError: it is no such table.
    """
    features = _features(table)
    values = {title: frame.to_numpy().ravel() for title, frame in _values(table, features).items()}
    return pd.DataFrame(
        {
            "variant": _variants(table).repeat(len(features)).to_numpy(),
            "feature": features * len(table),
            **values,
        }
    )


def to_anndata(table: pd.DataFrame) -> AnnData:
    """Return a table of n variants, regions or embeddings as AnnData, n x F.

    Args:
        table: of `screen_variants`: `X` is the delta (ALT - REF), and `REF`, `ALT` and, with a
            background, `quantile` are layers. Or of `score_regions` or `embed_regions`: `X` is what
            is predicted. What else a row holds is in `obs`.

    Raises:
        UsageError: anndata is not installed.
        TableError: it is none of these tables.
    """
    anndata = extras.require("anndata", "AnnData")
    if set(KEYS) <= set(table.columns):
        keys = [name for name in table.columns if name in (*KEYS, *LIFTED)]
        places = zip(table["chrom"], table["start"], table["end"], strict=True)
        index, x, layers = [f"{c}:{s + 1}-{e}" for c, s, e in places], table.drop(columns=keys), {}
    else:
        features = _features(table)
        owned = {f"{name}|{part}" for name in features for part in _VALUES.values()}
        keys = [name for name in table.columns if name not in owned]
        index, layers = list(_variants(table)), _values(table, features)
        x = layers.pop("delta")
    made: AnnData = anndata.AnnData(
        x.to_numpy(dtype="float32"),
        obs=table[keys].set_axis(anndata.utils.make_index_unique(pd.Index(index))),
        var=pd.DataFrame(index=list(x.columns)),
        layers={name: frame.to_numpy(dtype="float32") for name, frame in layers.items()},
    )
    return made


def _features(table: pd.DataFrame) -> list[str]:
    """Return the outputs of a table of variants, in order."""
    names = [name.removesuffix("|delta") for name in table.columns if name.endswith("|delta")]
    if not names or not {*COLUMNS} <= set(table.columns):
        raise TableError(
            f"columns {', '.join(map(str, table.columns[:4]))}, ... are of no table of scores; "
            "give that of screen_variants, or of genobird variants --table"
        )
    return names


def _values(table: pd.DataFrame, features: list[str]) -> dict[str, pd.DataFrame]:
    """Return the values of all features, [n, F], by what they are; what no feature has is not."""
    found = {}
    for title, part in _VALUES.items():
        columns = [f"{name}|{part}" for name in features]
        if set(columns) & set(table.columns):
            found[title] = table.reindex(columns=columns).set_axis(features, axis=1)
    return found


def _variants(table: pd.DataFrame) -> pd.Series[str]:
    chrom, pos, ref, alt = (table[name].astype(str) for name in COLUMNS)
    return chrom + ":" + pos + ":" + ref + ">" + alt
