"""Workflows run in a folder of their own that looks like the project: nothing is left beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("genobird", "pipelines", "data_manifests", "workflows")

Run = Callable[..., str]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with links to the folders of the project."""
    folder = tmp_path_factory.mktemp("work") / "project"
    folder.mkdir()
    for name in FOLDERS:
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def snakemake(project, programs) -> Run:
    """Run a workflow in `project` and return what it wrote.

    The configuration is a path, or a mapping that is written to a file first.
    """

    def run(workflow: str, config: Path | dict[str, object], *options: str, code: int = 0) -> str:
        environment = os.environ | {
            "PATH": os.pathsep.join(
                [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "HOME": str(project.parent),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        if isinstance(config, dict):
            (project / "config.yaml").write_text(yaml.safe_dump(config))
            config = Path("config.yaml")
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", f"workflows/{workflow}/Snakefile",
            "--directory", ".", "--cores", "1", "--configfile", str(config), *options,
        ]  # fmt: skip
        result = subprocess.run(
            command,
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        logs = "".join(
            f"\n{log.name}: {log.read_text()}" for log in project.glob("results/*/logs/*")
        )
        assert result.returncode == code, result.stdout + logs
        return result.stdout

    return run


@pytest.fixture
def report(project, snakemake) -> Callable[[str, Path | dict[str, object]], tuple[set[str], str]]:
    """Pack a finished workflow's report; return the names of its files, and its pages."""

    def pack(workflow: str, config: Path | dict[str, object]) -> tuple[set[str], str]:
        snakemake(workflow, config, "--report", "report.zip")
        with zipfile.ZipFile(project / "report.zip") as file:
            names = file.namelist()
            pages = b"".join(file.read(name) for name in names if name.endswith(".html"))
        return {Path(name).name for name in names}, pages.decode()

    return pack


@pytest.fixture(params=["local", pytest.param("slurm", marks=pytest.mark.slurm)])
def profile(request: pytest.FixtureRequest) -> str:
    """A profile's name; options of SLURM's are known only where its executor is installed."""
    name: str = request.param
    if name == "slurm":
        pytest.importorskip("snakemake_executor_plugin_slurm", reason="wants the extra [slurm]")
    return name
