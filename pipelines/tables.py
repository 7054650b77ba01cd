"""One HTML page of the paper's tables, as they come out on the data at hand.

Enters what `evaluate` wrote for the models of each table; leaves one file that needs nothing else.
Every cell has its bootstrap interval, and the paper's own figure stands beside it where there is
one: measured on other data, by rules that are not all known, and not comparable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
import yaml

import genobird
from genobird.cli.running import refuse_same_file
from genobird.errors import InputError, UsageError, counted
from genobird.files import PAGES, check_output, read_json, write_text
from genobird.report.evaluation import Facts, listed, name_of, number, read_table, shown
from genobird.report.page import environment
from genobird.report.plots import Line, panels, scatter
from pipelines import steps

NAMES = ("table1", "figure8", "table5", "table6", "table7")
MODEL = "BigBird"
PAPER_ACCURACY = {"random": "60.1", "window": "58.3", "random+window": "62.7", "full": "64.2"}
PAPER_BITS = {"ngram_bases": "1.57", "ngram_tokens": "1.57", "full": "1.23", "bigbird": "1.12"}
_PARTS = {
    "bits_per_base": "bits per base",
    "bits_per_base_no_n": "tokens without N",
    "bits_per_base_repeats": "inside repeats",
    "bits_per_base_unique": "outside repeats",
}
PAPER_F1 = {"cnnprom": "69.7", "deepromoter": "95.6", MODEL: "99.9"}
PAPER_AUROC = {
    "gapped_kmers": {"TF": "89.6"},
    "deepsea": {"TF": "95.8", "histone": "85.6", "DNase": "92.3"},
    MODEL: {"TF": "96.1", "histone": "88.7", "DNase": "92.1"},
}
_FIGURES = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "brier": "Brier score"}
_PLACES = {"tf_bins": "bins where a TF binds", "all_bins": "all bins"}


@dataclass(frozen=True)
class Sources:
    """What the page is made of."""

    tables: Mapping[str, Path]
    """`evaluation.json` by the table's name; those of table 6 are `table6-<negatives>`."""
    runs: Mapping[str, Path] = field(default_factory=dict)
    """Pretraining run directories by name, for their curves."""
    published: Path | None = None
    """Table of published figures by feature, with `index`, `<model>_AUROC` and `<model>_AUPRC`."""


@dataclass(frozen=True)
class Grid:
    """A table of text; `folded` shows its caption alone until it is opened."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows."""

    svg: str
    caption: str


@dataclass
class Section:
    """One table of the paper: its paragraphs, grids and pictures."""

    anchor: str
    """Its name in links."""
    title: str
    text: list[str]
    grids: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    """What it was made with, name -> JSON."""


def write_tables(sources: Sources, output: Path, force: bool = False) -> None:
    """Write the page.

    Raises:
        UsageError: no table, an unknown one, a missing file, published figures without table 7, or
            an output that exists, is read or is named as no page.
        InputError: a file that does not hold what it should.
    """
    if not sources.tables:
        raise UsageError(f"no table is given; give one or more of {', '.join(NAMES)}")
    inputs = {f"--table {name}": path for name, path in sources.tables.items()}
    refuse_same_file({"--output": output}, {**inputs, "--published": sources.published})
    check_output(output, PAGES, force)
    if sources.published is not None and "table7" not in sources.tables:
        raise UsageError("--published stands beside table7; give --table table7=FILE too")
    write_text(output, render(sources))


