from __future__ import annotations

import subprocess
import sys

import pytest

from genobird import files
from genobird.names import deferred


def printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_a_deferred_module_is_loaded_when_it_is_first_used():
    code = """
import sys
from genobird.names import deferred

with deferred():
    from genobird.genome import interval
print(any("interval" in name for name in sys.modules))
place = interval.Interval("1", 2, 5)
print(place.length, sys.modules["genobird.genome.interval"].Interval is type(place))
"""
    assert printed(code).split() == ["False", "3", "True"]


def test_what_failed_to_load_is_loaded_again():
    code = """
import sys
from genobird.names import deferred

with deferred():
    from genobird.genome import fasta
sys.modules["pyfaidx"] = None
try:
    fasta.Genome
except ModuleNotFoundError as error:
    print(error.name)
del sys.modules["pyfaidx"]
print(fasta.Genome.__name__)
"""
    assert printed(code).split() == ["pyfaidx", "Genome"]


def test_another_thread_may_import_what_is_deferred():
    code = """
import sys, threading
from genobird.names import deferred

found = []
def other():
    from genobird.genome.interval import Interval
    from genobird.genome import streams
    found.extend([Interval, streams, sys.modules["genobird.genome.streams"]])

with deferred():
    from genobird.genome import interval
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
print(found[0] is interval.Interval is sys.modules["genobird.genome.interval"].Interval)
print(found[1] is found[2], type(found[1]).__name__)
"""
    assert printed(code).split() == ["True", "True", "module"]


def test_names_out_of_a_deferred_module_are_loaded_at_once():
    code = """
import sys
from genobird.names import deferred

with deferred():
    from genobird.genome import interval
    from genobird.genome.interval import Interval
print(Interval is interval.Interval is sys.modules["genobird.genome.interval"].Interval)
"""
    assert printed(code) == "True\n"


def test_what_is_loaded_already_is_not_deferred():
    with deferred():
        from genobird import files as again
    assert again is files


def test_imports_are_as_before_when_a_deferred_one_fails():
    before = list(sys.meta_path)
    with pytest.raises(ImportError, match="no_such_module"), deferred():
        from genobird import no_such_module  # noqa: F401
    assert sys.meta_path == before
