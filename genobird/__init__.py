"""genobird: BigBird for regulatory DNA.

One arrow, one function, one type:

```
FASTA bytes - Genome.stream() / .fetch(Interval) -> str           genome/fasta.py
 str        - corpus.build(...) -> Corpus of sentences             corpus.py
 str        - Tokenizer.encode(...) -> Encoding (ids + spans)      tokenizer.py
 ids        - shards.write(...) -> Shards (uint16 + index.json)    shards.py
 Encoding   - batch.pack(...), places.pack_places(...) -> PackedBatch
 PackedBatch- BigBird(batch) -> hidden [tokens, D]                 model.py
 hidden     - Head -> logits                                       heads.py
 sequences  - Scorer -> logits (tokenise, pack, strands, device)   scoring/scorer.py
 logits     - score_regions / screen_variants -> DataFrame         scoring/
 DataFrame  - TSV, Parquet, annotated VCF, HTML                    scoring/, genome/, report/
```

Every coordinate inside is 0-based half-open; 1-based is only the text of VCF files and regions.
The public names below are loaded when they are first used, so `import genobird` is light (their
types are in `__init__.pyi`):

    scorer = genobird.load()
    scorer.score_regions("peaks.bed", "genome.fa")
"""

from __future__ import annotations

import os

from genobird.names import loader

# Read where torch is loaded. MKL's own store of buffers can hang a process that was forked from one
# with threads.
os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "EffectSettings",
    "GenobirdError",
    "Genome",
    "Interval",
    "Scorer",
    "Tokenizer",
    "Variant",
    "__version__",
    "evaluate",
    "finetune",
    "load",
    "pretrain",
    "tidy_scores",
    "to_anndata",
]

_HOMES = {
    "Checkpoint": "genobird.checkpoint",
    "EffectSettings": "genobird.scoring.settings",
    "GenobirdError": "genobird.errors",
    "Genome": "genobird.genome.fasta",
    "Interval": "genobird.genome.interval",
    "Scorer": "genobird.scoring.scorer",
    "Tokenizer": "genobird.tokenizer",
    "Variant": "genobird.genome.variant",
    "evaluate": "genobird.tasks.evaluate",
    "finetune": "genobird.tasks.training",
    "load": "genobird.scoring.scorer",
    "pretrain": "genobird.tasks.training",
    "tidy_scores": "genobird.scoring.variant_table",
    "to_anndata": "genobird.scoring.variant_table",
}


__getattr__ = loader(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
