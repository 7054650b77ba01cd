from pathlib import Path

import pytest
import torch

from genobird.errors import CheckpointError, UsageError
from genobird.runs import refuse_other
from genobird.tasks.run_folder import FREE, STATE, SavedRun, identity

FACTS = {
    "fit": {"steps": 5, "threads": 2},
    "data": {"kinds": ("a", "b"), "deeper": {"rate": 0.1}},
    "shards": Path("here"),
    "tokenizer": "abc",
}


def saved(folder, **changes):
    state = {"global_step": 3, "identity": identity(FACTS), **changes}
    torch.save({k: v for k, v in state.items() if v is not None}, folder / STATE)
    return SavedRun.read(folder)


def refuse(run, asked):
    """Refuse to continue a run, as `fit` does."""
    refuse_other(run.path, run.identity, asked, of_any_version=True)


def test_settings_are_known_by_their_keys_and_places_are_not_kept():
    assert identity(FACTS) == {
        "fit.steps": 5, "data.kinds": ["a", "b"], "data.deeper.rate": 0.1, "tokenizer": "abc",
    }  # fmt: skip


def test_settings_that_are_free_exist():
    from genobird.tasks.pretrain import PretrainConfig

    for key in FREE:
        value = PretrainConfig(shards="s", tokenizer="t").model_dump()
        for part in key.split("."):
            value = value[part]


def test_a_state_tells_its_step_and_what_was_asked(tmp_path):
    found = saved(tmp_path)
    assert (found.step, found.identity) == (3, identity(FACTS))
    refuse(found, identity(FACTS))
    assert SavedRun.read(tmp_path / "elsewhere") is None


def test_a_state_of_another_version_is_compared_where_both_speak(tmp_path):
    refuse(saved(tmp_path), {"fit.new_setting": 1, "fit.steps": 5})


def test_a_state_of_another_program_is_no_state_of_a_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged; start again with --force"):
        saved(tmp_path, identity=None)


def test_each_key_that_differs_is_named(tmp_path):
    asked = identity({**FACTS, "data": {"deeper": {"rate": 0.2}}, "tokenizer": "xyz"})
    message = r"data\.deeper\.rate 0\.2, before 0\.1; tokenizer xyz, before abc\); give"
    with pytest.raises(UsageError, match=message):
        refuse(saved(tmp_path), asked)


def test_what_was_not_given_and_now_is_counts(tmp_path):
    for before, now in ((None, "abc"), ("abc", None)):
        run = saved(tmp_path, identity=identity({"sha256": {"more": before}}))
        said = [value or "not given" for value in (now, before)]
        with pytest.raises(UsageError, match=r"sha256\.more {}, before {}\);".format(*said)):
            refuse(run, identity({"sha256": {"more": now}}))


@pytest.mark.parametrize("turned", [False, True])
def test_a_section_that_was_not_given_and_now_is_counts(tmp_path, turned):
    """They share no key, and any local network was accepted in place of none."""
    sides = [{"head": {"local": None, "hidden": 8}}, {"head": {"local": {"filters": 64}}}]
    before, now = sides[::-1] if turned else sides
    said = "not given, before given" if turned else "given, before not given"
    with pytest.raises(UsageError, match=rf"\(head\.local {said}\);"):
        refuse(saved(tmp_path, identity=identity(before)), identity(now))


# torch maps a file of some thousand bytes before it finds that its end is missing.
@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_damaged_state_is_named(tmp_path, keep):
    state = {"global_step": 3, "identity": {}, "weights": torch.zeros(5000)}
    torch.save(state, tmp_path / STATE)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged; start again with --force"):
        SavedRun.read(tmp_path)
