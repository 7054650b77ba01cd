"""Corpus: contigs enter, documents of sentences leave, as coordinates.

The law of the BigBird paper: for each contig and pass, from a start drawn from 0..5000 bp on,
documents of 50-100 consecutive sentences of 500-1000 bp; the last sentence is cut at the end of the
contig. Ten passes of a genome would be 28 Gbp of text, so a corpus directory holds coordinates:

- `sentences.parquet`: columns `pass document contig start end strand`, 0-based half-open; a row
  group for each contig and pass, sentences in reading order;
- `index.json`: settings, regions, FASTA files with their hashes, counts of kept and dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genobird.names import loader

if TYPE_CHECKING:
    from genobird.corpus.sampling import CorpusSettings as CorpusSettings
    from genobird.corpus.sampling import Rows as Rows
    from genobird.corpus.sampling import draw as draw
    from genobird.corpus.sampling import sentences as sentences
    from genobird.corpus.sampling import span_bp as span_bp
    from genobird.corpus.sampling import texts as texts
    from genobird.corpus.store import Corpus as Corpus
    from genobird.corpus.store import read as read
    from genobird.corpus.writer import build as build

_SAMPLING = ("CorpusSettings", "Rows", "draw", "sentences", "span_bp", "texts")

__getattr__ = loader(
    __name__,
    {
        **dict.fromkeys(_SAMPLING, "genobird.corpus.sampling"),
        **dict.fromkeys(("Corpus", "read"), "genobird.corpus.store"),
        "build": "genobird.corpus.writer",
    },
)
