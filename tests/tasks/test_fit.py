import threading

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from genobird.errors import GenobirdError
from genobird.tasks.fit import fit
from genobird.tasks.run_folder import BAD_BATCH, Run
from tests.tasks.runs import assert_same, rows, weights


def test_dropout_acts_though_the_model_came_for_use(run, task):
    assert not task().parts["encoder"].training
    one, other = run("one", seed=1, steps=2), run("other", seed=2, steps=2)
    assert not one.training
    assert not torch.equal(one.checkpoint.mlm.bias, other.checkpoint.mlm.bias)


def test_workers_change_nothing(run):
    assert_same(run("workers", workers=2), run("none"))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_before_it_touches_the_weights(
    batches, task, tmp_path, where, monkeypatch
):
    made = task(save_every=1)
    step, broken = made.model_step, []

    def model_step(batch):
        metrics = step(batch)
        if made.training and made.global_step == 2:
            broken.extend([batch, weights(made)])
            if where == "loss":
                metrics["loss"] = metrics["loss"] * float("nan")
            else:
                metrics["loss"].register_hook(lambda grad: grad * float("inf"))
        return metrics

    monkeypatch.setattr(made, "model_step", model_step)
    with pytest.raises(
        GenobirdError, match=r"step 3 has a loss of .*nan; the run stopped before"
    ) as e:
        fit(made, batches, Run(tmp_path / "run", progress=False))
    assert "fit.learning_rate" in str(e.value)
    batch, before = broken
    for name, value in weights(made).items():
        assert torch.equal(value, before[name]), name
    saved = torch.load(tmp_path / "run" / BAD_BATCH, weights_only=True)
    assert saved["step"] == 2
    (kept,) = saved["batches"]
    assert torch.equal(kept["targets"], batch.targets)
    assert torch.equal(kept["batch"]["ids"], batches(2).batch.ids)
    assert kept["batch"]["lengths"] == batch.batch.lengths
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2


def test_learning_rate_gradient_and_batch_of_each_step_are_recorded(run, batches, tmp_path):
    run(steps=4, warmup_steps=2, learning_rate=1e-3)
    found = [r for r in rows(tmp_path / "run" / "logs" / "metrics.csv") if r["train/loss"]]
    rates = [float(r["train/learning_rate"]) for r in found]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])
    sizes = [float(r["train/batch_size"]) for r in found]
    assert sizes == [len(batches(step).targets) for step in range(4)]
    assert all(float(r["train/gradient_norm"]) > 0 for r in found)


def test_gradients_are_clipped_as_a_whole(run, batches, task):
    made = task(clip=0.01)
    optimiser = torch.optim.SGD(made.parameters(), lr=1.0)
    made.log = lambda *_, **__: None
    made.training_step(batches(0), 0).backward()
    made.configure_gradient_clipping(optimiser)
    grads = [p.grad for p in made.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.01), rtol=1e-3, atol=0)


def test_gradients_of_the_batches_of_a_step_are_averaged(batches, task, tmp_path):
    settings = {"steps": 2, "warmup_steps": 0, "schedule": "cosine"}
    by_fit, by_hand = task(accumulate=3, **settings), task(**settings)
    for made in (by_fit, by_hand):
        for module in made.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    fit(by_fit, batches, Run(tmp_path / "run", progress=False))
    by_hand.train()
    (optimiser,), (entry,) = by_hand.configure_optimizers()
    found = [r for r in rows(tmp_path / "run" / "logs" / "metrics.csv") if r["train/loss"]]
    for step in range(2):
        losses = [by_hand.model_step(batches(3 * step + i))["loss"] for i in range(3)]
        loss = torch.stack(losses).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimiser.step()
        entry["scheduler"].step()
        optimiser.zero_grad()
        logged = found[step]
        assert float(logged["train/loss"]) == pytest.approx(loss.item(), abs=1e-5)
        assert float(logged["train/gradient_norm"]) == pytest.approx(float(norm), rel=1e-4)
        sizes = [len(batches(3 * step + i).targets) for i in range(3)]
        assert float(logged["train/batch_size"]) == sum(sizes)
    other = weights(by_hand)
    for name, value in weights(by_fit).items():
        if value.dim() > 1:  # biases before batch norms have no gradient but noise, and drift
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_what_happens_beside_steps_does_not_happen_beside_batches(run, batches, tmp_path, caplog):
    made = []

    def count(number):
        made.append(number)
        return batches(number)

    with caplog.at_level("INFO", "genobird.tasks.callbacks"):
        run("run", count, accumulate=3)
    assert made == list(range(12))
    lines = [record.getMessage().partition(",")[0] for record in caplog.records]
    assert [line for line in lines if "of" in line] == [f"step {i} of 4" for i in range(1, 5)]
    assert [line for line in lines if "of" not in line] == ["step 2", "step 4"]
    found = rows(tmp_path / "run" / "logs" / "metrics.csv")
    assert [int(r["step"]) for r in found if r["train/loss"]] == [0, 1, 2, 3]


