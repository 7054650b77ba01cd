"""Verbs that make models and judge them: corpus, tokenizer, shards, pretrain, ..., card."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import BaseModel

from genobird.cli.options import OVERRIDES, Configured, Made, Names
from genobird.cli.running import is_hushed, provenance, refuse_same_file, tell
from genobird.config import MOST_SEED, argument, described, load_config, option
from genobird.errors import SequenceError, UsageError, counted
from genobird.files import CARDS, VOCABULARIES, check_output
from genobird.genome.interval import read_bed
from genobird.genome.streams import STDIN, lines
from genobird.names import deferred
from genobird.tasks.settings import EvaluateData, LabelledData, PeakData, TableData

if TYPE_CHECKING:
    from genobird.checkpoint import Checkpoint
    from genobird.tasks.training import Head

with deferred():
    from genobird import corpus as corpora
    from genobird import model as models
    from genobird import shards as store
    from genobird import tokenizer as tokenizers
    from genobird.baselines import config as baseline_config
    from genobird.baselines import train as baseline_training
    from genobird.genome import sequence as sequences
    from genobird.report import card as cards
    from genobird.report import evaluation as reported
    from genobird.tasks import evaluate as evaluation
    from genobird.tasks import training

THREADS: Final = option("CPU processes or threads.", ge=1, default=1)
CORPUS: Final = argument("Corpus directory.")


class TrainingRun(Configured):
    """A training: its configuration, and what becomes of it."""

    resume: bool = option("Continue an unfinished run.", default=False)

    @property
    def bar(self) -> bool:
        """Whether a bar is shown: on a terminal alone."""
        return sys.stderr.isatty() and not is_hushed()


class PeakOptions(PeakData):
    """Peak files of one's own, and how a head learns them."""

    held_out: tuple[str, ...] = option(
        "With --peaks: contig, region or share of megabases to hold out; repeatable.", default=()
    )
    minutes: float | None = option("With --peaks: approximate time limit.", ge=0.01)
    steps: int | None = option("With --peaks: steps of the head, instead of --minutes.", ge=1)

    def overrides(self) -> list[str]:
        """Write the options as overrides of the settings for peaks."""
        chosen = []
        if self.held_out:
            chosen.append(f"held_out={json.dumps(self.held_out)}")
        if self.steps is not None:
            chosen += [f"steps={self.steps}", "minutes=null"]
        if self.minutes is not None:
            chosen.append(f"minutes={self.minutes}")
        return chosen

    def given(self) -> list[str]:
        """Return the options that were given, as a user writes them."""
        return [f"--{name.replace('_', '-')}" for name, value in self if value]


class CorpusOptions(Made):
    """What a corpus is drawn from, and how."""

    fastas: tuple[Path, ...] = argument("FASTA files, plain, gzip or BGZF.")
    regions: Path | None = option("BED: keep only sentences inside these intervals.")
    overrides: tuple[str, ...] = OVERRIDES


class Kind(StrEnum):
    """Kinds of SentencePiece model."""

    bpe = "bpe"
    unigram = "unigram"


class VocabularyOptions(Made):
    """How a vocabulary is learnt from a corpus."""

    corpus: Path = CORPUS
    kind: Kind = option("Kind of model.", default=Kind.bpe)
    vocab_size: int = option("Pieces, specials included.", default=32_000)
    max_piece: int = option("Longest piece, bp.", default=16)
    sample_bp: int = option("Bases sampled from the corpus.", default=100_000_000, ge=1)
    seed: int = option("Seed of the sample.", default=0, ge=0, le=MOST_SEED)
    threads: int = THREADS


class ShardOptions(Made):
    """Which corpus is cut into tokens, by which tokenizer."""

    corpus: Path = CORPUS
    tokenizer: Path = option("Tokenizer file.", default=...)
    threads: int = THREADS


