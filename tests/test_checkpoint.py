import json
import re
import resource
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from genobird.batch import Places, pack
from genobird.checkpoint import (
    CONFIG,
    FEATURES,
    PROVENANCE,
    TOKENIZER,
    WEIGHTS,
    Checkpoint,
    feature_columns,
    require_free_names,
)
from genobird.errors import CheckpointError, InputError, OutputError, UsageError
from genobird.files import file_sha256
from genobird.heads import Head, HeadConfig
from genobird.pair_log_odds import PairLogOdds
from genobird.tokenizer import Tokenizer
from tests.conftest import random_dna
from tests.models import random_ids, tiny_checkpoint

FILES = (WEIGHTS, CONFIG, TOKENIZER, FEATURES, PROVENANCE)


def outputs(checkpoint):
    """What every head says about two places of a batch."""
    ids = [random_ids(checkpoint.tokenizer, n, seed=n) for n in (100, 40)]
    batch = pack(ids, checkpoint.encoder.config.block_size)
    spans = torch.tensor([[[5, 20]], [[int(batch.starts[1]) + 3, int(batch.starts[1]) + 9]]])
    found = {}
    with torch.no_grad():
        hidden = found["encoder"] = checkpoint.encoder(batch)[batch.valid]
        for name in ("promoter", "chromatin"):
            head = checkpoint.modules()[name].eval()
            found[name] = head(
                checkpoint.encoder(batch), Places(batch, spans, torch.tensor([0, 1]))
            )
        around = batch.around(torch.arange(len(batch.ids))[batch.valid], checkpoint.mlm.reach)
        found["mlm"] = checkpoint.mlm(hidden, checkpoint.encoder.embedding.weight, around)
        found["nsp"] = checkpoint.nsp(hidden)
    return found


@pytest.fixture
def checkpoint(tiny_tokenizer):
    made = tiny_checkpoint(tiny_tokenizer, nsp=True, neighbours=2)
    text = random_ids(tiny_tokenizer, 400, seed=1)
    made.mlm.neighbours = PairLogOdds.counted([text], tiny_tokenizer.vocab_size, [1, 2])
    made.provenance = {"genobird": "0.0", "pretraining": {"tokens_seen": 7}}
    return made


@pytest.fixture
def saved(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "model")
    return tmp_path / "model"


def rehash(path):
    """Make an edited directory consistent again: what is wrong is no longer the hash."""
    provenance = json.loads((path / PROVENANCE).read_text())
    for name in provenance["sha256"]:
        provenance["sha256"][name] = file_sha256(path / name)
    (path / PROVENANCE).write_text(json.dumps(provenance))


def test_a_model_that_was_saved_and_loaded_gives_the_same_outputs(checkpoint, saved):
    loaded = Checkpoint.load(saved)
    loaded.encoder.eval()
    expected = outputs(checkpoint)
    for name, value in outputs(loaded).items():
        assert torch.equal(value, expected[name]), name
    assert loaded.encoder.config == checkpoint.encoder.config
    assert loaded.tokenizer.sha256 == checkpoint.tokenizer.sha256
    pd.testing.assert_frame_equal(loaded.features, checkpoint.features)


def test_the_provenance_is_kept_and_the_hash_names_the_weights(checkpoint, saved):
    loaded = Checkpoint.load(saved)
    assert loaded.provenance["pretraining"] == {"tokens_seen": 7}
    assert set(loaded.provenance["sha256"]) == set(FILES) - {PROVENANCE}
    assert loaded.hash == checkpoint.hash == file_sha256(saved / WEIGHTS)[:12]


def test_two_saves_give_the_same_bytes(checkpoint, saved, tmp_path):
    checkpoint.save(tmp_path / "again")
    Checkpoint.load(saved).save(tmp_path / "third")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes(), name
        assert (tmp_path / "third" / name).read_bytes() == (saved / name).read_bytes(), name


