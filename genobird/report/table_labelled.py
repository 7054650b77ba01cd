"""Tables 6 and 7: promoters and chromatin profiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from genobird.report.markdown import listed, number, shown
from genobird.report.names import name_of
from genobird.report.table_plots import Line, panels, scatter
from genobird.report.table_sections import (
    MODEL,
    Facts,
    Grid,
    Picture,
    Section,
    interval_text,
    provenance,
    signed,
)

PAPER_F1 = {"cnnprom": "69.7", "deepromoter": "95.6", MODEL: "99.9"}
PAPER_AUROC = {
    "gapped_kmers": {"TF": "89.6"},
    "deepsea": {"TF": "95.8", "histone": "85.6", "DNase": "92.3"},
    MODEL: {"TF": "96.1", "histone": "88.7", "DNase": "92.1"},
}
_FIGURES = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "brier": "Brier score"}
_PLACES = {"tf_bins": "bins where a TF binds", "all_bins": "all bins"}


def promoter_section(evaluations: Mapping[str, Facts]) -> Section:
    """Describe promoters against each kind of negatives: table 6."""
    section = Section(
        "table6",
        "Table 6: promoters",
        [
            "A promoter is told from a negative made in one of several ways: genomic, a GC-matched "
            "window without a start site; shuffle, 12 of 20 pieces of the promoter permuted; "
            "substitute, 12 of 20 pieces replaced by random bases (the paper's). In a scan the "
            "promoters lie among all windows without a start site, one every 2,000 bp. The k-mer "
            "logistic regression knows four letters at a time: where it does well, the negatives "
            "give themselves away. The paper's F1 (per cent) is against substitute, on another "
            "split that it does not state.",
        ],
    )
    for kind, evaluation in evaluations.items():
        if len(section.text) == 1:
            section.text.append(interval_text(evaluation, evaluation["promoters"]))
        _add_windows(section, evaluation["promoters"], f"{kind} negatives", PAPER_F1)
        if "scan" in evaluation:
            _add_windows(section, evaluation["scan"], f"a scan, by models of {kind} negatives", {})
        section.grids.append(_baseline_grid(evaluation, "promoters", f" ({kind})"))
        section.facts |= provenance(evaluation, f"{kind}: ")
    return section


def _add_windows(section: Section, found: Facts, what: str, paper: Mapping[str, str]) -> None:
    """Add the figures and curves of promoters among windows, beside the paper's if it has any."""
    rows = []
    for name, figures in _models(found):
        difference = figures.get("difference")
        cells = [
            shown(figures["figures"][f]) + (signed(difference[f]) if difference else "")
            for f in _FIGURES
        ]
        rows.append([name_of(name), *cells, *([paper.get(name, "")] if paper else [])])
    title = f"{what[0].upper()}{what[1:]}"
    section.grids.append(
        Grid(
            f"{title}. {found['windows']:,} windows, {found['positives']} promoters. After the "
            f"semicolon {MODEL} minus the row's model.",
            ["model", *_FIGURES.values(), *(["paper, F1"] if paper else [])],
            rows,
        )
    )
    lines = {name_of(n): f["curves"] for n, f in _models(found)}
    section.pictures += _curves({"": lines}, found["curve_grid"], what)
    section.pictures.append(_reliability(found, what))


def chromatin_section(
    evaluation: Facts, features: pd.DataFrame, published: pd.DataFrame | None
) -> Section:
    """Describe chromatin profiles by class and by feature: table 7."""
    found = evaluation["chromatin"]
    section = Section(
        "table7",
        "Table 7: chromatin profiles",
        [
            "Medians over the features with positives. Bins where a TF binds are those that lie "
            "for more than half in a peak of one, DeepSEA's are those that one touches; over all "
            "bins a model has to find them too. The paper's AUROC (per cent) and the published "
            "figures by feature were measured on chromosomes 8 and 9, by models that were trained "
            f"on all others. Here {listed(_contigs(evaluation, 'train'))} were trained on, and "
            f"{listed(_contigs(evaluation, evaluation['split']))} measured.",
            interval_text(evaluation, found),
        ],
    )
    table = features
    if published is not None:
        table = features.merge(published, left_on="index", right_index=True, how="left")
        names = sorted({c.rpartition("_")[0] for c in published.columns})
    for what in (place for place in _PLACES if place in found):
        rows = []
        for name, figures in _models(found):
            for kind, cells in figures[what]["classes"].items():
                if not cells["features"]:
                    continue
                shows = [
                    shown(cells[f])
                    + (signed(cells[f"{f}_difference"]) if f"{f}_difference" in cells else "")
                    for f in ("auroc", "auprc")
                ]
                paper = PAPER_AUROC.get(name, {}).get(kind, "")
                label = _with_width(name, evaluation)
                rows.append([f"{kind} ({cells['features']})", label, *shows, paper])
        if published is not None:
            rows += _published_rows(table, names, f"{what}_positives")
        rows.sort(key=lambda row: list(found[what]["classes"]).index(row[0].split(" ")[0]))
        place = f"{_PLACES[what][0].upper()}{_PLACES[what][1:]}"
        section.grids.append(
            Grid(
                f"{place}: {found[what]['windows']:,}. After the semicolon {MODEL} minus the row's "
                "model.",
                ["class (features)", "model", "median AUROC", "median AUPRC", "paper, AUROC"],
                rows,
            )
        )
        curves = {
            kind: {
                name_of(n): f[what]["curves"][kind]
                for n, f in _models(found)
                if f[what]["curves"][kind]
            }
            for kind, cells in found[what]["classes"].items()
            if cells["features"] and kind != "all"
        }
        section.pictures += _curves(curves, found["curve_grid"], f"{_PLACES[what]}, mean feature")
    section.pictures.append(_reliability(found, "all labels"))
    if published is not None:
        section.pictures += _scatters(table, names)
    section.grids.append(_baseline_grid(evaluation, "chromatin", ""))
    section.grids.append(_feature_grid(table))
    section.facts |= provenance(evaluation)
    return section


