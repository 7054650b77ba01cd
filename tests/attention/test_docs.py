"""The code in the documentation runs, and does what is said beside it."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "attention.md"


def test_the_code_of_the_page_runs():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    assert names["out"].shape == (81 * 64, 12, 64)
    assert [x.shape for x in names["of_each"]] == [(300, 128), (70, 128)]
    assert names["own"].shape == (320 + 128,)
    assert names["extra"].shape == (2, 64)
    assert names["y"].shape == names["x"].shape
    assert names["y"].isfinite().all()
    seen = names["layout"].token_mask()[0, ::64, ::64]
    expected = torch.eye(5)
    expected[:, 0] = 1
    assert torch.equal(seen, expected)
