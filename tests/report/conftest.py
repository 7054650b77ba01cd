"""Variant tables as `genobird variants` writes them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def variant_table() -> pd.DataFrame:
    """Eight ALTs of one contig; the last is not scored."""
    count = 8
    return pd.DataFrame(
        {
            "chrom": ["chr20"] * count,
            "pos": np.arange(count) * 5000 + 1234,
            "ref": ["A"] * count,
            "alt": ["C" * 40] * count,
            "record": np.arange(count),
            "allele": [1] * count,
            "status": ["OK"] * (count - 1) + ["REF_MISMATCH"],
            "promoter|delta": [0.5] * count,
            "K562|CTCF|None#338|delta": [*np.linspace(-2, 1, count - 1), np.nan],
            "id": [f"rs{row}" for row in range(count)],
        }
    )


@pytest.fixture
def ranked_table(variant_table: pd.DataFrame) -> pd.DataFrame:
    """The same with logits, quantiles and E-values; the third ALT is the rarest."""
    shape = (len(variant_table), 2)
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    evalues = [0.5, 0.2, 0.003, 0.004, 1.0, 0.03, 0.02, np.nan]
    parts = {}
    for name, column in zip(("HeLa-S3|DNase|None", "K562|GR|DEX"), logits.T, strict=True):
        parts |= {
            f"{name}|ref": column - 1,
            f"{name}|alt": column * 2 - 1,
            f"{name}|delta": column,
            f"{name}|quantile": np.linspace(0.1, 0.9, shape[0]),
        }
    return variant_table.assign(**parts).assign(evalue=evalues)
