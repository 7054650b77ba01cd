"""Variants to a table on disk, in the memory of a few of them; the table of `screen_variants`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from genobird import __version__
from genobird.genome.build import warn_of_training
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.scoring.alleles import Variants, chain_file, opened_alleles, policy_of
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.table import TableWriter, in_chunks
from genobird.scoring.variants import require_contigs, screen, without_skipped


def list_variants(
    scorer: Scorer,
    variants: Variants,
    fasta: Path | str | Genome,
    output: Path | str,
    *,
    ref_mismatch: str = "flag",
    features: Sequence[str] | None = None,
    liftover: Path | str | ChainFile | None = None,
    ignore_build: bool = False,
    force: bool = False,
    command: str = "",
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Score variants of any kind and write the table of `screen_variants` as it grows.

    Args:
        scorer: the model.
        variants: see `screen_variants`.
        fasta: the genome.
        output: `.parquet`, `.tsv` or `.tsv.gz`, or `-`.
        ref_mismatch: `flag`, `skip`, `swap` or `error`, see `RefMismatch`.
        features: columns, names or classes of the chromatin head; None is all.
        liftover: UCSC chain file from the assembly of the variants to the genome's.
        ignore_build: warn of another assembly instead of raising.
        force: replace an existing output.
        command: command line for the metadata of Parquet.
        progress: called with the number of new ALTs.

    Returns:
        How many ALTs have each status; their sum is the number of ALTs.

    Raises:
        VcfError, TableError, AssemblyError, UsageError, OutputError: see `screen_variants`.
    """
    policy = policy_of(ref_mismatch)
    scorer.select_features(features)
    chains = chain_file(liftover)
    meta = table_facts(run_facts(scorer, command, chains))
    counts: Counter[str] = Counter()
    with opened(fasta) as genome, opened_alleles(variants) as source:
        warn_of_training(scorer.checkpoint.provenance, genome)
        locator = source.locator(genome, chains, not ignore_build)
        with TableWriter(output, force=force, meta=meta) as writer:
            for alleles in in_chunks(source, scorer.chunk):
                frame = screen(scorer, alleles, locator, policy, features)
                counts.update(frame["status"])
                writer.write(without_skipped(frame, policy))
                if progress is not None:
                    progress(len(alleles))
            require_contigs(counts, genome)
            if not counts:
                writer.write(screen(scorer, [], locator, policy, features))
    return counts


def run_facts(scorer: Scorer, command: str, chains: ChainFile | None = None) -> dict[str, str]:
    """Return what made a result, as keys of VCF header lines: version, model, command, chain."""
    return {
        "genobirdVersion": __version__,
        "genobirdModel": scorer.model_hash or "unsaved",
        **({"genobirdCommand": command} if command else {}),
        **({"genobirdLiftover": chains.path.name} if chains else {}),
    }


def table_facts(facts: dict[str, str]) -> dict[str, str]:
    """Return the same facts as keys of Parquet metadata."""
    return {key.removeprefix("genobird").lower(): value for key, value in facts.items()}
