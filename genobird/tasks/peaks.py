"""A chromatin head for tracks of one's own, on a frozen encoder, in minutes on a CPU.

The bins with peaks and as much background are encoded once (`features.py`), a head is trained on
what the encoder said of them, and bins that were held out say how good it is. Background is
thinned, so the loss moves every logit by the known ratio of the two sampling rates: what the head
gives is calibrated for the genome as it is, under the weight of 8 that `Scorer` takes back.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.batch import LabelledBatch
from genobird.checkpoint import PROVENANCE, Checkpoint, bundled_model, require_free_names
from genobird.composition import CHROMATIN_WINDOWS_BP, place_composition
from genobird.config import MOST_SEED, Strict
from genobird.errors import InputError, UsageError, counted
from genobird.files import read_json, write_text
from genobird.genome.fasta import Genome
from genobird.genome.interval import Interval, read_bed
from genobird.heads import POSITIVE_WEIGHT, Head, HeadConfig
from genobird.inference import Inference, settled_precision
from genobird.peaks import BIN_BP, Track, feature_table, merge, read_tracks
from genobird.runs import refuse_other, refuse_unfinished
from genobird.tasks.bins import ChosenBins, Parts, choose, divide, group, without_n
from genobird.tasks.features import BinFeatures, FeatureBatches, encode_bins
from genobird.tasks.figures import Doubles, Logits, evaluate_tracks
from genobird.tasks.finetune import Finetuning
from genobird.tasks.fit import FitSettings, fit
from genobird.tasks.metrics import Resampling
from genobird.tasks.run_folder import MODEL, REPORT, STATE, STATES, Run, identity
from genobird.tasks.settings import PeakData

logger = logging.getLogger(__name__)

_PLACES = 1_024  # at a time
_SHARES = {"train": 0.55, "held_out": 0.3}  # of the time; the head's training takes what is left


class PeaksSettings(Strict):
    """How a head is trained on tracks of one's own."""

    minutes: float | None = Field(5.0, gt=0, description="About how long it may take.")
    steps: int | None = Field(None, ge=1, description="Steps of the head; by `epochs` without.")
    held_out: tuple[str, ...] = Field(
        ("0.2",), min_length=1, description="Contigs, regions or one share of the megabases."
    )
    bins: int = Field(20_000, ge=2, description="Most bins to train on.")
    background: float = Field(1.0, gt=0, description="Background bins per bin with a peak.")
    held_out_bins: int = Field(5_000, ge=2, description="Most bins to measure with.")
    held_out_background: float = Field(4.0, gt=0, description="The same ratio, held out.")
    min_positives: int = Field(50, ge=1, description="Fewest training bins with a peak, per track.")
    context_bp: int = Field(1_000, ge=0, description="Least context of a bin on either side.")
    hidden: int = Field(512, ge=0, description="Hidden width, where the model has no such head.")
    epochs: int = Field(20, ge=1, description="How often each bin is seen, in 100 steps or more.")
    batch: int = Field(256, ge=1, description="Bins per step.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices.")
    group_bp: int = Field(250_000, ge=1, description="Stretch that the bootstrap resamples.")
    resamples: int = Field(200, ge=1, description="Resamples of the bootstrap.")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Key of every random draw.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="Of the encoder's matrix products; bf16 where that is faster."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")


class PeaksConfig(PeaksSettings, PeakData):
    """Peak files of one's own, and how a head is trained on them."""

    peaks: tuple[Path, ...] = Field(min_length=1)
    fasta: Path


def finetune_peak_files(config: PeaksConfig, run: Run) -> Checkpoint:
    """Train a chromatin head for peak files, and write the model; see `finetune_peaks`."""
    regions = list(read_bed(config.regions)) if config.regions else None
    with Genome(config.fasta) as genome:
        tracks = read_tracks(config.peaks, config.name, genome, skip_missing=config.keep_going)
        finetune_peaks(
            tracks,
            genome,
            config.model or bundled_model(),
            run,
            PeaksSettings(**config.model_dump(include=set(PeaksSettings.model_fields))),
            regions=regions,
        )
    return Checkpoint.load(run.output / MODEL)


