"""Run the examples of a page, and tell which public functions of genobird they call.

    python tests/examples.py docs/python.md

An example is a block of Python behind `<!-- run -->`; those of a page run one after the other in
the present folder, as in one notebook. The last line on standard output is a JSON list of the
functions, by their names in the reference (docs/api.md).
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, FunctionType

import genobird

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = str(Path(genobird.__file__).parent)
RUN = re.compile(r"<!-- run -->\n```(console|python)\n(.*?)```", re.DOTALL)
ENTRY = re.compile(
    r"^\.\. auto(\w+):: (genobird[\w.]*)(?:\n +:exclude-members: (.+))?$", re.MULTILINE
)


def code_of(page: Path) -> str:
    """Return all Python of a page that is run."""
    found = RUN.findall(page.read_text(encoding="utf-8"))
    return "\n".join(text for language, text in found if language == "python")


def functions() -> dict[str, FunctionType]:
    """Return the functions and methods that the reference lists, by name."""
    found = {}
    for kind, name, left_out in ENTRY.findall((ROOT / "docs" / "api.md").read_text()):
        home, _, last = name.rpartition(".")
        entry = getattr(importlib.import_module(home), last)
        if kind == "function":
            found[name] = inspect.unwrap(entry)
        elif kind == "class":
            hidden = set(left_out.split(", "))
            found |= {f"{name}.{key}": of for key, of in _methods(entry) if key not in hidden}
    return found


def _methods(kind: type) -> Iterator[tuple[str, FunctionType]]:
    """Yield the methods that a class itself defines and that have a docstring."""
    for name, value in list(vars(kind).items()):
        function = getattr(value, "__func__", value)
        if isinstance(function, FunctionType) and function.__doc__ and name[0] != "_":
            yield name, function


def calls(page: Path) -> set[str]:
    """Run the examples of a page and return the public functions that they themselves call."""
    names = {function.__code__: name for name, function in functions().items()}
    called = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in names and is_asked_by(page, frame):
            called.add(names[frame.f_code])

    program = compile(code_of(page), str(page), "exec")
    sys.setprofile(note)
    try:
        exec(program, {"__name__": "__main__"})
    finally:
        sys.setprofile(None)
    return called


def is_asked_by(page: Path, frame: FrameType) -> bool:
    """Tell whether a call comes from a page, other packages between them or not."""
    caller = frame.f_back
    while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
        if caller.f_code.co_filename == str(page):
            return True
        caller = caller.f_back
    return False


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(sorted(calls(Path(sys.argv[1]).resolve())))}\n")
