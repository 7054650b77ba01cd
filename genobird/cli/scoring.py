"""Verbs that score: score, variants."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import genobird
from genobird.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from genobird.genome.fasta import Genome
    from genobird.genome.interval import Interval
    from genobird.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

BED_ENDINGS = (".bed", ".bed.gz", ".bed.bgz")
FASTA_ENDINGS = tuple(
    f".{kind}{packing}" for kind in ("fa", "fasta", "fna") for packing in ("", ".gz", ".bgz")
)
VCF_ENDINGS = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
# Seconds between plain lines of progress, where there is no terminal.
_PLAIN_SECONDS = 15.0

Fasta = Annotated[Path, typer.Option("--fasta", "-f", help="The genome: plain, gzip or BGZF.")]
Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="Model directory; default the bundled one.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
BatchSize = Annotated[str, typer.Option(help="Sequences a pass: auto or a number.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default torch's own.")]
Features = Annotated[
    str | None,
    typer.Option(help="Chromatin columns, separated by commas: names, or classes such as TF."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Summary as JSON on standard output (errors when data go there)."),
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(score)
    app.command()(variants)


def score(
    regions: Annotated[
        str,
        typer.Argument(
            help="BED (0-based), FASTA (each record around its midpoint), - for BED on standard "
            "input, or one region, 1-based: chr20:1,000-2,000."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help=".tsv, .tsv.gz, .parquet or -.")],
    fasta: Annotated[
        Path | None, typer.Option("--fasta", "-f", help="The genome; not for FASTA regions.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    features: Features = None,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Regions off the genome get a status, not an error."),
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score regions or sequences: promoter and chromatin probabilities around their midpoints."""
    from genobird.scoring.table import TableWriter, check_output

    check_output(output, force=force)
    fasta_regions = regions.lower().endswith(FASTA_ENDINGS)
    if fasta is None and not fasta_regions:
        raise UsageError("--fasta is missing; regions need the FASTA file of their genome")
    intervals = [] if fasta_regions else _intervals(regions)
    genome = _genome(regions if fasta_regions else fasta)
    if not (fasta_regions or keep_going):
        from genobird.scoring.regions import require_on_genome

        require_on_genome(intervals, genome)
    began = time.monotonic()
    scorer = _scorer(model, device, batch_size, threads)
    meta = {"version": genobird.__version__, "model": scorer.model_hash, "command": _command()}
    with (
        genome,
        TableWriter(output, force=force, meta=meta) as writer,
        _progress("regions", None if fasta_regions else len(intervals), quiet) as advance,
    ):
        frames = _frames(scorer, genome, intervals, fasta_regions, _split(features))
        from genobird.scoring.regions import write_scores

        counts = write_scores(frames, writer, advance)
    summary = {"regions": counts.total(), "output": output}
    _report("regions", summary, counts, scorer, began, output, quiet, as_json)


