"""From sequences, regions and variants to scores: torch, no training.

`scorer.py` predicts for sequences; `sites.py` cuts them out of a genome; `regions.py` lays out
tables; `scan.py` passes over variants, whose effects (`effects.py`) go into tables
(`variant_table.py`), into VCF (`variant_vcf.py`), into tables of older tools (`compat.py`) or into
a background.
"""
