import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genobird.batch import Places, pack
from genobird.errors import UsageError
from genobird.genome.sequence import reverse_complement
from genobird.heads import Head, HeadConfig, place_spans, probabilities
from genobird.local import LocalConfig, LocalNetwork, bases_around
from genobird.places import pack_places
from tests.conftest import random_dna
from tests.models import random_ids

CELLS = HeadConfig(pool="cells", before_bp=80, after_bp=80)


def test_probabilities_take_the_weight_of_positives_back():
    logits = np.log(np.array([1, 1 / 3, 8, 8 / 3]), dtype=np.float32)
    assert probabilities(logits[:2]).tolist() == pytest.approx([0.5, 0.25])
    assert probabilities(logits[2:], 8.0).tolist() == pytest.approx([0.5, 0.25])


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
    for place, (first, end) in zip(places, spans[:, 0].tolist(), strict=True):
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
    assert spans.tolist() == [[[0, 1]], [[2, 3]]]


LOCAL = LocalConfig(
    span_bp=40,
    filters=6,
    filter_bp=5,
    pool_bp=2,
    width=5,
    dilations=(2,),
    cells=4,
    kept=3,
    hidden=7,
)
SHIFTED = LOCAL.model_copy(update={"shifts_bp": (-1, 1)})


def local_head(seed=0, **changes):
    """A head that reads both ways, with weights that matter."""
    torch.manual_seed(seed)
    shape = {"outputs": 3, "hidden": 8, "pool": "cells", "cell_bp": 20, "cell_width": 3}
    head = Head(HeadConfig(before_bp=40, after_bp=40, local=LOCAL, **{**shape, **changes}), 12)
    head.train()
    for _ in range(30):  # batch norms have seen what they will see
        head.local(torch.randint(0, 5, (64, LOCAL.span_bp), dtype=torch.uint8))
    return head.eval()


def test_what_a_head_reads_of_bases_depends_on_those_around_the_place_alone(tiny_tokenizer):
    sequence = random_dna(600, seed=5)
    head = local_head(pool="local")
    whole = pack_places([sequence], [np.array([300])], tiny_tokenizer, head.config, 16)
    part = pack_places([sequence[280:320]], [np.array([20])], tiny_tokenizer, head.config, 16)
    expected = head(torch.zeros(0, 12), whole)
    torch.testing.assert_close(head(torch.zeros(0, 12), part), expected)
    other = sequence[:290] + reverse_complement(sequence[290:310]) + sequence[310:]
    changed = pack_places([other], [np.array([300])], tiny_tokenizer, head.config, 16)
    assert not torch.allclose(head(torch.zeros(0, 12), changed), expected)


def test_beyond_its_sequence_a_head_reads_no_base():
    codes = bases_around("ACGTN", np.array([0, 4]), 3, 2)
    assert codes.tolist() == [[4, 4, 4, 0, 1], [1, 2, 3, 4, 4]]
    assert bases_around("ACGT", np.array([1]), 0, 0).shape == (1, 0)


def test_a_network_with_shifts_is_the_mean_of_what_it_reads_there_and_trains_on_the_middle():
    plain, shifted = local_head().local, LocalNetwork(SHIFTED)
    shifted.load_state_dict(plain.state_dict())
    codes = torch.randint(0, 5, (9, 2 * SHIFTED.reach_bp), dtype=torch.uint8)
    read = [plain.eval()(codes[:, first : first + LOCAL.span_bp]) for first in (0, 2)]
    assert not torch.allclose(*read)
    torch.testing.assert_close(shifted.eval()(codes), (read[0] + read[1]) / 2)
    for network in (plain, shifted):
        network.dropout.p = 0.0
        network.train()
    torch.testing.assert_close(shifted(codes), plain(codes[:, 1:-1]))


