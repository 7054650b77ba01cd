"""Verbs that make models: corpus, tokenizer, shards, pretrain, finetune, evaluate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from genobird.cli.run_folder import run_folder
from genobird.cli.running import provenance, refuse_existing
from genobird.errors import UsageError

Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML configuration.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value or section.key=value; repeatable.")
]
Peaks = Annotated[
    list[Path] | None,
    typer.Option("--peaks", help="Your own peak file, BED or narrowPeak; repeatable."),
]
Names = Annotated[
    list[str] | None, typer.Option("--name", help="Name of each peak file; default the file's.")
]
Genome = Annotated[Path | None, typer.Option("--fasta", "-f", help="With --peaks: their genome.")]
Model = Annotated[
    Path | None,
    typer.Option("--model", "-m", help="With --peaks: model to start from; default bundled."),
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(
        help="With --peaks: contig, region or share of megabases to hold out; repeatable."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU processes or threads.")]


def _show_config(module: str, name: str) -> Any:
    """Return an option that writes the configuration of a task with all defaults, and ends."""

    def show(wanted: bool) -> None:
        if not wanted:
            return
        from importlib import import_module

        from genobird.config import described
        from genobird.model import BigBirdConfig

        kind = getattr(import_module(f"genobird.tasks.{module}"), name)
        typer.echo(described(kind, {"model": BigBirdConfig}), nl=False)
        raise typer.Exit

    return typer.Option(
        "--print-config", callback=show, is_eager=True,
        help="Write the configuration with all defaults and what each field means, and exit.",
    )  # fmt: skip


tokenizer_app = typer.Typer(help="Train and use SentencePiece tokenizers.", no_args_is_help=True)
finetune_app = typer.Typer(help="Train a head of a model.", no_args_is_help=True)


class Kind(StrEnum):
    """Kinds of SentencePiece model."""

    bpe = "bpe"
    unigram = "unigram"


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(corpus)
    app.add_typer(tokenizer_app, name="tokenizer")
    app.command()(shards)
    app.command()(pretrain)
    app.add_typer(finetune_app, name="finetune")


def corpus(
    fastas: Annotated[list[Path], typer.Argument(help="FASTA files, plain, gzip or BGZF.")],
    output: Output,
    regions: Annotated[
        Path | None, typer.Option(help="BED: keep only sentences inside these intervals.")
    ] = None,
    overrides: Overrides = None,
    force: Force = False,
) -> None:
    """Draw documents of sentences from contigs, as the BigBird paper does."""
    from genobird.config import load_config
    from genobird.corpus import CorpusSettings, build
    from genobird.genome.interval import read_bed

    settings = load_config(CorpusSettings, None, overrides or ())
    intervals = list(read_bed(regions)) if regions else None
    made = build(fastas, output, settings, intervals, force)
    counts = made.index.counts
    typer.echo(f"{counts.documents:,} documents, {counts.sentences:,} sentences, {counts.bp:,} bp")


@tokenizer_app.command("train")
def tokenizer_train(
    corpus: Annotated[Path, typer.Argument(help="Corpus directory.")],
    output: Output,
    kind: Annotated[Kind, typer.Option(help="Kind of model.")] = Kind.bpe,
    vocab_size: Annotated[int, typer.Option(help="Pieces, specials included.")] = 32_000,
    max_piece: Annotated[int, typer.Option(help="Longest piece, bp.")] = 16,
    sample_bp: Annotated[int, typer.Option(help="Bases sampled from the corpus.")] = 100_000_000,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    threads: Threads = 1,
    force: Force = False,
) -> None:
    """Learn a vocabulary from a corpus."""
    from genobird import corpus as corpora
    from genobird.tokenizer import Tokenizer

    refuse_existing(output, force)
    text = corpora.read(corpus).sample_text(sample_bp, seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    made = Tokenizer.train(text, output, kind.value, vocab_size, max_piece, threads)
    typer.echo(f"{made.vocab_size:,} pieces, sha256 {made.sha256[:12]}")


@tokenizer_app.command("encode")
def tokenizer_encode(
    model: Annotated[Path, typer.Argument(help="Tokenizer file.")],
    sequence: Annotated[str, typer.Argument(help="DNA, or - for lines on standard input.")],
) -> None:
    """Show tokens as `start end id piece`, 0-based half-open base pairs."""
    from genobird.genome.sequence import normalise
    from genobird.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model)
    for line in sys.stdin if sequence == "-" else [sequence]:
        text = normalise(line.strip(), "the sequence")
        encoding = tokenizer.encode(text)
        for (start, end), piece in zip(encoding.spans, encoding.ids, strict=True):
            typer.echo(f"{start}\t{end}\t{piece}\t{text[start:end]}")


@tokenizer_app.command("info")
def tokenizer_info(model: Annotated[Path, typer.Argument(help="Tokenizer file.")]) -> None:
    """Describe a tokenizer."""
    from genobird.tokenizer import N_SPECIAL, Tokenizer

    tokenizer = Tokenizer.load(model)
    lengths = tokenizer.lengths[N_SPECIAL:]
    typer.echo(f"kind    {tokenizer.kind}")
    typer.echo(f"pieces  {tokenizer.vocab_size:,}, of {lengths.min()} to {lengths.max()} bp")
    typer.echo(f"sha256  {tokenizer.sha256}")


def shards(
    corpus: Annotated[Path, typer.Argument(help="Corpus directory.")],
    tokenizer: Annotated[Path, typer.Option(help="Tokenizer file.")],
    output: Output,
    threads: Threads = 1,
    force: Force = False,
) -> None:
    """Tokenise a corpus into memory-mapped shards; continues an interrupted run."""
    from genobird import shards as store
    from genobird.tokenizer import Tokenizer

    made = store.write(corpus, Tokenizer.load(tokenizer), output, threads, force=force)
    typer.echo(f"{made.tokens:,} tokens, {made.index.bp / max(1, made.tokens):.2f} bp a token")


def pretrain(
    output: Output,
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    print_config: Annotated[bool, _show_config("pretrain", "PretrainConfig")] = False,
) -> None:
    """Pretrain an encoder by masked language modelling."""
    from genobird.config import load_config
    from genobird.tasks.pretrain import PretrainConfig
    from genobird.tasks.pretrain import pretrain as run

    _train(run, load_config(PretrainConfig, config, overrides or ()), output, resume, force, quiet)


@finetune_app.command("chromatin")
def finetune_chromatin(
    output: Output,
    config: ConfigFile = None,
    overrides: Overrides = None,
    peaks: Peaks = None,
    name: Names = None,
    fasta: Genome = None,
    model: Model = None,
    held_out: HeldOut = None,
    regions: Annotated[
        Path | None, typer.Option(help="BED: with --peaks, use only these intervals.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="With --peaks: approximate time limit.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="With --peaks: steps of the head, instead of --minutes."),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out peaks on contigs not in the FASTA.")
    ] = False,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    print_config: Annotated[bool, _show_config("finetune", "ChromatinConfig")] = False,
) -> None:
    """Train a chromatin head: on a dataset (--config), or on peak files of your own (--peaks).

    With --config, encoder and head are trained densely over long windows. With --peaks, a head is
    trained on the frozen encoder of a model in minutes, and measured where it was held out.
    """
    from genobird.config import load_config

    if peaks:
        if config is not None:
            raise UsageError("--config and --peaks are two ways to train; choose one")
        if fasta is None:
            raise UsageError("--peaks needs the genome they lie on; give it with --fasta")
        values = [*(overrides or ()), *_chosen(held_out, minutes, steps)]
        _on_peaks(output, peaks, name or (), fasta, model, values, regions, keep_going, resume,
                  force, quiet)  # fmt: skip
        return
    given = {
        "--name": name, "--fasta": fasta, "--model": model, "--held-out": held_out,
        "--regions": regions, "--minutes": minutes, "--steps": steps, "--keep-going": keep_going,
    }  # fmt: skip
    if alone := [option for option, value in given.items() if value]:
        raise UsageError(f"{alone[0]} belongs to --peaks; give the peak files with --peaks")
    from genobird.tasks.finetune import ChromatinConfig
    from genobird.tasks.finetune import finetune_chromatin as run

    _train(run, load_config(ChromatinConfig, config, overrides or ()), output, resume, force, quiet)


def _chosen(held_out: list[str] | None, minutes: float | None, steps: int | None) -> list[str]:
    """Write the options for peaks as overrides of their settings."""
    import json

    chosen = []
    if held_out:
        chosen.append(f"held_out={json.dumps(held_out)}")
    if steps is not None:
        chosen += [f"steps={steps}", "minutes=null"]
    if minutes is not None:
        chosen.append(f"minutes={minutes}")
    return chosen


def _on_peaks(
    output: Path, peaks: Sequence[Path], names: Sequence[str], fasta: Path, model: Path | None,
    values: Sequence[str], regions: Path | None, keep_going: bool, resume: bool, force: bool,
    quiet: bool,
) -> None:  # fmt: skip
    from genobird.cli.running import open_genome
    from genobird.config import load_config
    from genobird.genome.interval import read_bed
    from genobird.peaks import read_tracks
    from genobird.scoring.scorer import bundled_model
    from genobird.tasks.peaks import PeaksSettings, finetune_peaks

    settings = load_config(PeaksSettings, None, values)
    intervals = list(read_bed(regions)) if regions else None
    with open_genome(fasta) as genome:
        tracks = read_tracks(peaks, names, genome, skip_missing=keep_going)
        with run_folder(output, settings, resume=resume, force=force):
            report = finetune_peaks(
                tracks, genome, model or bundled_model(), output, settings, regions=intervals,
                resume=resume, progress=_bar(quiet), provenance=provenance(),
            )  # fmt: skip
    for track in report["tracks"]:
        typer.echo(f"{track['name']}: {track['positives']} held-out bins with a peak")
        for figure in ("auroc", "auprc"):
            own, rival = track[figure], track["gc"][figure]
            typer.echo(f"  {figure.upper()} {_shown(own)}, of GC content {_shown(rival)}")
    typer.echo(f"model written to {output / 'model'}")


def _shown(interval: dict[str, float | None]) -> str:
    point, low, high = (
        "none" if value is None else f"{value:.3f}"
        for value in (interval["point"], interval["low"], interval["high"])
    )
    return f"{point} [{low}, {high}]"


@finetune_app.command("mlm")
def finetune_mlm(
    output: Output,
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    print_config: Annotated[bool, _show_config("mlm", "MLMConfig")] = False,
) -> None:
    """Count neighbouring tokens, and train the masked-LM head on counts and a frozen encoder."""
    from genobird.config import load_config
    from genobird.tasks.mlm import MLMConfig
    from genobird.tasks.mlm import finetune_mlm as run

    _train(run, load_config(MLMConfig, config, overrides or ()), output, resume, force, quiet)


@finetune_app.command("promoter")
def finetune_promoter(
    output: Output,
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    force: Force = False,
    quiet: Quiet = False,
    print_config: Annotated[bool, _show_config("finetune", "PromoterConfig")] = False,
) -> None:
    """Train a promoter head."""
    from genobird.config import load_config
    from genobird.tasks.finetune import PromoterConfig
    from genobird.tasks.finetune import finetune_promoter as run

    _train(run, load_config(PromoterConfig, config, overrides or ()), output, resume, force, quiet)


def _train(
    run: Callable[..., Any], settings: Any, output: Path, resume: bool, force: bool, quiet: bool
) -> None:
    from genobird.tasks import ranks

    ranks.launch(settings.fit)
    with ranks.in_first(run_folder(output, settings, resume=resume, force=force)):
        run(settings, output, resume=resume, progress=_bar(quiet), provenance=provenance())
    typer.echo(f"model written to {output / 'model'}")


def _bar(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()