def finetune_peaks(
    tracks: Sequence[Track],
    genome: Genome,
    model: Path,
    run: Run,
    settings: PeaksSettings | None = None,
    *,
    regions: Sequence[Interval] | None = None,
) -> dict[str, Any]:
    """Train a chromatin head for tracks, and write the model to `output/model`.

    Contigs without any peak are taken as not measured, and left out.

    Args:
        tracks: F tracks, their contigs named as in the genome (`genobird.peaks.place_tracks`).
        genome: the sequence.
        model: directory of the model to start from; its encoder and its other heads are kept.
        run: how it is done; beside the model its folder gets `held_out.json`.
        settings: how to train.
        regions: all that is used, trained on or held out; None is all of the contigs with peaks.

    Returns:
        What `held_out.json` holds.

    Raises:
        InputError: a track with too few bins to train on or to measure, or with a name that
            tables have for another column.
        UsageError: `held_out` cannot be read or leaves nothing, or another run is resumed.
    """
    settings = settings or PeaksSettings()
    require_free_names(feature_table(track.feature for track in tracks))
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    checkpoint = Checkpoint.load(model)
    lengths = _measured(tracks, genome)
    parts = divide(settings.held_out, _areas(regions, lengths, genome), genome, settings.seed)
    facts = {
        "model": checkpoint.hash,
        "genome": lengths,
        "tracks": {track.feature.name: _digest(track) for track in tracks},
        "used": [str(area) for area in parts.areas],
        "held_out": [str(interval) for interval in parts.held_out],
    }
    if run.resume and (run.output / MODEL).is_dir():
        return _finished(run.output, settings, facts)
    known = without_n(genome, lengths, parts.areas)
    train = _choose(tracks, known, parts, settings, held_out=False)
    test = _choose(tracks, known, parts, settings, held_out=True)
    replace_head(checkpoint, tracks, train, settings.hidden)
    states = _States(run, settings, facts)
    train, trained = states.encode(checkpoint, genome, train, "train")
    test, asked = states.encode(checkpoint, genome, test, "held_out")
    _require(tracks, train, settings.min_positives, "to train on; allow more --minutes")
    _require(tracks, test, 1, "held out; hold out more or allow more --minutes")
    states.fit(checkpoint, train, trained)

    assert checkpoint.chromatin is not None
    logits = predict(checkpoint.chromatin, asked, len(test))
    figures = evaluate_tracks(
        checkpoint.features["name"].tolist(),
        test,
        logits,
        train,
        *(gc_contents(genome, bins) for bins in (test, train)),
        how=Resampling(settings.group_bp, settings.resamples, settings.seed),
    )
    report = {
        "tracks": figures,
        "held_out": {"places": facts["held_out"], **_counts(test)},
        "trained_on": {"tracks": train.labels.sum(0).tolist(), **_counts(train)},
    }
    states.finish(checkpoint, report)
    return report


@torch.inference_mode()
def predict(head: Head, features: BinFeatures, bins: int) -> Logits:
    """Return the logits of N bins, those of the places of one bin (its strands) averaged, [N, F].

    The head is on the CPU; each bin has at least one place among the features.
    """
    head.eval()
    logits = []
    for first in range(0, len(features), _PLACES):
        logits.append(head.answer(features.pooled[first : first + _PLACES].float()).double())
    sums = torch.zeros(bins, head.config.outputs, dtype=torch.float64)
    sums.index_add_(0, features.rows, torch.cat(logits))
    each = torch.bincount(features.rows, minlength=bins)[:, None]
    return (sums / each).float().numpy()


def gc_contents(genome: Genome, chosen: ChosenBins) -> Doubles:
    """Return the share of G and C in windows of several widths around each bin, [N, W]."""
    shares, flank = [], max(CHROMATIN_WINDOWS_BP) // 2
    for contig, place in zip(chosen.contigs, chosen.bins, strict=True):
        centre = int(place) * BIN_BP + BIN_BP // 2
        text, start = genome.fetch_clipped(str(contig), centre - flank, centre + flank)
        shares.append(place_composition([text], [centre - start], CHROMATIN_WINDOWS_BP)[:, ::2])
    return np.concatenate(shares).astype(np.float64)