def test_an_encoder_alone_is_a_checkpoint(checkpoint, tmp_path):
    bare = Checkpoint(checkpoint.encoder, checkpoint.tokenizer, nsp=checkpoint.nsp)
    assert bare.hash == ""
    bare.save(tmp_path / "bare")
    loaded = Checkpoint.load(tmp_path / "bare")
    assert set(loaded.modules()) == {"encoder", "nsp"}
    assert len(loaded.features) == 0


def test_weights_can_be_stored_as_float16_and_are_read_as_float32(checkpoint, saved, tmp_path):
    checkpoint.save(tmp_path / "half", dtype=torch.float16)
    stored = load_file(tmp_path / "half" / WEIGHTS)
    trained = {
        f"{part}.{k}" for part, m in checkpoint.modules().items() for k, _ in m.named_parameters()
    }
    assert trained == {
        name
        for name, value in stored.items()
        if value.dtype == torch.float16 and "neighbours.odds" not in name  # in any case
    }
    kinds = {"counts": torch.int64, "second_1": torch.uint16, "odds_2": torch.float16}
    assert {stored[f"mlm.neighbours.{name}"].dtype == kind for name, kind in kinds.items()} == {
        True
    }
    loaded = Checkpoint.load(tmp_path / "half")
    for module in loaded.modules().values():
        assert {p.dtype for p in module.parameters()} == {torch.float32}
    size, full = (path.stat().st_size for path in (tmp_path / "half" / WEIGHTS, saved / WEIGHTS))
    assert size < 0.6 * full
    loaded.encoder.eval()
    expected = outputs(checkpoint)
    for name, value in outputs(loaded).items():
        torch.testing.assert_close(value, expected[name], rtol=0.02, atol=0.02)
    assert {p.dtype for p in checkpoint.encoder.parameters()} == {torch.float32}


def test_an_existing_directory_is_refused_and_stays_as_it_is(checkpoint, saved):
    before = {name: (saved / name).read_bytes() for name in FILES}
    with pytest.raises(UsageError, match=r"model exists; choose another name or pass --force"):
        checkpoint.save(saved)
    assert {name: (saved / name).read_bytes() for name in FILES} == before


def test_force_replaces_a_model_with_what_verbs_write_beside_it(checkpoint, saved):
    for name in ("MODEL_CARD.md", "evaluation.json", "background.npz", ".DS_Store"):
        (saved / name).write_text("old")
    torch.nn.init.zeros_(checkpoint.mlm.bias)
    checkpoint.save(saved, force=True)
    assert sorted(p.name for p in saved.iterdir()) == sorted(FILES)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    assert not Checkpoint.load(saved).mlm.bias.any()


@pytest.mark.parametrize("name", ["notes.txt", ".git", "model.safetensors.bak"])
@pytest.mark.parametrize("force", [False, True])
def test_a_model_with_a_file_of_its_user_is_spared(checkpoint, saved, name, force):
    # --force removed the folder whole, the file in it included.
    (saved / name).write_text("mine")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    message = rf"model holds {name}, which genobird does not write there and --force does not remo"
    with pytest.raises(UsageError, match=message):
        checkpoint.save(saved, force=force)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize("name", ["provenance.json", "chapter.txt"])
def test_force_spares_a_directory_that_is_no_model(checkpoint, tmp_path, name):
    # Any folder gave way to `import-hf CKPT -o ~/project --force`.
    (tmp_path / name).write_text("{}")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(
            UsageError, match=r"exists and is no model of genobird: it (holds|is a)"
        ):
            checkpoint.save(path, force=True)
    assert (tmp_path / name).read_text() == "{}"
    (tmp_path / "empty").mkdir()
    checkpoint.save(tmp_path / "empty", force=True)


def test_a_save_that_fails_leaves_the_old_model_and_can_be_repeated(checkpoint, saved, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Tokenizer, "save", full)
        with pytest.raises(OutputError, match="no space"):
            checkpoint.save(saved, force=True)
    Checkpoint.load(saved)
    checkpoint.save(saved, force=True)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_no_directory_is_misuse(tmp_path):
    with pytest.raises(UsageError, match=r"there is no model directory .*none"):
        Checkpoint.load(tmp_path / "none")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"(lacks|has no) {name}"):
        Checkpoint.load(saved)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TOKENIZER, FEATURES])
