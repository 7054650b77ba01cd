"""Compile the kernels for GPUs that are not there and read what the compiler made of them.

    python -m tests.attention.aot '[["fwd", "bf16", 64, 64, 90]]'
    python -m tests.attention.aot  # everything that the kernels take: some minutes

prints one JSON line a case: registers, stack (spills), shared memory, programs that fit a
multiprocessor, wgmma instructions, copies that each wait for copies leaves in flight, addresses
computed in 32 bits. Runs in a process of its own: the tests beside it run the same kernels in
Triton's interpreter.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from genobird.attention import kernels
from genobird.attention.plan import ITEM_FIELDS

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KERNELS = {
    "fwd": kernels.sparse_fwd_kernel,
    "dq": kernels.sparse_bwd_kernel_dq,
    "dkdv": kernels.sparse_bwd_kernel_dkdv,
    "fwd_merge": kernels.sparse_fwd_merge_kernel,
    "bwd_merge": kernels.sparse_bwd_merge_kernel,
}
FLOAT_POINTERS = {"lse", "delta", "part", "part_o", "part_ml"}
INT_POINTERS = {"items", "entries", "valid", "merges"}
TENSORS = {"q", "k", "v", "o", "do", "dq", "dk", "dv", "grad"}


def compile_kernel(
    kind: str,
    dtype: str,
    width: int,
    block_size: int,
    capability: int,
    config: kernels.Config | None = None,
) -> Any:
    """Compile one kernel as `kernels.py` launches it, or with another configuration."""
    kernel = KERNELS[kind]
    constants = {"FIELDS": ITEM_FIELDS, "D": width, "B": block_size, "INTERPRET": False}
    if kind.endswith("merge"):
        constants["BM"] = min(block_size, kernels.MERGE_ROWS)
        options = kernels.MERGE
    else:
        config = config or kernels.config(kind, DTYPES[dtype], width, block_size, capability)
        constants |= {"BM": config.tile_m, "BN": config.tile_n}
        options = config.options
    signature, constexprs, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            constexprs[(i,)] = constants[name]
            continue
        if name in TENSORS:
            signature[name] = f"*{dtype}"
        elif name in FLOAT_POINTERS:
            signature[name] = "*fp32"
        elif name in INT_POINTERS:
            signature[name] = "*i32"
        else:
            signature[name] = "fp32" if name.startswith("scale") else "i32"
        if not name.startswith("scale") and name != "n_slots":
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def tool(name: str) -> str:
    """Return the path of an NVIDIA tool that the Triton package carries."""
    knob = getattr(triton.knobs.nvidia, name)
    return str(knob.path)


def narrow_addresses(ttir: str) -> list[str]:
    """Find the addresses of tensors that hang on a number from the lists, multiplied in 32 bits.

    Numbers from the lists (blocks, heads, slots) times strides exceed 32 bits in long batches, so
    they have to be widened first. Addresses within the lists themselves stay small.

    Args:
        ttir: a kernel in Triton's first intermediate language.

    Returns:
        The lines at fault.
    """
    loaded: set[str] = set()
    computed: set[str] = set()
    found = []
    for line in ttir.splitlines():
        match = re.match(r"\s*(%\S+) = (\S+) (.*)", line)
        if match is None:
            continue
        name, operation, rest = match.groups()
        operands, _, types = re.sub(r" loc\(.*", "", rest).rpartition(" : ")
        used = set(re.findall(r"%\w+", operands))
        loaded.discard(name)  # names are used again in other regions
        computed.discard(name)
        if operation == "tt.load" and types == "!tt.ptr<i32>":
            loaded.add(name)
        elif operation == "arith.extsi":
            found += [line.strip()] if used & computed else []
        elif operation == "tt.addptr":
            is_list = types.startswith("!tt.ptr<i32>")
            found += [line.strip()] if used & (loaded | computed) and not is_list else []
        elif operation == "arith.cmpi":
            continue
        elif used & (loaded | computed) and re.search(r"\bi32$|xi32>$", types):
            computed.add(name)
    return found


def programs(registers: int, shared: int, warps: int) -> int:
    """Return how many programs a multiprocessor of compute capability 9.0 holds at once.

    It has 65,536 registers, dealt to warps by 8 a thread, 228 KiB of shared memory, of which 1 KiB
    a program is the driver's, and room for 64 warps.
    """
    by_registers = 65_536 // (-(-registers // 8) * 8 * 32 * warps)
    return min(by_registers, 228 * 1024 // (shared + 1024), 64 // warps)


def resources(compiled: Any) -> dict[str, Any]:
    """Read what a kernel needs and does off its code."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = subprocess.run(
            [tool("cuobjdump"), "-res-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
        sass = subprocess.run(
            [tool("nvdisasm"), cubin], capture_output=True, text=True, check=True
        ).stdout
    found = {key: int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL")}
    shared = int(compiled.metadata.shared)
    return {
        "registers": found["REG"],
        "stack": found["STACK"] + found["LOCAL"],
        "shared": shared,
        "programs": programs(found["REG"], shared, compiled.metadata.num_warps),
        "wgmma": len(re.findall(r"\bHGMMA\.", sass)),
        "mma": len(re.findall(r"\bHMMA\.", sass)),
        "waits": [
            int(n) for n in re.findall(r"cp\.async\.wait_group\s+(\d+)", compiled.asm["ptx"])
        ],
        "narrow": len(narrow_addresses(compiled.asm["ttir"])),
    }


def every_case() -> list[list[Any]]:
    """Everything that the kernels take, for both compute capabilities."""
    return [
        [kind, dtype, width, block_size, capability]
        for capability in (90, 80)
        for kind in ("fwd", "dq", "dkdv")
        for dtype in DTYPES
        for width in kernels.HEAD_WIDTHS
        for block_size in kernels.BLOCK_SIZES
    ]


def main() -> None:
    """Compile the cases named in the first argument, or all."""
    for case in json.loads(sys.argv[1]) if sys.argv[1:] else every_case():
        kind, dtype, width, block_size, capability, *options = case
        config = kernels.Config(*options[0]) if options else None
        found = resources(compile_kernel(kind, dtype, width, block_size, capability, config))
        sys.stdout.write(json.dumps({"case": case, **found}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