CONFIGURATIONS: Final = {
    "corpus": ("corpus", "CorpusSettings"),
    "pretrain": ("tasks.pretrain", "PretrainConfig"),
    "finetune chromatin": ("tasks.finetune", "ChromatinConfig"),
    "finetune chromatin peaks": ("tasks.peaks", "PeaksSettings"),
    "finetune promoter": ("tasks.finetune", "PromoterConfig"),
    "finetune table": ("tasks.table", "TableSettings"),
    "finetune mlm": ("tasks.pretrain", "MLMConfig"),
    "baselines": ("baselines.config", "BaselineConfig"),
    "evaluate": ("tasks.evaluate", "EvaluateSettings"),
}
"""What --config and --set hold: verb -> module and name of a pydantic model."""


def configuration(verb: str) -> type[BaseModel]:
    """Return the model of what --config and --set hold."""
    module, name = CONFIGURATIONS[verb]
    found: type[BaseModel] = getattr(import_module(f"genobird.{module}"), name)
    return found


def _show_config(verb: str) -> Any:
    """Return an option that writes the configuration of a verb with all defaults, and ends."""

    def show(wanted: bool) -> None:
        if not wanted:
            return
        typer.echo(described(configuration(verb), {"model": models.BigBirdConfig}), nl=False)
        raise typer.Exit

    return typer.Option(
        "--print-config",
        callback=show,
        is_eager=True,
        help="Write the configuration with all defaults and what each field means, and exit.",
    )


def corpus(options: CorpusOptions) -> None:
    """Draw documents of sentences from contigs, as the BigBird paper does."""
    settings = load_config(corpora.CorpusSettings, None, options.overrides)
    intervals = list(read_bed(options.regions)) if options.regions else None
    made = corpora.build(options.fastas, options.output, settings, intervals, options.force)
    counts = made.index.counts
    tell(
        f"{counted(counts.documents, 'document')}, {counted(counts.sentences, 'sentence')}, "
        f"{counts.bp:,} bp",
        err=False,
    )


def tokenizer_train(options: VocabularyOptions) -> None:
    """Learn a vocabulary from a corpus."""
    output = options.output
    check_output(output, VOCABULARIES, options.force)
    text = corpora.read(options.corpus).sample_text(options.sample_bp, options.seed)
    made = tokenizers.Tokenizer.train(
        text, output, options.kind.value, options.vocab_size, options.max_piece, options.threads
    )
    tell(f"{made.vocab_size:,} pieces, sha256 {made.sha256[:12]}", err=False)


def tokenizer_encode(
    model: Annotated[Path, typer.Argument(help="Tokenizer file.")],
    sequence: Annotated[str, typer.Argument(help="DNA, or - for lines on standard input.")],
) -> None:
    """Show tokens as `start end id piece`, 0-based half-open base pairs."""
    tokenizer = tokenizers.Tokenizer.load(model)
    for line in lines(STDIN, SequenceError) if sequence == STDIN else [sequence]:
        text = sequences.normalise(line.strip(), "the sequence")
        encoding = tokenizer.encode(text)
        for (start, end), piece in zip(encoding.spans, encoding.ids, strict=True):
            typer.echo(f"{start}\t{end}\t{piece}\t{text[start:end]}")


def tokenizer_info(model: Annotated[Path, typer.Argument(help="Tokenizer file.")]) -> None:
    """Describe a tokenizer."""
    tokenizer = tokenizers.Tokenizer.load(model)
    lengths = tokenizer.lengths[tokenizers.N_SPECIAL :]
    typer.echo(f"kind    {tokenizer.kind}")
    typer.echo(f"pieces  {tokenizer.vocab_size:,}, of {lengths.min()} to {lengths.max()} bp")
    typer.echo(f"sha256  {tokenizer.sha256}")


def shards(options: ShardOptions) -> None:
    """Tokenise a corpus into memory-mapped shards; continues an interrupted run."""
    inputs = {"the corpus": options.corpus, "--tokenizer": options.tokenizer}
    refuse_same_file({"--output": options.output}, inputs)
    tokenizer = tokenizers.Tokenizer.load(options.tokenizer)
    made = store.write(
        options.corpus, tokenizer, options.output, options.threads, force=options.force
    )
    tell(
        f"{made.tokens:,} tokens, {made.index.bp / max(1, made.tokens):.2f} bp per token", err=False
    )


