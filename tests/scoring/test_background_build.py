from __future__ import annotations

import hashlib
import logging
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genobird.columns import VARIANT_KEYS
from genobird.errors import BackgroundError, UsageError
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval
from genobird.runs import Start
from genobird.scoring import background_build
from genobird.scoring import effects as module
from genobird.scoring.background import Background, background_of
from genobird.scoring.background_build import build_background
from genobird.scoring.effects import Effects
from genobird.scoring.scorer import Scorer, load
from genobird.scoring.settings import EffectSettings
from genobird.scoring.variant_table import screen_variants
from tests.conftest import write_fasta

RESUME = Start(resume=True)
HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture
def vcf(tiny_contigs, tmp_path) -> Path:
    """Ten SNVs, one of them with two ALTs, and two alleles that cannot be scored."""
    contig = tiny_contigs["chr1"]
    lines = []
    for number in range(10):
        at = 3_000 + 5_000 * number
        alts = [base for base in "ACGT" if base != contig[at]][: 2 if number == 4 else 1]
        lines.append(f"chr1\t{at + 1}\t.\t{contig[at]}\t{','.join(alts)}\t.\t.\t.\n")
    lines += ["chr1\t59001\t.\tN\tC\t.\t.\t.\n", f"chr1\t59002\t.\t{contig[59_001]}\t*\t.\t.\t.\n"]
    path = tmp_path / "common.vcf"
    path.write_text(HEADER + "".join(lines))
    return path


@pytest.fixture
def quick(tiny_checkpoint, monkeypatch) -> Scorer:
    """A scorer whose effects are made from the variant, not by the model; four at a time."""

    scorer = load(tiny_checkpoint, device="cpu")

    def effects(scorer, variants, genome, chosen, *_, **__):
        names = ["promoter", "llr", *(scorer.features[place] for place in chosen)]
        made = np.zeros((len(variants), len(names), 2), np.float32)
        for row, variant in enumerate(variants):
            for column, name in enumerate(names):
                made[row, column, 1] = np.sin(
                    variant.position * 7.1 + len(name) + ord(variant.alt[0])
                )
        return Effects(names, [1.0] * len(names), made, {})

    monkeypatch.setattr("genobird.scoring.effects.effects", effects)
    monkeypatch.setattr(scorer, "chunk", 4)
    return scorer


def plain_table(scorer, vcf, genome) -> pd.DataFrame:
    scorer.background = None
    return screen_variants(scorer, vcf, genome)


def ranked_table(scorer, background, vcf, genome, **options) -> pd.DataFrame:
    scorer.background = background
    return screen_variants(scorer, vcf, genome, **options)


def drawn(path: Path) -> int:
    return Background.load(path).count


def test_a_background_is_made_of_the_effects_that_variants_gives(quick, genome, vcf, tmp_path):
    made = build_background(
        quick, vcf, genome, tmp_path / "a.npz", start=Start(command="genobird x")
    )
    table = plain_table(quick, vcf, genome)
    table = table[table["status"] == "OK"]
    outputs = ["promoter", "llr", *quick.features]
    assert made.outputs == tuple(outputs)
    assert [made.outputs[place] for place in made.summed] == quick.features
    assert made.count == len(table) == 11
    sizes = np.sort(np.abs(table[[f"{name}|delta" for name in outputs]].to_numpy()), axis=0)
    np.testing.assert_array_equal(made.sizes.values, sizes[::-1].T)
    assert made.facts["model"] == quick.model_hash
    assert made.facts["source"] == "common.vcf"
    assert made.facts["source_sha256"] == hashlib.sha256(vcf.read_bytes()).hexdigest()
    assert made.facts["command"] == "genobird x"
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "common.vcf"}


