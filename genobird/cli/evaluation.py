"""Verbs that judge models: baselines, evaluate, card, tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

from genobird.cli.options import Configured, Made, Names
from genobird.cli.running import provenance, refuse_same_file
from genobird.config import argument, load_config, option
from genobird.errors import UsageError
from genobird.files import refuse_existing
from genobird.names import deferred
from genobird.tasks.settings import EvaluateData, LabelledData

with deferred():
    from genobird.baselines import config as baseline_config
    from genobird.baselines import train as baseline_training
    from genobird.report import card as cards
    from genobird.report import tables as pages
    from genobird.tasks import evaluate as evaluation


class BaselineOptions(Configured):
    """Which baselines are trained, beside labelled data on what."""

    models: Names = option("Names separated by commas; default composition,convolution.")
    shards: Path | None = option("Token shards for counting n-grams.")
    held_out: Path | None = option("Held-out token shards for n-gram models.")
    tokenizer: Path | None = option("Tokenizer file of the shards.")
    resume: bool = option("Continue an unfinished run.", default=False)


class EvaluateOptions(Configured):
    """Which model is measured, and how."""

    model: Path = argument("Model directory.")


class CardOptions(Made):
    """What a model card is written from."""

    model: Path = argument("Model directory.")
    evaluation: Path = option("evaluation.json that `evaluate` wrote for this model.", default=...)


class TablesOptions(Made):
    """What the page of tables is made from."""

    table: tuple[str, ...] = option(
        "NAME=evaluation.json; NAME is table1, figure8, table5, table6-<negatives> or table7. "
        "Repeatable.",
        default=...,
    )
    run: tuple[str, ...] = option(
        "NAME=DIR, a pretraining run whose curves are drawn; repeatable.", default=()
    )
    published: Path | None = option(
        "Published figures by feature: index, <model>_AUROC, <model>_AUPRC."
    )


def baselines(options: BaselineOptions, data: LabelledData) -> None:
    """Train baselines on the same data, and predict the held-out part.

    composition, kmers, gapped_kmers, convolution, cnnprom, deepromoter, deepsea and danq read
    labelled data, ngram_bases and ngram_tokens read token shards.
    """
    tokens = [path for path in (options.shards, options.held_out, options.tokenizer) if path]
    if len(tokens) not in (0, 3):
        raise UsageError("n-gram models want --shards, --held-out and --tokenizer; give all three")
    chosen = [] if options.models is None else [f"models=[{', '.join(options.models)}]"]
    config = load_config(
        baseline_config.BaselineConfig, options.config, [*options.overrides, *chosen]
    )
    baseline_training.train_baselines(
        options.output,
        **dict(data),
        sequence=baseline_training.SequenceSource(*tokens) if tokens else None,
        config=config,
        resume=options.resume,
        force=options.force,
    )
    typer.echo(f"baselines written to {options.output}", err=True)


def evaluate(options: EvaluateOptions, data: EvaluateData) -> None:
    """Measure a model on labelled data, with bootstrap confidence intervals."""
    evaluation.evaluate(
        options.model,
        options.output,
        load_config(evaluation.EvaluateSettings, options.config, options.overrides),
        force=options.force,
        provenance=provenance(),
        **dict(data),
    )
    typer.echo(f"figures written to {options.output / evaluation.EVALUATION}", err=True)


def card(options: CardOptions) -> None:
    """Write a model card in Markdown: data, training and all test figures."""
    refuse_same_file({"--output": options.output}, {"--evaluation": options.evaluation})
    refuse_existing(options.output, options.force)
    cards.write_card(options.model, options.evaluation, options.output)
    typer.echo(f"card written to {options.output}", err=True)


def tables(options: TablesOptions) -> None:
    """Write the paper's tables, as reproduced here, as one HTML page."""
    sources = pages.Sources(_named(options.table), _named(options.run), options.published)
    inputs = {f"--table {name}": path for name, path in sources.tables.items()}
    refuse_same_file({"--output": options.output}, {**inputs, "--published": options.published})
    pages.write_tables(sources, options.output, options.force)
    typer.echo(f"tables written to {options.output}", err=True)


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
