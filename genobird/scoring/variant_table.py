"""Variants to a table, in memory or on disk; score tables in the shapes of other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genobird import __version__
from genobird.columns import REGION_KEYS, REGION_LIFTED, VARIANT, outputs_in
from genobird.errors import TableError, quoted
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.variant import Status
from genobird.names import require
from genobird.runs import FRESH, Start, may_replace
from genobird.scoring.alleles import Variants, opened_variants
from genobird.scoring.effects import columns_of
from genobird.scoring.journal import kept
from genobird.scoring.scan import Batch, Sink, VariantScan
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.settings import (
    DEFAULT,
    PLAIN,
    SCORES,
    EffectSettings,
    RefMismatch,
    ScanSettings,
)
from genobird.scoring.table import TableWriter

if TYPE_CHECKING:
    from anndata import AnnData

_GIVE = "give that of screen_variants, or of genobird variants --table"
_VALUES = {
    **{"REF": "ref", "ALT": "alt", "delta": "delta", "quantile": "quantile"},
    **{column: column for column in columns_of(SCORES)},
}


def screen_variants(
    scorer: Scorer,
    variants: Variants,
    fasta: Path | str | Genome,
    *,
    ref_mismatch: str = "flag",
    features: Sequence[str] | None = None,
    liftover: Path | str | ChainFile | None = None,
    ignore_build: bool = False,
    settings: EffectSettings = DEFAULT,
) -> pd.DataFrame:
    """Score variants.

    Args:
        scorer: the model.
        variants: VCF or BCF file, table (TSV, CSV or frame) with columns `chrom pos ref alt`
            (1-based, several ALTs separated by commas or as a list) or a dict of such columns, or
            a list: of variants, of rows `(chrom, pos, ref, alt)` as tuples, dicts or arrays, of
            strings as `chr20:1000:A>G`; one alone is a list of one.
        fasta: the genome.
        ref_mismatch: see `ScanSettings`, as the next three.
        features: columns, names or classes of the chromatin head; None is all.
        liftover: UCSC chain file from the assembly of the variants to the genome's.
        ignore_build: warn of another assembly instead of raising.
        settings: how effects are computed, and which further scores are wanted.

    Returns:
        One row per ALT, in input order: `chrom pos ref alt id record allele status flags`
        (with `liftover` also `lifted_chrom lifted_pos lifted_strand`), `top` (the feature that
        changes most; see `effects.relative_sizes`), then
        `<output>|ref`, `<output>|alt` and `<output>|delta` (ALT - REF); NaN where nothing was
        scored. `pos` is 1-based as in VCF (one of more than 18 digits is shown as 10^18), `record`
        counts from 0. `settings` may add `llr|se`,
        `embedding|distance` and, for each promoter and chromatin output, the columns of `effects`.
        With a background there is also `evalue`, after the keys, and `<output>|quantile`; see
        `background`.

    Raises:
        VcfError, TableError, UsageError: the variants cannot be read.
        AssemblyError: the variants are of another assembly, or none lies on a contig of the genome;
            or, with `error`, REF differs.
    """
    scanned = ScanSettings(ref_mismatch, features, liftover, ignore_build, settings)
    tables: list[pd.DataFrame] = []
    with opened(fasta) as genome, opened_variants(variants) as source:
        scan = VariantScan(scorer, source, genome, scanned)
        scan.run([rows_to(tables.append, scanned.policy)])
    return pd.concat(tables, ignore_index=True)


def list_variants(
    scorer: Scorer,
    variants: Variants,
    fasta: Path | str | Genome,
    output: Path | str,
    settings: ScanSettings = PLAIN,
    start: Start = FRESH,
) -> Counter[str]:
    """Score variants of any kind and write the table of `screen_variants` as it grows.

    Until the output (`.parquet`, `.tsv`, `.tsv.gz` or `-`) is complete, what is scored is kept in
    `<output>.partial`; see `journal`. Progress is called with the number of new ALTs.

    Returns:
        How many ALTs have each status; their sum is the number of ALTs.

    Raises:
        VcfError, TableError, AssemblyError, UsageError, OutputError: see `screen_variants`.
    """
    scorer.select_features(settings.features)
    replace = may_replace(output, start)
    with opened(fasta) as genome, opened_variants(variants) as source:
        scan = VariantScan(scorer, source, genome, settings)
        meta = table_facts(run_facts(scorer, start.command, scan.locator.chain))
        with (
            kept([output], scan.identity, start) as journal,
            TableWriter(output, force=replace, meta=meta) as writer,
        ):
            rows = rows_to(writer.write, settings.policy)
            counts = scan.run([rows, lambda batch: start.progress(len(batch.loci))], journal)
            writer.finish()
            journal.seal()
    return counts


def rows_to(write: Callable[[pd.DataFrame], object], policy: RefMismatch) -> Sink:
    """Return a sink that writes the rows of each batch, but for records that the policy skips."""

    def sink(batch: Batch) -> None:
        table = batch.table
        if policy is RefMismatch.SKIP:
            skipped = table.loc[table["status"] == Status.REF_MISMATCH.value, "record"]
            table = table[~table["record"].isin(skipped)]
        write(table)

    return sink


def run_facts(scorer: Scorer, command: str, chains: ChainFile | None = None) -> dict[str, str]:
    """Return what made a result, as keys of VCF header lines: version, model, command, chain."""
    return {
        "genobirdVersion": __version__,
        "genobirdModel": scorer.model_hash or "unsaved",
        **({"genobirdBackground": scorer.background.hash} if scorer.background else {}),
        **({"genobirdCommand": command} if command else {}),
        **({"genobirdLiftover": chains.path.name} if chains else {}),
    }


def table_facts(facts: dict[str, str]) -> dict[str, str]:
    """Return the same facts as keys of Parquet metadata."""
    return {key.removeprefix("genobird").lower(): value for key, value in facts.items()}


def tidy_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Lay a table of variants out with one row per variant and feature.

    Args:
        table: of `screen_variants`, n rows with F outputs.

    Returns:
        n F rows: `variant` (1-based, as `chr20:1000:A>G`), `feature`, `REF`, `ALT` and `delta`
        (ALT - REF), in the units of the output: logits, for `llr` nats; with a background also
        `quantile`, and what else was scored by name, such as `diff`. They are NaN where nothing was
        scored.

    Raises:
        TableError: it is no such table.
    """
    _require_table(table)
    features = _features(table)
    values = {title: _numbers(frame).ravel() for title, frame in _values(table, features).items()}
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
        table: of `screen_variants`: `X` is the delta (ALT - REF); `REF`, `ALT` and, where they are
            there, `quantile` and scores by name, such as `diff`, are layers. Or of `score_regions`
            or `embed_regions`: `X` is what is predicted. What else a row holds is in `obs`.

    Raises:
        UsageError: anndata is not installed.
        TableError: it is none of these tables.
    """
    anndata = require("anndata", "AnnData")
    _require_table(table)
    if set(REGION_KEYS) <= set(table.columns):
        keys = [name for name in table.columns if name in (*REGION_KEYS, *REGION_LIFTED)]
        places = zip(table["chrom"], *_numbers(table[["start", "end"]], np.float64).T, strict=True)
        index = [f"{contig}:{start + 1:.0f}-{end:.0f}" for contig, start, end in places]
        x, layers = table.drop(columns=keys), {}
    else:
        features = _features(table)
        owned = {f"{name}|{part}" for name in features for part in _VALUES.values()}
        keys = [name for name in table.columns if name not in owned]
        index, layers = list(_variants(table)), _values(table, features)
        x = layers.pop("delta")
    # anndata writes text as objects alone, to HDF5 and zarr.
    text = [name for name in keys if pd.api.types.is_string_dtype(table[name])]
    names = anndata.utils.make_index_unique(pd.Index(index, dtype=object))
    return anndata.AnnData(
        _numbers(x, np.float32),
        obs=table[keys].astype(dict.fromkeys(text, object)).set_axis(names),
        var=pd.DataFrame(index=x.columns.astype(object)),
        layers={name: _numbers(frame, np.float32) for name, frame in layers.items()},
    )


def _require_table(table: object) -> None:
    if not isinstance(table, pd.DataFrame):
        raise TableError(f"{quoted(table)} is given as a table of scores; {_GIVE}")
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise TableError(f"the table of scores has two columns {twice}; {_GIVE}")


def _numbers(frame: pd.DataFrame, kind: type[np.floating[Any]] | None = None) -> NDArray[Any]:
    """Return columns as numbers, [n, columns], NaN where there is none; None keeps their kind."""
    for name, column in frame.items():
        try:
            column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise TableError(f"column {name} of the table holds no numbers; {_GIVE}") from error
    return frame.to_numpy(dtype=kind, na_value=np.nan)


def _features(table: pd.DataFrame) -> list[str]:
    """Return the outputs of a table of variants, in order."""
    names = outputs_in(table.columns)
    if not names or not {*VARIANT} <= set(table.columns):
        raise TableError(
            f"a table of columns {', '.join(map(str, table.columns[:4]))}, ... has no scores of "
            f"variants; {_GIVE}"
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
    places = zip(*(table[name] for name in VARIANT), strict=True)
    names = [f"{contig}:{pos}:{ref}>{alt}" for contig, pos, ref, alt in places]
    return pd.Series(names, table.index, dtype=str)
