"""The benchmarks run, at a size that says nothing about speed."""

import json

import numpy as np
import pytest
import torch

from tests.benchmarks import bench_attention, bench_context, bench_model


def test_attention_is_timed_beside_dense_attention(tmp_path, capsys):
    bench_attention.main(
        ["--device", "cpu", "--lengths", "128", "640", "--dtypes", "float32", "--seconds", "0",
         "--ways", "ours", "dense", "--output", str(tmp_path)]
    )  # fmt: skip
    assert "no GPU here" in capsys.readouterr().out
    found = json.loads((tmp_path / "attention-cpu.json").read_text())
    assert {(r["way"], r["tokens"], r["passes"]) for r in found["rows"]} == {
        (way, tokens, passes)
        for way in ("ours", "dense")
        for tokens in (128, 640)
        for passes in ("forward", "forward + backward")
    }
    assert (tmp_path / "attention-cpu.md").read_text().count("\n| ") == 1 + 8
    assert (tmp_path / "attention-cpu.png").stat().st_size > 0


def test_full_attention_by_ours_is_timed_to_find_the_crossover(capsys):
    bench_attention.main(
        ["--device", "cpu", "--lengths", "192", "--dtypes", "float32", "--seconds", "0",
         "--ways", "ours", "dense", "--pattern", "full"]
    )  # fmt: skip
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if "| 192 |" in line]
    operations = [float(line[7]) * float(line[6]) for line in lines]
    assert operations[0] == pytest.approx(operations[2], rel=0.05)  # ours and dense, forward


@pytest.mark.parametrize("option", ["--activation-checkpointing", "--precision=float32"])
def test_a_training_step_is_timed_beside_dense_attention(tmp_path, capsys, option):
    bench_model.main(
        ["--device", "cpu", "--presets", "tiny", "--lengths", "300", "--batch-tokens", "700",
         "--seconds", "0", "--ways", "ours", "dense", "scoring", "--output", str(tmp_path), option]
    )  # fmt: skip
    assert "no GPU here" in capsys.readouterr().out
    found = json.loads((tmp_path / "model-cpu.json").read_text())
    assert [(r["way"], r["tokens"], r["batch"]) for r in found["rows"]] == [
        ("ours", 300, 2), ("dense", 300, 2), ("scoring", 300, 2),
    ]  # fmt: skip
    training, scoring = found["rows"][:2], found["rows"][2]
    assert scoring["mfu"] is None
    assert scoring["peak_mb"] < training[0]["peak_mb"]
    for row in training:
        assert row["tokens_a_second"] == pytest.approx(600 / row["seconds"])
        assert 3 < row["bp_a_second"] / row["tokens_a_second"] < 7
        useful = useful_of(row["way"])
        assert row["mfu"] == pytest.approx(useful / row["seconds"] / found["product_rate"])
        assert row["peak_mb"] > 0


def useful_of(way):
    shape = bench_model.shape_of("tiny", 300, **({"pattern": "full"} if way == "dense" else {}))
    case = bench_model.draw(shape, 300, 2, torch.device("cpu"))
    return bench_model.useful_operations(shape, case)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("bench", [bench_attention, bench_model])
def test_without_a_gpu_they_ask_for_one_and_say_so(bench):
    with pytest.raises(SystemExit, match="--device cuda: torch finds no CUDA device"):
        bench.main(["--device", "cuda"])


def test_useful_operations_are_those_of_the_formula():
    shape = bench_model.shape_of("base", 256).model_copy(update={"layers": 2, "vocab_size": 500})
    case = bench_model.draw(shape, 256, 3, torch.device("cpu"))
    layer = 2 * (4 * 768**2 + 2 * 768 * 3072)
    attention = 4 * 256 * 768
    head = 2 * len(case.targets) * 768 * (768 + 500)
    tokens = 3 * 256
    expected = tokens * 2 * (3 * layer + 3.5 * attention) + 3 * head
    assert bench_model.useful_operations(shape, case) == pytest.approx(expected)


def test_pieces_are_as_long_as_those_of_dna():
    lengths = (bench_model.pieces(32_000) != 255).sum(1)
    assert lengths[5:].mean() == pytest.approx(6.7, abs=0.1)
    assert (lengths[:5] == 0).all()


@pytest.mark.parametrize("passes", ["forward", "backward"])
def test_transformers_is_timed_before_and_after_acceleration(tmp_path, capsys, passes):
    pytest.importorskip("transformers")
    from tests.benchmarks import bench_hf

    state = np.random.get_state()  # theirs seeds numpy's global generator
    bench_hf.main(
        ["--device", "cpu", "--shape", "tiny", "--layers", "1", "--lengths", "100", "300",
         "--repeats", "1", "--passes", passes, "--output", str(tmp_path)]
    )  # fmt: skip
    np.random.set_state(state)
    rows = json.loads((tmp_path / "hf-cpu.json").read_text())["rows"]
    assert [row["tokens"] for row in rows] == [100, 300]
    assert capsys.readouterr().out.count("\n| ") == 2
    for row in rows:
        ways = row["transformers"], row["accelerated"]
        assert row["speedup"] == pytest.approx(ways[0]["seconds"] / ways[1]["seconds"])
        assert all(way["peak_mb"] > 0 for way in ways)


def test_pairs_are_asked_at_every_distance(tmp_path, capsys):
    bench_context.main(
        ["--patterns", "window", "bigbird", "--tokens", "136", "--steps", "3", "--batch", "4",
         "--tested", "4", "--output", str(tmp_path)]
    )  # fmt: skip
    assert "| CPU time, s | 8 | 16 | 32 | 64 | 128 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "context.json").read_text())["shares"]
    assert [*found] == ["window", "bigbird"]
    assert all(0 <= share <= 1 for row in found.values() for share in row["told"].values())
    # Two layers of a window are two blocks of eight and the rest of one.
    assert found["window"]["seen"] == {"8": 1, "16": 1, "32": 0, "64": 0, "128": 0}
    assert set(found["bigbird"]["seen"].values()) == {1}


def test_a_pair_stands_as_far_apart_as_its_label_was_drawn_for():
    pairs = bench_context.draw((1,), 40, 100, [37])
    ids = pairs.batch.ids.view(40, -1)[:, :100].numpy()
    places = [[np.isin(row, motif[:, 0]).argmax() for row in ids] for motif in bench_context.MOTIFS]
    assert set(np.abs(np.subtract(*places))) == {37}
    first, second = (ids[range(40), at] for at in places)
    same = (first == bench_context.MOTIFS[0, 1, 0]) == (second == bench_context.MOTIFS[1, 1, 0])
    assert np.array_equal(same, pairs.labels.numpy() > 0)
    assert np.array_equal(places[0], (pairs.first - pairs.batch.starts).numpy())
