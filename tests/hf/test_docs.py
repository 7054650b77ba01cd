"""The code on the page for users of transformers runs."""

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "transformers.md"


def test_the_code_of_the_page_runs():
    names = {}
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(block, names)
    assert names["logits"].shape == (1, 1500, names["config"].vocab_size)
    assert names["model"].bert.attention_type == "block_sparse"