def render(sources: Sources) -> str:
    """Return the page as text; errors are those of `write_tables`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, path in sources.tables.items():
        table, _, variant = name.partition("-")
        if table not in NAMES or (variant != "") != (table == "table6"):
            raise UsageError(
                f"table {name!r} is not one of table1, figure8, table5, table6-<negatives>, table7"
            )
        found.setdefault(table, {})[variant] = read_json(path)
    sections: list[Section] = []
    for table in (name for name in NAMES if name in found):
        try:
            if table == "table6":
                sections.append(promoter_section(found[table]))
            elif table == "table7":
                features = _features(sources.tables[table])
                published = _published(sources.published)
                sections.append(chromatin_section(found[table][""], features, published))
            else:
                sections.append(masked_section(table, found[table][""]))
        except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
            fault = f"has no {error}" if isinstance(error, KeyError) else f"is damaged ({error})"
            raise InputError(
                f"the evaluation of {table} {fault}; it measures something else, or was "
                "written by another version"
            ) from error
    if sources.runs:
        sections.append(training_section(sources.runs))
    template = Path(__file__).with_name("tables.html.j2").read_text()
    page = environment().from_string(template)
    return page.render(sections=sections, version=genobird.__version__)


def masked_section(name: str, evaluation: Facts) -> Section:
    """Describe masked language models: table 1, figure 8 or table 5."""
    titles = {
        "table1": "Table 1: building blocks of the attention pattern",
        "figure8": "Figure 8: length of the context",
        "table5": "Table 5: bits per base of held-out sequence",
    }
    masked = evaluation["masked"]
    texts = {
        "table1": "The same encoder with five attention patterns, trained alike. The paper's "
        "accuracies (per cent, @512) are those of English text.",
        "figure8": "The same encoder trained with windows of different length and the same number "
        "of tokens per step. All are asked for the same tokens of the same windows; a model with "
        "a shorter context sees the window in pieces. Global tokens are a sequence's first ones "
        "(ITC) or learned and put before it (ETC). The paper's figure ends near 22, 24 and 27 per "
        "cent for 512, 1024 and 4096 tokens.",
        "table5": "n-gram models read from left to right, from what stands before a token, all of "
        "it known. Masked models see both sides, with a part of the tokens hidden. Both are asked "
        "for the same tokens.",
    }
    section = Section(name, titles[name], [texts[name], _interval_text(evaluation, masked)])
    section.text.append(
        f"{masked['tokens']:,} masked tokens of {masked['sequences']} held-out windows. Their own "
        f"frequencies, without any context, give {number(masked['frequencies'])} bits per base."
    )
    compared = evaluation["data"].get("compared", {})
    named = {other: _masked_label(other, compared.get(other)) for other in masked["baselines"]}
    mine = _masked_label("model", evaluation)
    rows: list[tuple[str, Facts, Facts | None, str]] = [
        (named[other], figures, figures["difference"], _masked_paper(name, other, compared))
        for other, figures in masked["baselines"].items()
    ]
    rows.append((mine, masked, None, _masked_paper(name, "model", {"model": evaluation})))
    figures = [key for key in _PARTS if key in masked]
    if name == "table1":
        figures = ["accuracy", "bits_per_base"]
    elif name == "figure8":
        figures = ["accuracy", *figures[:1]]
    heads = {"accuracy": "accuracy", **_PARTS}
    section.grids.append(
        Grid(
            f"In square brackets 95 % intervals; difference: {mine} minus the row's model.",
            ["model", *(x for key in figures for x in (heads[key], "difference")), "paper"],
            [
                [label, *_masked_cells(found, difference, figures), paper]
                for label, found, difference, paper in rows
            ],
        )
    )
    section.facts |= _provenance(evaluation)
    return section


def _masked_cells(found: Facts, difference: Facts | None, figures: Iterable[str]) -> Iterable[str]:
    for key in figures:
        yield shown(found[key]) if key in found else ""
        known = difference is not None and key in difference
        yield shown(difference[key], signed=True) if known and difference else ""


def _masked_label(name: str, facts: Facts | None) -> str:
    if facts is None:
        return name_of(name)
    settings = facts["settings"]
    tokens = settings["masked_context"] or settings["masked"]["max_tokens"]
    return f"{_attention(facts['encoder'])}, {tokens:,} tokens"


def _attention(encoder: Facts) -> str:
    """Say what an encoder's tokens attend to."""
    if encoder["pattern"] == "full":
        return "full attention (BERT)"
    learned = encoder.get("global_tokens") == "extra"
    return f"{encoder['pattern']}, learned global tokens (ETC)" if learned else encoder["pattern"]