def test_a_draw_is_of_the_seed_and_the_same_each_time(quick, genome, vcf, tmp_path):
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        seen = []
        build_background(
            quick,
            vcf,
            genome,
            tmp_path / f"{name}.npz",
            limit=5,
            seed=seed,
            start=Start(progress=seen.append),
        )
        assert seen == [4, 1]
        found[name] = Background.load(tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not np.array_equal(found["a"].sizes.values, found["c"].sizes.values)
    build_background(quick, vcf, genome, tmp_path / "all.npz", limit=100)
    assert drawn(tmp_path / "all.npz") == 11


def test_every_variant_is_drawn_as_often(genome, vcf, monkeypatch):
    drawn = Counter(
        str(variant)
        for seed in range(600)
        for variant in background_build._draw([vcf], genome, 3, seed, ())
    )
    assert len(drawn) == 11
    assert all(120 < number < 210 for number in drawn.values())  # 164 expected


def test_several_files_count_as_one(quick, genome, vcf, tmp_path):
    header, *lines = vcf.read_text().split("#CHROM")[1].splitlines(keepends=True)
    halves = [tmp_path / "a.vcf", tmp_path / "b.vcf"]
    for half, part in zip(halves, (lines[:4], lines[4:]), strict=True):
        half.write_text(f"##fileformat=VCFv4.2\n#CHROM{header}{''.join(part)}")
    whole = build_background(quick, vcf, genome, tmp_path / "whole.npz", limit=7, seed=3)
    parts = build_background(quick, halves, genome, tmp_path / "parts.npz", limit=7, seed=3)
    assert parts.facts["source"] == "a.vcf, b.vcf"
    assert parts.facts["source_sha256"].count(", ") == 1
    assert parts.sizes_beyond([0.0]).tolist() == whole.sizes_beyond([0.0]).tolist()


def test_intervals_are_left_out_under_any_name_of_their_contig(quick, genome, vcf, tmp_path):
    build_background(
        quick,
        vcf,
        genome,
        tmp_path / "a.npz",
        exclude=[
            Interval("1", 3_001, 8_001),
            Interval("chr1", 22_000, 30_000),
            Interval("2", 0, 9),
        ],
    )
    assert drawn(tmp_path / "a.npz") == 11 - 1 - 2 - 1
    with pytest.raises(UsageError, match="cannot leave out chrY:1-5: contig 'chrY' is not in"):
        build_background(quick, vcf, genome, tmp_path / "b.npz", exclude=[Interval("chrY", 0, 5)])


def interrupted(scorer, vcf, genome, output) -> None:
    """A run over ten variants that is stopped after the second chunk of four."""
    seen = []

    def stop(number: int) -> None:
        seen.append(number)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_background(scorer, vcf, genome, output, limit=10, start=Start(progress=stop))


@pytest.mark.parametrize("cut", [0, 3, 40])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    quick, genome, vcf, tiny_contigs, tmp_path, monkeypatch, cut
):
    whole = build_background(quick, vcf, genome, tmp_path / "whole.npz", limit=10)
    output = tmp_path / "a.npz"
    interrupted(quick, vcf, genome, output)
    assert not output.exists()
    ledger = tmp_path / "a.npz.partial"
    ledger.write_bytes(ledger.read_bytes()[: ledger.stat().st_size - cut])  # as a kill leaves it
    with pytest.raises(UsageError, match=r"a.npz.partial holds .*pass --resume .* or --force"):
        build_background(quick, vcf, genome, output, limit=10)
    with pytest.raises(UsageError, match=r"another run \(limit 9, before 10; seed 3, before 0\)"):
        build_background(quick, vcf, genome, output, limit=9, seed=3, start=RESUME)
    with pytest.raises(UsageError, match=r"another run \(exclude \w{16}, before none\)"):
        build_background(
            quick, vcf, genome, output, limit=10, exclude=[Interval("chr1", 0, 9)], start=RESUME
        )
    other = write_fasta(tmp_path / "other.fa", tiny_contigs | {"chr9": "ACGT" * 50})
    with (
        Genome(other) as edited,
        pytest.raises(UsageError, match=r"another run \(genome \w+, before"),
    ):
        build_background(quick, vcf, edited, output, limit=10, start=RESUME)
    scored, real = [], module.effects

    def noted(scorer, asked, *arguments):
        scored.append(len(asked))
        return real(scorer, asked, *arguments)

    monkeypatch.setattr(module, "effects", noted)
    made = build_background(quick, vcf, genome, output, limit=10, start=RESUME)
    assert sum(scored) == 10 - (8 if cut == 0 else 4)
    assert whole.count == made.count == 10
    assert output.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not ledger.exists()


def test_force_begins_anew(quick, genome, vcf, tmp_path):
    output = tmp_path / "a.npz"
    build_background(quick, vcf, genome, output, limit=3)
    assert drawn(output) == 3
    interrupted(quick, vcf, genome, tmp_path / "b.npz")
    build_background(quick, vcf, genome, tmp_path / "b.npz", limit=4, start=Start(force=True))
    assert drawn(tmp_path / "b.npz") == 4
    assert not (tmp_path / "b.npz.partial").exists()
    with pytest.raises(UsageError, match=r"a.npz exists; choose another name or pass --force"):
        build_background(quick, vcf, genome, output)
    build_background(quick, vcf, genome, output, limit=4, start=Start(force=True))
    assert drawn(output) == 4


def test_a_variant_without_one_of_its_effects_is_left_out(
    quick, genome, vcf, tmp_path, monkeypatch
):
    real = module.effects

    def gaps(*arguments):
        found = real(*arguments)
        found.values[:1, 1] = np.nan  # the first of each chunk
        return found

    def nothing(*arguments):
        found = real(*arguments)
        found.values[:] = np.nan
        return found

    monkeypatch.setattr(module, "effects", gaps)
    made = build_background(quick, vcf, genome, tmp_path / "a.npz")
    assert made.count == 11 - 3
    monkeypatch.setattr(module, "effects", nothing)
    with pytest.raises(BackgroundError, match="no variant of the background could be scored"):
        build_background(quick, vcf, genome, tmp_path / "b.npz")