def test_of_a_step_that_is_not_finite_all_batches_are_kept(batches, task, tmp_path, monkeypatch):
    made = task(accumulate=2)
    step, asked = made.model_step, []

    def model_step(batch):
        metrics = step(batch)
        asked.append(batch)
        if len(asked) == 3:  # the first of the second step
            metrics["loss"] = metrics["loss"] * float("nan")
        return metrics

    monkeypatch.setattr(made, "model_step", model_step)
    with pytest.raises(GenobirdError, match=r"step 2 has a loss of nan .* its batches are in"):
        fit(made, batches, Run(tmp_path / "run", progress=False))
    saved = torch.load(tmp_path / "run" / BAD_BATCH, weights_only=True)
    assert len(saved["batches"]) == 2
    for kept, batch in zip(saved["batches"], asked[2:], strict=True):
        assert torch.equal(kept["targets"], batch.targets)


def test_activation_checkpointing_trains_the_same_weights(run):
    assert_same(run("less", activation_checkpointing=True), run("more"))


def test_compiled_layers_train_the_same_weights(run, monkeypatch):
    compiled, compile = [], torch.nn.Module.compile

    def without_cpp(module, **options):
        compiled.append(module)
        compile(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", without_cpp)
    made, plain = run("compiled", compile=True, steps=2), run("plain", steps=2)
    assert compiled == list(made.checkpoint.encoder.blocks)
    assert all(block._compiled_call_impl is None for block in compiled)
    other = weights(plain)
    for name, value in weights(made).items():
        if value.dim() > 1:  # biases before batch norms have no gradient but noise, and drift
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_what_cannot_be_compiled_is_said_in_one_line(run, monkeypatch):
    def refuse(*_, **__):
        raise TorchDynamoException("no compiler here\nand much more")

    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda block, **_: setattr(block, "_compiled_call_impl", refuse)
    )
    with pytest.raises(GenobirdError, match=r"compiled here \(no compiler here\); set fit.compile"):
        run(compile=True, steps=1)


def test_a_run_works_outside_of_the_main_thread(run):
    found = []
    thread = threading.Thread(target=lambda: found.append(run("thread")))
    thread.start()
    thread.join()
    assert_same(found[0], run("main"))


def test_logs_are_written_as_csv_and_for_tensorboard(run, tmp_path):
    run()
    found = rows(tmp_path / "run" / "logs" / "metrics.csv")
    losses = [(int(r["step"]), float(r["train/loss"])) for r in found if r["train/loss"]]
    assert [step for step, _ in losses] == [0, 1, 2, 3]
    validated = [(int(r["step"]), r) for r in found if r["validation/loss"]]
    assert [step for step, _ in validated] == [1, 3]
    for name in ("loss", "accuracy", "bits_per_base"):
        assert float(validated[0][1][f"validation/{name}"]) >= 0
    (events,) = (tmp_path / "run" / "logs").glob("events.out.tfevents.*")
    assert b"train/loss" in events.read_bytes()
    assert b"validation/bits_per_base" in events.read_bytes()


def test_log_lines_tell_step_and_metrics(run, caplog):
    with caplog.at_level("INFO", "genobird.tasks.callbacks"):
        run(log_every=2)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(",")[0] for line in lines] == [
        "step 2 of 4", "step 2", "step 4 of 4", "step 4",
    ]  # fmt: skip
    assert "loss " in lines[0]
    assert "min left" in lines[0]
    assert lines[1].startswith("step 2, validation: loss ")


def test_a_bar_counts_batches_on_standard_error_and_no_epochs(batches, task, tmp_path, capsys):
    fit(task(), batches, Run(tmp_path / "run"), validation=batches, validations=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Training" in shown.err
    assert "4/4" in shown.err
    assert "Epoch" not in shown.err
    assert "v_num" not in shown.err


def test_the_learning_rate_warms_up_and_decays_to_zero(task):
    for schedule, middle in (("linear", 0.5), ("cosine", 0.5)):
        made = task(steps=30, warmup_steps=10, learning_rate=1.0, schedule=schedule)
        (optimiser,), (entry,) = made.configure_optimizers()
        rates = []
        for _ in range(31):
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            entry["scheduler"].step()
        assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert max(rates) == rates[9] == rates[10] == 1.0
        assert rates[20] == pytest.approx(middle)
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[30] == pytest.approx(0, abs=1e-6)


def test_biases_and_norms_do_not_decay(task):
    (optimiser,), _ = task(weight_decay=0.3).configure_optimizers()
    decayed, plain = optimiser.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() for p in plain["params"]} == {1}
    assert min(p.dim() for p in decayed["params"]) == 2


def test_one_batch_can_be_learnt_by_heart(run, batches):
    fixed = batches(0)
    trained = run(
        "heart", lambda step: fixed, validate=False, steps=60, learning_rate=1e-2, warmup_steps=5,
        save_every=1000, log_every=1000,
    )  # fmt: skip
    with torch.no_grad():
        after = trained.model_step(fixed)["loss"]
    assert after < 0.2 * torch.tensor(59.0).log()


def test_bfloat16_trains_and_keeps_float32_weights(run):
    trained = run("bf16", precision="bf16", steps=2)
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in trained.parameters())
    changed = [
        not torch.equal(a, b)
        for a, b in zip(
            weights(trained).values(), weights(run("f32", steps=2)).values(), strict=True
        )
    ]
    assert any(changed)
