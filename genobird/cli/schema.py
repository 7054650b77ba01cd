"""The verb schema: what reads or writes an input or an output, described in JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from genobird.cli.options import MODEL
from genobird.config import Settings, argument
from genobird.errors import UsageError, quoted
from genobird.names import deferred
from genobird.scoring.settings import EffectSettings

with deferred():
    from genobird import demo as demonstration
    from genobird.cli import app, training
    from genobird.genome import fasta
    from genobird.scoring import haplotypes, variant_vcf
    from genobird.scoring import scorer as scorers

Schema = dict[str, Any]
TABLES = {"score": "score_regions", "variants": "screen_variants"}
"""Verb -> the method of a scorer whose table it writes."""


class SchemaOptions(Settings):
    """What is described, of which model."""

    words: tuple[str, ...] = argument("What to describe; without it, the names.", "[NAME]", ())
    model: Path | None = MODEL


def schema(options: SchemaOptions) -> None:
    """Write the JSON schema of a verb's options, of a configuration, a table or the INFO keys.

    Columns and keys are those of a model: the bundled one by default.
    """
    known, name = _known(options.model), " ".join(options.words)
    if not name:
        typer.echo("\n".join(known))
    elif name in known:
        described = {"$schema": "https://json-schema.org/draft/2020-12/schema", **known[name]()}
        typer.echo(json.dumps(described, indent=2))
    else:
        raise UsageError(f"{quoted(name)} has no schema; genobird schema lists the names")


def _known(model: Path | None) -> dict[str, Callable[[], Schema]]:
    """Return what makes each schema, by name."""
    return {
        **{name: partial(_options, name) for name in app.VERBS},
        **{
            f"{name} configuration": partial(_configuration, name)
            for name in training.CONFIGURATIONS
        },
        **{f"{name} table": partial(_table, name, model) for name in TABLES},
        "variants INFO": partial(_info, model),
    }


def _options(name: str) -> Schema:
    """Describe the options and arguments of a verb."""
    verb = app.load_verb(name)
    merged: Schema = {"title": f"genobird {name}", "description": inspect.getdoc(verb) or ""}
    merged |= {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            part = kind.model_json_schema()
            merged["properties"] |= part["properties"]
            merged["required"] += part.get("required", [])
            if definitions := part.get("$defs"):
                merged["$defs"] = merged.get("$defs", {}) | definitions
    return merged


def _configuration(name: str) -> Schema:
    return training.configuration(name).model_json_schema()


def _table(name: str, model: Path | None) -> Schema:
    """Describe a row of a table."""
    with fasta.Genome(demonstration.bundled(demonstration.GENOME)) as genome:
        frame = getattr(scorers.load(model), TABLES[name])([], genome)
    columns = {str(column): {"type": _type_of(kind)} for column, kind in frame.dtypes.items()}
    return _object(f"Row of the table of genobird {name}", columns)


def _info(model: Path | None) -> Schema:
    """Describe the INFO keys of a VCF, those of options included."""
    settings = EffectSettings(embedding=True)
    fields = [
        *variant_vcf.info_fields(scorers.load(model), lifted=True, settings=settings),
        *variant_vcf.GENES,
        *haplotypes.FIELDS,
    ]
    types = {"Float": "number", "Integer": "integer", "String": "string"}
    keys = {
        field.id: {
            "type": "array",
            "items": {"type": [types[field.type], "null"]},
            "description": field.description,
            "number": field.number,
        }
        for field in fields
    }
    return _object("INFO of genobird variants", keys)


def _object(title: str, properties: Mapping[str, Any]) -> Schema:
    return {"title": title, "type": "object", "properties": properties}


def _type_of(kind: Any) -> Any:
    return {"f": ["number", "null"], "i": "integer", "u": "integer"}.get(kind.kind, "string")
