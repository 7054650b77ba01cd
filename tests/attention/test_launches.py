"""What a step does beside its kernels: allocate, and nothing that waits for the device."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genobird.attention import BlockLayout, Pattern
from genobird.attention.plan import launch_plan

pytest.importorskip("triton")

from genobird.attention import kernels

# What Triton 3.6 has of what the kernels use.
LANGUAGE = {
    "arange", "constexpr", "dot", "exp2", "float32", "full", "int64", "load", "log2", "max",
    "maximum", "minimum", "program_id", "range", "store", "sum", "trans", "where", "zeros",
}  # fmt: skip
OPTIONS = {"num_warps", "num_stages", "maxnreg", "enable_fp_fusion"}


class Operations(TorchDispatchMode):
    """Names of the operators that torch runs."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


class Launches:
    """Stands for a kernel, and counts its launches."""

    def __init__(self):
        self.count = 0

    def __getitem__(self, _grid):
        return self

    def __call__(self, *_args, **_kwargs):
        self.count += 1


def test_a_step_allocates_and_launches_and_does_nothing_else(monkeypatch):
    monkeypatch.setattr("genobird.attention.plan.CHUNK_TOKENS", 48)
    monkeypatch.setattr(torch, "empty", torch._C._VariableFunctions.empty)  # without poison
    names = [name for name in vars(kernels) if re.fullmatch(r"sparse_\w+kernel\w*", name)]
    stands = {name: Launches() for name in names}
    for name, stand in stands.items():
        monkeypatch.setattr(kernels, name, stand)
    pattern = Pattern(block_size=16, random_blocks=1)
    layout = BlockLayout.pack(pattern, (190, 37), heads=2)
    fused = torch.randn(layout.n_blocks * 16, 4, 2, 32)
    q, k, v, do = fused.unbind(1)
    launch_plan(layout, q.device)  # what the first call with a layout builds
    with Operations() as seen:
        plan = launch_plan(layout, q.device)
        o, lse = kernels.forward(q, k, v, plan, 16, 0.3)
        kernels.backward(do, q, k, v, o, lse, plan, 16, 0.3)
    assert {stand.count for stand in stands.values()} == {1, 3}  # merges: dq, dk and dv
    assert all(stand.count for stand in stands.values())
    views = {"aten.slice.Tensor"}
    assert seen.names - views == {"aten.empty.memory_format"}


def test_the_plan_of_new_lengths_is_joined_of_what_is_there(monkeypatch):
    pattern = Pattern(block_size=16, random_blocks=1)
    cpu = torch.device("cpu")
    launch_plan(BlockLayout.pack(pattern, (190, 37), heads=2), cpu)
    monkeypatch.setattr("genobird.attention.plan._group", lambda *_: pytest.fail("grouped again"))
    layout = BlockLayout.pack(pattern, (40, 185, 190), heads=2)
    plan = launch_plan(layout, cpu)
    for work in (plan.rows, plan.columns):
        head, block, first, full, count = work.items[:, :5].T.tolist()
        assert sorted(zip(head, block, strict=True)) == [
            (h, b) for h in range(2) for b in range(layout.n_blocks)
        ]
        assert count == sorted(count, reverse=True)
        for i in range(len(count)):
            seen = work.entries[first[i] : first[i] + count[i]].tolist()
            sequence = int((layout.cu_blocks <= block[i]).sum()) - 1
            start, stop = layout.cu_blocks[sequence : sequence + 2]
            assert all(start <= b < stop for b in seen)
            assert [b == stop - 1 for b in seen] == [j >= full[i] for j in range(count[i])]
            if work is plan.rows:
                row = layout.row_starts[head[i] * layout.n_blocks + block[i] :][:2]
                assert sorted(seen) == sorted(layout.keys[slice(*row)].tolist())
    assert plan.valid.sum() == 40 + 185 + 190


def test_the_kernels_keep_to_the_language_of_triton_3_6():
    source = Path(kernels.__file__).read_text()
    assert set(re.findall(r"\btl\.(\w+)", source)) <= LANGUAGE
    assert set(re.findall(r"\btriton\.(\w+)", source)) <= {"jit", "JITFunction", "language"}
    used = {option for config in kernels.CONFIGS.values() for option in config.options}
    assert used | set(kernels.MERGE) <= OPTIONS


def test_nothing_is_added_atomically():
    assert "atomic_" not in Path(kernels.__file__).read_text()
