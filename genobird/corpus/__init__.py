"""Corpus: contigs enter, documents of sentences leave, as coordinates.

The law of the BigBird paper: for each contig and pass, from a start drawn from 0..5000 bp on,
documents of 50-100 consecutive sentences of 500-1000 bp; the last sentence is cut at the end of the
contig. Ten passes of a genome would be 28 Gbp of text, so a corpus directory holds coordinates:

- `sentences.parquet`: columns `pass document contig start end strand`, 0-based half-open; a row
  group for each contig and pass, sentences in reading order;
- `index.json`: settings, regions, FASTA files with their hashes, counts of kept and dropped.
"""

from __future__ import annotations

from genobird.corpus.sampling import (
    ROW,
    CorpusSettings,
    Rows,
    Sentence,
    draw,
    sentences,
    span_bp,
    texts,
)
from genobird.corpus.store import Corpus, CorpusIndex, Counts, FastaRecord, Group, read
from genobird.corpus.writer import build

__all__ = [
    "ROW",
    "Corpus",
    "CorpusIndex",
    "CorpusSettings",
    "Counts",
    "FastaRecord",
    "Group",
    "Rows",
    "Sentence",
    "build",
    "draw",
    "read",
    "sentences",
    "span_bp",
    "texts",
]