def _masked_paper(table: str, name: str, known: Facts) -> str:
    pattern = known[name]["encoder"]["pattern"] if name in known else name
    values = {"table1": PAPER_ACCURACY, "table5": PAPER_BITS}
    return values.get(table, {}).get(pattern, "")


def training_section(runs: Mapping[str, Path]) -> Section:
    """Draw the curves of pretraining runs."""
    bits: dict[str, dict[str, Line]] = {"training": {}, "validation": {}}
    accuracy: dict[str, Line] = {}
    for name, path in runs.items():
        table = _metrics(path)
        for part, lines in bits.items():
            known = table.dropna(subset=[f"{part}/bits_per_base".replace("training", "train")])
            column = f"{'train' if part == 'training' else part}/bits_per_base"
            lines[name] = (known["tokens"].tolist(), known[column].tolist())
        known = table.dropna(subset=["validation/accuracy"])
        accuracy[name] = (known["tokens"].tolist(), known["validation/accuracy"].tolist())
    x = "million tokens seen"
    return Section(
        "training",
        "Training curves",
        ["Masked language models by tokens seen; validation is on the validation part."],
        pictures=[
            Picture(panels(bits, x=x, y="bits per base", unit=False), "Bits per base."),
            Picture(
                panels({"validation": accuracy}, x=x, y="accuracy", unit=False, markers=True),
                "Accuracy of masked tokens.",
            ),
        ],
    )


def _metrics(path: Path) -> pd.DataFrame:
    """Read the metrics of a run, resumed or not, with millions of tokens seen."""
    # metrics.2.csv, metrics.10.csv, metrics.csv: the longer number is the larger one.
    files = sorted(
        (path / "logs").glob("metrics*.csv"),
        key=lambda file: (file.name == "metrics.csv", len(file.name), file.name),
    )
    if not files or not (path / "config.yaml").is_file():
        raise UsageError(f"{path} is no pretraining run: it lacks logs/metrics.csv or config.yaml")
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
        each = config["fit"].get("accumulate", 1)
        each *= config["data"]["sequences"] * config["data"]["max_tokens"]
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path / 'config.yaml'} is of no pretraining run: it has no fit, data.sequences or "
            "data.max_tokens"
        ) from error
    table = pd.concat([read_table(file, ["step"], ",") for file in files], ignore_index=True)
    for column in ("train/bits_per_base", "validation/bits_per_base", "validation/accuracy"):
        if column not in table:
            table[column] = float("nan")
    return table.assign(tokens=(table["step"] + 1) * each / 1e6)


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
            "split that it does not state."
        ],
    )
    for kind, evaluation in evaluations.items():
        if len(section.text) == 1:
            section.text.append(_interval_text(evaluation, evaluation["promoters"]))
        _add_windows(section, evaluation["promoters"], f"{kind} negatives", PAPER_F1)
        if "scan" in evaluation:
            _add_windows(section, evaluation["scan"], f"a scan, by models of {kind} negatives", {})
        section.grids.append(_baseline_grid(evaluation, "promoters", f" ({kind})"))
        section.facts |= _provenance(evaluation, f"{kind}: ")
    return section


def _add_windows(section: Section, found: Facts, what: str, paper: Mapping[str, str]) -> None:
    """Add the figures and curves of promoters among windows, beside the paper's if it has any."""
    rows = []
    for name, figures in _models(found):
        difference = figures.get("difference")
        cells = [
            shown(figures["figures"][f]) + (_signed(difference[f]) if difference else "")
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
            _interval_text(evaluation, found),
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
                    + (_signed(cells[f"{f}_difference"]) if f"{f}_difference" in cells else "")
                    for f in ("auroc", "auprc")
                ]
                paper = PAPER_AUROC.get(name, {}).get(kind, "")
                label = _chromatin_label(name, evaluation)
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
    section.facts |= _provenance(evaluation)
    return section


