"""Tables 1 and 5, figure 8 and the training curves: masked language models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import yaml

from genobird.errors import UsageError
from genobird.report.markdown import number, shown
from genobird.report.names import name_of
from genobird.report.table_plots import Line, panels
from genobird.report.table_sections import (
    Facts,
    Grid,
    Picture,
    Section,
    interval_text,
    provenance,
)

PAPER_ACCURACY = {"random": "60.1", "window": "58.3", "random+window": "62.7", "full": "64.2"}
PAPER_BITS = {"ngram_bases": "1.57", "ngram_tokens": "1.57", "full": "1.23", "bigbird": "1.12"}
_PARTS = {
    "bits_per_base": "bits per base",
    "bits_per_base_no_n": "tokens without N",
    "bits_per_base_repeats": "inside repeats",
    "bits_per_base_unique": "outside repeats",
}


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
        "of tokens a step. All are asked for the same tokens of the same windows; a model with "
        "a shorter context sees the window in pieces. The paper's figure ends near 22, 24 and 27 "
        "per cent for 512, 1024 and 4096 tokens.",
        "table5": "n-gram models read from left to right, from what stands before a token, all of "
        "it known. Masked models see both sides, with a part of the tokens hidden. Both are asked "
        "for the same tokens.",
    }
    section = Section(name, titles[name], [texts[name], interval_text(evaluation, masked)])
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
    section.facts |= provenance(evaluation)
    return section


def _masked_cells(found: Facts, difference: Facts | None, figures: Iterable[str]) -> Iterable[str]:
    for key in figures:
        yield shown(found[key]) if key in found else ""
        known = difference is not None and key in difference
        yield shown(difference[key], signed=True) if known and difference else ""


def _masked_label(name: str, facts: Facts | None) -> str:
    if facts is None:
        return name_of(name)
    pattern, tokens = facts["encoder"]["pattern"], facts["settings"]["masked_context"]
    tokens = tokens or facts["settings"]["masked"]["max_tokens"]
    return f"{'full attention (BERT)' if pattern == 'full' else pattern}, {tokens:,} tokens"


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
    config = yaml.safe_load((path / "config.yaml").read_text())
    data, batches = config["data"], config["fit"].get("accumulate", 1)
    table = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    for column in ("train/bits_per_base", "validation/bits_per_base", "validation/accuracy"):
        if column not in table:
            table[column] = float("nan")
    each = batches * data["sequences"] * data["max_tokens"]
    return table.assign(tokens=(table["step"] + 1) * each / 1e6)