def _contigs(evaluation: Facts, part: str) -> list[str]:
    """Contigs of a part of the split, each once."""
    rows = evaluation["data"]["chromatin"]["splits"].get(part, [])
    return list(dict.fromkeys(contig for contig, *_ in rows))


def _with_width(name: str, evaluation: Facts) -> str:
    """Name a model, and how wide it is where that is not as published."""
    facts = evaluation["data"].get("baselines", {}).get("chromatin", {}).get(name, {})
    width = facts.get("shape", {}).get("width", 1)
    return name_of(name) if width == 1 else f"{name_of(name)}, {width:g} of its width"


def _published_rows(table: pd.DataFrame, names: Iterable[str], positives: str) -> list[list[str]]:
    """Medians of published figures over the same features."""
    rows = []
    for kind, part in table[table[positives] > 0].groupby("class", sort=False):
        for name in names:
            cells = []
            for figure in ("AUROC", "AUPRC"):
                column = f"{name}_{figure}"
                known = part[column].dropna() if column in part else pd.Series(dtype=float)
                cells.append(number(float(known.median())) if len(known) else "")
            if any(cells):
                label = f"{name.replace('_', '-')}, published (chromosomes 8 and 9)"
                rows.append([f"{kind} ({len(part)})", label, *cells, ""])
    return rows


def _scatters(table: pd.DataFrame, names: Iterable[str]) -> Iterable[Picture]:
    place = "tf_bins" if "tf_bins_auroc" in table else "all_bins"
    for name in names:
        column = f"{name}_AUROC"
        if column not in table:
            continue
        known = table.dropna(subset=[column, f"{place}_auroc"])
        groups: dict[str, Line] = {
            str(kind): (part[column].tolist(), part[f"{place}_auroc"].tolist())
            for kind, part in known.groupby("class", sort=False)
        }
        if groups:
            label = name.replace("_", "-")
            picture = scatter(groups, x=f"AUROC of {label}, published", y=f"AUROC of {MODEL}")
            yield Picture(
                picture,
                f"AUROC of each feature over {_PLACES[place]}, beside {label}'s published one "
                "(chromosomes 8 and 9).",
            )


def _feature_grid(table: pd.DataFrame) -> Grid:
    columns = [c for c in table.columns if c != "index"]
    rows = [
        [
            "" if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else str(value)
            for value in row
        ]
        for row in table[columns].itertuples(index=False)
    ]
    return Grid(f"Every feature ({len(rows)})", [c.replace("_", " ") for c in columns], rows, True)


def _models(found: Facts) -> list[tuple[str, Facts]]:
    return [(MODEL, found), *found["baselines"].items()]


def _curves(
    parts: Mapping[str, Mapping[str, Facts]], grid: Sequence[float], what: str
) -> Iterable[Picture]:
    names = {
        "roc": ("ROC", "false-positive rate", "true-positive rate"),
        "precision_recall": ("Precision and recall", "recall", "precision"),
    }
    for key, (title, x, y) in names.items():
        lines = {
            part: {name: (grid, curves[key]) for name, curves in models.items()}
            for part, models in parts.items()
            if models
        }
        if lines:
            picture = panels(lines, x=x, y=y, diagonal=key == "roc")
            yield Picture(picture, f"{title}, {what}.")


def _reliability(found: Facts, what: str) -> Picture:
    lines: dict[str, Line] = {
        name_of(name): (
            [row["predicted"] for row in figures["calibration"]["table"]],
            [row["observed"] for row in figures["calibration"]["table"]],
        )
        for name, figures in _models(found)
    }
    picture = panels(
        {"": lines}, x="predicted probability", y="observed share", diagonal=True, markers=True
    )
    return Picture(picture, f"Reliability, {what}.")


def _baseline_grid(evaluation: Facts, kind: str, suffix: str) -> Grid:
    rows = []
    for name, facts in evaluation["data"].get("baselines", {}).get(kind, {}).items():
        if not isinstance(facts, Mapping):
            continue
        width = facts.get("shape", {}).get("width", "")
        steps = f"{facts['steps']:,}" if "steps" in facts else ""
        rows.append(
            [
                name_of(name), f"{facts['parameters']:,}", str(width), steps,
                str(facts.get("epochs", "")), str(facts["seconds"]),
            ]
        )  # fmt: skip
    return Grid(
        f"The baselines as trained here{suffix}; a width of 1 is the published size",
        ["model", "parameters", "width", "steps", "epochs", "seconds"],
        rows,
        folded=True,
    )
