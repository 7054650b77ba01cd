"""One-file HTML report of scored regions and variants.

Enters score tables, leaves one HTML file that needs nothing else: no script, no network, figures as
SVG, colours for light and dark.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import NDArray

import genobird
from genobird.columns import LLR, PROMOTER
from genobird.errors import UsageError, counted
from genobird.files import PAGES, check_output, write_text
from genobird.report.plots import along_contig, below, histogram, short
from genobird.report.summary import (
    BACKGROUND,
    Effect,
    RegionSummary,
    VariantSummary,
    is_turned,
    read_facts,
    summarise_regions,
    summarise_variants,
    summary_of,
)
from genobird.targets import MARK

logger = logging.getLogger(__name__)

STATUSES = {
    "OK": "scored",
    "NO_CONTIG": "the genome has no such contig",
    "OUT_OF_BOUNDS": "ends after its contig: another assembly?",
    "AMBIGUOUS": "N in the region itself, or in more than half of its window",
    "TOO_LONG": "longer than what the model sees around it",
    "REF_MISMATCH": "REF is not what the genome has there: another assembly, or alleles swapped",
    "AMBIGUOUS_BASE": "REF or ALT holds a letter other than A, C, G and T, or the genome N there",
    "SYMBOLIC": "ALT is no sequence: symbolic, * or a breakend",
    "MISSING_ALT": "ALT is missing",
    "NON_VARIANT": "ALT equals REF",
    "NOT_LIFTED": "the chain file leads from there to no place of the genome, or to several",
}

FLAGS = {"EDGE": "scored, but bases around it are missing: the contig ends, or has N"}

_NOTHING = "\N{EN DASH}"
_NONE = pd.Series(dtype=str)
_COLUMNS = 24
_ROWS = 40
_NAMED = 5
_FEWEST = 5  # values that a figure is drawn of
_BASES = 12  # of an allele that are written
_DETAILED = 10
_RARE = 0.01  # E-value that the page counts at

Key = tuple[int, ...]
"""`(record, allele)` of a variant, `(rank,)` of a region, from 0 on."""
Pictures = Mapping[Key, str | None]
"""Variants and regions -> SVG, empty where there is nothing to draw; None is still to be drawn."""
Draw = Callable[[pd.DataFrame], Iterable[tuple[Key, str]]]
"""Draws rows of a summary, one after the other; see `allele_logos` and `locus_curves`."""


@dataclass(frozen=True)
class Cell:
    """A square of the heat map."""

    share: float
    title: str


@dataclass(frozen=True)
class Change:
    """What a variant does to one output, in probabilities or values; NaN where there is none."""

    effect: Effect
    ref: float
    alt: float


@dataclass(frozen=True)
class Detail:
    """One of the first variants, with what there is to say about it, and its `Pictures`."""

    row: Mapping[Any, Any]
    changes: Sequence[Change]
    logo: str | None
    curves: str | None
    turned: bool
    """The variant lies on the other strand of the genome that it was scored on."""


@dataclass(frozen=True)
class Locus:
    """One of the first regions with its curves, None where they are still to be drawn."""

    row: Mapping[Any, Any]
    curves: str | None


def report(
    output: Path,
    *,
    regions: Path | None = None,
    variants: Path | None = None,
    logos: int = 0,
    draw: Draw | None = None,
    curves: int = 0,
    trace: Draw | None = None,
    facts: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write a report of a region table, a variant table or both, each TSV or Parquet.

    Curves of the first regions and variants and logos of the first variants take time, so the page
    is written without them and again with each that is drawn. `facts` are what is known about the
    tables' origin beside their metadata.

    Raises:
        UsageError: no table is given, one is missing, or the output exists or is no `.html`.
        TableError: a table is none of genobird's.
        OutputError: the file cannot be written.
    """
    if regions is None and variants is None:
        raise UsageError("a report needs a region table, a variant table or both")
    check_output(output, PAGES, force)
    tables = {"regions": regions, "variants": variants}
    origin = {name: path.name for name, path in tables.items() if path is not None}
    region_summary = summary_of(regions, summarise_regions) if regions else None
    variant_summary = summary_of(variants, summarise_variants) if variants else None
    for name, path in tables.items():
        if path is not None:
            known = (facts or {}).values()
            found = {k: v for k, v in read_facts(path).items() if v not in known}
            origin |= {f"{key} ({name})": value for key, value in found.items()}
    origin |= facts or {}
    traced: dict[Key, str | None] = {}
    drawn: dict[Key, str | None] = {}
    asked: list[tuple[Draw, pd.DataFrame, dict[Key, str | None]]] = []
    for summary in (region_summary, variant_summary):
        if trace and summary and curves:
            asked.append((trace, summary.top.head(curves), traced))
    if draw and variant_summary and logos:
        asked.append((draw, variant_summary.top.head(logos), drawn))
    for _, rows, pictures in asked:
        pictures |= dict.fromkeys(keys_of(rows))

    def write() -> None:
        page = render(region_summary, variant_summary, origin, logos=drawn, curves=traced)
        write_text(output, page)

    write()
    if count := len(traced) + len(drawn):
        logger.info("%s is written; %s to come", output.name, counted(count, "picture"))
    for way, rows, pictures in asked:
        for key, picture in way(rows):
            pictures[key] = picture
            write()


