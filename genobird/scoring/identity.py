"""Identity: what tells whether the scores of two runs belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genobird import __version__
from genobird.files import file_sha256
from genobird.genome.fasta import Genome
from genobird.genome.streams import require_file

if TYPE_CHECKING:
    from genobird.scoring.scorer import Scorer

Identity = Mapping[str, str | int]

_SAMPLES, _SAMPLE = 256, 1 << 16


def identity_of(scorer: Scorer, features: Sequence[str] | None, **others: str | int) -> Identity:
    """Return what decides the scores of a run; `model` is empty for one that was never saved.

    The number of threads and the batch size are left out: they change the last digits only.

    Args:
        scorer: the model; its kind of device and its chunk count too.
        features: names or classes of the chromatin columns; None is all.
        others: what else decides, the genome for one.
    """
    return {
        "version": __version__,
        "model": scorer.model_hash,
        "features": "all" if features is None else ",".join(features),
        "device": scorer.device.type,
        "precision": scorer.precision,
        "chunk": scorer.chunk,
        **others,
    }


def hash_of_file(path: Path | str) -> str:
    """Return the first 16 letters of the sha256 of a file's bytes.

    Raises:
        UsageError: it is missing.
    """
    return file_sha256(require_file(path))[:16]


def hash_of_genome(genome: Genome) -> str:
    """Return 16 letters for a genome: contigs, size of the file and 16 MiB spread over it.

    Every run over a large VCF needs it, and all bytes of a mammalian genome take seconds. Another
    assembly, another patch or another person's genome never passes for the same; one base that was
    edited in place in an uncompressed file may.
    """
    digest = hashlib.sha256(json.dumps(genome.contigs).encode())
    size = genome.path.stat().st_size
    digest.update(str(size).encode())
    with genome.path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE:
            digest.update(file.read())
        else:
            for number in range(_SAMPLES):
                file.seek(number * (size - _SAMPLE) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]
