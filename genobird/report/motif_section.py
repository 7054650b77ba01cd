"""The part of a model card that says whether the model knows what factors bind."""

from __future__ import annotations

from collections.abc import Iterable

from genobird.report.evaluation import Facts, name_of, shown, table

CHANGES = {"core": "core", "base": "best base", "control": "control"}
ALLELE_TESTS = {
    "ctcf-pairs": "CTCF pairs, right allele",
    "dsqtl-pairs": "dsQTL pairs, right allele",
    "ctcf-asb": "allele-specific CTCF, AUROC",
    "raqtl": "reporter QTLs of K562, sign",
    "cagi": "CAGI4 active constructs, Spearman",
}


def motif_section(evaluation: Facts) -> Iterable[str]:
    """Yield what broken motifs and known alleles have shown (`pipelines.harness`), if measured."""
    motifs = evaluation.get("motifs", {})
    effects, alleles = motifs.get("effects", {}), motifs.get("alleles", {})
    if not (effects or alleles):
        return
    yield "## Motifs"
    if effects:
        mine = next(iter(effects.values()))["together"]
        yield (
            f"{mine['sites']:,} strong matches of {mine['factors']} factors under their own peaks "
            f"in the {motifs['split']} part, up to 20 per factor: the core is replaced, or its "
            "most informative base, or as many bases 60 bp away (control). A factor leads where "
            "its feature, or its partner's, changes most, relative to what is usual for each. "
            "In square brackets: 95 % bootstrap intervals over factors; for CTCF alone, over "
            "stretches of 250 kb."
        )
        rows = [
            [title, *(_cell(found, keys) for found in effects.values())]
            for title, keys in _effect_rows()
        ]
        seen = [f"{found['together'][k]}" for found in effects.values() for k in ("seen", "known")]
        rows.append(
            [
                f"factors with {mine['fewest']} sites that are among the first five at half",
                *(f"{a} of {b}" for a, b in zip(seen[::2], seen[1::2], strict=True)),
            ]
        )
        yield table(["figure", *map(name_of, effects)], rows)
    if alleles:
        yield (
            "Public tests of alleles, of which nothing was trained or chosen. Best match of the "
            "factor's matrix (matrix scan) is the rival to beat."
        )
        yield table(
            ["test", "pairs", *map(name_of, alleles)],
            [
                [
                    title,
                    f"{next(tests[key]['n'] for tests in alleles.values() if key in tests):,}",
                    *(shown(tests[key]) if key in tests else "" for tests in alleles.values()),
                ]
                for key, title in ALLELE_TESTS.items()
                if any(key in tests for tests in alleles.values())
            ],
        )


def _effect_rows() -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield the titles of figures of broken motifs, and the keys that lead to each."""
    for change, what in CHANGES.items():
        yield f"CTCF or cohesin leads: {what}", ("ctcf", change, "leads")
    for change, what in CHANGES.items():
        yield f"factor leads, mean: {what}", ("together", "means", change, "leads")
    yield "factor among the first five, mean: core", ("together", "means", "core", "top5")
    yield "AUROC of core against control, mean", ("together", "auroc")


def _cell(found: Facts, keys: Iterable[str]) -> str:
    """Write the figure that keys lead to; nothing where there is none, as without CTCF's sites."""
    for key in keys:
        if key not in found:
            return ""
        found = found[key]
    return shown(found)
