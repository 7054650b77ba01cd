"""Block-sparse attention on packed sequences: tensors only, no genomics.

`pattern.py` and `layout.py` say which key blocks each query block sees; `reference.py` computes the
attention with a dense mask (the oracle), `blocked.py` in plain torch, fast on a CPU, `kernels.py`
in Triton by the work lists of `plan.py`; `ops.py` checks and chooses.
"""

from __future__ import annotations

from genobird.attention.layout import BlockLayout
from genobird.attention.ops import BACKENDS, block_sparse_attention
from genobird.attention.pattern import PATTERNS, Pattern, SequenceLists

__all__ = [
    "BACKENDS",
    "PATTERNS",
    "BlockLayout",
    "Pattern",
    "SequenceLists",
    "block_sparse_attention",
]
