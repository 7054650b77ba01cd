"""Break held-out sites of every factor that has a matrix and a track, and ask a model what changed.

The measure itself is `genobird.tasks.motif_effects`; here targets of tracks find their matrices
(`data_manifests/motif_factors.tsv` knows the targets that are called otherwise, and the factors
that bind together), and the model is asked as `genobird variants` would ask it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from genobird.datasets import ChromatinDataset
from genobird.motifs import Motif, best_of_each, read_motifs
from genobird.scoring.effects import relative_sizes
from genobird.scoring.scorer import load
from genobird.tasks.motif_effects import (
    CHANGES,
    CORE,
    Floats,
    find_sites,
    motif_effects,
    summary,
)
from pipelines import manifest, steps

logger = logging.getLogger(__name__)

FACTORS = manifest.FOLDER / "motif_factors.tsv"
FLANK = 8_100
FEWEST = 20
"""Sites that a factor needs to count in the share of factors."""

Columns = dict[str, list[int]]


def factor_columns(
    features: pd.DataFrame, motifs: Mapping[str, Motif], names: pd.DataFrame
) -> tuple[Columns, Columns]:
    """Return the columns of each factor that has a matrix, and those of its partners.

    Args:
        features: rows `name class`, names `cell|target|treatment`.
        motifs: a matrix by the factor's name, upper-case.
        names: rows `target factor role`, where role is `own` or `partner`.
    """
    own: Columns = {}
    partners: Columns = {}
    called = names[names["role"] == "own"].set_index("target")["factor"].to_dict()
    joined = names[names["role"] == "partner"].set_index("target")["factor"].to_dict()
    for column, (name, kind) in enumerate(zip(features["name"], features["class"], strict=True)):
        if kind != "TF":
            continue
        target = name.split("|")[1]
        factor = str(called.get(target, target)).upper()
        if factor in motifs:
            own.setdefault(factor, []).append(column)
        if target in joined:
            partners.setdefault(str(joined[target]), []).append(column)
    return own, partners


def overall(factors: Mapping[str, Mapping[str, Any]], fewest: int = FEWEST) -> dict[str, Any]:
    """Return means over factors, and the share of well-known factors that are seen."""
    known = {name: facts for name, facts in factors.items() if facts["sites"] >= fewest}
    seen = [name for name, facts in known.items() if facts[CORE]["top5"] >= 0.5]
    means = {
        change: {
            key: float(np.mean([facts[change][key] for facts in factors.values()]))
            for key in ("leads", "top5", "lower")
        }
        for change in CHANGES
    }
    return {
        "factors": len(factors),
        "sites": sum(facts["sites"] for facts in factors.values()),
        "means": means,
        "known": len(known),
        "seen": len(seen),
        "fewest": fewest,
    }


app = typer.Typer(add_completion=False)


@app.command()
def main(
    chromatin: Annotated[Path, typer.Option(help="Chromatin dataset.")],
    motifs: Annotated[Path, typer.Option(help="Matrices (JASPAR).")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    model: Annotated[Path | None, typer.Option(help="Model; the bundled one by default.")] = None,
    split: Annotated[str, typer.Option(help="Held-out part whose sites are broken.")] = "test",
    factors: Annotated[Path, typer.Option(help="Table target, factor, role.")] = FACTORS,
    most: Annotated[int, typer.Option(min=1, help="Sites per factor.")] = 20,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    force: steps.Force = False,
) -> None:
    """Break motifs in held-out sites and report which features a model changes most."""
    steps.refuse_existing(output, force)
    dataset, scorer = ChromatinDataset(chromatin), load(model, threads=threads)
    matrices = best_of_each(read_motifs(motifs))
    features = scorer.checkpoint.features
    own, partners = factor_columns(features, matrices, pd.read_csv(factors, sep="\t"))
    place = {name: column for column, name in enumerate(dataset.features["name"])}
    known = {
        factor: [place[name] for name in features["name"].iloc[columns] if name in place]
        for factor, columns in own.items()
    }
    known = {factor: columns for factor, columns in known.items() if columns}
    chosen = {factor: matrices[factor] for factor in known}
    sites = find_sites(dataset, split, chosen, known, most=most)
    logger.info("%d sites of %d factors", len(sites), len({site.factor for site in sites}))

    def predict(sequences: Sequence[str]) -> Floats:
        return scorer.chromatin_logits(sequences, [len(text) // 2 for text in sequences])

    def rank(ref: Floats, alt: Floats) -> Floats:
        return relative_sizes(ref, alt, scorer.features, scorer.background)

    effects = motif_effects(
        predict, rank, dataset, sites, chosen, own, flank_bp=FLANK, partners=partners
    )
    found = summary(effects)
    report = {
        "model": scorer.model_hash,
        "split": split,
        "together": overall(found),
        "factors": found,
        "rows": json.loads(effects.to_json(orient="records")),
    }
    with steps.new_file(output, force) as part:
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    logger.info("%s", json.dumps(report["together"]))


if __name__ == "__main__":
    steps.run(app)
