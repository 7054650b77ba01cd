"""Workflows on a real SLURM: this machine alone, without accounting, stopped after the tests."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

import pandas as pd
import pysam
import pytest
import yaml

from tests.models import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path("genobird/bundled/demo")
DAEMONS = "munged", "slurmctld", "slurmd"
SBIN = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"  # where Debian puts them
CONFIGURATION = """\
ClusterName=genobird
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MinJobAge=86400
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES
"""

GENOBIRD = """\
#!{python}
# genobird; the first two trainings end once they have saved their state: killed, and out of time.
import os
import signal
import subprocess
import sys
from pathlib import Path

from genobird.cli import main
from genobird.tasks.callbacks import SaveState

save, folder = SaveState.save, Path({folder!r})


def ask(*command):
    environment = os.environ | {{"SLURM_CONF": str(folder / "slurm.conf")}}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def save_and_end(self, trainer):
    save(self, trainer)
    ended = len(list(folder.glob("ended.*")))
    (folder / f"ended.{{ended}}.{{trainer.global_step}}").touch()
    if ended == 0:  # as the kernel does where memory is short
        os.kill(os.getpid(), signal.SIGKILL)
    if ended == 1:  # the signal of the profile comes as soon as the limit is near
        job = ask("squeue", "--noheader", "--states=running", "--format=%i").strip()
        signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
        ask("scontrol", "update", f"JobId={{job}}", "TimeLimit=1")
        signal.sigwait({{signal.SIGTERM}})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {{signal.SIGTERM}})
        os.kill(os.getpid(), signal.SIGTERM)


if sys.argv[1] == "pretrain":
    SaveState.save = save_and_end
sys.exit(main())
"""

pytestmark = [pytest.mark.slurm, pytest.mark.workflow, pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass(frozen=True)
class Cluster:
    """What an operator asks of it."""

    folder: Path

    def ask(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def is_idle(self) -> bool:
        answer = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True)
        return answer.stdout == b"idle\n"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=SBIN)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("snakemake-executor-plugin-slurm is not installed")
    folder = tmp_path_factory.mktemp("cluster")
    for name in ("bin", "spool", "state"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    controller, node = free_ports(2)
    text = CONFIGURATION.format(
        host=host, user=getuser(), folder=folder, controller=controller, node=node
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    # Within jobs the plugin drops every variable SLURM_*, the name of the configuration too.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    # The folder is private to its user, who is the only one of the cluster: --force lets it be.
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    one = Cluster(folder)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PATH", str(srun.parent), prepend=os.pathsep)
        patch.setenv("USER", getuser())  # the plugin needs it
        for command in commands:
            log = stack.enter_context((folder / f"{command[0]}.out").open("w"))
            program = shutil.which(command[0], path=SBIN)
            daemon = subprocess.Popen([str(program), *command[1:]], stdout=log, stderr=log)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            if command[0] == "munged":
                end = time.monotonic() + 30
                while not (folder / "munge.socket").exists() and time.monotonic() < end:
                    time.sleep(0.1)
        end = time.monotonic() + 120
        while not one.is_idle():
            if time.monotonic() > end:
                pytest.skip("cannot start: " + (folder / "slurmctld.out").read_text()[-500:])
            time.sleep(0.5)
        yield one


@pytest.fixture(scope="module")
def programs(cluster) -> Path:
    """Commands in processes of their own: signals of the cluster have to reach them."""
    folder: Path = cluster.folder / "programs"
    folder.mkdir()
    texts = {
        "genobird": GENOBIRD.format(python=sys.executable, folder=str(cluster.folder)),
        "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def options(workflow: str) -> tuple[str, ...]:
    """The profile as it is, but without long waits for the file system and the scheduler."""
    return (
        *("--profile", f"workflows/{workflow}/profiles/slurm", "--latency-wait", "5"),
        *("--slurm-init-seconds-before-status-checks", "1"),
    )


def test_files_are_scored_in_shards_each_with_a_gpu_of_its_own(
    cluster, snakemake, project, tiny_tokenizer
):
    tiny_checkpoint(tiny_tokenizer).save(project / "tiny")
    sheet = [("regions", DEMO / "regions.bed"), ("variants", DEMO / "variants.vcf")]
    pd.DataFrame(sheet, columns=["sample", "path"]).to_csv(
        project / "samples.tsv", sep="\t", index=False
    )
    shutil.copy(ROOT / DEMO / "chr20.demo.fa.gz", project / "genome.fa.gz")
    config = {"model": "tiny", "output": "results/scored", "threads": 1, "device": "cpu"}
    log = snakemake("score", config | {"gpus": 1, "shards": 2}, *options("score"))
    assert "rule merge" in log
    results = project / "results" / "scored"
    assert not (results / "shards").exists()
    assert {path.name for path in (results / "variants").iterdir()} == {
        *("variants.parquet", "variants.vcf.gz", "variants.vcf.gz.tbi")
    }
    with pysam.VariantFile(str(results / "variants" / "variants.vcf.gz")) as scored:
        after = [(record.pos, record.alleles) for record in scored]
    with pysam.VariantFile(str(ROOT / DEMO / "variants.vcf")) as given:
        assert after == [(record.pos, record.alleles) for record in given]
    asked = cluster.ask("squeue", "--noheader", "--states=all", "--Format=tres-per-job").split()
    assert asked == ["gres:gpu:1"] * 3 + ["N/A"]  # the merge scores nothing


def test_a_training_that_is_killed_and_one_out_of_time_go_on(cluster, snakemake, project):
    test = ROOT / "workflows" / "train" / "config"
    config = yaml.safe_load((test / "test.yaml").read_text())
    settings = yaml.safe_load((test / "test" / "pretrain.yaml").read_text())
    settings["fit"] |= {"steps": 6, "save_every": 2}
    (project / "pretrain.yaml").write_text(yaml.safe_dump(settings))
    config |= {"pretrain": "pretrain.yaml", "output": "results/trained"}
    log = snakemake("train", config, *options("train"), "--until", "pretrain")
    assert log.count("Trying to restart job") == 2
    # Killed at step 2; told at step 4 that its time is up, and saved there again.
    saved = sorted(path.name for path in cluster.folder.glob("ended.*"))
    assert saved == ["ended.0.2", "ended.1.4", "ended.2.4", "ended.3.6"]
    trained = project / "results" / "trained"
    files = {"shards": "shards/train", "validation_shards": "shards/validation"}
    files |= {"tokenizer": "tokenizer.model"}
    command = [sys.executable, "-m", "genobird", "pretrain", "--config", "pretrain.yaml"]
    command += ["--output", "at-once", "--quiet", "--set", f"fit.threads={config['threads']}"]
    for name, file in files.items():
        command += ["--set", f"{name}={trained / file}"]
    subprocess.run(command, cwd=project, check=True)
    one, other = (
        (folder / "model" / "model.safetensors").read_bytes()
        for folder in (project / "at-once", trained / "pretrain")
    )
    assert one == other
