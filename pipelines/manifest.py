"""The facts in `data_manifests/`, read and checked: files with checksums, splits as intervals.

A manifest is YAML validated by the models below; `data_manifests/schema.yaml` is their JSON schema,
for editors and for readers that are not Python (`python -m pipelines.manifest schema` writes it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import typer
import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from genobird.config import Strict, explain
from genobird.errors import ConfigError, OutOfBoundsError, UsageError
from genobird.genome.interval import Interval, parse_region
from pipelines import steps

FOLDER = Path(__file__).resolve().parents[1] / "data_manifests"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Origin(Strict):
    """Where a file was published, when that is a package or a repository and not a URL."""

    package: str | None = None
    repository: str | None = None
    commit: str | None = None
    version: str | None = None
    path: str | None = None


class File(Strict):
    """One file of a dataset."""

    name: str
    """Path in the dataset's folder, with forward slashes."""
    url: str | None = None
    """Where to download it; null where it only comes inside a package (`origin`)."""
    sha256: Sha256 | None = None
    """Null where the publisher states none: the first fetch records it."""
    md5: Md5 | None = None
    md5sums: str | None = None
    """Where the publisher lists MD5 checksums (`md5sum.txt`): read when none is stated here."""
    size: int | None = Field(default=None, ge=0)
    """Bytes."""
    licence: str
    origin: Origin | None = None
    holds: list[str] | None = None
    """Regions with sequence or rows, where the file is only part of the genome."""
    note: str = ""

    @field_validator("name")
    @classmethod
    def _inside(cls, name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise ValueError(f"file name {name!r} must stay inside the dataset's folder")
        return name

    @field_validator("url", "md5sums")
    @classmethod
    def _over_https(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith("https://"):
            raise ValueError(f"{url!r} must start with https://")
        return url


class Manifest(Strict):
    """The files of one source, and what must be known to read them."""

    kind: Literal["files"]
    name: str
    assembly: str
    citation: str
    contigs: dict[str, int] = Field(default_factory=dict)
    """Lengths in base pairs of the assembly's contigs."""
    files: list[File]

    @field_validator("files")
    @classmethod
    def _names_once(cls, files: list[File]) -> list[File]:
        names = [file.name for file in files]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"files named twice: {', '.join(twice)}")
        return files

    def file(self, name: str) -> File:
        """Return the entry of that name.

        Raises:
            UsageError: there is none.
        """
        for file in self.files:
            if file.name == name:
                return file
        known = ", ".join(file.name for file in self.files)
        raise UsageError(f"manifest {self.name} has no file {name!r}; it has {known}")


class _SplitRegions(Strict):
    description: str
    train: list[str]
    validation: list[str]
    test: list[str]
    reserved: list[str] = Field([])


class _SplitFile(Strict):
    kind: Literal["splits"]
    assembly: str
    splits: dict[str, _SplitRegions]


_KINDS: dict[str, type[Manifest] | type[_SplitFile]] = {"files": Manifest, "splits": _SplitFile}
_DOCUMENT: TypeAdapter[Manifest | _SplitFile] = TypeAdapter(
    Annotated[Manifest | _SplitFile, Field(discriminator="kind")]
)


@dataclass(frozen=True)
class Splits:
    """Which intervals (0-based half-open) are for training, validation and test.

    The parts do not overlap. What is in none of them, or is reserved, must not be read.
    """

    name: str
    train: tuple[Interval, ...]
    validation: tuple[Interval, ...]
    test: tuple[Interval, ...]
    reserved: tuple[Interval, ...] = ()

    def __post_init__(self) -> None:
        everything = sorted((*self.train, *self.validation, *self.test, *self.reserved))
        for first, second in pairwise(everything):
            if first.contig == second.contig and second.start < first.end:
                raise ConfigError(
                    f"split {self.name}: {first} and {second} overlap; "
                    "a base may be in one part only"
                )

    @property
    def parts(self) -> dict[str, tuple[Interval, ...]]:
        """The intervals of train, validation and test, in this order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def contigs(self) -> list[str]:
        """The contigs of train, validation and test, each once."""
        intervals = (interval for part in self.parts.values() for interval in part)
        return list(dict.fromkeys(interval.contig for interval in intervals))

    def refuse_outside(self, lengths: Mapping[str, int]) -> None:
        """Refuse to be used with a genome that ends before an interval does.

        `lengths` are the bases of the contigs that there are; what is on others is passed over.

        Raises:
            OutOfBoundsError: an interval ends after its contig.
        """
        for part, intervals in self.parts.items():
            for interval in intervals:
                length = lengths.get(interval.contig, interval.end)
                if interval.end > length:
                    raise OutOfBoundsError(
                        f"split {self.name}: {interval} of {part} ends after {interval.contig}, "
                        f"which has {length:,} bp in the FASTA; give the FASTA of the whole "
                        "contig, or a --splits-file whose intervals end within it"
                    )

    def of(self, contig: str, start: int, end: int) -> tuple[str, Interval] | None:
        """Return the part, and the interval in it, that holds the whole of [start, end)."""
        for part, intervals in self.parts.items():
            for interval in intervals:
                if interval.contig == contig and interval.start <= start and end <= interval.end:
                    return part, interval
        return None


def _read(path: Path) -> Manifest | _SplitFile:
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UsageError(f"cannot read manifest {path}; data_manifests/ has {known}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    found = values.get("kind") if isinstance(values, dict) else None
    if found not in ("files", "splits"):
        raise ConfigError(f"{path} has no `kind: files` or `kind: splits`; add what it is")
    kind = _KINDS[found]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, kind)}") from error


def load(name: str | Path) -> Manifest:
    """Read a manifest by its name in `data_manifests/` or by a path.

    Raises:
        UsageError: there is no such manifest.
        ConfigError: the file is not a valid manifest.
    """
    path = Path(name) if Path(name).suffix else FOLDER / f"{name}.yaml"
    document = _read(path)
    if not isinstance(document, Manifest):
        raise UsageError(f"{path} lists splits, not files; name grch37, promoters or chromatin")
    return document


def load_splits(name: str = "available", path: Path | None = None) -> Splits:
    """Read a named split of `data_manifests/splits.yaml`, or of the file at `path`.

    Raises:
        UsageError: there is no such file or split.
        ConfigError: the file is not valid, or parts overlap.
    """
    path = path or FOLDER / "splits.yaml"
    document = _read(path)
    if not isinstance(document, _SplitFile):
        raise UsageError(f"{path} lists files, not splits")
    if name not in document.splits:
        raise UsageError(f"no split {name!r} in {path}; it has {', '.join(document.splits)}")
    regions = document.splits[name]
    parts = (regions.train, regions.validation, regions.test, regions.reserved)
    return Splits(name, *(tuple(parse_region(region) for region in part) for part in parts))


def schema() -> str:
    """The JSON schema of every file in `data_manifests/`, as YAML."""
    return yaml.safe_dump(_DOCUMENT.json_schema(), sort_keys=True, width=100)


app = typer.Typer(add_completion=False, no_args_is_help=True, help="Check or describe manifests.")


@app.command("schema")
def schema_command(output: Path = FOLDER / "schema.yaml", force: bool = False) -> None:
    """Write the JSON schema of manifests."""
    steps.write(output, schema(), force)


@app.command("check")
def check_command() -> None:
    """Read every manifest in data_manifests/ and report the first fault."""
    for path in sorted(FOLDER.glob("*.yaml")):
        if path.name == "schema.yaml":
            continue
        document = _read(path)
        if isinstance(document, _SplitFile):
            for name in document.splits:
                load_splits(name, path)
        typer.echo(f"{path.name}: {document.kind}, valid")


@app.command("split")
def split_command(
    part: str,
    output: Path,
    name: str = "available",
    splits_file: Path | None = None,
    force: bool = False,
) -> None:
    """Write a part of a split (train, validation, test) as BED."""
    splits = load_splits(name, splits_file)
    if part not in splits.parts:
        raise UsageError(f"split {name} has no part {part!r}; it has {', '.join(splits.parts)}")
    rows = (f"{i.contig}\t{i.start}\t{i.end}\n" for i in splits.parts[part])
    steps.write(output, "".join(rows), force)


if __name__ == "__main__":
    steps.run(app)
