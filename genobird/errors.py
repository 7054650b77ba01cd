"""What can go wrong, as a tree. Each message says what was found, what is allowed and what to do.

```
GenobirdError              exit 1
├── UsageError             exit 2: the command line or an argument is wrong
│   └── ConfigError        a configuration file or a `--set` value is wrong
├── InputError             exit 1: the data are wrong (also a ValueError)
│   ├── SequenceError      letters that are no DNA
│   ├── FastaError         a FASTA file that cannot be read as one
│   ├── ContigError        a contig that the genome does not have
│   ├── OutOfBoundsError   an interval that leaves its contig
│   ├── AssemblyError      data of another assembly than the genome's
│   ├── BedError           a BED line that cannot be read
│   ├── VcfError           a VCF file that cannot be read
│   ├── ChainError         a chain file that cannot be read
│   ├── TableError         a table without the columns that are needed
│   ├── BackgroundError    a background that is damaged or of another model
│   └── ShardError         token shards that are incomplete or altered
├── CheckpointError        exit 1: a model directory that is incomplete or altered
└── OutputError            exit 1: a result that cannot be written
```
"""

from __future__ import annotations

from collections.abc import Iterable
from reprlib import Repr

_QUOTED = Repr()
_QUOTED.maxstring = _QUOTED.maxother = 60


class GenobirdError(Exception):
    """Base of every error that genobird raises on purpose."""

    exit_code = 1


class UsageError(GenobirdError):
    """The command line or an argument is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or a `--set` value is wrong."""


class InputError(GenobirdError, ValueError):
    """The data are wrong."""


class SequenceError(InputError):
    """Letters that are no DNA."""


class FastaError(InputError):
    """A FASTA file that cannot be read as one."""


class ContigError(InputError):
    """A contig that the genome does not have."""


class OutOfBoundsError(InputError):
    """An interval that leaves its contig."""


class AssemblyError(InputError):
    """Data of another assembly than the genome's."""


class BedError(InputError):
    """A BED line that cannot be read."""


class VcfError(InputError):
    """A VCF file that cannot be read."""


class ChainError(InputError):
    """A chain file that cannot be read."""


class TableError(InputError):
    """A table without the columns that are needed."""


class BackgroundError(InputError):
    """A background that is damaged or of another model."""


class ShardError(InputError):
    """Token shards that are incomplete or altered."""


class CheckpointError(GenobirdError):
    """A model directory that is incomplete or altered."""


class OutputError(GenobirdError):
    """A result that cannot be written."""


def counted(number: int, noun: str) -> str:
    """Write a number of things for a message: `1 region`, `2,000 regions`."""
    plural = noun + ("es" if noun.endswith(("ch", "s")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def some(names: Iterable[str], most: int = 5) -> str:
    """Write names for a message, of many the first ones: `chr1, chr2 and 3 more`."""
    names = list(names)
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def one_line(message: str) -> str:
    """Return a message with what cannot be printed, such as line feeds in names, as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in message
    )


def quoted(found: object) -> str:
    """Quote for a message what was found, on one line and cut where it is long."""
    try:
        return " ".join(_QUOTED.repr(found).splitlines())
    except Exception:  # the value's own __repr__ fails, as that of an integer of 5,000 digits does
        return f"a value of type {type(found).__name__}"
