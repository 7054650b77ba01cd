"""Verbs that judge models: baselines, evaluate, card, tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from genobird.cli.running import provenance, refuse_existing, split_names
from genobird.cli.training import ConfigFile, Force, Output, Overrides, Resume
from genobird.errors import UsageError

Chromatin = Annotated[Path | None, typer.Option(help="Chromatin dataset, a directory.")]
Promoters = Annotated[Path | None, typer.Option(help="Promoter windows, a Parquet table.")]
Scan = Annotated[
    Path | None, typer.Option(help="Promoters among all windows of a scan, a Parquet table.")
]
Split = Annotated[str, typer.Option(help="Part of the data that is predicted.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(baselines)
    app.command()(evaluate)
    app.command()(card)
    app.command()(tables)


def baselines(
    output: Output,
    models: Annotated[
        str | None, typer.Option(help="Names separated by commas; default composition,convolution.")
    ] = None,
    chromatin: Chromatin = None,
    promoters: Promoters = None,
    scan: Scan = None,
    shards: Annotated[Path | None, typer.Option(help="Token shards for counting n-grams.")] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Held-out token shards for n-gram models.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer file of the shards.")] = None,
    split: Split = "test",
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Train baselines on the same data, and predict the held-out part.

    composition, kmers, gapped_kmers, convolution, cnnprom, deepromoter, deepsea and danq read
    labelled data, ngram_bases and ngram_tokens read token shards.
    """
    from genobird.baselines.config import BaselineConfig
    from genobird.baselines.train import SequenceSource, train_baselines
    from genobird.config import load_config

    sequence = None
    if shards is not None and held_out is not None and tokenizer is not None:
        sequence = SequenceSource(shards, held_out, tokenizer)
    elif any(path is not None for path in (shards, held_out, tokenizer)):
        raise UsageError("n-gram models want --shards, --held-out and --tokenizer; give all three")
    names = split_names(models)
    chosen = [f"models=[{', '.join(names)}]"] if names is not None else []
    train_baselines(
        output,
        chromatin=chromatin,
        promoters=promoters,
        scan=scan,
        sequence=sequence,
        config=load_config(BaselineConfig, config, [*(overrides or ()), *chosen]),
        split=split,
        resume=resume,
        force=force,
    )
    typer.echo(f"baselines written to {output}")


def evaluate(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    output: Output,
    chromatin: Chromatin = None,
    promoters: Promoters = None,
    scan: Scan = None,
    shards: Annotated[
        Path | None, typer.Option(help="Token shards of held-out sequence, for bits per base.")
    ] = None,
    repeats: Annotated[
        list[Path] | None,
        typer.Option(help="BED: also bits per base inside and outside these; repeatable."),
    ] = None,
    baselines: Annotated[
        list[Path] | None,
        typer.Option(help="Trained baselines or named evaluations to compare with; repeatable."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Store the predictions under this name, to compare others with."),
    ] = None,
    split: Split = "test",
    config: ConfigFile = None,
    overrides: Overrides = None,
    force: Force = False,
) -> None:
    """Measure a model on labelled data, with bootstrap confidence intervals."""
    from genobird.config import load_config
    from genobird.tasks.evaluate import EVALUATION, EvaluateSettings
    from genobird.tasks.evaluate import evaluate as run

    run(
        model,
        output,
        chromatin=chromatin,
        promoters=promoters,
        scan=scan,
        shards=shards,
        repeats=repeats or (),
        split=split,
        baselines=baselines or (),
        name=name,
        settings=load_config(EvaluateSettings, config, overrides or ()),
        force=force,
        provenance=provenance(),
    )
    typer.echo(f"figures written to {output / EVALUATION}")


def card(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    evaluation: Annotated[
        Path, typer.Option(help="evaluation.json that `evaluate` wrote for this model.")
    ],
    output: Output,
    force: Force = False,
) -> None:
    """Write a model card in Markdown: data, training and all test figures."""
    from genobird.report.card import write_card

    refuse_existing(output, force)
    write_card(model, evaluation, output)
    typer.echo(f"card written to {output}")


def tables(
    output: Output,
    table: Annotated[
        list[str],
        typer.Option(
            help="NAME=evaluation.json; NAME is table1, figure8, table5, table6-<negatives> or "
            "table7. Repeatable."
        ),
    ],
    run: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIR, a pretraining run whose curves are drawn; repeatable."),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(help="Published figures by feature: index, <model>_AUROC, <model>_AUPRC."),
    ] = None,
    force: Force = False,
) -> None:
    """Write the paper's tables, as reproduced here, as one HTML page."""
    from genobird.report.tables import Sources, write_tables

    write_tables(Sources(_named(table), _named(run or ()), published), output, force)
    typer.echo(f"tables written to {output}")


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
