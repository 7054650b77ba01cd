"""From sequences, regions and variants to scores: torch, no training.

`scorer.py` predicts for sequences; `regions.py` and `variants.py` cut the sequences out of a genome
and lay out the tables; `annotation.py` carries variant scores into VCF; `table.py` writes tables.
"""
