"""Transformers' BigBird models on our attention, and their checkpoints in and out.

    model = genobird.hf.accelerate(AutoModelForMaskedLM.from_pretrained(directory))

`acceleration.py` attends over padded batches, puts that into a model and takes it out.
Needs transformers (`pip install 'genobird[hf]'`); nothing else in genobird does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genobird.names import loader

if TYPE_CHECKING:
    from genobird.hf.acceleration import accelerate as accelerate
    from genobird.hf.acceleration import restore as restore

__getattr__ = loader(__name__, dict.fromkeys(("accelerate", "restore"), "genobird.hf.acceleration"))
