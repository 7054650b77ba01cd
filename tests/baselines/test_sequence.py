import json

import numpy as np
import pytest

from genobird import corpus
from genobird import shards as store
from genobird.baselines.config import BaselineConfig
from genobird.baselines.ngram import (
    NgramSettings,
    ngram_bits,
    open_shards,
    predict_sequence,
    read_text,
)
from genobird.baselines.train import SequenceSource, train_baselines
from genobird.bits_per_base import BaseBits, token_spans
from genobird.corpus import CorpusSettings
from genobird.errors import InputError, ShardError
from genobird.genome.interval import Interval
from genobird.shards import Shards
from genobird.tokenizer import Tokenizer

SETTINGS = CorpusSettings(
    passes=1, sentences=(2, 4), sentence_bp=(100, 300), start_max=50, max_n_fraction=0.3,
    both_strands=True,
)  # fmt: skip
ORDER_3 = NgramSettings(order=3, smoothing="dirichlet", strength=1.0)


@pytest.fixture(scope="module")
def folder(tiny_genome_path, tiny_tokenizer, tmp_path_factory):
    """Shards of chr1 and chrN to train on, two passes, of chr2 to be asked about; two strands."""
    path = tmp_path_factory.mktemp("sequence")
    train, test = {"chr1": 60_000, "chrN": 2_000}, {"chr2": 30_000}
    for part, lengths, passes in (("train", train, 2), ("test", test, 1)):
        regions = [Interval(contig, 0, length) for contig, length in lengths.items()]
        settings = SETTINGS.model_copy(update={"passes": passes})
        corpus.build([tiny_genome_path], path / f"{part}.corpus", settings, regions)
        store.write(path / f"{part}.corpus", tiny_tokenizer, path / part)
    tiny_tokenizer.save(path / "tokenizer.model")
    return path


@pytest.mark.parametrize("unit", ["bases", "tokens"])
def test_a_text_is_the_first_pass_of_the_forward_strand(folder, tiny_tokenizer, tiny_contigs, unit):
    found = read_text(Shards.open(folder / "train"), tiny_tokenizer, unit)
    letters = "ACGTN"
    edges = [*found.text.firsts.tolist(), len(found.text.symbols)]
    covered = 0
    for contig, start, length, first, last in zip(
        found.contigs, found.starts, found.run_bp, edges, edges[1:], strict=False
    ):
        symbols = found.text.symbols[first:last]
        text = (
            "".join(letters[s] for s in symbols)
            if unit == "bases"
            else tiny_tokenizer.decode(symbols)
        )
        assert text == tiny_contigs[contig][start : start + length]
        covered += length
    assert covered == found.widths.sum() > 55_000
    assert found.contigs.count("chrN") > 1  # what holds too much N is left out between them


@pytest.mark.parametrize("unit", ["bases", "tokens"])
def test_every_held_out_base_has_the_bits_of_its_symbol(folder, tiny_tokenizer, unit):
    train, test = open_shards(folder / "train", folder / "test")
    bits, facts = predict_sequence(train, test, tiny_tokenizer, unit, ORDER_3)
    known, asked = (read_text(s, tiny_tokenizer, unit) for s in (train, test))
    wanted = ngram_bits(known.text, asked.text, ORDER_3)
    assert bits.bits.sum() == pytest.approx(wanted.sum(), rel=1e-5)
    assert facts["bits_per_base"] == pytest.approx(wanted.sum() / len(bits.bits), abs=1e-4)
    assert facts["symbols"] == len(known.text.symbols)
    if unit == "tokens":
        places = token_spans(test, 0, tiny_tokenizer.lengths)
        np.testing.assert_allclose(bits.of(places), wanted[: len(places.starts)], rtol=1e-4)


def test_random_bases_take_two_bits(folder, tiny_tokenizer):
    train, test = open_shards(folder / "train", folder / "test")
    _, facts = predict_sequence(train, test, tiny_tokenizer, "bases", ORDER_3)
    entropy = -2 * (0.3 * np.log2(0.3) + 0.2 * np.log2(0.2))  # of the letters' frequencies
    assert facts["bits_per_base_no_n"] == pytest.approx(entropy, abs=0.02)


def test_held_out_shards_that_are_trained_on_are_refused(folder, tiny_tokenizer):
    train, test = open_shards(folder / "test", folder / "test")
    with pytest.raises(InputError, match="share no base with those that are trained on"):
        predict_sequence(train, test, tiny_tokenizer, "bases", ORDER_3)


def test_held_out_shards_of_several_passes_are_refused(folder):
    # Only the first pass had bits, and measuring the others failed without a remedy.
    with pytest.raises(InputError, match=r"train holds 2 passes .*corpus --set passes=1`"):
        open_shards(folder / "test", folder / "train")


def short_documents(genome, tokenizer, path, region, sentence_bp, both_strands=False):
    """Shards of a region; a document is one or two sentences, which start at their multiples."""
    settings = CorpusSettings(
        passes=1, sentences=(1, 2), sentence_bp=(sentence_bp, sentence_bp), start_max=0,
        both_strands=both_strands,
    )  # fmt: skip
    corpus.build([genome], path / "corpus", settings, [Interval("chr1", *region)])
    return store.write(path / "corpus", tokenizer, path / "shards")


@pytest.mark.parametrize("both_strands", [False, True])
def test_less_than_a_shared_sentence_is_shared(
    tiny_genome_path, tiny_tokenizer, tmp_path, both_strands
):
    # The end of a document was taken for the start of its last sentence, here base 9,000.
    made = (tiny_genome_path, tiny_tokenizer)
    known = short_documents(*made, tmp_path / "a", (0, 10_000), 1_000, both_strands)
    shared = short_documents(*made, tmp_path / "b", (9_100, 15_400), 700)
    beside = short_documents(*made, tmp_path / "c", (10_000, 15_000), 1_000)
    message = r"chr1:\d+,\d+-\d+,\d+ and .* a part of it; held-out shards share no base with"
    for train, test in ((known, shared), (shared, known)):
        with pytest.raises(InputError, match=message):
            predict_sequence(train, test, tiny_tokenizer, "bases", ORDER_3)
    for train, test in ((known, beside), (beside, known)):
        predict_sequence(train, test, tiny_tokenizer, "bases", ORDER_3)


def test_another_tokenizer_is_refused(folder, tiny_contigs, tmp_path):
    other = Tokenizer.train([tiny_contigs["chr2"]], tmp_path / "other.model", vocab_size=32)
    with pytest.raises(ShardError, match="made with another tokenizer"):
        read_text(Shards.open(folder / "test"), other, "bases")


def test_models_of_sequence_are_trained_beside_the_others(folder, tmp_path):
    source = SequenceSource(folder / "train", folder / "test", folder / "tokenizer.model")
    config = BaselineConfig(
        models=("ngram_bases", "ngram_tokens"), ngram_bases=ORDER_3,
        ngram_tokens=NgramSettings(order=2, smoothing="kneser_ney"),
    )  # fmt: skip
    facts = train_baselines(tmp_path / "b", sequence=source, config=config)
    assert json.loads((tmp_path / "b" / "baselines.json").read_text()) == facts
    assert facts["sequence"]["ngram_tokens"]["smoothing"] == "kneser_ney"
    assert facts["sequence"]["corpus_sha256"] != facts["sequence"]["held_out_corpus_sha256"]
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == ["baselines.json", "ngram_bases.bases.npz", "ngram_tokens.bases.npz"]
    assert BaseBits.load(tmp_path / "b" / names[1]).lengths.sum() > 25_000
