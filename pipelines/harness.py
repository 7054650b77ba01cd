"""What broken motifs and known alleles have shown -> a part of a model's evaluation, for its card.

`pipelines.motif_effects` and `pipelines.alleles` write a file for the model and one for each rival.
The figures of all go beside each other under `motifs` in `evaluation.json`; single sites do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genobird.errors import InputError
from genobird.files import read_json, refuse_existing
from pipelines import steps

MODEL = "transformer"
SCAN = "matrix scan"
TITLES = {
    "ctcf-pairs": "CTCF pairs, right allele",
    "dsqtl-pairs": "dsQTL pairs, right allele",
    "ctcf-asb": "allele-specific CTCF, AUROC",
    "raqtl": "reporter QTLs of K562, sign",
    "cagi": "CAGI4 active constructs, Spearman",
}
"""What a card calls a test of `pipelines.alleles`, in its order."""


def joined(
    evaluation: Mapping[str, Any],
    effects: Sequence[Mapping[str, Any]],
    alleles: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the evaluation of a model with what was measured of motifs.

    `effects` is what `pipelines.motif_effects` wrote, the model's and the rivals', of one split;
    `alleles` what `pipelines.alleles` wrote, of some of the same.

    Raises:
        InputError: nothing is the model's, or the splits differ.
    """
    model = str(evaluation.get("model_sha256", ""))[:12]
    splits = {str(found["split"]) for found in effects}
    if len(splits) > 1:
        raise InputError(f"sites of the splits {', '.join(sorted(splits))} cannot be compared")
    names = [str(found["model"]) for found in [*effects, *alleles]]
    if model not in names:
        raise InputError(
            f"the evaluation is of model {model or 'unknown'}, the motifs of {', '.join(names)}; "
            "ask the model that was evaluated"
        )
    figures: dict[str, Any] = {"effects": {}, "alleles": {}}
    if splits:
        figures["split"] = splits.pop()
    for found in effects:
        kept = {key: found[key] for key in ("together", "ctcf")}
        figures["effects"][_name(found, model)] = kept
    for found in alleles:
        figures["alleles"][_name(found, model)] = _points(found["tests"])
        figures["alleles"].setdefault(SCAN, _points(found[SCAN]))
    return {**evaluation, "motifs": figures}


def _name(found: Mapping[str, Any], model: str) -> str:
    return MODEL if found["model"] == model else str(found["model"])


def _points(tests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return figures as an evaluation names them, by the titles of their tests."""
    return {
        title: {key: tests[name][key] for key in ("low", "point", "high", "n")}
        for name, title in TITLES.items()
        if name in tests
    }


def main(
    evaluation: Annotated[Path, typer.Option(help="evaluation.json of the model.")],
    output: steps.OutputJson,
    effects: Annotated[
        list[Path] | None, typer.Option(help="File of pipelines.motif_effects; repeatable.")
    ] = None,
    alleles: Annotated[
        list[Path] | None, typer.Option(help="File of pipelines.alleles; repeatable.")
    ] = None,
    force: steps.Force = False,
) -> None:
    """Put the figures of motifs and alleles into a model's evaluation, for its card."""
    refuse_existing(output, force)
    found = joined(
        read_json(evaluation),
        [read_json(path) for path in effects or ()],
        [read_json(path) for path in alleles or ()],
    )
    steps.write(output, json.dumps(found, indent=2) + "\n", force)


if __name__ == "__main__":
    steps.run(main)
