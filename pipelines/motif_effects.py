"""Break held-out sites of every factor that has a matrix and a track, and ask a model what changed.

The measure itself is `genobird.tasks.motif_effects`; here targets of tracks find their matrices
(`data_manifests/motif_factors.tsv` knows the targets that are called otherwise, and the factors
that bind together), and the model is asked as `genobird variants` would ask it, or a rival with the
same sequences.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer

from genobird.datasets import ChromatinDataset
from genobird.files import refuse_existing
from genobird.motifs import Motif, best_of_each, read_motifs
from genobird.tasks.metrics import bootstrap
from genobird.tasks.motif_effects import (
    CHANGES,
    CORE,
    Floats,
    find_sites,
    motif_effects,
    summary,
)
from pipelines import manifest, steps
from pipelines.predictors import Baselines, Model, Rival, load_predictor, usual_changes

logger = logging.getLogger(__name__)

FACTORS = manifest.FOLDER / "motif_factors.tsv"
FLANK = 8_100
STRETCH_BP, RESAMPLES = 250_000, 1_000
CTCF = "CTCF"
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
    """Return means over factors, and the share of well-known factors that are seen.

    Intervals resample factors: what is asked is how another factor would do.
    """
    known = {name: facts for name, facts in factors.items() if facts["sites"] >= fewest}
    seen = [name for name, facts in known.items() if facts[CORE]["top5"] >= 0.5]
    means = {
        change: {
            key: mean_interval([facts[change][key] for facts in factors.values()], list(factors))
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
        "auroc": mean_interval([facts["auroc"] for facts in factors.values()], list(factors)),
    }


def of_factor(effects: pd.DataFrame, factor: str) -> dict[str, dict[str, Any]]:
    """Return shares of a factor's sites, by change; intervals resample stretches of 250 kb."""
    found: dict[str, dict[str, Any]] = {}
    for change, rows in effects[effects["factor"] == factor].groupby("change"):
        stretches = [
            f"{contig}:{start // STRETCH_BP}"
            for contig, start in zip(rows["contig"], rows["start"], strict=True)
        ]
        found[str(change)] = {
            "sites": len(rows),
            "leads": mean_interval(rows["place"] == 0, stretches),
            "lower": mean_interval(rows["delta"] < 0, stretches),
        }
    return found


def mean_interval(values: npt.ArrayLike, groups: Sequence[str]) -> dict[str, float | None]:
    """Return the mean of values [N] as `point` between `low` and `high`, whole groups resampled."""
    numbers = np.asarray(values, dtype=np.float64)

    def mean(weights: npt.ArrayLike) -> float:
        return float(np.average(numbers, weights=weights))

    return bootstrap(mean, groups, RESAMPLES, seed=0).plain()


app = typer.Typer(add_completion=False)


@app.command()
def main(
    chromatin: Annotated[Path, typer.Option(help="Chromatin dataset.")],
    motifs: Annotated[Path, typer.Option(help="Matrices (JASPAR).")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    model: Model = None,
    baselines: Baselines = None,
    rival: Rival = None,
    split: Annotated[str, typer.Option(help="Held-out part whose sites are broken.")] = "test",
    factors: Annotated[Path, typer.Option(help="Table target, factor, role.")] = FACTORS,
    most: Annotated[int, typer.Option(min=1, help="Sites per factor.")] = 20,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    force: steps.Force = False,
) -> None:
    """Break motifs in held-out sites and report which features a model changes most."""
    refuse_existing(output, force)
    dataset, asked = ChromatinDataset(chromatin), load_predictor(model, baselines, rival, threads)
    if asked.background is None:
        asked = replace(asked, background=usual_changes(asked, dataset))
    matrices = best_of_each(read_motifs(motifs))
    features = asked.features
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
        return asked.logits(sequences, [len(text) // 2 for text in sequences])

    effects = motif_effects(
        predict, asked.rank, dataset, sites, chosen, own, flank_bp=FLANK, partners=partners
    )
    found = summary(effects)
    report = {
        "model": asked.name,
        "split": split,
        "together": overall(found),
        "ctcf": of_factor(effects, CTCF),
        "factors": found,
        "rows": json.loads(effects.to_json(orient="records")),
    }
    with steps.new_file(output, force) as part:
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    logger.info("%s", json.dumps(report["together"]))


if __name__ == "__main__":
    steps.run(app)