def test_a_kept_head_may_be_read_at_other_shifts():
    head = local_head(pool="local")
    shape = head.config.model_copy(update={"local": SHIFTED})
    wide = head.widened(shape)
    codes = torch.randint(0, 5, (9, 2 * SHIFTED.reach_bp), dtype=torch.uint8)
    read = [head.local(codes[:, first : first + LOCAL.span_bp]) for first in (0, 2)]
    torch.testing.assert_close(wide.eval().local(codes), (read[0] + read[1]) / 2)
    other = SHIFTED.model_copy(update={"width": 6})
    with pytest.raises(UsageError, match="cannot become"):
        head.widened(shape.model_copy(update={"local": other}))


def test_motifs_begin_filters_on_both_strands():
    network = LocalNetwork(LOCAL)
    odds = np.arange(12, dtype=np.float64).reshape(4, 3)
    network.set_motifs([odds, np.ones((4, 9))])
    first, second, wide = network.motifs.weight[:3, :, 0]
    assert torch.equal(first[:, 1:4], torch.from_numpy(odds / 4).float())
    assert torch.equal(second, first.flip(0, 1))
    assert torch.equal(wide, torch.full((4, 5), 0.25))
    with pytest.raises(ValueError, match="4 motifs on two strands, 6 filters"):
        network.set_motifs([odds] * 4)


def places(tokenizer):
    """Three sequences with four places, the last two of one sequence."""
    batch = pack([random_ids(tokenizer, n, seed=n) for n in (30, 50, 17)], 16)
    starts = batch.starts.tolist()
    owner = [0, 1, 2, 2]
    within = [(1, 29), (5, 6), (3, 9), (9, 15)]
    spans = [(starts[s] + a, starts[s] + b) for s, (a, b) in zip(owner, within, strict=True)]
    return Places(batch, torch.tensor(spans)[:, None], torch.tensor(owner))


@pytest.mark.parametrize("hidden_width", [0, 8])
@pytest.mark.parametrize("pool", ["bin", "cls"])
def test_a_head_reads_cls_and_the_mean_and_maximum_of_its_tokens(
    tiny_tokenizer, pool, hidden_width
):
    torch.manual_seed(0)
    head = Head(HeadConfig(outputs=5, pool=pool, hidden=hidden_width), 12).eval()
    asked = places(tiny_tokenizer)
    batch, spans, owner = asked.batch, asked.spans, asked.owner
    hidden = torch.randn(len(batch.ids), 12)
    rows = []
    for (first, end), s in zip(spans[:, 0].tolist(), owner.tolist(), strict=True):
        cls = hidden[int(batch.starts[s])]
        tokens = hidden[first:end]
        read = torch.cat([cls, tokens.mean(0), tokens.amax(0)]) if pool == "bin" else cls
        x = head.norm(read)
        for layer in head.layers:
            x = layer(x)
        rows.append(x)
    torch.testing.assert_close(head(hidden, Places(batch, spans, owner)), torch.stack(rows))


@given(
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=60),
    cells=st.integers(1, 5),
    width=st.integers(1, 40),
    before=st.integers(0, 100),
    data=st.data(),
)
def test_cells_are_intervals_side_by_side(lengths, cells, width, before, data):
    starts = torch.tensor(np.cumsum(lengths) - lengths)
    places = torch.tensor(data.draw(st.lists(st.integers(0, sum(lengths) - 1), min_size=1)))
    before = min(before, cells * width - 1)
    shape = {"before_bp": before, "after_bp": cells * width - before}
    config = HeadConfig(pool="cells", cell_bp=width, **shape)
    spans = place_spans(starts, places, config, sum(lengths))
    one = HeadConfig(before_bp=0, after_bp=width)
    for c in range(cells):
        at = places - before + c * width
        inside = (at > -width) & (at < sum(lengths))
        expected = place_spans(starts, at, one, sum(lengths))[:, 0]
        assert torch.equal(spans[inside, c], expected[inside])