@pytest.mark.parametrize("how", ["altered", "truncated", "emptied"])
def test_an_altered_or_truncated_file_is_named(saved, name, how):
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    kept = {"altered": len(content), "truncated": len(content) // 2, "emptied": 0}[how]
    (saved / name).write_bytes(content[:kept])
    with pytest.raises(CheckpointError, match=rf"{name} was altered: sha256 .*fetch the model"):
        Checkpoint.load(saved)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sha256": 3}', "{"])
def test_a_damaged_provenance_is_named(saved, text):
    (saved / PROVENANCE).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{PROVENANCE} is damaged"):
        Checkpoint.load(saved)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TOKENIZER, FEATURES])
def test_files_that_hash_well_but_hold_nonsense_are_refused_in_one_line(saved, name):
    (saved / name).write_bytes(b"")
    rehash(saved)
    with pytest.raises(CheckpointError, match="is no usable model: ") as caught:
        Checkpoint.load(saved)
    assert "\n" not in str(caught.value)


def test_a_format_of_the_future_is_refused(saved):
    shapes = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps({**shapes, "format": 2}))
    rehash(saved)
    with pytest.raises(
        CheckpointError, match=r"is no usable model: config\.json: format: Input should be 1$"
    ):
        Checkpoint.load(saved)


def test_weights_of_another_shape_are_refused(saved):
    shapes = json.loads((saved / CONFIG).read_text())
    shapes["encoder"]["mlp_width"] = 32
    (saved / CONFIG).write_text(json.dumps(shapes))
    rehash(saved)
    with pytest.raises(CheckpointError, match=r"model.safetensors does not fit its config.json: "):
        Checkpoint.load(saved)


def test_missing_weights_are_refused(saved):
    tensors = load_file(saved / WEIGHTS)
    del tensors["promoter.norm.weight"]
    save_file(tensors, saved / WEIGHTS)
    rehash(saved)
    with pytest.raises(CheckpointError, match=r'does not fit its config.json: .*"norm.weight"'):
        Checkpoint.load(saved)


@pytest.mark.parametrize("stem", ["tower", "none"])
def test_the_tokenizer_of_another_model_is_refused(tiny_tokenizer, tmp_path, stem):
    tiny_checkpoint(tiny_tokenizer, stem=stem).save(tmp_path / "model")
    Tokenizer.train([random_dna(5000, seed=1)], tmp_path / "model" / TOKENIZER, vocab_size=80)
    rehash(tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=r"tokenizer.model has 80 pieces, config.json says 64"
    ):
        Checkpoint.load(tmp_path / "model")


def test_features_that_do_not_fit_the_head_are_refused(saved, checkpoint):
    checkpoint.features.iloc[:2].to_csv(saved / FEATURES, sep="\t", index=False)
    rehash(saved)
    with pytest.raises(CheckpointError, match=r"features.tsv has 2 features, config.json says 3"):
        Checkpoint.load(saved)


def test_every_part_moves_to_a_device(checkpoint):
    checkpoint.to("meta")
    devices = {p.device.type for m in checkpoint.modules().values() for p in m.parameters()}
    assert devices == {"meta"}
    assert checkpoint.encoder.stem.bases.device.type == "meta"


def test_a_model_needs_nothing_from_where_it_was_made(saved, tmp_path):
    moved = saved.rename(tmp_path / "elsewhere")
    text = b"".join((moved / name).read_bytes() for name in FILES)
    assert str(tmp_path).encode() not in text
    assert outputs(Checkpoint.load(moved))["chromatin"].isfinite().all()


def test_statistics_of_norms_keep_their_range_in_half_precision(tiny_tokenizer, tmp_path):
    made = tiny_checkpoint(tiny_tokenizer, stem="tower")
    made.encoder.stem.norm.running_var.fill_(1e6)
    made.save(tmp_path / "half", dtype=torch.float16)
    stem = Checkpoint.load(tmp_path / "half").encoder.stem
    assert (stem.norm.running_var == 1e6).all()
    torch.testing.assert_close(stem.out.weight, made.encoder.stem.out.weight.half().float())


