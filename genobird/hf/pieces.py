"""Tokenizers of transformers, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genobird.errors import CheckpointError, InputError
from genobird.segmenter import Merges, Renumbered
from genobird.tokenizer import CLS, N_SPECIAL, SEP, SPECIALS, UNK, Tokenizer


def read_tokenizer(source: Path) -> tuple[Tokenizer, list[int]]:
    """Read the tokenizer of a checkpoint.

    Args:
        source: a directory with `tokenizer.json` or `spiece.model`; the former counts.

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

    Args:
        tokenizer: ours.
        max_tokens: longest sequence of the model.

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
