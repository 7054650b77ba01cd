"""Settings of all baselines: one configuration for `genobird baselines`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from genobird.baselines.network import ConvolutionConfig, NetworkSettings
from genobird.baselines.ngram import NgramSettings
from genobird.config import MOST_SEED, Strict
from genobird.enriched import EnrichedSettings


class PublishedTraining(Strict):
    """How a published network is trained."""

    width: float = Field(1.0, gt=0, le=4, description="Scale of layer widths; 1 as published.")
    windows: int = Field(16, ge=1, description="Windows per step.")
    bins: int = Field(32, ge=1, description="Consecutive bins per chromatin window.")
    fit: NetworkSettings = NetworkSettings(learning_rate=1e-3)


class KmerSettings(Strict):
    """What the k-mer logistic regression reads around a transcription start."""

    k: int = Field(4, ge=1, le=6, description="Letters of a k-mer.")
    widths_bp: tuple[int, ...] = Field(
        (500, 2_000, 10_000), min_length=1, description="Windows, clipped at the sequence's ends."
    )
    ridge: float = Field(1.0, gt=0, description="Penalty on standardised inputs.")


class GappedShape(Strict):
    """What is counted."""

    length: int = Field(ge=1, le=12, description="Bases of a word, l.")
    letters: int = Field(ge=1, le=8, description="Letters of it that count, k.")

    @model_validator(mode="after")
    def _fits(self) -> GappedShape:
        if self.letters > self.length:
            raise ValueError(f"a word of {self.length} bases has no {self.letters} letters")
        return self


class GappedSettings(Strict):
    """A linear model on gapped k-mer counts."""

    shape: GappedShape
    input_bp: int = Field(1_000, ge=200, multiple_of=200, description="Bases that a place sees.")
    bins: int = Field(40_000, ge=1, description="Most chromatin training bins, drawn at random.")
    penalty: float = Field(gt=0, description="Promoters: 1 / C of the SVM; chromatin: the ridge.")


class BaselineConfig(Strict):
    """Configuration of the baselines' training."""

    models: tuple[str, ...] = Field(
        ("composition", "convolution"), min_length=1, description="Which baselines to train."
    )
    composition_bins: int = Field(
        200_000, ge=1, description="Training bins of the chromatin regressions, drawn at random."
    )
    chromatin_shape: ConvolutionConfig = ConvolutionConfig()
    chromatin_fit: NetworkSettings = NetworkSettings()
    enriched: EnrichedSettings | None = Field(
        None,
        description="Train the networks of chromatin on single places, as genobird finetune "
        "chromatin trains a local head, instead of windows.",
    )
    sites: Path | None = Field(None, description="With enriched: placed sites of other contigs.")
    auxiliary_path: Path | None = Field(
        None, description="With enriched: further labels of the same bins, learnt beside."
    )
    auxiliary_weight: float = Field(
        0.25, ge=0, description="Weight of one auxiliary label beside one of the others."
    )
    windows: int = Field(16, ge=1, description="Windows per step of the chromatin network.")
    bins: int = Field(32, ge=1, description="Consecutive bins per window.")
    promoter_shape: ConvolutionConfig = ConvolutionConfig(hidden=64, dropout=0.5)
    promoter_fit: NetworkSettings = NetworkSettings(steps=300, learning_rate=1e-3, warmup_steps=50)
    promoter_windows: int = Field(64, ge=1, description="Windows per step of the promoter network.")
    jitter_bp: int = Field(16, ge=0, description="Most bases a promoter window is moved by.")
    deepsea: PublishedTraining = PublishedTraining()
    danq: PublishedTraining = PublishedTraining()
    cnnprom: PublishedTraining = PublishedTraining(windows=64)
    deepromoter: PublishedTraining = PublishedTraining(windows=64)
    kmers: KmerSettings = KmerSettings()
    gapped_chromatin: GappedSettings = GappedSettings(
        shape=GappedShape(length=6, letters=5), input_bp=400, penalty=30.0
    )
    gapped_promoters: GappedSettings = GappedSettings(
        shape=GappedShape(length=8, letters=6), penalty=1.0
    )
    ngram_bases: NgramSettings = NgramSettings(order=12, smoothing="dirichlet")
    ngram_tokens: NgramSettings = NgramSettings(order=4, smoothing="kneser_ney")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Key of the data's order.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")