def test_a_promoter_head_that_asks_the_chromatin_head_does_not_hold_it_twice(
    tiny_tokenizer, tmp_path
):
    checkpoint = tiny_checkpoint(tiny_tokenizer)
    width = checkpoint.encoder.config.width
    profiles = HeadConfig(outputs=3, hidden=8, pool="cells", cell_bp=40, cell_width=5)
    shape = {"pool": "profiles", "before_bp": 200, "after_bp": 200, "cell_bp": 40, "step_bp": 40}
    checkpoint.chromatin = Head(profiles, width)
    checkpoint.promoter = Head(HeadConfig(**shape, profiles=profiles), width)
    checkpoint.save(tmp_path / "two")
    checkpoint.promoter.profiles.load_state_dict(checkpoint.chromatin.state_dict())
    checkpoint.save(tmp_path / "one")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("one", "two")]
    assert sizes[0] < sizes[1]
    loaded = Checkpoint.load(tmp_path / "one")
    for key, value in checkpoint.promoter.state_dict().items():
        assert torch.equal(loaded.promoter.state_dict()[key], value)


HUGE = [
    ("encoder", "width", 10**9),
    ("encoder", "width", 65_536),
    ("encoder", "layers", 10**6),
    ("encoder", "layers", 1_024),
    ("encoder", "mlp_width", 262_144),
    ("encoder", "stem_blocks", 10**6),
    ("encoder", "stem_width", 65_536),
    ("encoder", "stem_kernel", 10**9 + 1),
    ("encoder", "pattern_seed", 2**70),
    ("encoder", "neighbours", 8),
    ("chromatin", "outputs", 10**9),
    ("chromatin", "hidden", 10**12),
    ("chromatin", "hidden", 2**70),
    ("promoter", "before_bp", 10**18),
    ("promoter", "cell_width", 10**9),
]


@pytest.mark.parametrize(("part", "name", "value"), HUGE)
def test_shapes_that_no_memory_holds_are_refused_before_any_is_taken(saved, part, name, value):
    shapes = json.loads((saved / CONFIG).read_text())
    shapes[part][name] = value
    if name == "cell_width":
        shapes[part]["pool"] = "cells"
        shapes[part]["cell_bp"] = 1
    (saved / CONFIG).write_text(json.dumps(shapes))
    rehash(saved)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(saved)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (1 << 19)  # in KiB


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (WEIGHTS, b""),
        (WEIGHTS, b"\x10\0\0\0\0\0\0\0{"),
        (CONFIG, b"\xff\xfe{}"),
        (FEATURES, b""),
        (FEATURES, b"index\tname\tclass\n1\t\xff\tTF\n"),
        (FEATURES, b'index\tname\tclass\n1\t"CTCF\tTF\n'),
    ],
)
def test_a_file_that_was_damaged_before_it_was_hashed_is_named(saved, name, content):
    (saved / name).write_bytes(content)
    rehash(saved)
    message = rf"is no usable model: {re.escape(name)} is damaged \(.+\); fetch the model again$"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(saved)