def _finished(output: Path, settings: PeaksSettings, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the report of a finished run, if it is the one that is asked for."""
    provenance = read_json(output / MODEL / PROVENANCE)
    known = provenance.get("chromatin", {})
    if not (output / REPORT).exists() or "tracks" not in known.get("data", {}):
        raise UsageError(
            f"{output} holds a model that was not made of peaks; choose another place, or pass "
            "--force to replace it"
        )
    _settled(output, settings, facts, {**known["data"], "settings": known["config"]})
    logger.info("%s is finished", output)
    return read_json(output / REPORT)


def _settled(
    output: Path, settings: PeaksSettings, facts: dict[str, Any], known: dict[str, Any]
) -> PeaksSettings:
    """Return the settings with what `auto` became; refuse them if `known` is another run."""
    before = known.get("settings", {}).get("precision")
    precision = settled_precision(settings.precision, before, settings.device)
    settings = settings.model_copy(update={"precision": precision})
    if known:
        asked = {**facts, "settings": settings.model_dump(mode="json")}
        refuse_other(output, _identity(known), _identity(asked), of_any_version=True)
    return settings


def _identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run must be resumed with: device and threads are free, as in `run_folder.FREE`.

    Tracks are one list, so that their number and order count, too. A precision of `auto` was
    written by genobird before it kept what that became, and says nothing.
    """
    settings = {
        key: value
        for key, value in facts["settings"].items()
        if key not in ("device", "threads") and value != "auto"
    }
    tracks = [f"{name} ({digest[:8]})" for name, digest in facts["tracks"].items()]
    return identity({**facts, "settings": settings, "tracks": tracks})


class _States:
    """The files of a run: what is done is read again, and only by the run that it belongs to."""

    def __init__(self, run: Run, settings: PeaksSettings, facts: dict[str, Any]) -> None:
        self.run, self.facts = run, facts
        self.folder = run.output / STATES
        plan = self.folder / "plan.json"
        if plan.exists() and not run.resume:
            refuse_unfinished(run.output)
        known = read_json(plan) if plan.exists() else {}
        self.settings = settings = _settled(run.output, settings, facts, known)
        self.folder.mkdir(parents=True, exist_ok=True)
        asked = {**facts, "settings": settings.model_dump(mode="json")}
        write_text(plan, json.dumps(asked, indent=1) + "\n")

    def encode(
        self, checkpoint: Checkpoint, genome: Genome, chosen: ChosenBins, part: str
    ) -> tuple[ChosenBins, BinFeatures]:
        """Encode bins as far as time allows; return those that were, and their features."""
        settings, minutes = self.settings, self.settings.minutes
        assert settings.precision != "auto"
        assert checkpoint.chromatin is not None
        held_out = part == "held_out"  # measured in float32, as `score` and `evaluate` compute
        precision = "float32" if held_out else settings.precision
        inference = Inference(checkpoint, settings.device, precision=precision)
        found = encode_bins(
            inference,
            checkpoint.chromatin,
            genome,
            chosen,
            group(chosen, 2 * settings.context_bp, settings.seed),
            self.folder / part,
            context_bp=settings.context_bp,
            both_strands=held_out,
            seconds=None if minutes is None else 60 * minutes * _SHARES[part],
            seed=settings.seed,
        )
        checkpoint.to("cpu")
        rows, inverse = np.unique(found.rows.numpy(), return_inverse=True)
        logger.info("%s: %d of %d bins encoded", part, len(rows), len(chosen))
        return chosen.take(rows), replace(found, rows=torch.from_numpy(inverse))

    def fit(self, checkpoint: Checkpoint, train: ChosenBins, features: BinFeatures) -> None:
        """Train the head."""
        settings, batches = self.settings, training_batches(features, train, self.settings)
        steps = settings.steps or max(100, settings.epochs * len(features) // batches.batch)
        how = FitSettings(
            steps=steps,
            learning_rate=settings.learning_rate,
            warmup_steps=min(20, steps // 5),
            schedule="cosine",
            weight_decay=settings.weight_decay,
            seed=settings.seed,
            precision="float32",
            device=settings.device,
            threads=settings.threads,
            save_every=200,
            log_every=max(1, steps // 5),
        )
        task = HeadTask(checkpoint, how, train.log_ratio())
        fit(task, batches, self.run)
        checkpoint.to("cpu")

    def finish(self, checkpoint: Checkpoint, report: dict[str, Any]) -> None:
        """Write model and report, and remove what they were made from."""
        settings = self.settings.model_dump(mode="json")
        earlier = checkpoint.provenance.get("chromatin")  # what the encoder was trained on
        facts = {"config": settings, "data": self.facts, **report, "earlier": earlier}
        found = {**report, "config": settings}
        write_text(self.run.output / REPORT, json.dumps(found, indent=2) + "\n")
        checkpoint.provenance.pop("combined", None)
        self.run.write_model(checkpoint, "chromatin", facts)
        (self.run.output / STATE).unlink(missing_ok=True)


class HeadTask(Finetuning):
    """Binary cross-entropy of the head alone, on the features of a frozen encoder.

    `shift` is what the sample's log-odds are above those of the genome.
    """

    def __init__(self, checkpoint: Checkpoint, settings: FitSettings, shift: float) -> None:
        super().__init__(checkpoint, settings, "chromatin", freeze_encoder=True)
        self.shift = shift - float(np.log(POSITIVE_WEIGHT))

    def model_step(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Return the metrics of a batch."""
        assert batch.pooled is not None
        logits = self.head.answer(batch.pooled).float()
        loss = F.binary_cross_entropy_with_logits(
            logits + self.shift, batch.labels, weight=batch.weights
        )
        return {"loss": loss, "weight": torch.tensor(len(logits))}


def replace_head(
    checkpoint: Checkpoint, tracks: Sequence[Track], train: ChosenBins, hidden: int
) -> None:
    """Put a new chromatin head in place of the old one, with its hidden layers where it had any.

    It predicts `tracks`, and begins with the rates of peaks of the bins `train`. Where there was no
    old head, its hidden layer is `hidden` wide.
    """
    old = checkpoint.chromatin
    shape = HeadConfig(hidden=hidden) if old is None else old.config
    head = Head(shape.model_copy(update={"outputs": len(tracks)}), checkpoint.encoder.config.width)
    last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
    if old is not None:
        state = head.state_dict()
        for key, value in old.state_dict().items():
            if not key.startswith(head.last) and key in state and state[key].shape == value.shape:
                state[key] = value
        head.load_state_dict(state)
    rates = train.weights() @ train.labels / train.weights().sum()
    with torch.no_grad():
        last.bias.copy_(torch.from_numpy(np.log(POSITIVE_WEIGHT * rates / (1 - rates))))
    checkpoint.chromatin = head
    checkpoint.features = feature_table(track.feature for track in tracks)


def training_batches(
    features: BinFeatures, train: ChosenBins, settings: PeaksSettings
) -> FeatureBatches:
    """Return batches of the places of bins, with the bins' labels."""
    rows = features.rows.numpy()
    labels, weights = (
        torch.from_numpy(each[rows].astype(np.float32))
        for each in (train.labels, train.label_weights())
    )
    return FeatureBatches(
        features.pooled, labels, weights, batch=settings.batch, seed=settings.seed
    )


def _measured(tracks: Sequence[Track], genome: Genome) -> dict[str, int]:
    """Return the contigs with a peak, and their lengths."""
    lengths = {
        contig: length
        for contig, length in genome.contigs.items()
        if any(contig in track.peaks for track in tracks)
    }
    for track in tracks:
        bare = [contig for contig in lengths if contig not in track.peaks]
        if bare:
            where = track.feature.name, ", ".join(bare)
            logger.warning("%s has no peak on %s: all of it counts as background", *where)
    return lengths


def _areas(
    regions: Sequence[Interval] | None, lengths: Mapping[str, int], genome: Genome
) -> list[Interval]:
    if regions is None:
        return [Interval(contig, 0, length) for contig, length in lengths.items()]
    named = [Interval(genome.resolve(r.contig), r.start, r.end) for r in regions]
    areas = [r for r in named if r.contig in lengths]
    if not areas:
        raise InputError(
            f"no peak lies on {', '.join(sorted({r.contig for r in named}))}, the contigs of the "
            f"regions; peaks are on {', '.join(lengths)}"
        )
    return areas


def _choose(
    tracks: Sequence[Track],
    known: Mapping[str, NDArray[np.bool_]],
    parts: Parts,
    settings: PeaksSettings,
    *,
    held_out: bool,
) -> ChosenBins:
    most = settings.held_out_bins if held_out else settings.bins
    ratio = settings.held_out_background if held_out else settings.background
    chosen = choose(
        tracks,
        known,
        parts,
        held_out=held_out,
        most_positives=max(1, int(most / (1 + ratio))),
        background=ratio,
        seed=settings.seed,
    )
    where = "held out; name other places" if held_out else "to train on; hold out less"
    _require(tracks, chosen, 1 if held_out else settings.min_positives, where)
    return chosen


def _require(tracks: Sequence[Track], chosen: ChosenBins, least: int, hint: str) -> None:
    for track, found in zip(tracks, chosen.labels.sum(axis=0), strict=True):
        if found < least:
            widths = np.concatenate(
                [places[:, 1] - places[:, 0] for places in track.peaks.values()]
            )
            width = int(np.median(widths))
            need, remedy = hint.split("; ")
            if width <= BIN_BP // 2:
                remedy = f"widen peaks to {BIN_BP} bp first"
            raise InputError(
                f"{track.feature.name}: {counted(len(widths), 'peak')} of {width:,} bp (median) "
                f"and {counted(found, 'positive bin')} of {BIN_BP} bp (more than half covered), at "
                f"least {least} are needed {need}; {remedy}"
            )
    if chosen.peaked.all():
        raise InputError(f"no bin without a peak is {hint.split(';')[0]}; are these whole domains?")


def _counts(chosen: ChosenBins) -> dict[str, int]:
    peaked = int(chosen.peaked.sum())
    return {
        "bins_with_peaks": peaked,
        "of_bins_with_peaks": chosen.positives,
        "background_bins": len(chosen) - peaked,
        "of_background_bins": chosen.background,
    }


def _digest(track: Track) -> str:
    digest = hashlib.sha256()
    for contig in sorted(track.peaks):
        digest.update(contig.encode() + b"\n" + merge(track.peaks[contig]).tobytes())
    return digest.hexdigest()
