"""Reports about models and scores, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genobird.names import loader

if TYPE_CHECKING:
    from genobird.report.axes import plot_region as plot_region
    from genobird.report.axes import plot_variant as plot_variant

__getattr__ = loader(
    __name__, dict.fromkeys(("plot_region", "plot_variant"), "genobird.report.axes")
)