def variants(
    source: Annotated[
        str, typer.Argument(metavar="VCF", help="VCF or BCF, or - for standard input.")
    ],
    fasta: Fasta,
    output: Annotated[
        str, typer.Option("--output", "-o", help=".vcf, .vcf.gz (gets an index), .bcf or -.")
    ],
    table: Annotated[
        str | None, typer.Option(help="All outputs of each ALT: .parquet, .tsv or .tsv.gz.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    threads: Threads = None,
    features: Features = None,
    ref_mismatch: Annotated[
        str,
        typer.Option(
            help="REF is not the genome's: flag (status, no score), skip (left as it is), swap "
            "(score if ALT is the genome's) or error."
        ),
    ] = "flag",
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score the variants of a VCF: each record passes through, and gains INFO keys GB_*."""
    from genobird.scoring.table import STDOUT, check_output

    check_output(output, VCF_ENDINGS, force)
    if table is not None:
        if table == output == STDOUT:
            raise UsageError("both outputs are standard output; name a file for --table")
        check_output(table, force=force)
    if source != STDOUT and not Path(source).exists():
        raise UsageError(f"{source} does not exist; check the path")
    genome = _genome(fasta)
    from genobird.scoring.annotation import annotate_variants
    from genobird.scoring.variants import policy_of

    policy_of(ref_mismatch)
    began = time.monotonic()
    scorer = _scorer(model, device, batch_size, threads)
    records = 0
    with genome, _progress("records", None, quiet) as advance:

        def count(number: int) -> None:
            nonlocal records
            records += number
            advance(number)

        counts = annotate_variants(
            scorer,
            source,
            genome,
            output,
            table=table,
            ref_mismatch=ref_mismatch,
            features=_split(features),
            force=force,
            command=_command(),
            progress=count,
        )
    summary: dict[str, Any] = {"records": records, "alleles": counts.total(), "output": output}
    if table is not None:
        summary["table"] = table
    data = STDOUT if STDOUT in (output, table) else output
    _report("alleles", summary, counts, scorer, began, data, quiet, as_json)


def _intervals(regions: str) -> list[Interval]:
    from genobird.genome.interval import parse_region, read_bed

    path = Path(regions)
    if regions == "-" or regions.lower().endswith(BED_ENDINGS) or path.exists():
        return list(read_bed(regions))
    return [parse_region(regions)]


def _frames(
    scorer: Scorer,
    genome: Genome,
    intervals: Sequence[Interval],
    fasta_regions: bool,
    features: Sequence[str] | None,
) -> Iterator[pd.DataFrame]:
    from genobird.scoring.regions import region_frames, sequence_frames

    if fasta_regions:
        return sequence_frames(scorer, genome.stream(), features)
    return region_frames(scorer, intervals, genome, features)


def _genome(path: Path | str | None) -> Genome:
    from genobird.genome.fasta import Genome

    return Genome(str(path))


def _scorer(model: Path | None, device: str, batch_size: str, threads: int | None) -> Scorer:
    from genobird.scoring.scorer import load

    size: int | Literal["auto"] = "auto"
    if batch_size != "auto":
        if not (batch_size.isascii() and batch_size.isdigit()):
            raise UsageError(f"batch size {batch_size!r} found; auto or a number is allowed")
        size = int(batch_size)
    return load(model, device, threads=threads, batch_size=size)


def _split(features: str | None) -> list[str] | None:
    if features is None:
        return None
    return [text.strip() for text in features.split(",") if text.strip()]


def _command() -> str:
    return shlex.join(["genobird", *sys.argv[1:]])


def _report(
    unit: str,
    summary: dict[str, Any],
    counts: Counter[str],
    scorer: Scorer,
    began: float,
    data: str,
    quiet: bool,
    as_json: bool,
) -> None:
    seconds = time.monotonic() - began
    statuses = dict(sorted(counts.items(), key=lambda item: (item[0] != "OK", item[0])))
    if as_json:
        facts = {
            **summary,
            "statuses": statuses,
            "model": scorer.model_hash,
            "device": str(scorer.device),
            "version": genobird.__version__,
            "seconds": round(seconds, 3),
        }
        typer.echo(json.dumps(facts), err=data == "-")
    elif not quiet:
        listing = ", ".join(f"{status} {count:,}" for status, count in statuses.items())
        where = "standard output" if data == "-" else summary["output"]
        typer.echo(
            f"{counts.total():,} {unit} in {seconds:.1f} s ({listing or 'none'}): {where}", err=True
        )


@contextmanager
def _progress(unit: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how far work is: a bar on a terminal, else a line now and then."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(unit, total=total)
            yield lambda number: bar.advance(task, number)
    else:
        done, said = 0, time.monotonic()

        def line(number: int) -> None:
            nonlocal done, said
            done += number
            if time.monotonic() - said >= _PLAIN_SECONDS:
                said = time.monotonic()
                logger.info("%s %s%s", f"{done:,}", unit, f" of {total:,}" if total else "")

        yield line