def keys_of(rows: pd.DataFrame) -> list[Key]:
    """Return the key of each of the first rows of a summary."""
    if "record" in rows:
        return list(zip(rows["record"], rows["allele"], strict=True))
    return [(rank,) for rank in range(len(rows))]


def render(
    regions: RegionSummary | None,
    variants: VariantSummary | None,
    facts: Mapping[str, str],
    title: str | None = None,
    *,
    logos: Pictures | None = None,
    curves: Pictures | None = None,
) -> str:
    """Return the page as text; `facts` say where it all comes from."""
    parts = {"Regions": regions, "Variants": variants}
    what = " and ".join(name for name, part in parts.items() if part).capitalize()
    details = _details(variants.top, logos or {}, curves or {}) if variants else []
    values: dict[str, Any] = {
        "title": title or f"{what} scored by genobird",
        "regions": regions,
        "variants": variants,
        "facts": facts,
        "version": genobird.__version__,
        "histogram": _histogram(regions) if regions else None,
        "auroc": auroc(regions) if regions else None,
        "heat": _heat(regions) if regions else None,
        "loci": _loci(regions.top, curves or {}) if regions else [],
        "along": _along(variants) if variants else None,
        "named": variants is not None and (variants.top.get("id", _NONE) != "").any(),
        "likely": variants is not None and variants.top.get(LLR, _NONE).notna().any(),
        "rarity": _rarity(variants) if variants else None,
        "details": details,
        "unit": "in its units" if variants and _is_of_table(variants.top) else "in logits",
        "quantiles": any(np.isfinite(c.effect.quantile) for d in details for c in d.changes),
        "logos": any(detail.logo != "" for detail in details),
        "curves": any(detail.curves != "" for detail in details),
        "background": BACKGROUND,
        "meanings": _meanings(regions, variants),
        "flags": {
            flag: FLAGS.get(flag, "") for part in (regions, variants) if part for flag in part.flags
        },
    }
    return _template().render(values)


def auroc(regions: RegionSummary) -> float | None:
    """Return the share of pairs of a region and a background place that are in the right order.

    Ties count half; None where there are no pairs.
    """
    if not len(regions.promoter) or not len(regions.background):
        return None
    background = np.sort(regions.background)
    below = np.searchsorted(background, regions.promoter, "left")
    not_above = np.searchsorted(background, regions.promoter, "right")
    return float((below + not_above).mean() / (2 * len(background)))


def feature_label(name: str) -> str:
    """Write `K562|CTCF|None#338` as `K562 CTCF #338`; a treatment that is None is left out."""
    body, _, index = name.partition("#")
    parts = [part for part in body.split("|") if part and part != "None"]
    return short(" ".join([*parts, f"#{index}"] if index else parts))


def probability(value: float) -> str:
    """Write a probability with three decimals, or the bound that it lies beyond."""
    if not np.isfinite(value):
        return _NOTHING
    if 0 < value < 0.0005:
        return "< 0.001"
    return f"{value:.3f}"


def fine(value: float) -> str:
    """Write a probability with three decimals; a small one with its two leading digits."""
    return f"{value:.2g}" if 0 < value < 0.0095 else probability(value)


def difference(value: float) -> str:
    """Write a logit difference with its sign."""
    if not np.isfinite(value):
        return _NOTHING
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def with_error(value: float, error: float) -> str:
    """Write a difference with its standard error, where it has one."""
    return difference(value) + (f" \N{PLUS-MINUS SIGN} {error:.2f}" if np.isfinite(error) else "")


def evalue(value: float) -> str:
    """Write an E-value with two leading digits."""
    return f"{value:.2g}" if np.isfinite(value) else _NOTHING


def region_text(row: Mapping[Any, Any]) -> str:
    """Write the place of a region 1-based inclusive, with its strand."""
    start, end = int(row["start"]) + 1, int(row["end"])
    place = f"{short(row['chrom'])}:{start:,}" + (f"-{end:,}" if end > start else "")
    strand = str(row["strand"])
    return f"{place} {strand}".replace(" -", " \N{MINUS SIGN}") if strand in ("+", "-") else place


def variant_text(row: Mapping[Any, Any]) -> str:
    """Write a variant, 1-based."""
    change = f"{allele(row['ref'])}>{allele(row['alt'])}"
    return f"{short(row['chrom'])}:{row['pos']:,} {change}"


def allele(bases: str) -> str:
    """Write an allele; of a long one the beginning and its length."""
    return (
        short(bases) if len(bases) <= _BASES else f"{short(bases[:_BASES])}... ({len(bases):,} bp)"
    )