@pytest.mark.parametrize("index", ["\uff11\uff13", "9" * 19, "-2", "1.5", "", "+3", " 3", "1_0"])
def test_the_index_of_a_feature_is_a_whole_number(saved, index):
    lines = (saved / FEATURES).read_text().splitlines()
    lines[2] = "\t".join([index, *lines[2].split("\t")[1:]])
    (saved / FEATURES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    rehash(saved)
    message = rf"features\.tsv: index {re.escape(repr(index))} is no whole number from -1 on, of at"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(saved)


def test_indices_of_features_may_repeat_and_are_minus_one_without_a_published_one(saved):
    lines = (saved / FEATURES).read_text().splitlines()
    names = [line.split("\t")[1] for line in lines[1:]]
    indices = [-1] * (len(names) - 1) + [int("9" * 18)]
    features = pd.DataFrame({"index": indices, "name": names, "class": "TF"})
    features.to_csv(saved / FEATURES, sep="\t", index=False)
    rehash(saved)
    assert Checkpoint.load(saved).features["index"].tolist() == indices


@pytest.mark.parametrize(
    "text", ["a\tb\n1\t2\n1\t2\n1\t2\n", "index\tname\n", "\n", "index\n", '"\n', "index\tclass\n"]
)
def test_features_without_columns_are_refused(saved, text):
    (saved / FEATURES).write_text(text)
    rehash(saved)
    with pytest.raises(CheckpointError, match=r"is no usable model: ") as caught:
        Checkpoint.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "a\x07b", "a\tb", "a\u2028b"])
def test_a_feature_has_a_name_that_can_be_read(name):
    message = f"a feature is called {name!r}; give it a name of printable text"
    with pytest.raises(InputError, match=re.escape(message)):
        require_free_names(pd.DataFrame({"index": [1, 2], "name": ["CTCF", name]}))


def test_features_of_one_name_are_told_apart_by_their_index():
    names = ["CTCF", "CTCF", "p300"]
    features = pd.DataFrame({"index": [3, 5, 3], "name": names})
    assert feature_columns(features) == ["CTCF#3", "CTCF#5", "p300"]
    require_free_names(features)


@pytest.mark.parametrize(
    ("names", "indices", "twice"),
    [
        (["CTCF", "CTCF"], [-1, -1], "CTCF#-1"),
        (["CTCF", "p300", "CTCF"], [7, 8, 7], "CTCF#7"),
        (["CTCF", "CTCF", "CTCF#3"], [3, 4, 5], "CTCF#3"),
    ],
)
def test_two_features_of_one_column_are_refused(saved, names, indices, twice):
    # Tables had two columns of one name, and the report took the first for both.
    features = pd.DataFrame({"index": indices, "name": names, "class": "TF"})
    features.to_csv(saved / FEATURES, sep="\t", index=False)
    rehash(saved)
    message = rf"two features are called {twice}; give them different names, or different indices"
    with pytest.raises(CheckpointError, match=f"is no usable model: {message}"):
        Checkpoint.load(saved)


@pytest.mark.parametrize("name", ["promoter", "llr", "chrom", "flags", "table|CTCF"])
def test_a_feature_is_not_called_as_a_column_of_every_table(saved, name):
    text = (saved / FEATURES).read_text()
    first = text.splitlines()[1].split("\t")[1]
    (saved / FEATURES).write_text(text.replace(f"\t{first}\t", f"\t{name}\t"))
    rehash(saved)
    message = f"no usable model: a feature is called {re.escape(name)}, as"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(saved)


def test_weights_that_are_no_numbers_are_not_written(saved, tmp_path):
    # A training whose last step had an infinite rate ended well, with a model that none can read.
    checkpoint = Checkpoint.load(saved)
    with torch.no_grad():
        checkpoint.promoter.norm.weight[0] = float("nan")
    message = "the model has weights that are no numbers, in promoter.norm.weight; train it with"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.save(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(saved, value):
    # All scores were NaN, with the status OK.
    tensors = load_file(saved / WEIGHTS)
    tensors["promoter.norm.weight"][0] = value
    save_file(tensors, saved / WEIGHTS)
    rehash(saved)
    message = "holds weights that are no numbers, in promoter.norm.weight; fetch the model again"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(saved)


def test_reading_a_model_leaves_the_random_state_alone(tiny_checkpoint):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Checkpoint.load(tiny_checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_is_read_without_torchs_compiler_and_its_symbols(tiny_checkpoint):
    code = (
        "import sys; from pathlib import Path; from genobird.checkpoint import Checkpoint; "
        f"Checkpoint.load(Path({str(tiny_checkpoint)!r})); "
        "sys.exit(not {'torch._dynamo', 'sympy'}.isdisjoint(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
