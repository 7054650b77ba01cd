"""How a model was trained, stage by stage, for its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from genobird.report.markdown import table

Facts = Mapping[str, Any]


def training(provenance: Facts) -> Iterable[str]:
    """Yield the section on training: a row a stage, the commands and the notes."""
    rows, commands = [], []
    for stage, facts in _stages(provenance):
        fit = facts.get("config", {}).get("fit", {})
        rows.append(
            [
                stage,
                f"{fit.get('steps', 0):,}",
                f"{fit.get('learning_rate', '')} {fit.get('schedule', '')}",
                str(fit.get("precision", "")),
                str(fit.get("seed", "")),
                _seen(facts),
            ]
        )
        commands.append(facts.get("command"))
    commands.append(provenance.get("command"))
    if rows:
        yield "## Training"
        yield table(["stage", "steps", "learning rate", "precision", "seed", "seen"], rows)
    calibration: Mapping[str, Facts] = provenance.get("calibration", {})
    if calibration:
        each = [
            f"{name} logits x {line['slope']:.3g} {line['offset']:+.3g}"
            for name, line in calibration.items()
        ]
        part = next(iter(calibration.values()))["split"]
        yield f"Calibrated on the {part} part: {', '.join(each)}."
    lines = [str(command) for command in dict.fromkeys(commands) if command]
    if lines:
        yield "Commands:\n\n```\n" + "\n".join(lines) + "\n```"
    yield from map(str, provenance.get("notes", ()))


def _stages(provenance: Facts) -> Iterable[tuple[str, Facts]]:
    """Yield the stages of training in their order; one may have gone on with an earlier one."""
    for name in ("pretraining", "chromatin", "promoter", "mlm"):
        chain: list[Facts] = []
        facts = provenance.get(name)
        while isinstance(facts, Mapping):
            chain.append(facts)
            facts = facts.get("earlier")
        for turn, found in enumerate(reversed(chain), start=1):
            if isinstance(found.get("local"), Mapping):
                yield "local network", found["local"]
            yield (f"{name} {turn}" if len(chain) > 1 else name), found


def _seen(facts: Facts) -> str:
    units = [unit for unit in ("tokens", "bases") if facts.get(f"{unit}_seen")]
    seen = "".join(f"{facts[f'{unit}_seen']:,} {unit}" for unit in units[:1])
    data = facts.get("data", {})
    sites = data.get("sites", {}).get("sites")
    others = data.get("auxiliary", {}).get("features")
    seen += f", {sites:,} placed sites among them" if sites else ""
    return f"{seen}, labels of {others:,} other tracks beside" if others else seen
