"""A trained model as a directory that needs nothing from its surroundings.

```
model.safetensors   weights: encoder.*, mlm.*, nsp.*, promoter.*, chromatin.*, table.*; a promoter
                    head that asks the chromatin head as it is here does not hold it a second time
config.json         shapes of the encoder and of each head, and what a table head predicts
tokenizer.model     the SentencePiece tokenizer, or the merges of an imported model
features.tsv        features of the chromatin head, in order (index, name, class)
provenance.json     what it was made from, and the sha256 of the files above
```
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn
from torch.overrides import TorchFunctionMode

from genobird.columns import LLR, PROMOTER, REGION_KEYS, REGION_LIFTED
from genobird.config import Strict, explain
from genobird.errors import CheckpointError, GenobirdError, InputError, UsageError, quoted
from genobird.files import Draft, Kind, file_sha256, refuse_existing
from genobird.genome.streams import MOST_DIGITS, whole
from genobird.heads import Head, HeadConfig
from genobird.model import BigBird, BigBirdConfig, MaskedLMHead
from genobird.targets import MARK, Targets
from genobird.tokenizer import Tokenizer

FORMAT: Literal[1] = 1
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"
FEATURES, PROVENANCE = "features.tsv", "provenance.json"
# Of modules that stand above.
_BESIDE = ("MODEL_CARD.md", "README.md", "evaluation.json", "per_feature.tsv", "background.npz")
_FILES = (WEIGHTS, CONFIG, TOKENIZER, FEATURES, PROVENANCE, *_BESIDE)
KIND = Kind("model of genobird", PROVENANCE, _FILES, WEIGHTS)
# Bases that a head may read of a place; the other shapes show in the weights.
_MOST_BP = 1 << 24
# Columns of every table of scores; MARK begins those of table heads.
_TAKEN = {*REGION_KEYS, *REGION_LIFTED, PROMOTER, LLR}

# No letters at all; eleven of DeepSEA's names have a space of another kind than ASCII's.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def feature_columns(features: pd.DataFrame) -> list[str]:
    """Return the column of each feature in tables: its name; one that repeats, with its index.

    Args:
        features: rows `index name class`.
    """
    repeated = features["name"].duplicated(keep=False)
    return [
        f"{name}#{index}" if again else str(name)
        for name, index, again in zip(features["name"], features["index"], repeated, strict=True)
    ]


def require_free_names(features: pd.DataFrame) -> None:
    """Refuse features that cannot be columns of tables of scores, by an InputError."""
    names = feature_columns(features)
    shown = [*features["name"].astype(str), *names]
    if odd := [name for name in shown if not name.strip() or _CONTROL.search(name)]:
        raise InputError(f"a feature is called {quoted(odd[0])}; give it a name of printable text")
    if taken := [name for name in names if name in _TAKEN or name.startswith(MARK)]:
        raise InputError(f"a feature is called {taken[0]}, as a column of tables; rename it")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"two features are called {twice}; give them different names, or different indices"
        )


class Shapes(Strict):
    """What `config.json` holds."""

    format: Literal[1] = FORMAT
    encoder: BigBirdConfig
    mlm: bool = False
    promoter: HeadConfig | None = None
    chromatin: HeadConfig | None = None
    table: HeadConfig | None = None
    targets: Targets | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Shapes:
        outputs = (self.table.outputs if self.table else 0), len(getattr(self.targets, "names", ()))
        if outputs[0] != outputs[1]:
            raise ValueError(f"a table head of {outputs[0]} outputs has {outputs[1]} targets")
        heads = [self.promoter, self.chromatin, self.table]
        for head in heads:
            if head is None:
                continue
            if head.before_bp + head.after_bp > _MOST_BP:
                raise ValueError(f"a head reads {head.before_bp} + {head.after_bp} bp of a place")
            heads.append(head.profiles)
        return self


@dataclass
class Checkpoint:
    """An encoder with the heads it has, its tokenizer and its provenance."""

    encoder: BigBird
    """The encoder."""
    tokenizer: Tokenizer
    """The tokenizer it was trained with."""
    mlm: MaskedLMHead | None = None
    """Masked-language-model head."""
    nsp: nn.Linear | None = None
    """Next-sentence head: two logits on [CLS]."""
    promoter: Head | None = None
    """Promoter head, one logit a place."""
    chromatin: Head | None = None
    """Chromatin head, F logits per place."""
    table: Head | None = None
    """Head for a user's own table, O outputs a place."""
    targets: Targets | None = None
    """What these outputs are; None without that head."""
    features: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["index", "name", "class"])
    )
    """F rows `index name class`; empty without a chromatin head."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Free facts: data, steps, commands, versions."""
    directory: Path | None = None
    """Where it was loaded from; None before that."""

    def modules(self) -> dict[str, nn.Module]:
        """Return the parts that have weights, by the prefix of their names."""
        parts = {
            "encoder": self.encoder,
            "mlm": self.mlm,
            "nsp": self.nsp,
            "promoter": self.promoter,
            "chromatin": self.chromatin,
            "table": self.table,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def hash(self) -> str:
        """First 12 letters of the sha256 of the weights file; empty before saving."""
        return str(self.provenance.get("sha256", {}).get(WEIGHTS, ""))[:12]

    def save(
        self, path: Path | str, *, dtype: torch.dtype = torch.float32, force: bool = False
    ) -> None:
        """Write the directory.

        Args:
            path: the directory.
            dtype: of the stored weights; float16 halves the size and is read back as float32.
                What is not trained stays as it is: variances of batch norms leave the range of
                float16.
            force: replace a model that is there.

        Raises:
            UsageError: the directory exists and `force` is not given, or it holds something else.
            CheckpointError: weights are no numbers.
            OutputError: it cannot be written.
        """
        path = Path(path)
        refuse_existing(path, force, KIND)
        with Draft(path, KIND) as part:
            part.mkdir()
            self._write(part, dtype)

    def _write(self, part: Path, dtype: torch.dtype) -> None:
        tensors = {
            f"{name}.{key}": value.detach()
            .to("cpu", dtype if key in trained else value.dtype)
            .contiguous()
            for name, module in self.modules().items()
            for trained in [dict(module.named_parameters())]
            for key, value in module.state_dict().items()
        }
        if broken := _without_numbers(tensors):
            raise CheckpointError(
                f"the model has weights that are no numbers, in {broken}; train it with a lower "
                "learning rate"
            )
        (part / WEIGHTS).write_bytes(save(_once(tensors)))
        shapes = Shapes(
            encoder=self.encoder.config,
            mlm=self.mlm is not None,
            promoter=self.promoter.config if self.promoter else None,
            chromatin=self.chromatin.config if self.chromatin else None,
            table=self.table.config if self.table else None,
            targets=self.targets,
        )
        absent = set() if self.table else {"table", "targets"}  # older versions know neither
        text = shapes.model_dump_json(indent=2, exclude=absent)
        (part / CONFIG).write_text(text + "\n")
        self.tokenizer.save(part / TOKENIZER)
        self.features.to_csv(part / FEATURES, sep="\t", index=False)
        files = (WEIGHTS, CONFIG, TOKENIZER, FEATURES)
        self.provenance = {
            **self.provenance,
            "sha256": {name: file_sha256(part / name) for name in files},
        }
        (part / PROVENANCE).write_text(json.dumps(self.provenance, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Checkpoint:
        """Read a directory, check that nothing is missing or altered; weights become float32.

        Raises:
            UsageError: there is no such directory.
            CheckpointError: a file is missing, altered or does not fit the others.
        """
        path = Path(path)
        if not path.is_dir():
            raise UsageError(f"there is no model directory {path}")
        provenance = _verify(path)
        try:
            shapes = Shapes.model_validate_json(_read(path / CONFIG, Path.read_text))
            tokenizer = Tokenizer.load(path / TOKENIZER)
            features = _read_features(path / FEATURES)
            found = _read(path / WEIGHTS, _shapes_in)
        except ValidationError as error:
            reason = explain(error, Shapes)
            raise CheckpointError(f"{path} is no usable model: {CONFIG}: {reason}") from error
        except (ValueError, GenobirdError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} is no usable model: {reason}") from error
        config = shapes.encoder
        _fits(path / TOKENIZER, "pieces", tokenizer.vocab_size, config.vocab_size)
        outputs = shapes.chromatin.outputs if shapes.chromatin else 0
        _fits(path / FEATURES, "features", len(features), outputs)

        def built() -> Checkpoint:
            width = config.width
            with _Undrawn():
                return cls(
                    BigBird(config, tokenizer.bases),
                    tokenizer,
                    mlm=MaskedLMHead(config) if shapes.mlm else None,
                    nsp=nn.Linear(width, 2) if config.nsp else None,
                    promoter=Head(shapes.promoter, width) if shapes.promoter else None,
                    chromatin=Head(shapes.chromatin, width) if shapes.chromatin else None,
                    table=Head(shapes.table, width) if shapes.table else None,
                    targets=shapes.targets,
                    features=features,
                    provenance=provenance,
                    directory=path,
                )

        # Without memory first: whoever wrote config.json may ask for more than there is.
        try:
            with torch.device("meta"):
                empty = built()
        except (ValueError, TypeError, RuntimeError, OverflowError, GenobirdError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path / CONFIG} has no usable shapes: {reason}") from error
        asks = empty.promoter is not None and empty.promoter.profiles is not None
        _require_shapes(path, empty, _shared(found) if asks else found)
        checkpoint, tensors = built(), load_file(path / WEIGHTS)
        if broken := _without_numbers(tensors):
            raise CheckpointError(
                f"{path / WEIGHTS} holds weights that are no numbers, in {broken}; fetch the model "
                "again, or train it with a lower learning rate"
            )
        tensors = _shared(tensors) if asks else tensors
        for name, module in checkpoint.modules().items():
            _load_part(path, name, module, tensors)
        return checkpoint

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move every part to a device, in place."""
        for module in self.modules().values():
            module.to(device)
        return self


def bundled_model() -> Path:
    """Return the directory of the model that comes with the package."""
    return Path(str(resources.files("genobird"))) / "bundled" / "model"


def _fits(path: Path, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise CheckpointError(f"{path} has {found} {what}, config.json says {expected}")


class _Undrawn(TorchFunctionMode):
    """Leaves out the random numbers that new weights begin with, where all are replaced.

    Without memory torch would load its compiler to draw them (a second, and 230 MB), and sympy to
    scale them (0.3 s, and 40 MB).
    """

    LEFT_OUT = frozenset({"normal_", "uniform_", "kaiming_uniform_", "div_"})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in self.LEFT_OUT:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


_ASKED, _CHROMATIN = "promoter.profiles.", "chromatin."


def _once(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out the head that the promoter head asks where it is the chromatin head itself."""
    asked = {key: _CHROMATIN + key.removeprefix(_ASKED) for key in tensors if _ASKED in key}
    if all(
        other in tensors and torch.equal(tensors[key], tensors[other])
        for key, other in asked.items()
    ):
        return {key: value for key, value in tensors.items() if key not in asked}
    return tensors


_Of = TypeVar("_Of")


def _shared(named: dict[str, _Of]) -> dict[str, _Of]:
    """Give the promoter head what the chromatin head has, where it has none of its own."""
    if any(key.startswith(_ASKED) for key in named):
        return named
    own = {key: value for key, value in named.items() if key.startswith(_CHROMATIN)}
    return {**named, **{_ASKED + k.removeprefix(_CHROMATIN): value for k, value in own.items()}}


def _read(path: Path, read: Callable[[Path], _Of]) -> _Of:
    """Read a file of a model; InputError where it is damaged."""
    try:
        return read(path)
    except (ValueError, SafetensorError) as error:
        raise InputError(f"{path.name} is damaged ({error}); fetch the model again") from error


def _read_features(path: Path) -> pd.DataFrame:
    features = _read(
        path, lambda file: pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False)
    )
    if missing := [name for name in ("index", "name", "class") if name not in features.columns]:
        raise InputError(f"{path.name} has no column {', '.join(missing)}; fetch the model again")
    indices = [-1 if text == "-1" else whole(text) for text in features["index"]]
    if None in indices:
        found = features["index"].iloc[indices.index(None)]
        raise InputError(
            f"{path.name}: index {quoted(found)} is no whole number from -1 on, of at most "
            f"{MOST_DIGITS} digits; fetch the model again"
        )
    features["index"] = np.array(indices, np.int64)
    require_free_names(features)
    return features


def _shapes_in(path: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor in a weights file, from its first bytes."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def _require_shapes(path: Path, empty: Checkpoint, found: Mapping[str, list[int]]) -> None:
    """Refuse weights that are missing or of other shapes than those of parts without memory.

    Lists of neighbours are as long as they are in the file.
    """
    for name, module in empty.modules().items():
        for key, value in module.state_dict().items():
            shape, expected = found.get(f"{name}.{key}"), list(value.shape)
            if shape is None or (shape != expected and "neighbours." not in key):
                raise CheckpointError(
                    f'{path / WEIGHTS} does not fit its config.json: {name} wants "{key}" of shape '
                    f"{expected}, found {shape or 'none'}"
                )


def _without_numbers(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the first of some weights that are infinite or none; None where all are numbers."""
    return next((key for key, value in tensors.items() if not value.isfinite().all()), None)


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
    except (ValueError, KeyError, TypeError, RecursionError) as error:
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
