from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from genobird.errors import InputError, TableError
from genobird.genome.interval import Interval
from genobird.genome.sequence import base_codes
from genobird.peaks import Feature, Track
from pipelines.manifest import Splits
from pipelines.sites import LENGTH, read_sites, site_codes, site_labels

SPLITS = Splits("s", (Interval("chr2", 0, 10_000),), (), (), ())


def table(*rows):
    return pd.DataFrame(rows, columns=["chrom", "start", "end", "sequence"])


def test_sites_of_the_train_part_are_kept_and_no_others(tmp_path):
    path = tmp_path / "sites.tsv"
    rows = [("chr2", 10, 14, "ACGT"), ("chr2", 9_998, 10_002, "ACGT"), ("chr8", 10, 14, "ACGT")]
    table(*rows).to_csv(path, sep="\t", index=False)
    assert read_sites(path, SPLITS)["start"].tolist() == [10]
    table(rows[2]).to_csv(path, sep="\t", index=False)
    with pytest.raises(InputError, match="none of 1 sites lies in the train part"):
        read_sites(path, SPLITS)
    table(("chr2", 10, 15, "ACGT")).to_csv(path, sep="\t", index=False)
    with pytest.raises(TableError, match="the site chr2 10 15 has 4 bases"):
        read_sites(path, SPLITS)


def test_bases_are_centred_on_the_midpoint_and_long_sites_are_cut():
    long = "ACGTT" * 200
    codes = site_codes(table(("c", 100, 104, "ACGT"), ("c", 0, 1000, long)))
    assert codes.shape == (2, LENGTH)
    assert codes[0, LENGTH // 2 - 2 : LENGTH // 2 + 2].tolist() == [0, 1, 2, 3]
    assert (codes[0] != 4).sum() == 4
    assert np.array_equal(codes[1], base_codes(long)[500 - LENGTH // 2 : 500 + LENGTH // 2])


def test_a_site_has_the_labels_of_the_200_bp_around_its_midpoint():
    def track(name, peaks):
        return Track(Feature(-1, name, "custom"), {c: np.array(p) for c, p in peaks.items()})

    tracks = [
        track("half", {"chr2": [[400, 501]]}),
        track("less", {"chr2": [[400, 500]]}),
        track("elsewhere", {"chr3": [[400, 600]]}),
    ]
    labels, known = site_labels(table(("chr2", 498, 502, "ACGT")), tracks)
    assert labels.tolist() == [[True, False, False]]
    assert known.tolist() == [[True, True, False]]