def test_a_head_knows_where_in_its_interval_something_lies(tiny_tokenizer):
    torch.manual_seed(0)
    config = HeadConfig(outputs=5, hidden=8, pool="cells", cell_bp=50, cell_width=3)
    head = Head(config, 12).eval()
    head.cell_norm.running_mean.normal_()  # type: ignore[union-attr]
    batch = pack([random_ids(tiny_tokenizer, n, seed=n) for n in (30, 50)], 16)
    first, second = batch.starts.tolist()
    cells = [[(1, 4), (4, 9), (9, 11), (11, 29)], [(1, 2), (1, 9), (2, 20), (30, 49)]]
    spans = torch.stack([torch.tensor(cells[0]) + first, torch.tensor(cells[1]) + second])
    owner = torch.tensor([0, 1])
    hidden = torch.randn(len(batch.ids), 12)
    rows = []
    for place, start in zip(spans.tolist(), (first, second), strict=True):
        kept = [head.keep(hidden[a:b]) for a, b in place]
        read = torch.stack([torch.cat([x.mean(0), x.amax(0)]) for x in kept])  # [C, 2 c]
        read = torch.relu(head.cell_norm(read)).flatten()
        rows.append(head.layers(torch.cat([head.norm(hidden[start]), read])[None])[0])
    found = head(hidden, Places(batch, spans, owner))
    torch.testing.assert_close(found, torch.stack(rows))
    assert not torch.allclose(found, head(hidden, Places(batch, spans.flip(1), owner)), atol=1e-4)


@pytest.mark.parametrize("local", [None, LOCAL, SHIFTED])
def test_a_head_asks_another_one_about_places_side_by_side(tiny_tokenizer, local):
    torch.manual_seed(0)
    shape = {"pool": "cells", "cell_bp": 20, "cell_width": 3, "local": local}
    profiles = HeadConfig(outputs=4, hidden=8, before_bp=60, after_bp=40, **shape)
    config = HeadConfig(
        pool="profiles", before_bp=100, after_bp=80, cell_bp=20, step_bp=40, profiles=profiles
    )
    assert config.asked == 3
    head = Head(config, 12).eval()
    asked = head.profiles
    asked.cell_norm.running_mean.normal_()
    sequence = random_dna(600, seed=5)
    hidden = None
    answers = []
    for offset in (-40, 0, 40):  # the middles of the profiles, from 40 bp before the place on
        places = pack_places(
            [sequence], [np.array([200, 310]) + offset], tiny_tokenizer, profiles, 16
        )
        if hidden is None:
            hidden = torch.randn(len(places.batch.ids), 12)
        answers.append(asked(hidden, places))
    read = torch.cat(answers, dim=1)
    places = pack_places([sequence], [np.array([200, 310])], tiny_tokenizer, config, 16)
    rest = (hidden, places)
    torch.testing.assert_close(head.pool(*rest), read)
    torch.testing.assert_close(head(*rest), head.layers(head.norm(read)))
    assert head.reads == read.shape[1] == 12


CORE = {"core_before_bp": 6, "core_after_bp": 4, "near_bp": 5}


def starts_head(local=None, **changes):
    """A head that reads the profiles of three places and the letters of its core promoter."""
    torch.manual_seed(0)
    shape = {"pool": "cells", "cell_bp": 20, "cell_width": 3, "local": local}
    profiles = HeadConfig(outputs=4, hidden=8, before_bp=60, after_bp=40, **shape)
    given = {"before_bp": 100, "after_bp": 80, "cell_bp": 20, "step_bp": 40, **CORE, **changes}
    return Head(HeadConfig(pool="profiles", profiles=profiles, **given), 12).eval()


