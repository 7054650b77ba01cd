"""Checkpoints of transformers become ours and come back with the same logits."""

import json

import pytest
import sentencepiece
import torch

from genobird.batch import add_specials, pack
from genobird.checkpoint import Checkpoint
from genobird.cli import main
from genobird.pair_log_odds import PairLogOdds
from genobird.tokenizer import MASK, SPECIALS
from tests.assertions import assert_close
from tests.conftest import random_dna
from tests.models import random_ids, tiny_checkpoint

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from genobird.hf import accelerate  # noqa: E402

# As in released checkpoints: another order of the specials, a piece that no DNA makes, and no N.
THEIR_SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def their_tokenizer(texts, specials=THEIR_SPECIALS):
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=90, special_tokens=[*specials, "-"], show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made


@pytest.fixture(scope="module")
def made():
    return their_tokenizer([random_dna(3_000, seed) for seed in range(4)])


def write(path, tokenizer, head="BigBirdForMaskedLM", weights="safetensors", **changes):
    """A checkpoint with random weights, large enough for every part to matter."""
    torch.manual_seed(0)
    config = transformers.BigBirdConfig(**{
        "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "block_size": 16, "max_position_embeddings": 512,
        "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, **changes,
    })  # fmt: skip
    model = getattr(transformers, head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(path)
    if weights == "bin":
        torch.save(model.state_dict(), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()
    tokenizer.save(str(path / "tokenizer.json"))
    return model


def our_logits(checkpoint, sequence, masked=()):
    ids = add_specials(checkpoint.tokenizer.encode(sequence).ids)
    ids[list(masked)] = MASK
    batch = pack([ids], checkpoint.encoder.config.block_size)
    with torch.no_grad():
        hidden = checkpoint.encoder.eval()(batch)[: len(ids)]
        return checkpoint.mlm.eval()(hidden, checkpoint.encoder.embedding.weight)


def their_logits(model, tokenizer, sequence, masked=()):
    named = {piece: tokenizer.token_to_id(piece) for piece in ("[CLS]", "[SEP]", "[MASK]")}
    ids = [named["[CLS]"], *tokenizer.encode(sequence).ids, named["[SEP]"]]
    for place in masked:
        ids[place] = named["[MASK]"]
    with torch.no_grad():
        return accelerate(model)(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_act": "gelu", "layer_norm_eps": 1e-5},
        {"attention_type": "original_full"},
        {"num_random_blocks": 2},
        {"use_bias": False},
        {"head": "BigBirdForPreTraining"},
        {"weights": "bin"},
    ],
)
@pytest.mark.parametrize("length", [120, 900])
def test_an_imported_model_has_the_same_logits(made, tmp_path, changes, length):
    model = write(tmp_path / "theirs", made, **changes)
    assert main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 0
    ours = Checkpoint.load(tmp_path / "ours")
    sequence = random_dna(length, 9)
    if changes.get("head") == "BigBirdForPreTraining":
        theirs = transformers.BigBirdForMaskedLM.from_pretrained(tmp_path / "theirs").eval()
        model = theirs
    expected = their_logits(model, made, sequence, masked=[2, 5])
    # Ours has other ids, and an N that theirs calls [UNK].
    expected = expected[:, [made.token_to_id(p) or 0 for p in ours.tokenizer.pieces]]
    found = our_logits(ours, sequence, masked=[2, 5])
    assert_close("o", found[:, :-1], expected[:, :-1], torch.float32)


def test_merges_segment_as_the_package_that_wrote_them(made, tmp_path):
    write(tmp_path / "theirs", made)
    main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")])
    ours = Checkpoint.load(tmp_path / "ours").tokenizer
    assert ours.pieces[: len(SPECIALS)] == SPECIALS
    assert "-" not in ours.pieces
    for text in (random_dna(5_000, 1), "AT" * 500, "A" * 999):
        encoding = ours.encode(text)
        assert [ours.pieces[i] for i in encoding.ids] == made.encode(text).tokens
        assert ours.decode(encoding.ids) == text
    assert ours.kind == "bpe"
    assert ours.decode(ours.encode("ACGNNNT").ids) == "ACGNNNT"


def write_spiece(path, kind, letters="ACGT"):
    """Train a `spiece.model` with Google's special pieces, among them a text's own."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([random_dna(900, seed) for seed in range(9)] + ["the cat", letters]),
        model_prefix=str(path / "spiece"), model_type=kind, vocab_size=80, hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", minloglevel=2,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )  # fmt: skip
    (path / "tokenizer.json").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(path / "spiece.model"))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_of_google_is_read(made, tmp_path, kind):
    model = write(tmp_path / "theirs", made)
    processor = write_spiece(tmp_path / "theirs", kind)
    assert main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 0
    ours = Checkpoint.load(tmp_path / "ours")
    assert ours.tokenizer.kind == kind
    assert {*"".join(ours.tokenizer.pieces[len(SPECIALS) :])} == {*"ACGTN"}
    sequence = random_dna(700, 9)
    encoding = ours.tokenizer.encode(sequence)
    assert ours.tokenizer.decode(encoding.ids) == sequence
    assert ours.tokenizer.decode(ours.tokenizer.encode("ACGNNNT").ids) == "ACGNNNT"
    # Its own processor takes DNA for a word, whose beginning has a mark; the rest is cut the same.
    pieces = [ours.tokenizer.pieces[i] for i in encoding.ids]
    assert processor.encode(sequence, out_type=str)[-20:] == pieces[-20:]
    ids = [processor.piece_to_id(p) for p in ("[CLS]", *pieces, "[SEP]")]
    with torch.no_grad():
        expected = accelerate(model)(torch.tensor([ids])).logits[0]
    names = {"[PAD]": "<pad>", "[UNK]": "<unk>"}
    # N, the last of ours, is their <unk>.
    columns = [processor.piece_to_id(names.get(p, p)) for p in ours.tokenizer.pieces[:-1]]
    assert_close("o", our_logits(ours, sequence)[:, :-1], expected[:, columns], torch.float32)


def test_a_sentencepiece_model_of_google_comes_back_as_a_tokenizer(made, tmp_path, capsys):
    write(tmp_path / "theirs", made)
    write_spiece(tmp_path / "theirs", "bpe", letters="ACGTN")
    main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")])
    assert main(["export-hf", "-m", str(tmp_path / "ours"), "-o", str(tmp_path / "back")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    ours, sequence = Checkpoint.load(tmp_path / "ours").tokenizer, random_dna(900, 9)
    assert tokenizer(sequence)["input_ids"] == add_specials(ours.encode(sequence).ids).tolist()
    assert ours.decode(ours.encode_sampled(sequence, 1).ids) == sequence


def test_a_sentencepiece_model_without_the_letters_of_dna_is_refused(made, tmp_path, capsys):
    write(tmp_path / "theirs", made)
    path = tmp_path / "theirs" / "spiece.model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.hf.test_exchange.random_dna", lambda *_: "the cat sat on the mat")
        write_spiece(tmp_path / "theirs", "bpe", letters="mat")
    assert path.exists()
    assert main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 1
    assert "lacks the pieces A C G T; it is not for DNA" in capsys.readouterr().err


def test_an_imported_model_is_exported_and_imported_again(made, tmp_path, capsys):
    write(tmp_path / "theirs", made)
    assert main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 0
    arguments = ["export-hf", "-m", str(tmp_path / "ours"), "-o", str(tmp_path / "back")]
    assert main(arguments) == 0
    ours, sequence = Checkpoint.load(tmp_path / "ours"), random_dna(900, 9)
    model = transformers.BigBirdForMaskedLM.from_pretrained(tmp_path / "back").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    batch = tokenizer(sequence, return_tensors="pt")
    assert (
        batch["input_ids"][0].tolist() == add_specials(ours.tokenizer.encode(sequence).ids).tolist()
    )
    with torch.no_grad():
        found = accelerate(model)(batch["input_ids"]).logits[0]
    assert_close("o", found, our_logits(ours, sequence), torch.float32)
    assert main(["import-hf", str(tmp_path / "back"), "-o", str(tmp_path / "again")]) == 0
    assert torch.equal(
        our_logits(Checkpoint.load(tmp_path / "again"), sequence), our_logits(ours, sequence)
    )
    capsys.readouterr()
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    # Neither verb replaces what the other made, nor a folder of something else.
    for verb, kind, folder in (
        (["import-hf", str(tmp_path / "theirs")], "model of genobird", tmp_path / "back"),
        (arguments[:3], "BigBird that genobird exported", tmp_path),
    ):
        assert main([*verb, "-o", str(folder), "--force"]) == 2
        assert f"exists and is no {kind}: it holds" in capsys.readouterr().err
    # Nor what others made, nor a file of a user.
    (tmp_path / "back" / ".git").mkdir()
    assert main([*arguments, "--force"]) == 2
    assert "back holds .git, which genobird does not write" in capsys.readouterr().err
    assert main([*arguments[:3], "-o", str(tmp_path / "theirs"), "--force"]) == 2
    assert "theirs exists and is no BigBird that genobird exp" in capsys.readouterr().err
    assert (tmp_path / "back" / "config.json").exists()


def test_a_model_of_ours_is_exported_with_its_sentencepiece(tiny_tokenizer, tmp_path, capsys):
    changes = {"stem": "none", "norm": "bert", "position": "absolute", "pattern": "google"}
    ours = tiny_checkpoint(tiny_tokenizer, **changes)
    ours.save(tmp_path / "ours")
    assert main(["export-hf", "-m", str(tmp_path / "ours"), "-o", str(tmp_path / "theirs")]) == 0
    assert "left out: chromatin head" in capsys.readouterr().err
    model = transformers.BigBirdForMaskedLM.from_pretrained(tmp_path / "theirs").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    sequence = random_dna(600, 3)
    with torch.no_grad():
        found = accelerate(model)(**tokenizer(sequence, return_tensors="pt")).logits[0]
    assert_close("o", found, our_logits(ours, sequence), torch.float32)


def test_pair_log_odds_are_refused_and_the_encoder_alone_is_exported(
    tiny_tokenizer, tmp_path, capsys
):
    changes = {"stem": "none", "norm": "bert", "position": "absolute", "neighbours": 1}
    ours = tiny_checkpoint(tiny_tokenizer, pattern="google", **changes)
    ours.mlm.neighbours = PairLogOdds.counted(
        [random_ids(tiny_tokenizer, 400, 1)], tiny_tokenizer.vocab_size, [1]
    )
    ours.save(tmp_path / "ours")
    arguments = ["export-hf", "-m", str(tmp_path / "ours"), "-o", str(tmp_path / "theirs")]
    assert main(arguments) == 2
    assert "--encoder-only" in capsys.readouterr().err
    assert main([*arguments, "--encoder-only"]) == 0
    model = accelerate(transformers.BigBirdModel.from_pretrained(tmp_path / "theirs").eval())
    ids = random_ids(tiny_tokenizer, 300, 2)
    with torch.no_grad():
        found = model(torch.from_numpy(ids.astype("int64"))[None]).last_hidden_state[0]
        expected = ours.encoder(pack([ids], ours.encoder.config.block_size))[:300]
    assert_close("o", found, expected, torch.float32)


def test_what_transformers_cannot_compute_is_not_exported(tmp_path, capsys):
    assert main(["export-hf", "-o", str(tmp_path / "theirs")]) == 2
    assert "stem = 'tower'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"model_type": "bert"}, 1, "model_type bert"),
        ({"hidden_act": "relu"}, 1, "hidden_act relu"),
        ({"rescale_embeddings": True}, 1, "rescale_embeddings"),
        ({"num_hidden_layers": 3}, 1, "lacks weights"),
        ({"hidden_size": 48}, 1, "lacks weights"),
        # A million layers were built before their weights were missed.
        (
            {"num_hidden_layers": 10**6},
            1,
            "config.json: layers: Input should be less than or equal",
        ),
        ({"hidden_size": 10**9}, 1, "config.json: width: Input should be less than or equal"),
        ({"hidden_size": "x"}, 1, "hidden_size"),
    ],
)
def test_a_model_that_ours_cannot_compute_is_refused(
    made, tmp_path, capsys, changes, code, message
):
    write(tmp_path / "theirs", made)
    config = tmp_path / "theirs" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    capsys.readouterr()
    assert main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no tokenizer.json"),
        ("{", "no tokenizer.json"),
        ("nonsense", "genobird.hf.accelerate"),
        (their_tokenizer(["hello world"]).to_str(), "lacks the pieces"),
        (their_tokenizer(["ACGT"], ["[UNK]"]).to_str(), "[PAD]"),
    ],
)
def test_a_tokenizer_that_is_not_for_dna_is_refused(made, tmp_path, capsys, text, message):
    write(tmp_path / "theirs", made)
    (tmp_path / "theirs" / "tokenizer.json").write_text(text)
    assert main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 1
    assert message in capsys.readouterr().err


def test_missing_files_are_named(made, tmp_path, capsys):
    assert main(["import-hf", str(tmp_path), "-o", str(tmp_path / "ours")]) == 2
    assert "config.json" in capsys.readouterr().err
    write(tmp_path / "theirs", made)
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    assert main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 1
    assert "no tokenizer.json" in capsys.readouterr().err


def test_an_encoder_without_a_head_is_imported_alone(made, tmp_path, capsys):
    write(tmp_path / "theirs", made, head="BigBirdModel")
    assert main(["import-hf", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 0
    assert "left out: masked-LM head" in capsys.readouterr().err
    assert Checkpoint.load(tmp_path / "ours").mlm is None
