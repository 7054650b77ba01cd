from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genobird.genome.fasta import Genome
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head, HeadConfig
from genobird.inference import Inference
from genobird.places import pack_places
from genobird.tasks import hidden
from genobird.tasks.bins import ChosenBins, group
from genobird.tasks.held_out import predict
from genobird.tasks.hidden import encode, window
from tests.models import tiny_checkpoint

CONTEXT = 600


@pytest.fixture
def genome(tiny_genome_path):
    with Genome(tiny_genome_path) as opened:
        yield opened


@pytest.fixture
def model(tiny_tokenizer):
    return tiny_checkpoint(tiny_tokenizer)


def bins_of(contig, *numbers):
    labels = np.zeros((len(numbers), 1), bool)
    return ChosenBins(np.array([contig] * len(numbers)), np.array(numbers), labels, 1, 1)


def encoded(model, genome, chosen, folder, **changes):
    options = {"context_bp": CONTEXT, "both_strands": False, "seconds": None, "seed": 7, **changes}
    groups = group(chosen, 1200, 0)
    return encode(Inference(model), model.chromatin, genome, chosen, groups, folder, **options)


@pytest.mark.parametrize("shape", [
    {"hidden": 8}, {"pool": "cls"}, {"before_bp": 30},
    {"pool": "cells", "before_bp": 120, "cell_bp": 20, "cell_width": 3},
])  # fmt: skip
def test_a_head_says_of_kept_states_what_it_says_of_the_sequence(model, genome, tmp_path, shape):
    model.chromatin = Head(HeadConfig(outputs=3, **shape), 32)
    chosen = bins_of("chr1", 0, 3, 100, 105, 299)
    states = encoded(model, genome, chosen, tmp_path / "states", both_strands=True)
    found = predict(model.chromatin, states, len(chosen))
    groups = [[0, 3], [100, 105], [299]]
    expected = []
    for numbers in groups:
        text, start = genome.fetch_clipped("chr1", *window(numbers[0], numbers[-1], CONTEXT))
        centres = np.array(numbers) * 200 + 100 - start
        asked = pack_places(
            [text, reverse_complement(text)], [centres, len(text) - centres],
            model.tokenizer, model.chromatin.config, 16,
        )  # fmt: skip
        with torch.no_grad():
            logits = model.chromatin(model.encoder(asked.batch), asked)
        expected.append(logits.view(2, len(numbers), -1).mean(0).numpy())
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-3)
    assert np.abs(found).max() > 0.05  # the states matter


@given(st.integers(0, 500), st.integers(0, 40), st.integers(0, 8_000))
def test_a_window_gives_its_bins_their_context_and_has_one_of_few_widths(first, more, context):
    start, end = window(first, first + more, context)
    assert start <= 200 * first - context
    assert end >= 200 * (first + more) + 200 + context
    assert (end - start - 2 * context - 200) % 1_000 == 0
    assert end - start <= 200 * more + 200 + 2 * context + 999


def test_states_on_disk_are_not_computed_again(model, genome, tmp_path, monkeypatch):
    monkeypatch.setattr(hidden, "_CHUNK", 2)
    chosen = bins_of("chr1", *range(0, 200, 20))
    first = encoded(model, genome, chosen, tmp_path / "states")
    files = sorted((tmp_path / "states").glob("*.npz"))
    assert len(files) == 5
    (tmp_path / "states" / "done").unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])  # a disk that was full
    calls = []
    monkeypatch.setattr(
        hidden, "_encode", lambda *a, run=hidden._encode: (calls.append(a[5]), run(*a))[1]
    )
    again = encoded(model, genome, chosen, tmp_path / "states")
    assert sorted(number for numbers in calls for number in numbers) == [2, 3]
    for name in ("rows", "pooled"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_when_time_is_up_a_resumed_run_goes_on_with_the_same_bins(
    model, genome, tmp_path, monkeypatch
):
    monkeypatch.setattr(hidden, "_CHUNK", 2)
    chosen = bins_of("chr1", *range(0, 200, 20))
    short = encoded(model, genome, chosen, tmp_path / "states", seconds=0)
    assert len(short) == 2
    again = encoded(model, genome, chosen, tmp_path / "states", seconds=None)
    assert torch.equal(short.pooled, again.pooled)


@pytest.mark.parametrize("left", ["", "x\n"])
def test_a_damaged_count_of_windows_counts_as_none(model, genome, tmp_path, left):
    chosen = bins_of("chr1", *range(0, 60, 20))
    first = encoded(model, genome, chosen, tmp_path / "states")
    done = tmp_path / "states" / "done"
    assert done.read_text() == "3\n"
    done.write_text(left)
    again = encoded(model, genome, chosen, tmp_path / "states")
    assert torch.equal(first.pooled, again.pooled)
    assert done.read_text() == "3\n"


def test_the_strand_is_drawn_by_the_seed(model, genome, tmp_path):
    chosen = bins_of("chr1", *range(0, 200, 20))
    runs = [
        encoded(model, genome, chosen, tmp_path / str(i), seed=seed).pooled
        for i, seed in enumerate((1, 1, 2))
    ]
    assert torch.equal(runs[0], runs[1])
    assert runs[0].shape != runs[2].shape or not torch.equal(runs[0], runs[2])
