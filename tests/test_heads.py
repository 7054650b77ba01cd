import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genobird.batch import pack
from genobird.heads import Head, HeadConfig, place_spans
from tests.models import random_ids


@given(
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=60),
    before=st.integers(0, 150),
    after=st.integers(1, 150),
    data=st.data(),
)
def test_a_span_is_every_token_that_touches_the_bases_and_no_other(lengths, before, after, data):
    total = sum(lengths)
    places = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=5))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    config = HeadConfig(before_bp=before, after_bp=after)
    spans = place_spans(torch.from_numpy(starts), torch.tensor(places), config, total)
    for place, (first, end) in zip(places, spans.tolist(), strict=True):
        touched = [
            t
            for t in range(len(lengths))
            if starts[t] < min(place + after, total) and ends[t] > max(place - before, 0)
        ]
        assert list(range(first, end)) == touched


def test_a_place_beyond_its_sequence_reads_the_nearest_token():
    starts = torch.tensor([0, 4, 8])
    config = HeadConfig(before_bp=2, after_bp=2)
    spans = place_spans(starts, torch.tensor([-50, 50]), config, 12)
    assert spans.tolist() == [[0, 1], [2, 3]]


def places(tokenizer):
    """Three sequences with four places, the last two of one sequence."""
    batch = pack([random_ids(tokenizer, n, seed=n) for n in (30, 50, 17)], 16)
    starts = batch.starts.tolist()
    owner = [0, 1, 2, 2]
    within = [(1, 29), (5, 6), (3, 9), (9, 15)]
    spans = [(starts[s] + a, starts[s] + b) for s, (a, b) in zip(owner, within, strict=True)]
    return batch, torch.tensor(spans), torch.tensor(owner)


@pytest.mark.parametrize("hidden_width", [0, 8])
@pytest.mark.parametrize("pool", ["bin", "cls"])
def test_a_head_reads_cls_and_the_mean_and_maximum_of_its_tokens(
    tiny_tokenizer, pool, hidden_width
):
    torch.manual_seed(0)
    head = Head(HeadConfig(outputs=5, pool=pool, hidden=hidden_width), 12).eval()
    batch, spans, owner = places(tiny_tokenizer)
    hidden = torch.randn(len(batch.ids), 12)
    rows = []
    for (first, end), s in zip(spans.tolist(), owner.tolist(), strict=True):
        cls = hidden[int(batch.starts[s])]
        tokens = hidden[first:end]
        read = torch.cat([cls, tokens.mean(0), tokens.amax(0)]) if pool == "bin" else cls
        x = head.norm(read)
        for layer in head.layers:
            x = layer(x)
        rows.append(x)
    torch.testing.assert_close(head(hidden, batch, spans, owner), torch.stack(rows))


def test_a_place_is_read_alone_as_among_others(tiny_tokenizer):
    torch.manual_seed(0)
    head = Head(HeadConfig(outputs=5, hidden=8), 12).eval()
    batch, spans, owner = places(tiny_tokenizer)
    hidden = torch.randn(len(batch.ids), 12)
    together = head(hidden, batch, spans, owner)
    for p in range(len(owner)):
        alone = head(hidden, batch, spans[p : p + 1], owner[p : p + 1])
        torch.testing.assert_close(alone[0], together[p], rtol=1e-5, atol=1e-6)


def test_tokens_outside_a_span_do_not_matter(tiny_tokenizer):
    torch.manual_seed(0)
    head = Head(HeadConfig(), 12).eval()
    batch, spans, owner = places(tiny_tokenizer)
    hidden = torch.randn(len(batch.ids), 12)
    expected = head(hidden, batch, spans, owner)
    read = torch.zeros(len(hidden), dtype=torch.bool)
    read[batch.starts] = True
    for first, end in spans.tolist():
        read[first:end] = True
    assert not read.all()
    torch.testing.assert_close(
        head(hidden.where(read[:, None], torch.tensor(1e4)), batch, spans, owner), expected
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pool": "max"}, "'cls' or 'bin'"),
        ({"outputs": 0}, "greater than or equal to 1"),
        ({"after_bp": 0}, "greater than or equal to 1"),
        ({"width": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        HeadConfig.model_validate(values)
