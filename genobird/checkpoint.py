"""A trained model as a directory that needs nothing from its surroundings.

```
model.safetensors   weights: encoder.*, mlm.*, nsp.*, promoter.*, chromatin.*
config.json         shapes of the encoder and of each head
tokenizer.model     the SentencePiece tokenizer, or the merges of an imported model
features.tsv        features of the chromatin head, in order (index, name, class)
provenance.json     what it was made from, and the sha256 of the files above
```
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from genobird.digest import file_sha256
from genobird.errors import CheckpointError, GenobirdError, UsageError
from genobird.heads import Head, HeadConfig
from genobird.model import BigBird, BigBirdConfig, MaskedLMHead
from genobird.tokenizer import Tokenizer

FORMAT: Literal[1] = 1
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"
FEATURES, PROVENANCE = "features.tsv", "provenance.json"


class Shapes(BaseModel):
    """What `config.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    encoder: BigBirdConfig
    mlm: bool = False
    promoter: HeadConfig | None = None
    chromatin: HeadConfig | None = None


@dataclass
class Checkpoint:
    """An encoder with the heads it has, its tokenizer and its provenance.

    Attributes:
        encoder: the encoder.
        tokenizer: the tokenizer it was trained with.
        mlm: masked-language-model head.
        nsp: next-sentence head: two logits on [CLS].
        promoter: promoter head, one logit a place.
        chromatin: chromatin head, F logits a place.
        features: F rows `index name class`; empty without a chromatin head.
        provenance: free facts: data, steps, commands, versions.
        directory: where it was loaded from; None before that.
    """

    encoder: BigBird
    tokenizer: Tokenizer
    mlm: MaskedLMHead | None = None
    nsp: nn.Linear | None = None
    promoter: Head | None = None
    chromatin: Head | None = None
    features: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["index", "name", "class"])
    )
    provenance: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None

    def modules(self) -> dict[str, nn.Module]:
        """Return the parts that have weights, by the prefix of their names."""
        parts = {
            "encoder": self.encoder,
            "mlm": self.mlm,
            "nsp": self.nsp,
            "promoter": self.promoter,
            "chromatin": self.chromatin,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def hash(self) -> str:
        """First 12 letters of the sha256 of the weights file; empty before saving."""
        return str(self.provenance.get("sha256", {}).get(WEIGHTS, ""))[:12]

    def save(self, path: Path, *, dtype: torch.dtype = torch.float32, force: bool = False) -> None:
        """Write the directory under a temporary name, then rename it.

        Args:
            path: the directory.
            dtype: of the stored weights; float16 halves the size and is read back as float32.
                What is not trained stays as it is: variances of batch norms leave the range of
                float16.
            force: replace an existing directory.

        Raises:
            UsageError: the directory exists and `force` is not given.
        """
        if path.exists() and not force:
            raise UsageError(f"{path} exists; choose another place or pass --force")
        part = path.with_name(f".{path.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors = {
            f"{name}.{key}": value.detach()
            .to("cpu", dtype if key in trained else value.dtype)
            .contiguous()
            for name, module in self.modules().items()
            for trained in [dict(module.named_parameters())]
            for key, value in module.state_dict().items()
        }
        save_file(tensors, part / WEIGHTS)
        (part / WEIGHTS).chmod(0o644)  # safetensors makes it readable by its owner alone
        shapes = Shapes(
            encoder=self.encoder.config,
            mlm=self.mlm is not None,
            promoter=self.promoter.config if self.promoter else None,
            chromatin=self.chromatin.config if self.chromatin else None,
        )
        (part / CONFIG).write_text(shapes.model_dump_json(indent=2) + "\n")
        self.tokenizer.save(part / TOKENIZER)
        self.features.to_csv(part / FEATURES, sep="\t", index=False)
        files = (WEIGHTS, CONFIG, TOKENIZER, FEATURES)
        self.provenance = {
            **self.provenance,
            "sha256": {name: file_sha256(part / name) for name in files},
        }
        (part / PROVENANCE).write_text(json.dumps(self.provenance, indent=2) + "\n")
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a directory, check that nothing is missing or altered; weights become float32.

        Raises:
            UsageError: there is no such directory.
            CheckpointError: a file is missing, altered or does not fit the others.
        """
        if not path.is_dir():
            raise UsageError(f"there is no model directory {path}")
        provenance = _verify(path)
        try:
            shapes = Shapes.model_validate_json((path / CONFIG).read_text())
            tokenizer = Tokenizer.load(path / TOKENIZER)
            tensors = load_file(path / WEIGHTS)
            features = pd.read_csv(path / FEATURES, sep="\t")
        except (ValueError, SafetensorError, GenobirdError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} is no usable model: {reason}") from error
        config = shapes.encoder
        _fits(path / TOKENIZER, "pieces", tokenizer.vocab_size, config.vocab_size)
        outputs = shapes.chromatin.outputs if shapes.chromatin else 0
        _fits(path / FEATURES, "features", len(features), outputs)
        width = config.width
        checkpoint = cls(
            BigBird(config, tokenizer.bases),
            tokenizer,
            mlm=MaskedLMHead(config) if shapes.mlm else None,
            nsp=nn.Linear(width, 2) if config.nsp else None,
            promoter=Head(shapes.promoter, width) if shapes.promoter else None,
            chromatin=Head(shapes.chromatin, width) if shapes.chromatin else None,
            features=features,
            provenance=provenance,
            directory=path,
        )
        for name, module in checkpoint.modules().items():
            _load_part(path, name, module, tensors)
        return checkpoint

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move every part to a device, in place."""
        for module in self.modules().values():
            module.to(device)
        return self


def _fits(path: Path, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise CheckpointError(f"{path} has {found} {what}, config.json says {expected}")


def _load_part(
    path: Path, name: str, module: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    prefix = f"{name}."
    state = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path / WEIGHTS} does not fit its config.json: {reason}") from error


def _verify(path: Path) -> dict[str, Any]:
    if not (path / PROVENANCE).is_file():
        raise CheckpointError(f"{path} has no {PROVENANCE}; it is no genobird model, or incomplete")
    try:
        provenance: dict[str, Any] = json.loads((path / PROVENANCE).read_text())
        hashes = dict(provenance["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / PROVENANCE} is damaged; fetch the model again") from error
    for name in (WEIGHTS, CONFIG, TOKENIZER, FEATURES):
        if not (path / name).is_file():
            raise CheckpointError(f"{path} lacks {name}; fetch the model again")
        found = file_sha256(path / name)
        if found != hashes.get(name):
            raise CheckpointError(
                f"{path / name} was altered: sha256 {found[:12]}..., recorded "
                f"{str(hashes.get(name))[:12]}...; fetch the model again"
            )
    return provenance
