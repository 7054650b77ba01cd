"""Question answering and summarisation on accelerated models, from random weights to answers."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

from genobird.hf import accelerate, restore  # noqa: E402
from tests.hf.test_acceleration import bigbird, pegasus  # noqa: E402

LENGTH, SEP, FIRST, LAST, TOPICS = 100, 66, 67, 68, 4
BLOCKS = {"block_size": 8}  # 100 tokens are more than see one another


def train(model, draw, steps, rate):
    """Train in place; a batch is a function of the step's number."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        loss = model(**draw(step)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def questions(seed, count=8):
    """Two marks in noise behind a question: the answer is what they enclose."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, SEP, (count, LENGTH), generator=generator)
    start, end = torch.randint(9, LENGTH // 2, (2, count), generator=generator)
    end += LENGTH // 2
    ids[:, 8] = SEP
    ids[torch.arange(count), start], ids[torch.arange(count), end] = FIRST, LAST
    return {"input_ids": ids, "start_positions": start, "end_positions": end}


def topics(seed, count=8):
    """Most of a text is one token among noise; its summary is that token."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(5, 5 + TOPICS, (count, 1), generator=generator)
    noise = torch.randint(5 + TOPICS, 66, (count, LENGTH), generator=generator)
    is_topic = torch.rand(count, LENGTH, generator=generator) < 0.8
    labels = torch.cat([topic, torch.ones_like(topic)], dim=1)  # and the end
    return {"input_ids": torch.where(is_topic, topic, noise), "labels": labels}


def test_spans_are_found_by_a_model_trained_on_our_attention():
    model = accelerate(bigbird("BigBirdForQuestionAnswering", **BLOCKS))
    train(model, questions, steps=60, rate=5e-3)
    asked = questions(10_000, count=32)
    truth = torch.stack([asked.pop("start_positions"), asked.pop("end_positions")])
    for one in (model, restore(model).train()):  # theirs has its trained blocks in train mode alone
        with torch.no_grad():
            out = one(**asked)
        found = torch.stack([out.start_logits.argmax(1), out.end_logits.argmax(1)])
        assert (found == truth).float().mean() > 0.9


def test_texts_are_summarised_by_a_model_trained_on_our_attention():
    model = accelerate(pegasus(max_position_embeddings=256, **BLOCKS))
    train(model, topics, steps=60, rate=5e-3)
    asked = topics(10_000, count=32)
    made = model.generate(asked["input_ids"], max_new_tokens=2, num_beams=2)
    assert (made[:, 1] == asked["labels"][:, 0]).float().mean() > 0.9
