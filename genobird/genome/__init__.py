"""The genome as text: sequences, intervals, FASTA and VCF. Nothing here knows tensors or models.

Inside genobird every coordinate is 0-based half-open. The 1-based coordinates of VCF text and of
region strings exist only in the text and are converted in this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genobird.names import loader

if TYPE_CHECKING:
    from genobird.genome.interval import Interval as Interval
    from genobird.genome.variant import Variant as Variant

__getattr__ = loader(
    __name__, {"Interval": "genobird.genome.interval", "Variant": "genobird.genome.variant"}
)
