import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad, read_zarr

from genobird.errors import TableError
from genobird.scoring.variant_table import tidy_scores, to_anndata


@pytest.fixture
def table():
    """Two variants with two outputs, as `screen_variants` lays them out."""
    rows = {"chrom": ["chr1", "chr2"], "pos": [5, 9], "ref": ["A", "CT"], "alt": ["G", "C"]}
    values = {
        "promoter|ref": [1.0, 2.0], "promoter|alt": [1.5, 1.0], "promoter|delta": [0.5, -1.0],
        "K562|CTCF|None|ref": [3.0, 4.0], "K562|CTCF|None|alt": [3.0, 6.0],
        "K562|CTCF|None|delta": [0.0, 2.0], "K562|CTCF|None|quantile": [0.1, 0.9],
        "K562|CTCF|None|diff": [0.0, 0.3], "llr|se": [0.1, 0.1],
    }  # fmt: skip
    return pd.DataFrame({**rows, "status": "OK", "evalue": [1.0, 0.2], **values})


def test_a_tidy_table_has_a_row_per_variant_and_feature(table):
    tidy = tidy_scores(table)
    assert list(tidy) == ["variant", "feature", "REF", "ALT", "delta", "quantile", "diff"]
    assert tidy["variant"].tolist() == ["chr1:5:A>G"] * 2 + ["chr2:9:CT>C"] * 2
    assert tidy["feature"].tolist() == ["promoter", "K562|CTCF|None"] * 2
    assert tidy["delta"].tolist() == [0.5, 0.0, -1.0, 2.0]
    assert (tidy["ALT"] - tidy["REF"]).tolist() == tidy["delta"].tolist()
    np.testing.assert_array_equal(tidy["quantile"], [np.nan, 0.1, np.nan, 0.9])
    assert "quantile" not in tidy_scores(table.drop(columns="K562|CTCF|None|quantile"))


@pytest.mark.parametrize("drop", ["pos", "delta"])
def test_a_table_of_something_else_is_refused(table, drop):
    left = table[[name for name in table if drop not in name]]
    with pytest.raises(TableError, match=r"^a table of columns chrom.* has no scores of variants"):
        tidy_scores(left)


WRONG = {
    "None is given as a table of scores; give that of screen_variants": lambda table: None,
    "'x.tsv' is given as a table of scores": lambda table: "x.tsv",
    "is given as a table of scores": lambda table: table.iloc[0],
    "has two columns chrom; give": lambda table: pd.concat([table, table], axis=1),
    r"column promoter of the table holds no numbers; give": lambda table: table.assign(
        **{"promoter|delta": "x"}
    ),
}


@pytest.mark.parametrize("made", [tidy_scores, to_anndata])
@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_table_of_scores_is_refused(table, made, message):
    with pytest.raises(TableError, match=message):
        made(WRONG[message](table))


def test_places_of_anndata_are_numbers_and_may_be_missing(table):
    assert to_anndata(table.assign(pos=None)).obs_names[0] == "chr1:None:A>G"
    keys = {"chrom": ["chr1"], "start": ["x"], "end": [20], "name": ["a"], "strand": ["+"]}
    with pytest.raises(TableError, match="column start of the table holds no numbers"):
        to_anndata(pd.DataFrame({**keys, "status": "OK", "flags": "", "promoter": [0.25]}))


def test_variants_become_anndata_with_a_layer_per_allele(table):
    made = to_anndata(pd.concat([table, table.iloc[:1]]))
    assert made.shape == (3, 2)
    assert made.obs_names.tolist() == ["chr1:5:A>G", "chr2:9:CT>C", "chr1:5:A>G-1"]
    assert made.var_names.tolist() == ["promoter", "K562|CTCF|None"]
    assert made.X.dtype == np.float32
    np.testing.assert_array_equal(made.layers["ALT"] - made.layers["REF"], made.X)
    assert made.obs["evalue"].tolist() == [1.0, 0.2, 1.0]
    np.testing.assert_allclose(made.layers["diff"][:, 1], [0.0, 0.3, 0.0], rtol=1e-6)
    assert list(made.obs) == ["chrom", "pos", "ref", "alt", "status", "evalue", "llr|se"]


def test_regions_become_anndata_of_what_is_predicted_and_can_be_written(tmp_path):
    keys = {"chrom": ["chr1"], "start": [10], "end": [20], "name": ["a"], "strand": ["+"]}
    table = pd.DataFrame({**keys, "status": "OK", "flags": "", "promoter": [0.25]})
    made = to_anndata(table)
    assert (made.obs_names.tolist(), made.var_names.tolist()) == (["chr1:11-20"], ["promoter"])
    assert made.X.tolist() == [[0.25]]
    made.write_zarr(tmp_path / "made.zarr")
    made.write_h5ad(tmp_path / "made.h5ad")
    for back in (made, read_zarr(tmp_path / "made.zarr"), read_h5ad(tmp_path / "made.h5ad")):
        assert back.obs_names.tolist() == ["chr1:11-20"]
        assert back.obs["name"].tolist() == ["a"]
