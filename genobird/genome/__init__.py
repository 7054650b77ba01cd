"""The genome as text: sequences, intervals, FASTA and VCF. Nothing here knows tensors or models.

Inside genobird every coordinate is 0-based half-open. The 1-based coordinates of VCF text and of
region strings exist only in the text and are converted in this package.
"""