def test_wrong_arguments_are_refused(quick, genome, vcf, tmp_path):
    with pytest.raises(UsageError, match="not standard input: it is read twice"):
        build_background(quick, "-", genome, tmp_path / "a.npz")
    with pytest.raises(UsageError, match=r"a.tsv has an unknown ending; allowed are .npz"):
        build_background(quick, vcf, genome, tmp_path / "a.tsv")
    with pytest.raises(UsageError, match="limit 0 found; 1 or more are allowed"):
        build_background(quick, vcf, genome, tmp_path / "a.npz", limit=0)
    vcf.write_text(HEADER + "chr1\t59001\t.\tN\tC\t.\t.\t.\n")
    with pytest.raises(BackgroundError, match="no variant of the background could be scored"):
        build_background(quick, vcf, genome, tmp_path / "a.npz")
    assert not list(tmp_path.glob("a.npz*"))


def test_without_a_chromatin_head_the_evalue_is_of_the_promoter(quick):
    assert background_build._summed(quick, ["promoter", "llr", *quick.features]) == [2, 3, 4, 5, 6]
    assert background_build._summed(quick, ["promoter", "llr"]) == [0]
    assert background_build._summed(quick, ["llr"]) == [0]


def test_a_table_gains_an_evalue_and_a_quantile_of_each_output(quick, genome, vcf, tmp_path):
    made = build_background(quick, vcf, genome, tmp_path / "a.npz")
    plain = plain_table(quick, vcf, genome)
    ranked = ranked_table(quick, made, vcf, genome)
    outputs = ["promoter", "llr", *quick.features]
    parts = ("ref", "alt", "delta", "quantile")
    assert list(ranked.columns) == [
        *VARIANT_KEYS,
        "evalue",
        "top",
        *(f"{output}|{part}" for output in outputs for part in parts),
    ]
    pd.testing.assert_frame_equal(*(x.drop(columns="top") for x in (ranked[plain.columns], plain)))
    scored = ranked["status"] == "OK"
    assert ranked["evalue"].notna().equals(scored)
    assert ranked.loc[scored, "evalue"].between(1 / 12, 1).all()
    for name in outputs:
        sizes = plain.loc[scored, f"{name}|delta"].abs().to_numpy()
        smaller = (sizes[None] < sizes[:, None]).sum(axis=1)
        found = ranked.loc[scored, f"{name}|quantile"]
        np.testing.assert_allclose(found, smaller / 12, rtol=1e-6)


def test_the_evalue_is_of_all_features_whichever_are_shown(quick, genome, vcf, tmp_path):
    made = build_background(quick, vcf, genome, tmp_path / "a.npz")
    whole = ranked_table(quick, made, vcf, genome)
    part = ranked_table(quick, made, vcf, genome, features=["DNase"])
    pd.testing.assert_series_equal(part["evalue"], whole["evalue"])
    assert [name for name in part.columns if name.endswith("|quantile")] == [
        *("promoter|quantile", "llr|quantile", "A|DNase|None|quantile")
    ]


def test_a_model_has_its_own_background_in_its_directory(
    quick, genome, vcf, tmp_path, tiny_checkpoint
):
    build_background(quick, vcf, genome, tmp_path / "a.npz")
    assert background_of(quick) is None
    assert background_of(quick, "none") is None
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    shutil.copy(tmp_path / "a.npz", folder / "background.npz")
    own = background_of(load(folder, device="cpu"))
    assert own is not None
    assert own.count == 11
    given = background_of(quick, tmp_path / "a.npz")
    assert given is not None
    assert background_of(quick, given) is given


def test_a_background_of_another_model_is_an_error(quick, genome, vcf, tmp_path):
    build_background(quick, vcf, genome, tmp_path / "a.npz")
    read = Background.load(tmp_path / "a.npz")
    foreign = replace(read, facts={**read.facts, "model": "0123456789ab"})
    with pytest.raises(BackgroundError, match=r"is of model 0123456789ab, .*--background none"):
        background_of(quick, foreign)
    foreign.save(tmp_path / "b.npz")
    with pytest.raises(BackgroundError, match="cannot be compared"):
        background_of(quick, tmp_path / "b.npz")


def test_settings_other_than_those_of_the_background_are_mentioned(
    quick, genome, vcf, tmp_path, caplog
):
    caplog.set_level(logging.WARNING, "genobird.scoring.background")
    settings = EffectSettings(shifts=3)
    made = build_background(quick, vcf, genome, tmp_path / "a.npz", settings=settings)
    assert (made.facts["shifts"], made.facts["grid"]) == (3, 0)
    ranked_table(quick, made, vcf, genome, settings=settings)
    assert not caplog.messages
    ranked_table(quick, made, vcf, genome)
    assert caplog.messages[0].startswith("the background was made with shifts 3: quantiles and")
    assert len(caplog.messages) == 1