@pytest.mark.parametrize("local", [None, LOCAL, SHIFTED])
def test_letters_of_the_core_promoter_add_to_the_profiles(tiny_tokenizer, local):
    head, plain = starts_head(local), starts_head(local, core_before_bp=0, core_after_bp=0)
    plain.load_state_dict({name: head.state_dict()[name] for name in plain.state_dict()})
    sequence = random_dna(400, seed=5) + "N" * 20 + random_dna(180, seed=6)
    at = [np.array([200, 310, 415, 594])]
    asked, less = (
        pack_places([sequence], at, tiny_tokenizer, one.config, 16) for one in (head, plain)
    )
    hidden = torch.randn(len(asked.batch.ids), 12)
    weights = head.core.weight[0]  # [4, L], each letter 0.75 or -0.25 off its mean, scaled
    added = []
    for place in at[0]:
        letters = [sequence[x : x + 1] for x in range(place - 6, place + 4)]
        found = ["ACGT".find(letter) if letter else -1 for letter in letters]
        scaled = [(weights[x, k] - weights[:, k].mean()) / 0.1875**0.5 for k, x in enumerate(found)]
        known = [one for one, x in zip(scaled, found, strict=True) if x >= 0]
        added.append(sum(known, start=torch.zeros(())))
    difference = head(hidden, asked) - plain(hidden, less)
    torch.testing.assert_close(difference[:, 0], torch.stack(added), rtol=1e-4, atol=1e-5)
    # The likeliest start near a place, of those whose letters are read.
    near = head._answer_near(head.pool(hidden, asked))
    torch.testing.assert_close(
        head.starts(hidden, asked), torch.cat([head(hidden, asked), near], 1)
    )
    best = []
    for place in at[0]:
        starts = [x for x in range(place - 5, place + 6) if x == place or sequence[x] != "N"]
        moved = pack_places([sequence], [np.array(starts)], tiny_tokenizer, head.config, 16)
        letters = head.pool(hidden, moved)[:, head.far + 5 : head.far + 15]
        best.append(head._answer_core(letters).amax())
    expected = plain(hidden, less)[:, 0] + torch.stack(best)
    torch.testing.assert_close(near[:, 0], expected, rtol=1e-4, atol=1e-5)
    head.near_offset.fill_(-2.0)
    torch.testing.assert_close(head._answer_near(head.pool(hidden, asked)), near - 2)


def test_no_start_near_a_place_lies_where_bases_are_unknown(tiny_tokenizer):
    head = starts_head()
    with torch.no_grad():  # what follows a start decides, so that a start on N could win
        head.core.weight.zero_()
        head.core.weight[0, 0, 9] = 1.0
    sequence = random_dna(300, seed=2) + "C" * 3 + "N" * 6 + "A" + random_dna(290, seed=3)
    start = 300 + 9 - 3  # three bases before the A: itself N
    asked = pack_places([sequence], [np.array([302])], tiny_tokenizer, head.config, 16)
    letters = head.pool(torch.zeros(len(asked.batch.ids), 12), asked)[:, head.far :]
    every = head._answer_core(letters)[0, 0]
    assert sequence[start] == "N"
    assert every.argmax() == start - 302 + 5
    both = head.starts(torch.zeros(len(asked.batch.ids), 12), asked)[0]
    allowed = [n for n in range(11) if sequence[297 + n] != "N"]
    expected = both[0] - every[5] + every[allowed].max()
    torch.testing.assert_close(both[1], expected)
    assert every[allowed].max() < every.max()


def test_without_letters_a_start_near_a_place_is_the_place(tiny_tokenizer):
    head = starts_head(core_before_bp=0, core_after_bp=0)
    asked = pack_places(
        [random_dna(600, seed=1)], [np.array([300])], tiny_tokenizer, head.config, 16
    )
    both = head.starts(torch.randn(len(asked.batch.ids), 12), asked)
    assert asked.bases.shape == (1, 0)
    assert both[0, 0] == both[0, 1]


def test_letters_are_trained_on_what_was_pooled_once(tiny_tokenizer):
    head = starts_head().train()
    asked = pack_places(
        [random_dna(600, seed=1)] * 2, [np.array([300, 350])] * 2, tiny_tokenizer, head.config, 16
    )
    pooled = head.pool(torch.randn(len(asked.batch.ids), 12), asked).detach()
    assert pooled.shape == (4, head.reads + 20)
    torch.testing.assert_close(pooled.half().float()[:, head.reads :], pooled[:, head.reads :])
    head.answer(pooled).sum().backward()
    assert head.core.weight.grad.abs().sum() > 0


