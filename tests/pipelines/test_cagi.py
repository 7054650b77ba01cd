from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from genobird.baselines.config import BaselineConfig
from genobird.baselines.train import train_baselines
from genobird.errors import InputError, UsageError
from genobird.genome.sequence import reverse_complement
from genobird.scoring.scorer import load
from pipelines import cagi
from pipelines.cagi import COLUMNS, Construct
from tests.conftest import random_dna

KINDS = np.array(["DNase", "TF", "TF", "TF", "histone"])


def constructs(count, seed=1):
    made = []
    for n in range(count):
        ref = random_dna(150, seed=seed * 1000 + n)
        alt = ref[:75] + "ACGT"["ACGT".index(ref[75]) - 1] + ref[76:]
        made.append(Construct.of(ref, alt))
    return made


def test_candidates_are_summaries_of_deltas(tiny_checkpoint):
    chosen = constructs(3)
    signed, sizes = cagi.model_candidates(tiny_checkpoint, chosen, "cpu")
    logits = load(tiny_checkpoint, "cpu").chromatin_logits(
        [text for c in chosen for text in (c.ref, c.alt)], [75] * 6
    )
    deltas = logits[1::2] - logits[::2]  # [3, 5]
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(signed["mean delta"], deltas.mean(1), **close)
    np.testing.assert_allclose(signed["mean delta of TF"], deltas[:, 1:4].mean(1), **close)
    np.testing.assert_allclose(sizes["max |delta|"], np.abs(deltas).max(1), **close)
    np.testing.assert_allclose(sizes["sum of |delta|"], np.abs(deltas).sum(1), **close)
    np.testing.assert_allclose(np.abs(signed["largest delta"]), sizes["max |delta|"])
    assert set(signed) == {
        "largest delta", "mean delta", "mean delta of DNase", "mean delta of TF",
        "mean delta of histone", "promoter delta", "LLR",
    }  # fmt: skip
    np.testing.assert_array_equal(sizes["|LLR|"], np.abs(signed["LLR"]))


def test_exchanged_alleles_change_the_sign_alone_and_strands_do_not_matter(tiny_checkpoint):
    chosen = constructs(2, seed=2)
    swapped = [Construct.of(c.alt, c.ref) for c in chosen]
    turned = [Construct.of(reverse_complement(c.ref), reverse_complement(c.alt)) for c in chosen]
    one, other, reverse = (
        cagi.model_candidates(tiny_checkpoint, each, "cpu")[0] for each in (chosen, swapped, turned)
    )
    for name, values in one.items():
        np.testing.assert_allclose(values, -other[name], rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(one["LLR"], reverse["LLR"], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def baselines(tmp_path_factory, tiny_contigs):
    """A convolutional network trained for a step on a dataset of five features."""
    folder = tmp_path_factory.mktemp("data")
    sequence = np.frombuffer(tiny_contigs["chr1"].encode(), np.uint8)
    np.save(folder / "chr1.sequence.npy", sequence)
    np.save(folder / "chr1.labels.npy", np.arange(300, dtype=np.uint8)[:, None] % 32)
    np.save(folder / "chr1.usable.npy", np.ones(300, dtype=np.uint8))
    features = pd.DataFrame({"index": range(5), "name": list("abcde"), "class": KINDS})
    features.to_csv(folder / "features.tsv", sep="\t", index=False)
    parts = {"train": [["chr1", 0, 40_000]], "test": [["chr1", 40_000, 60_000]]}
    (folder / "index.json").write_text(json.dumps({"bin_bp": 200, "splits": parts}))
    config = BaselineConfig.model_validate(
        {"models": ["composition", "convolution"], "chromatin_fit": {"steps": 1},
         "windows": 2, "bins": 4, "chromatin_shape": {"first": 4, "second": 4, "hidden": 4}}
    )  # fmt: skip
    output = tmp_path_factory.mktemp("baselines") / "b"
    train_baselines(output, chromatin=folder, config=config)
    return output


def test_networks_see_the_construct_and_nothing_around_it(baselines):
    found = cagi.baseline_candidates(baselines, constructs(2), KINDS)
    assert set(found) == {"convolution"}
    signed, _ = found["convolution"]
    assert "LLR" not in signed
    wide = [c.inside("N" * 3000, "N" * 3000) for c in constructs(2)]
    again, _ = cagi.baseline_candidates(baselines, wide, KINDS)["convolution"]
    np.testing.assert_allclose(signed["mean delta"], again["mean delta"], rtol=1e-5)
    with pytest.raises(InputError, match="has 5 features, the model 4; train both on one dataset"):
        cagi.baseline_candidates(baselines, constructs(1), KINDS[:4])


@pytest.fixture
def variants(tmp_path, tiny_contigs):
    """Twenty variants whose skew is a function of their alleles; those of chr1 lie on it."""
    rows = []
    for n in range(20):
        start = 1_000 + 2_500 * n
        text = tiny_contigs["chr1"][start : start + 150] if n % 9 == 1 else random_dna(150, seed=n)
        alt = text[:75] + "ACGT"["ACGT".index(text[75]) - 1] + text[76:]
        chrom, pos = (1, start + 76) if n % 9 == 1 else (5, 2_000_000 * n)
        rows.append((f"v{n}", chrom, pos, text, alt, (n % 7) / 7 - 0.4, n % 4 == 0, n % 3 < 2))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table[["emVar_Hit", "Regulatory_Hit"]] = table[["emVar_Hit", "Regulatory_Hit"]].astype(int)
    table.to_csv(tmp_path / "v.csv", index=False)
    return tmp_path / "v.csv"


def test_the_command_writes_figures_and_a_page(
    variants, tiny_checkpoint, tiny_genome_path, baselines, tmp_path, caplog
):
    caplog.set_level("INFO")

    def run():
        cagi.main(
            variants, tiny_checkpoint, tmp_path / "out", baselines, [tiny_genome_path],
            resamples=5, device="cpu",
        )  # fmt: skip

    run()
    assert "construct, all: genobird spearman" in caplog.text
    report = json.loads((tmp_path / "out" / "cagi.json").read_text())
    results = report["results"]
    assert {key: part["all"]["variants"] for key, part in results.items()} == {
        "construct": 20, "genome": 3, "genome_as_construct": 3,
    }  # fmt: skip
    # three variants of one megabase give nothing to choose by
    assert set(results["genome"]["all"]) == {"variants", "hits"}
    part = results["construct"]["active"]
    assert part["variants"] == 14
    assert set(part["spearman"]) == {"genobird", "convolution", "GC change"}
    assert sum(part["spearman"]["genobird"]["chosen"].values()) == 5
    assert report["sources"].keys() == {"v.csv", "tiny.fa"}
    page = (tmp_path / "out" / "cagi.md").read_text()
    assert "## Constructs as they were measured: all variants" in page
    assert "| GC change | " in page
    with pytest.raises(UsageError, match="out exists"):
        run()
