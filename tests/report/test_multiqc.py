from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from genobird.errors import TableError, UsageError
from genobird.report.multiqc import write_statuses


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    """Three samples: regions, the ALTs of variants, and a file in which nothing was."""
    columns = {"peaks.tsv": ["AMBIGUOUS", "OK"], "me.2.parquet": ["OK", "TOO_LONG", "OK"]}
    for name, statuses in (columns | {"none.tsv.gz": []}).items():
        table = pd.DataFrame({"chrom": "chr1", "status": statuses}, dtype=str)
        if name.endswith(".parquet"):
            table.to_parquet(tmp_path / name)
        else:
            table.to_csv(tmp_path / name, sep="\t", index=False)
    return [tmp_path / name for name in (*columns, "none.tsv.gz")]


def test_rows_of_each_status_are_counted_for_each_sample(tables, tmp_path):
    write_statuses(tmp_path / "statuses_mqc.tsv", tables)
    lines = (tmp_path / "statuses_mqc.tsv").read_text().splitlines()
    heading = [line for line in lines if line.startswith("#")]
    settings = yaml.safe_load("\n".join(line.removeprefix("# ") for line in heading))
    assert settings["id"] == "genobird_status"
    assert settings["plot_type"] == "bargraph"
    assert settings["pconfig"].keys() == {"id", "title", "ylab"}
    assert [line.split("\t") for line in lines[len(heading) :]] == [
        ["Sample", "OK", "AMBIGUOUS", "TOO_LONG"],
        ["peaks", "1", "1", "0"],
        ["me.2", "2", "0", "1"],
        ["none", "0", "0", "0"],
    ]


def test_what_cannot_be_counted_or_shown_is_refused(tables, tmp_path):
    output = tmp_path / "statuses_mqc.tsv"
    with pytest.raises(UsageError, match=r"statuses\.tsv has an unknown ending; allowed are _mqc"):
        write_statuses(tmp_path / "statuses.tsv", tables)
    (tmp_path / "peaks.parquet").write_bytes(tables[1].read_bytes())
    with pytest.raises(UsageError, match="two tables of one sample peaks found"):
        write_statuses(output, [tables[0], tmp_path / "peaks.parquet"])
    for name in ("#1.tsv", ".tsv", "a\nb.tsv"):
        with pytest.raises(UsageError, match=f"{name} is no name of a sample for MultiQC"):
            write_statuses(output, [tables[0].rename(tmp_path / name)])
        tables[0] = tmp_path / name
    for text, message in (
        ("chrom\tscore\nchr1\t1\n", r"x\.tsv has no column status"),
        ("chrom\tstatus\nchr1\tFINE\n", r"x\.tsv, row 1 of the table: status is FINE, one of OK"),
    ):
        (tmp_path / "x.tsv").write_text(text)
        with pytest.raises(TableError, match=message):
            write_statuses(output, [tmp_path / "x.tsv"])
    # A file without rows was an empty sample, whatever its columns were.
    for columns, missing in (([], "chrom"), (["chrom"], "status"), (["name", "status"], "chrom")):
        for rows in (0, 1):
            table = pd.DataFrame(dict.fromkeys(columns, ["OK"] * rows), dtype=str)
            table.to_parquet(tmp_path / "x.parquet")
            with pytest.raises(TableError, match=rf"x\.parquet has no column {missing}"):
                write_statuses(output, [tmp_path / "x.parquet"])
    assert not output.exists()


@pytest.mark.skipif(shutil.which("multiqc") is None, reason="there is no multiqc on the PATH")
def test_multiqc_shows_the_counts(tables, tmp_path):
    write_statuses(tmp_path / "statuses_mqc.tsv", tables)
    command = ["multiqc", ".", "--outdir", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = pd.read_csv(
        tmp_path / "out/multiqc_data/multiqc_genobird_status_plot.txt", sep="\t", index_col="Sample"
    )
    assert shown.loc["peaks"].to_dict() == {"OK": 1, "AMBIGUOUS": 1, "TOO_LONG": 0}
    assert shown.loc["me.2"].to_dict() == {"OK": 2, "AMBIGUOUS": 0, "TOO_LONG": 1}
