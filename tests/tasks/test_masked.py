import numpy as np
import pytest

from genobird.bits_per_base import BaseBits, TokenSpans, token_spans
from genobird.errors import BedError, InputError, UsageError
from genobird.inference import Inference
from genobird.tasks.data import PretrainDataSettings
from genobird.tasks.figures import evaluate_masked
from genobird.tasks.masked import MaskedTokens, Repeats, predict_masked
from genobird.tasks.metrics import Resampling
from tests.models import tiny_checkpoint

SETTINGS = PretrainDataSettings(max_tokens=64, sequences=3)


@pytest.fixture
def model(tiny_tokenizer):
    return tiny_checkpoint(tiny_tokenizer)


@pytest.fixture
def repeats(tmp_path):
    """Everything of chr1 up to base 30,000, a little of chr2, all of chrN; in no order."""
    lines = [
        "chr1\t10000\t30000",
        "chr1\t0\t20000",
        "chr2\t50\t60",
        "chr2\t10\t20",
        "chrN\t0\t5000",
    ]
    (tmp_path / "repeats.bed").write_text("\n".join(lines) + "\n")
    return Repeats([tmp_path / "repeats.bed"])


def constant_bits(contigs, bits):
    """A model that spends the same on every base."""
    lengths = np.array([len(text) for text in contigs.values()])
    values = np.full(lengths.sum(), bits, dtype=np.float32)
    return BaseBits(np.array(list(contigs)), np.zeros(len(contigs), int), lengths, values)


@pytest.mark.parametrize("context", [3, 16, 30, 63])
def test_a_shorter_context_is_asked_for_the_same_tokens(model, tiny_shards, context):
    whole = predict_masked(Inference(model), tiny_shards, SETTINGS, 4)
    short = predict_masked(Inference(model), tiny_shards, SETTINGS, 4, context=context)
    assert whole.same_tokens(short)
    assert not np.allclose(whole.bits, short.bits, rtol=1e-3)


@pytest.mark.parametrize("context", [-1, 1, 2])
def test_a_context_without_room_for_a_token_is_refused(model, tiny_shards, context):
    message = rf"context of {context} tokens holds none beside .*; give at least 3, or 0 to show"
    with pytest.raises(UsageError, match=message):
        predict_masked(Inference(model), tiny_shards, SETTINGS, 4, context=context)


def test_a_context_as_long_as_the_window_changes_nothing(model, tiny_shards):
    whole = predict_masked(Inference(model), tiny_shards, SETTINGS, 4)
    same = predict_masked(Inference(model), tiny_shards, SETTINGS, 4, context=64)
    np.testing.assert_allclose(whole.bits, same.bits, rtol=1e-5)
    np.testing.assert_array_equal(whole.hits, same.hits)


def test_the_tokens_do_not_depend_on_the_block_size_of_the_model(tiny_tokenizer, tiny_shards):
    found = [
        predict_masked(
            Inference(tiny_checkpoint(tiny_tokenizer, block_size=size)), tiny_shards, SETTINGS, 4
        )
        for size in (8, 16)
    ]
    assert found[0].same_tokens(found[1])


def test_tokens_are_counted_inside_and_outside_repeats(model, tiny_shards, repeats):
    found = predict_masked(Inference(model), tiny_shards, SETTINGS, 10_000, repeats=repeats)
    assert found.parts == ("all", "no_n", "repeats", "unique")
    for sums in (found.bits, found.bases, found.tokens):
        np.testing.assert_allclose(sums[:, 2] + sums[:, 3], sums[:, 0])
    inside = found.tokens[:, 2] > 0
    contigs = np.array([group.partition(":")[0] for group in found.groups])
    assert inside[contigs == "chrN"].all()
    assert not inside[contigs == "chr2"][3:].any()
    assert (
        0.4
        < found.tokens[contigs == "chr1", 2].sum() / found.tokens[contigs == "chr1"].sum(0)[0]
        < 0.6
    )
    result = evaluate_masked(found, Resampling(resamples=5))
    assert result["tokens_repeats"] + result["tokens_unique"] == result["tokens"]
    assert result["bits_per_base_repeats"]["point"] == pytest.approx(
        found.bits[:, 2].sum() / found.bases[:, 2].sum()
    )


def test_a_token_is_in_a_repeat_by_its_middle_base(repeats):
    starts, ends = (
        np.array([0, 6, 8, 17, 18, 19, 48, 59]),
        np.array([5, 15, 11, 22, 25, 21, 51, 61]),
    )
    inside = repeats.hold(TokenSpans("chr2", starts, ends))
    assert inside.tolist() == [False, True, False, True, False, True, False, True]
    with pytest.raises(InputError, match="no repeats on chr3 in the BED files, which have chr1, "):
        repeats.hold(TokenSpans("chr3", starts, ends))


def test_a_file_that_is_no_bed_is_refused(tmp_path):
    (tmp_path / "x.bed").write_text("chr1\tone\ttwo\n")
    with pytest.raises(BedError):
        Repeats([tmp_path / "x.bed"])


def test_other_models_are_asked_for_the_same_tokens(model, tiny_shards, tiny_contigs):
    tracks = {"flat": constant_bits(tiny_contigs, 2.0), "half": constant_bits(tiny_contigs, 0.5)}
    found = predict_masked(Inference(model), tiny_shards, SETTINGS, 4, tracks=tracks)
    np.testing.assert_allclose(found.tracks["flat"], 2.0 * found.bases)
    result = evaluate_masked(found, Resampling(resamples=5))
    flat = result["baselines"]["flat"]
    assert flat["bits_per_base"] == {"low": 2.0, "point": 2.0, "high": 2.0}
    assert flat["difference"]["bits_per_base"]["point"] == pytest.approx(
        result["bits_per_base"]["point"] - 2.0
    )
    assert "accuracy" not in flat
    assert set(result["baselines"]) == {"flat", "half"}


def test_a_track_gives_each_token_its_own_bases(model, tiny_shards, tiny_contigs, tiny_tokenizer):
    """A track that marks one document's bases is seen in that document's windows alone."""
    spans = token_spans(tiny_shards, 3, tiny_tokenizer.lengths)
    track = constant_bits(tiny_contigs, 0.0)
    offset = sum(
        len(tiny_contigs[c]) for c in list(tiny_contigs)[: list(tiny_contigs).index(spans.contig)]
    )
    track.bits[offset + spans.starts[0] : offset + spans.ends[-1]] = 1.0
    settings = PretrainDataSettings(max_tokens=10_000, sequences=1, mask_rate=0.5)
    found = predict_masked(
        Inference(model), tiny_shards, settings, 10_000, tracks={"marked": track}
    )
    marked = found.tracks["marked"][:, 0]
    assert (marked > 0).sum() == 1
    assert marked.max() == found.bases[marked.argmax(), 0]


def test_answers_are_kept_in_a_file(model, tiny_shards, tmp_path):
    found = predict_masked(Inference(model), tiny_shards, SETTINGS, 4)
    found.save(tmp_path / "x.masked.npz")
    again = MaskedTokens.load(tmp_path / "x.masked.npz")
    assert again.same_tokens(found)
    np.testing.assert_array_equal(again.bits, found.bits)
    other = predict_masked(Inference(model), tiny_shards, SETTINGS, 4, seed=1)
    assert not other.same_tokens(found)
    for content in ("no", ""):  # a power cut leaves an empty file
        (tmp_path / "y.npz").write_text(content)
        message = r"y.npz holds no masked tokens; evaluate its model again"
        with pytest.raises(InputError, match=message):
            MaskedTokens.load(tmp_path / "y.npz")
