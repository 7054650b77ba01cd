"""Transformers' BigBird models on our attention, and their checkpoints in and out.

    model = genobird.hf.accelerate(AutoModelForMaskedLM.from_pretrained(directory))

`padded.py` attends over padded batches, `acceleration.py` puts that into a model and takes it out.
Needs transformers (`pip install 'genobird[hf]'`); nothing else in genobird does.
"""

from __future__ import annotations

from genobird.hf.acceleration import accelerate, restore

__all__ = ["accelerate", "restore"]
