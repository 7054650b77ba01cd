"""Variants to a table on disk, in the memory of a few of them; the table of `screen_variants`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from genobird import __version__
from genobird.genome.build import warn_of_training
from genobird.genome.chain import ChainFile
from genobird.genome.fasta import Genome
from genobird.genome.locus import Locator
from genobird.scoring.alleles import (
    Allele,
    RefMismatch,
    Variants,
    chain_file,
    opened_alleles,
    policy_of,
)
from genobird.scoring.background import warn_of_settings
from genobird.scoring.identity import Identity, hash_of_file, hash_of_genome, identity_of
from genobird.scoring.journal import kept, may_replace
from genobird.scoring.parts import parts_of
from genobird.scoring.scorer import Scorer, opened
from genobird.scoring.settings import DEFAULT, EffectSettings
from genobird.scoring.table import TableWriter
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
    settings: EffectSettings = DEFAULT,
    resume: bool = False,
    force: bool = False,
    command: str = "",
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Score variants of any kind and write the table of `screen_variants` as it grows.

    Until the output is complete, what is scored is kept in `<output>.partial`; see `journal`.

    Args:
        scorer: the model.
        variants: see `screen_variants`.
        fasta: the genome.
        output: `.parquet`, `.tsv` or `.tsv.gz`, or `-`.
        ref_mismatch: `flag`, `skip`, `swap` or `error`, see `RefMismatch`.
        features: columns, names or classes of the chromatin head; None is all.
        liftover: UCSC chain file from the assembly of the variants to the genome's.
        ignore_build: warn of another assembly instead of raising.
        settings: see `screen_variants`.
        resume: go on with an interrupted run of the same output, if there was one.
        force: replace an existing output and, without `resume`, what an interrupted run has scored.
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
    replace = may_replace(output, force=force, resume=resume)
    with opened(fasta) as genome, opened_alleles(variants) as source:
        warn_of_training(scorer.checkpoint.provenance, genome)
        warn_of_settings(scorer.background, settings)
        locator = source.locator(genome, chains, not ignore_build)
        identity = variant_identity(scorer, locator, policy, features, settings)
        with (
            kept([output], identity, force=force, resume=resume) as journal,
            TableWriter(output, force=replace, meta=meta) as writer,
        ):
            for part in parts_of(source, Allele.variants, scorer.chunk, locator, policy):
                score = partial(screen, scorer, part.items, locator, policy, features, settings)
                if part.is_scored:
                    frame = journal.frame(part.last, map(str, part.items), score)
                else:
                    journal.skip(part.last)
                    frame = score()
                counts.update(frame["status"])
                writer.write(without_skipped(frame, policy))
                if progress is not None:
                    progress(len(part.items))
            require_contigs(counts, genome)
            if not counts:
                writer.write(screen(scorer, [], locator, policy, features, settings))
            writer.finish()
            journal.seal()
    return counts


def variant_identity(
    scorer: Scorer,
    locator: Locator,
    policy: RefMismatch,
    features: Sequence[str] | None,
    settings: EffectSettings,
) -> Identity:
    """Return what decides the scores of variants."""
    return identity_of(
        scorer,
        features,
        genome=hash_of_genome(locator.genome),
        liftover=hash_of_file(locator.chain.path) if locator.chain else "no",
        background=scorer.background.hash if scorer.background else "none",
        swap="yes" if policy is RefMismatch.SWAP else "no",
        settings=repr(settings),
    )


def run_facts(scorer: Scorer, command: str, chains: ChainFile | None = None) -> dict[str, str]:
    """Return what made a result, as keys of VCF header lines: version, model, command, chain."""
    return {
        "genobirdVersion": __version__,
        "genobirdModel": scorer.model_hash or "unsaved",
        **({"genobirdBackground": scorer.background.hash} if scorer.background else {}),
        **({"genobirdCommand": command} if command else {}),
        **({"genobirdLiftover": chains.path.name} if chains else {}),
    }


def table_facts(facts: dict[str, str]) -> dict[str, str]:
    """Return the same facts as keys of Parquet metadata."""
    return {key.removeprefix("genobird").lower(): value for key, value in facts.items()}
