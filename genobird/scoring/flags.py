"""Flags: what makes one doubt scores that are there, beside their status."""

from __future__ import annotations

from typing import Final

from genobird.genome.fasta import Genome

EDGE: Final = "EDGE"
NEAR: Final = 300
"""Bases on each side of a place that decide what is predicted there: the local network reads no
others."""
LEAST: Final = 0.99
"""Share of these that has to be known for scores without a flag; docs/scores.md has the table that
it was chosen by."""


def flag_of(window: str, centre: int) -> str:
    """Return `EDGE` where bases near a place are missing, else nothing.

    Args:
        window: bases around it, upper-case; those beyond the contig are left out, N are as good as
            left out.
        centre: offset of the place in it.
    """
    near = window[max(0, centre - NEAR) : centre + NEAR]
    return EDGE if len(near) - near.count("N") < LEAST * 2 * NEAR else ""


def flag_at(genome: Genome, contig: str, position: int) -> str:
    """Return the flag of what is scored around a 0-based position.

    Raises:
        ContigError: The genome has no such contig.
    """
    near, start = genome.fetch_clipped(contig, position - NEAR, position + NEAR)
    return flag_of(near, position - start)