def environment() -> Environment:
    """Return jinja's environment of the templates: a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("genobird.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["short"] = short
    return made


@cache
def _template() -> Template:
    found = environment()
    found.filters.update(
        probability=probability,
        fine=fine,
        difference=difference,
        evalue=evalue,
        largest=lambda values: max(values, key=abs),
        feature=feature_label,
        region=region_text,
        variant=variant_text,
        llr=lambda row: with_error(row[LLR], row[f"{LLR}_se"]),
    )
    return found.get_template("report.html.j2")


def _meanings(regions: RegionSummary | None, variants: VariantSummary | None) -> dict[str, str]:
    found = [status for part in (regions, variants) if part for status in part.statuses]
    known = {status: text for status, text in STATUSES.items() if status in found}
    return known | {status: "" for status in found if status not in known}


def _histogram(regions: RegionSummary) -> str | None:
    if len(regions.promoter) + len(regions.background) < _FEWEST:
        return None
    groups: dict[str, NDArray[np.float64]] = {}
    if len(regions.promoter):
        groups["regions"] = regions.promoter
    if len(regions.background):
        groups["background"] = regions.background
    return histogram(groups, "promoter probability")


def _heat(regions: RegionSummary) -> dict[str, Any] | None:
    """Rows of the best regions, columns of the features that are highest in any of them."""
    rows = regions.top.head(_ROWS)
    if rows.empty or not regions.features:
        return None
    values = rows[regions.features].astype(float)
    strongest = values.quantile(0.9).sort_values(ascending=False, kind="stable")
    columns = sorted(str(name) for name in strongest.head(_COLUMNS).index)
    columns.sort(key=lambda name: name.split("|")[1:2])
    labels = [_label(row) for row in rows.to_dict("records")]
    cells = [
        [
            Cell(float(np.nan_to_num(value)), f"{label}, {feature_label(name)}: {value:.3f}")
            for name, value in zip(columns, line, strict=True)
        ]
        for label, line in zip(labels, values[columns].to_numpy(), strict=True)
    ]
    return {"columns": columns, "rows": list(zip(labels, cells, strict=True))}


def _along(variants: VariantSummary) -> str | None:
    top = variants.top
    if len(top) < _FEWEST or top["chrom"].nunique() > 1:
        return None
    names = [name if place < _NAMED else "" for place, name in enumerate(top["id"])]
    contig = str(top["chrom"].iloc[0])
    unit = "value" if _is_of_table(top) else "logit"
    return along_contig(top["pos"].tolist(), top["delta"].tolist(), names, contig, unit)


def _rarity(variants: VariantSummary) -> dict[str, Any] | None:
    """Say how many E-values are small, beside what is expected of the background's own variants."""
    rarity = variants.rarity
    if rarity is None or not rarity.total:
        return None
    found = int(rarity.counts[np.isclose(rarity.thresholds, _RARE)][0])
    seen = rarity.thresholds[rarity.counts > 0]
    shown = rarity.thresholds >= min(seen.min() / 10**0.25, 0.1) * 0.999
    is_many = rarity.total > 1  # of one allele the table says it all
    figure = below(rarity.thresholds[shown], rarity.counts[shown], rarity.total) if is_many else ""
    expected = f"{rarity.total * _RARE:,.3g}"
    return {"at": _RARE, "found": found, "expected": expected, "figure": figure}


def _details(top: pd.DataFrame, logos: Pictures, curves: Pictures) -> list[Detail]:
    found = []
    first = top.head(_DETAILED)
    for key, row in zip(keys_of(first), first.to_dict("records"), strict=True):
        changes = [_change(effect) for effect in row["effects"]]
        pictures = logos.get(key, ""), curves.get(key, "")
        found.append(Detail(row, changes, *pictures, is_turned(row)))
    return found


def _loci(top: pd.DataFrame, curves: Pictures) -> list[Locus]:
    rows = enumerate(top.to_dict("records"))
    return [Locus(row, found) for rank, row in rows if (found := curves.get((rank,), "")) != ""]


def _is_of_table(top: pd.DataFrame) -> bool:
    """Tell whether the effects are of a table head: without chromatin all are of one output."""
    return bool(top.get("feature", _NONE).str.startswith(MARK).any())


def _change(effect: Effect) -> Change:
    from genobird.heads import POSITIVE_WEIGHT, probabilities

    if effect.name == LLR:  # no logit, so there is no probability
        return Change(effect, np.nan, np.nan)
    if effect.name.startswith(MARK):  # in units of its own
        return Change(effect, effect.ref, effect.alt)
    weight = 1.0 if effect.name == PROMOTER else POSITIVE_WEIGHT
    ref, alt = probabilities(np.array([effect.ref, effect.alt], np.float32), weight)
    return Change(effect, float(ref), float(alt))


def _label(row: Mapping[Any, Any]) -> str:
    return region_text(row) if row["name"] in ("", ".") else short(row["name"])