def _contigs(evaluation: Facts, part: str) -> list[str]:
    """Contigs of a part of the split, each once."""
    rows = evaluation["data"]["chromatin"]["splits"].get(part, [])
    return list(dict.fromkeys(contig for contig, *_ in rows))


def _chromatin_label(name: str, evaluation: Facts) -> str:
    """Name a model by its attention, or a baseline with its width where it is not as published."""
    compared = evaluation["data"].get("compared", {})
    if name in compared:
        return _attention(compared[name]["encoder"])
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
        made = [str(width), steps, str(facts.get("epochs", "")), str(facts["seconds"])]
        rows.append([name_of(name), f"{facts['parameters']:,}", *made])
    return Grid(
        f"The baselines as trained here{suffix}; a width of 1 is the published size",
        ["model", "parameters", "width", "steps", "epochs", "seconds"],
        rows,
        folded=True,
    )


def _interval_text(evaluation: Facts, found: Facts) -> str:
    """Say how the intervals were made."""
    settings = evaluation["settings"]
    return (
        f"95 % bootstrap intervals: {settings['resamples']} resamples (seed {settings['seed']}) of "
        f"{counted(found['groups'], 'stretch')} of {settings['group_bp'] / 1000:g} kb of the "
        f"{evaluation['split']} part. They say how figures vary along the genome, not between "
        "training runs."
    )


def _provenance(evaluation: Facts, prefix: str = "") -> dict[str, str]:
    """Return settings, training and data of an evaluation as JSON."""
    keys = ("genobird", "command", "model_sha256", "settings", "encoder", "training", "data")
    return {
        f"{prefix}{key}": json.dumps(evaluation[key], indent=1) for key in keys if key in evaluation
    }


def _signed(interval: Mapping[str, float | None]) -> str:
    """Write a difference behind a figure."""
    return f"; {shown(interval, signed=True)}"


def _features(evaluation: Path) -> pd.DataFrame:
    path = evaluation.with_name("per_feature.tsv")
    if not path.is_file():
        raise UsageError(f"there is no {path}, which `genobird evaluate` writes beside its figures")
    return read_table(path, ["index"])


def _published(path: Path | None) -> pd.DataFrame | None:
    if path is None:
        return None
    if not path.is_file():
        raise UsageError(f"there is no table of published figures {path}")
    table = read_table(path, [])
    figures = [c for c in table.columns if c.endswith(("_AUROC", "_AUPRC"))]
    if "index" not in table.columns or not figures:
        raise InputError(
            f"{path} has the columns {', '.join(table.columns)}; `index` and `<model>_AUROC` or "
            "`<model>_AUPRC` are needed"
        )
    return read_table(path, ["index", *figures])[["index", *figures]].set_index("index")


def main(
    table: Annotated[
        list[str],
        typer.Option(
            help="NAME=evaluation.json; NAME is table1, figure8, table5, table6-<negatives> or "
            "table7. Repeatable."
        ),
    ],
    output: Annotated[Path, typer.Option(help="HTML file to write.")],
    run: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIR, a pretraining run whose curves are drawn; repeatable."),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(help="Published figures by feature: index, <model>_AUROC, <model>_AUPRC."),
    ] = None,
    force: steps.Force = False,
) -> None:
    """Write the paper's tables, as reproduced here, as one HTML page."""
    write_tables(Sources(_named(table), _named(run or []), published), output, force)


def _named(items: Iterable[str]) -> dict[str, Path]:
    """Read NAME=PATH."""
    found: dict[str, Path] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise UsageError(f"{item!r} found; NAME=PATH is wanted")
        if name in found:
            raise UsageError(f"{name} is given twice")
        found[name] = Path(path)
    return found


if __name__ == "__main__":
    steps.run(main)