def pretrain(
    run: TrainingRun, print_config: Annotated[bool, _show_config("pretrain")] = False
) -> None:
    """Pretrain an encoder by masked language modelling."""
    _train(training.pretrain, "pretrain", run)
    _tell(run)


def finetune_chromatin(
    run: TrainingRun,
    options: PeakOptions,
    print_config: Annotated[bool, _show_config("finetune chromatin")] = False,
) -> None:
    """Train a chromatin head: on a dataset (--config), or on peak files of your own (--peaks).

    With --config, encoder and head are trained densely over long windows. With --peaks, a head is
    trained on the frozen encoder of a model in minutes, and measured where it was held out.
    """
    if options.peaks:
        _on_peaks(run, options)
        return
    if alone := options.given():
        raise UsageError(f"{alone[0]} belongs to --peaks; give the peak files with --peaks")
    _finetune("chromatin", run)


def _on_peaks(run: TrainingRun, options: PeakOptions) -> None:
    if run.config is not None:
        raise UsageError("--config and --peaks are two ways to train; choose one")
    if options.fasta is None:
        raise UsageError("--peaks needs the genome they lie on; give it with --fasta")
    run = run.model_copy(update={"overrides": (*run.overrides, *options.overrides())})
    files = {name: getattr(options, name) for name in PeakData.model_fields}
    made = _train(partial(training.finetune, "peaks", **files), "finetune chromatin peaks", run)
    for track in made.provenance["chromatin"]["tracks"]:
        tell(f"{track['name']}: {track['positives']} held-out bins with a peak", err=False)
        for figure in ("auroc", "auprc"):
            own, rival = map(reported.shown, (track[figure], track["gc"][figure]))
            tell(f"  {figure.upper()} {own}, of GC content {rival}", err=False)
    _tell(run)


def finetune_mlm(
    run: TrainingRun, print_config: Annotated[bool, _show_config("finetune mlm")] = False
) -> None:
    """Count neighbouring tokens, and train the masked-LM head on counts and a frozen encoder."""
    _finetune("mlm", run)


def finetune_promoter(
    run: TrainingRun, print_config: Annotated[bool, _show_config("finetune promoter")] = False
) -> None:
    """Train a promoter head."""
    _finetune("promoter", run)


def finetune_table(
    run: TrainingRun,
    data: TableData,
    print_config: Annotated[bool, _show_config("finetune table")] = False,
) -> None:
    """Train a head of your own on a table of regions: values of columns, or classes.

    Regions are read around their midpoint; without --set freeze_encoder=false the encoder stays as
    it is. The model scores as any other: its tables have a column per target, or class.
    """
    made = _train(partial(training.finetune, "table", **dict(data)), "finetune table", run)
    for split, figures in made.provenance["table"]["figures"].items():
        for name, found in figures.get("targets", {"classes": figures}).items():
            texts = [
                f"{figure} {reported.shown(interval)}"
                for figure, interval in found.items()
                if isinstance(interval, dict) and "point" in interval
            ]
            tell(f"{split}, {name}: {', '.join(texts)}", err=False)
    _tell(run)


def _finetune(what: Head, run: TrainingRun) -> None:
    _train(partial(training.finetune, what), f"finetune {what}", run)
    _tell(run)


def _tell(run: TrainingRun) -> None:
    tell(f"model written to {run.output / 'model'}")


def _train(train: Callable[..., Checkpoint], verb: str, run: TrainingRun) -> Checkpoint:
    """Train by the configuration that a run names."""
    return train(
        run.output,
        load_config(configuration(verb), run.config, run.overrides),
        resume=run.resume,
        force=run.force,
        progress=run.bar,
        provenance=provenance(),
    )


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
    tell(f"baselines written to {options.output}")


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
    tell(f"figures written to {options.output / evaluation.EVALUATION}")


def card(options: CardOptions) -> None:
    """Write a model card in Markdown: data, training and all test figures."""
    refuse_same_file({"--output": options.output}, {"--evaluation": options.evaluation})
    check_output(options.output, CARDS, options.force)
    cards.write_card(options.model, options.evaluation, options.output)
    tell(f"card written to {options.output}")
