"""No GPU is needed to see that the kernels compile for one, and what the compiler made of them.

`PROGRAMS` is what Triton 3.6.0 and 3.9.0 both reach. Another version beside the installed one: put
its folder first on PYTHONPATH, and its name into TRITON_CACHE_DIR.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]

# (kernel, head width): programs that share a multiprocessor of sm_90, for bfloat16 and float16.
PROGRAMS = {
    ("fwd", 32): 4,
    ("fwd", 64): 4,
    ("fwd", 128): 3,
    ("dq", 32): 4,
    ("dq", 64): 4,
    ("dq", 128): 2,
    ("dkdv", 32): 4,
    ("dkdv", 64): 3,
    ("dkdv", 128): 2,
}


def compile_all(cases: list[list]) -> dict[tuple, dict]:
    # A process of its own: here the same kernels run in the interpreter.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.attention.aot", json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {tuple(line.pop("case")): line for line in lines}


def test_sm_90_uses_wgmma_copies_ahead_does_not_spill_and_leaves_room_for_several_programs():
    cases = [[kind, "bf16", width, 64, 90] for kind, width in PROGRAMS]
    cases += [["fwd", "fp16", 64, 64, 90], ["dq", "fp16", 64, 64, 90], ["dkdv", "fp16", 64, 64, 90]]
    cases += [[kind, "bf16", 64, 128, 90] for kind in ("fwd", "dq", "dkdv")]
    for (kind, _, width, _, _), found in compile_all(cases).items():
        assert found["programs"] >= PROGRAMS[kind, width], (kind, width, found)
        assert found["waits"][0] > 0, (kind, width, found)  # copies go on while the loop computes
        assert found["stack"] == 0, (kind, width, found)
        assert found["wgmma"] > 0, (kind, width, found)
        assert found["narrow"] == 0, (kind, width, found)


def test_nothing_spills_and_no_address_is_narrow_elsewhere():
    cases = [[kind, "bf16", 64, 64, 80] for kind in ("fwd", "dq", "dkdv")]
    cases += [[kind, "fp32", 64, 64, 90] for kind in ("fwd", "dq", "dkdv")]
    cases += [[kind, "bf16", 64, 32, 90] for kind in ("fwd", "dq", "dkdv")]
    cases += [[kind, "bf16", 64, 64, 90] for kind in ("fwd_merge", "bwd_merge")]
    for case, found in compile_all(cases).items():
        assert found["stack"] == 0, (case, found)
        assert found["narrow"] == 0, (case, found)


NARROW = """
    %block = tt.load %p : !tt.ptr<i32>
    %token = arith.muli %block, %c64 : i32
    %wide = arith.extsi %token : i32 to i64
    %offset = arith.muli %wide, %stride : i64
    %q_1 = tt.addptr %q, %offset : !tt.ptr<bf16>, i64
    %rows = tt.splat %token : i32 -> tensor<64xi32>
    %q_2 = tt.addptr %q_0, %rows : tensor<64x!tt.ptr<bf16>>, tensor<64xi32> loc(#loc1)
"""
WIDE = """
    %block = tt.load %p : !tt.ptr<i32>
    %entry = tt.addptr %entries, %block : !tt.ptr<i32>, i32
    %block_1 = arith.extsi %block : i32 to i64
    %offset = arith.muli %block_1, %stride : i64
    %q_1 = tt.addptr %q, %offset : !tt.ptr<bf16>, i64
    %end = arith.muli %block, %c2 : i32
"""


def test_what_was_multiplied_before_it_was_widened_is_found():
    from tests.attention.aot import narrow_addresses

    assert [line.split()[0] for line in narrow_addresses(NARROW)] == ["%wide", "%q_2"]
    assert narrow_addresses(WIDE) == []


@pytest.mark.slow
def test_nothing_spills_at_other_widths():
    kinds = ("fwd", "dq", "dkdv")
    cases = [[kind, "fp32", width, 64, 90] for kind in kinds for width in (32, 128)]
    cases += [[kind, "fp32", 32, 32, 90] for kind in kinds]
    cases += [[kind, "bf16", width, 64, 80] for kind in kinds for width in (32, 128)]
    cases += [[kind, "bf16", 128, 32, 90] for kind in kinds]
    cases += [[kind, "bf16", 64, 16, 90] for kind in kinds]
    for case, found in compile_all(cases).items():
        assert found["stack"] == 0, (case, found)