def test_a_place_is_read_alone_as_among_others(tiny_tokenizer):
    torch.manual_seed(0)
    head = Head(HeadConfig(outputs=5, hidden=8), 12).eval()
    asked = places(tiny_tokenizer)
    batch, spans, owner = asked.batch, asked.spans, asked.owner
    hidden = torch.randn(len(batch.ids), 12)
    together = head(hidden, Places(batch, spans, owner))
    for p in range(len(owner)):
        alone = head(hidden, Places(batch, spans[p : p + 1], owner[p : p + 1]))
        torch.testing.assert_close(alone[0], together[p], rtol=1e-5, atol=1e-6)


def test_tokens_outside_a_span_do_not_matter(tiny_tokenizer):
    torch.manual_seed(0)
    head = Head(HeadConfig(), 12).eval()
    asked = places(tiny_tokenizer)
    batch, spans, owner = asked.batch, asked.spans, asked.owner
    hidden = torch.randn(len(batch.ids), 12)
    expected = head(hidden, Places(batch, spans, owner))
    read = torch.zeros(len(hidden), dtype=torch.bool)
    read[batch.starts] = True
    for first, end in spans[:, 0].tolist():
        read[first:end] = True
    assert not read.all()
    torch.testing.assert_close(
        head(hidden.where(read[:, None], torch.tensor(1e4)), Places(batch, spans, owner)), expected
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pool": "max"}, "'cls', 'bin', 'cells', 'profiles' or 'local'"),
        ({"outputs": 0}, "greater than or equal to 1"),
        ({"after_bp": 0}, "greater than or equal to 1"),
        ({"pool": "cells", "cell_bp": 30}, "100 and 100 bp are no whole number of cells of 30 bp"),
        ({"near_bp": 100_000}, "less than or equal to 1000"),
        ({"core_before_bp": 5}, "core_before_bp and core_after_bp are for heads with pool"),
        ({"profiles": CELLS}, "a head with pool = profiles asks one with pool = cells"),
        ({"pool": "profiles", "profiles": HeadConfig()}, "asks one with pool = cells"),
        ({"pool": "profiles", "profiles": CELLS, "cell_bp": 20}, "read in cells of 40 bp"),
        ({"pool": "profiles", "profiles": CELLS, "step_bp": 30}, "do not fill 200 bp in cells of"),
        ({"width": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        HeadConfig.model_validate(values)


@pytest.mark.parametrize("hidden_width", [0, 8])
@pytest.mark.parametrize("pool", ["cells", "bin", "cls"])
def test_a_widened_head_answers_as_before_and_a_narrowed_one_again(
    tiny_tokenizer, pool, hidden_width
):
    torch.manual_seed(0)
    batch = pack([random_ids(tiny_tokenizer, 90, seed=3)], 16)
    config = HeadConfig(
        outputs=3, pool=pool, hidden=hidden_width, before_bp=80, after_bp=80, cell_width=6
    )
    spans = torch.arange(1, 1 + 2 * config.cells).view(2, config.cells)
    spans, owner = torch.stack([spans, spans + 3], dim=-1), torch.zeros(2, dtype=torch.int64)
    head, hidden = Head(config, 12), torch.randn(len(batch.ids), 12)
    head(hidden, Places(batch, spans, owner))  # batch norms have seen something
    head.eval()
    wide = head.widened(
        config.model_copy(update={"outputs": 5, "cell_width": 10, "dropout": 0.5})
    ).eval()
    before, after = (h(hidden, Places(batch, spans, owner)) for h in (head, wide))
    torch.testing.assert_close(after[:, :3], before)
    assert not after[:, 3:].any()
    wide.train()(hidden, Places(batch, spans, owner)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in wide.parameters())
    narrow = wide.eval().narrowed(3)
    assert narrow.config.outputs == 3
    torch.testing.assert_close(
        narrow.eval()(hidden, Places(batch, spans, owner)),
        wide(hidden, Places(batch, spans, owner))[:, :3],
    )


@pytest.mark.parametrize("change", [{"outputs": 2}, {"cell_width": 5}, {"before_bp": 120}])
def test_a_head_widens_and_does_not_change_otherwise(change):
    config = HeadConfig(outputs=3, pool="cells", before_bp=80, after_bp=80, cell_width=6)
    with pytest.raises(UsageError, match="cannot become"):
        Head(config, 12).widened(config.model_copy(update=change))
