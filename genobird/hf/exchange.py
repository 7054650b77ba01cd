"""Checkpoints of transformers' BigBird become model directories of genobird, and the other way.

The two encoders compute the same with `norm = "bert"`, absolute positions and no stem. Pieces may
have other ids: rows of embeddings move with them. DNA has one token type, whose embedding is added
to those of the positions. The pooler and what reads it have no place here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from genobird import __version__
from genobird.checkpoint import Checkpoint
from genobird.config import explain
from genobird.errors import CheckpointError, InputError, UsageError
from genobird.files import Draft, Kind, file_sha256, refuse_existing
from genobird.model import BigBird, BigBirdConfig, MaskedLMHead
from genobird.segmenter import Merges, Renumbered
from genobird.tokenizer import CLS, N_SPECIAL, PAD, SEP, SPECIALS, UNK, Tokenizer

_FILES = ("*config.json", "model*.safetensors", "*.index.json", "tokenizer.json", "*_map.json")
KIND = Kind("BigBird that genobird exported", "config.json", _FILES, '"genobird"')
_GELU: Mapping[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Our fields, and theirs that mean the same.
_FIELDS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "norm_epsilon": "layer_norm_eps",
    "max_tokens": "max_position_embeddings",
    "block_size": "block_size",
    "random_blocks": "num_random_blocks",
}
_LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "mlp.0": ("intermediate.dense",),
    "mlp.2": ("output.dense",),
    "mlp_norm": ("output.LayerNorm",),
}
_WORDS, _POSITIONS, _TYPES = (
    f"bert.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")
)
_BIAS = "cls.predictions.bias"


def import_model(source: Path, provenance: Mapping[str, Any]) -> tuple[Checkpoint, list[str]]:
    """Read a directory of transformers: its BigBird, the masked-LM head if it has one, its pieces.

    Weights are read from safetensors, or from `pytorch_model.bin` by the reader that runs no code.

    Args:
        source: a local directory with `config.json`, weights and `tokenizer.json` (BPE) or
            `spiece.model` (SentencePiece, ours or with Google's special pieces).
        provenance: facts to keep with the model.

    Returns:
        The model, not saved yet, and what was left out.

    Raises:
        UsageError: no such directory, or transformers is missing.
        CheckpointError: no BigBird, or one that computes what ours cannot.
        InputError: a tokenizer that is not for DNA.
    """
    transformers = _transformers()
    if not (source / "config.json").is_file():
        raise UsageError(f"there is no {source / 'config.json'}; give a checkpoint's directory")
    tokenizer, rows = read_tokenizer(source)
    with _silent(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
        except Exception as error:  # of a kind that depends on its version
            raise CheckpointError(f"{source}: {' '.join(str(error).split())}") from error
        try:
            _refuse_what_we_lack(source, config)
            shape = _our_shape(config, tokenizer.vocab_size)  # bounded, before memory is taken
            model, loading = transformers.BigBirdForMaskedLM.from_pretrained(
                source,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{source}: {' '.join(str(error).split())}") from error
    theirs, missing = model.float().state_dict(), loading["missing_keys"]
    lost = [name for name in missing if name.startswith("bert.")]
    lost += [name for name, *_shapes in loading["mismatched_keys"]]
    if lost:
        raise CheckpointError(f"{source} lacks weights of its config.json's shape: {min(lost)} ...")
    if (found := len(theirs[_WORDS])) <= max(rows):
        raise CheckpointError(f"{source} embeds {found} pieces, its tokenizer has {max(rows) + 1}")
    has_head = not missing and config.tie_word_embeddings
    theirs[_WORDS], theirs[_BIAS] = theirs[_WORDS][rows], theirs[_BIAS][rows]
    theirs[_POSITIONS] += theirs[_TYPES][0]
    # Without `use_bias`, projections have none.
    zeros = torch.zeros(shape.width)
    ours = {
        name: torch.cat([theirs.get(part, zeros) for part in parts])
        for name, parts in _names(shape.layers, has_head)
    }
    made = Checkpoint(BigBird(shape), tokenizer, mlm=MaskedLMHead(shape) if has_head else None)
    for name, module in made.modules().items():
        module.load_state_dict(
            {k.removeprefix(f"{name}."): v for k, v in ours.items() if k.startswith(f"{name}.")}
        )
    hashes = {p.name: file_sha256(p) for p in sorted(source.iterdir()) if p.is_file()}
    made.provenance = {**provenance, "imported": hashes}
    left = [] if has_head else ["masked-LM head: there is none with the embedding as its decoder"]
    left += [f"weights {name}" for name in sorted(loading["unexpected_keys"])]
    return made, left


def export_model(
    checkpoint: Checkpoint, output: Path, *, encoder_only: bool = False, force: bool = False
) -> list[str]:
    """Write a model as a directory of transformers' BigBirdForMaskedLM or, alone, BigBirdModel.

    Returns:
        What was left out.

    Raises:
        UsageError: the directory exists and `force` is not given, or it holds something else;
            transformers is missing, or its BigBird cannot compute what the model does.
    """
    transformers = _transformers()
    refuse_existing(output, force, KIND)
    shape, head = checkpoint.encoder.config, None if encoder_only else checkpoint.mlm
    _refuse_what_they_lack(shape, head)
    tokenizer = their_tokenizer(checkpoint.tokenizer, shape.max_tokens)
    parts = {"encoder": checkpoint.encoder, **({} if head is None else {"mlm": head})}
    ours = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
    theirs = {
        part: value
        for name, parts in _names(shape.layers, head is not None)
        for part, value in zip(parts, ours[name].chunk(len(parts)), strict=True)
    }
    theirs[_TYPES] = torch.zeros(2, shape.width)
    if head is None:
        theirs = {name.removeprefix("bert."): value for name, value in theirs.items()}
    config = transformers.BigBirdConfig(**_their_fields(shape))
    with _silent(transformers), torch.random.fork_rng(devices=[]), Draft(output, KIND) as part:
        model = (
            transformers.BigBirdForMaskedLM(config)
            if head is not None
            else transformers.BigBirdModel(config, add_pooling_layer=False)
        )
        model.load_state_dict(theirs, strict=False)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    return [f"{name} head" for name in checkpoint.modules() if name not in parts]


def _names(layers: int, has_head: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name of each of our weights, and theirs that it consists of."""
    yield "encoder.embedding.weight", (_WORDS,)
    yield "encoder.position.weight", (_POSITIONS,)
    pairs: dict[str, tuple[str, ...]] = {"encoder.norm": ("bert.embeddings.LayerNorm",)}
    for i in range(layers):
        for ours, theirs in _LAYER.items():
            pairs[f"encoder.blocks.{i}.{ours}"] = tuple(
                f"bert.encoder.layer.{i}.{name}" for name in theirs
            )
    if has_head:
        yield "mlm.bias", (_BIAS,)
        pairs["mlm.dense"] = ("cls.predictions.transform.dense",)
        pairs["mlm.norm"] = ("cls.predictions.transform.LayerNorm",)
    for ours, theirs in pairs.items():
        for end in ("weight", "bias"):
            yield f"{ours}.{end}", tuple(f"{name}.{end}" for name in theirs)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        remedy = "install it with pip install 'genobird[hf]'"
        raise UsageError(f"this needs transformers; {remedy}") from error
    return transformers


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Keep transformers' reports and bars off the terminal; ours say what was left out."""
    logs = transformers.utils.logging
    level, has_bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if has_bars:
            logs.enable_progress_bar()


def _refuse_what_we_lack(source: Path, config: Any) -> None:
    if config.model_type != "big_bird":
        raise CheckpointError(f"{source} is of model_type {config.model_type}; we read big_bird")
    if config.hidden_act not in _GELU:
        raise CheckpointError(f"{source} has hidden_act {config.hidden_act}; we read {[*_GELU]}")
    if config.is_decoder or config.rescale_embeddings:
        raise CheckpointError(f"{source} has is_decoder or rescale_embeddings; we read neither")


def _refuse_what_they_lack(shape: BigBirdConfig, head: MaskedLMHead | None) -> None:
    for field, allowed in (
        ("stem", ["none"]),
        ("norm", ["bert"]),
        ("position", ["absolute"]),
        ("pattern", ["google", "full"]),
    ):
        if (found := getattr(shape, field)) not in allowed:
            raise UsageError(
                f"the model has {field} = {found!r}; transformers' BigBird can compute "
                f"{' or '.join(map(repr, allowed))} alone"
            )
    if head is not None and head.neighbours is not None:
        raise UsageError(
            "the masked-LM head adds log-odds of pairs, which transformers cannot; pass "
            "--encoder-only to export the encoder alone"
        )


def _our_shape(config: Any, vocab_size: int) -> BigBirdConfig:
    try:
        return BigBirdConfig(
            **{ours: getattr(config, theirs) for ours, theirs in _FIELDS.items()},
            vocab_size=vocab_size,
            activation=_GELU[config.hidden_act],
            norm="bert",
            pattern="google" if config.attention_type == "block_sparse" else "full",
        )
    except ValidationError as error:
        raise InputError(f"config.json: {explain(error, BigBirdConfig)}") from error


def _their_fields(shape: BigBirdConfig) -> dict[str, Any]:
    return {
        **{theirs: getattr(shape, ours) for ours, theirs in _FIELDS.items()},
        "attention_probs_dropout_prob": 0.0,
        "attention_type": "block_sparse" if shape.pattern == "google" else "original_full",
        "vocab_size": shape.vocab_size,
        "hidden_act": "gelu_new" if shape.activation == "gelu_tanh" else "gelu",
        "pad_token_id": PAD,
        "bos_token_id": CLS,
        "eos_token_id": SEP,
        "sep_token_id": SEP,
        "genobird": __version__,
    }


def read_tokenizer(source: Path) -> tuple[Tokenizer, list[int]]:
    """Read the `tokenizer.json` of a checkpoint, or else its `spiece.model`.

    Returns:
        The tokenizer, and the id in the checkpoint of each of its pieces.

    Raises:
        CheckpointError: there is neither file.
        InputError: it is not for DNA.
    """
    found = [
        path for name in ("tokenizer.json", "spiece.model") if (path := source / name).exists()
    ]
    if not found:
        raise CheckpointError(f"{source} has no tokenizer.json and no spiece.model; add one")
    try:
        tokenizer = Tokenizer.load(found[0])
    except InputError as error:
        remedy = "run it in transformers, with genobird.hf.accelerate"
        raise InputError(f"a model directory of genobird is for DNA; {remedy} ({error})") from error
    if isinstance(tokenizer.segmenter, Renumbered):
        return tokenizer, tokenizer.segmenter.theirs
    return tokenizer, list(range(tokenizer.vocab_size))


def their_tokenizer(tokenizer: Tokenizer, max_tokens: int) -> Any:
    """Return a PreTrainedTokenizerFast with our ids, and [CLS] and [SEP] around a sequence.

    Raises:
        InputError: it would segment DNA otherwise.
    """
    import tokenizers
    from tokenizers import models, processors
    from transformers import PreTrainedTokenizerFast

    ids = {piece: index for index, piece in enumerate(tokenizer.pieces)}
    if tokenizer.kind == "unigram":
        scores = tokenizer.segmenter.GetScore(list(ids.values()))
        model: Any = models.Unigram(list(zip(ids, scores, strict=True)), UNK)
    else:
        if isinstance(tokenizer.segmenter, Merges):
            pairs = tokenizer.segmenter.merges
        else:  # any two pieces that make a third
            spelled = tokenizer.pieces[N_SPECIAL:]
            pairs = [(piece[:i], piece[i:]) for piece in spelled for i in range(1, len(piece))]
        merges = [(a, b) for a, b in pairs if a in ids and b in ids and a + b in ids]
        model = models.BPE(ids, merges, unk_token=SPECIALS[UNK])
    made = tokenizers.Tokenizer(model)
    made.add_special_tokens(list(SPECIALS))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    rng = np.random.Generator(np.random.Philox(0))
    for unit in ("".join(rng.choice(list("ACGT"), size=n)) for n in (1, 2, 3, 5, 4_000, 4_000)):
        text = unit * (4_000 // len(unit))
        if made.encode(text, add_special_tokens=False).ids != tokenizer.encode(text).ids.tolist():
            raise InputError("the tokenizer cannot be written as tokenizer.json: DNA would differ")
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=max_tokens,
        **{f"{name}_token": piece for name, piece in names.items()},
    )
