from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from genobird.baselines.config import BaselineConfig
from genobird.config import described, load_config
from genobird.errors import ConfigError
from genobird.tasks.evaluate import EvaluateSettings
from genobird.tasks.peaks import PeaksSettings
from genobird.tasks.settings import FitSettings


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = Field(0.1, gt=0, lt=1)
    names: list[str] = Field(default_factory=list)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = 10
    path: Path | None = None
    inner: Inner = Inner()
    free: dict[str, object] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _not_thirteen(self):
        if self.steps == 13:
            raise ValueError("13 steps bring bad luck; take 14")
        return self


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_without_a_file_the_defaults_hold():
    assert load_config(Outer, None) == Outer()


def test_values_come_from_the_file_and_overrides_win(write):
    path = write("steps: 5\ninner:\n  rate: 0.5\n  names: [a]\n")
    config = load_config(Outer, path, ["steps=7", "inner.names=[b, c]", "free.x.y=1"])
    assert config.steps == 7
    assert config.inner == Inner(rate=0.5, names=["b", "c"])
    assert config.free == {"x": {"y": 1}}


def test_an_empty_file_is_no_change(write):
    assert load_config(Outer, write("# nothing\n")) == Outer()


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("'0.5'", 0.5)])
def test_numbers_are_understood_however_they_are_written(text, value):
    # YAML 1.1 takes 1e-4 for a string.
    assert load_config(Outer, None, [f"inner.rate={text}"]).inner.rate == value


def test_a_value_may_hold_an_equals_sign_and_null():
    assert load_config(Outer, None, ["path=a=b"]).path == Path("a=b")
    assert load_config(Outer, None, ["path=null"]).path is None


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("step: 5", [], "config.yaml: unknown key step; allowed here: free, inner, path, steps$"),
        ("inner: {rat: 1}", [], "config.yaml: unknown key inner.rat; allowed here: names, rate$"),
        ("", ["inner.rat=1"], "unknown key inner.rat; allowed here: names, rate$"),
        ('"a\\nb": 5', [], "config.yaml: unknown key a b; allowed here: free, inner, path, steps$"),
        ("steps: many", [], "config.yaml: steps: Input should be a valid integer"),
        ("inner: {rate: 2}", [], "config.yaml: inner.rate: Input should be less than 1$"),
        ("inner: 3", [], "config.yaml: inner: Input should be a valid dictionary"),
        ("", ["inner.names=a"], r"inner\.names: Input should be a list, as in \[a, b\]$"),
        ("steps: null", [], "steps: Field required; give it in --config FILE or with --set steps="),
        ("steps: 13", [], "config.yaml: 13 steps bring bad luck; take 14$"),
        ("- steps", [], "config.yaml holds a list; a mapping is needed$"),
        ("[]", [], "config.yaml holds a list; a mapping is needed$"),
        ("steps", [], "config.yaml holds a str; a mapping is needed$"),
        ("steps: 3\nnames: [", [], "config.yaml is no YAML: line 2, column 9: expected the node"),
        ("steps: 1", ["steps"], "--set 'steps' is not of the form key=value$"),
        ("steps: 1", ["=3"], "--set '=3' is not of the form key=value$"),
        ("steps: 1", ["steps.x=3"], "--set 'steps.x=3': steps is no section$"),
        ("steps: 1", ["steps=[3"], r"--set 'steps=\[3': the value is no YAML$"),
        ("steps: 1", ["steps=2020-13-45"], "'steps=2020-13-45': the value is no YAML: month must"),
        ("steps: 2020-13-45", [], "config.yaml is no YAML: month must be in 1..12"),
        ("steps: 1", ["steps=" + "9" * 5000], "--set 'steps=9{9,40}[.]{3}9+': .* no YAML: Exceeds"),
        ("steps: " + "9" * 5000, [], "config.yaml is no YAML: Exceeds the limit"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(write, text, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(Outer, write(text), overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


class Needy(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shards: Path
    parts: dict[str, Inner] = Field(default_factory=dict)
    maybe: Inner | None = None


def test_a_missing_key_says_how_to_give_it(write):
    message = "shards: Field required; give it in --config FILE or with --set shards=...$"
    with pytest.raises(ConfigError, match=f"^{message}"):
        load_config(Needy, None)
    with pytest.raises(ConfigError, match=f"config.yaml: {message}"):
        load_config(Needy, write("parts: {}"))


@pytest.mark.parametrize("where", ["parts.a", "maybe"])
def test_an_unknown_key_in_a_mapping_of_sections_is_shown_its_own_kind(where):
    message = f"unknown key {where}.rat; allowed here: names, rate$"
    with pytest.raises(ConfigError, match=message):
        load_config(Needy, None, ["shards=s", f"{where}.rat=1"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no configuration file .*none\.yaml"):
        load_config(Outer, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(Outer, tmp_path)


def test_a_binary_file_is_no_configuration(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff\xfe\x00steps: 3")
    with pytest.raises(ConfigError, match=r"model\.safetensors is no YAML"):
        load_config(Outer, path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: " + "[" * 5_000, "maximum recursion depth exceeded"),
        ("steps: 1\nsteps: 2\n", "line 1, column 1: 'steps' is given twice"),
        ("inner:\n  rate: 1\n  rate: 2\n", "line 2, column 3: 'rate' is given twice"),
    ],
)
def test_what_yaml_reads_otherwise_than_meant_or_not_at_all_is_one_line(write, text, problem):
    with pytest.raises(ConfigError, match=f"is no YAML: {problem}") as caught:
        load_config(Outer, write(text))
    assert "\n" not in str(caught.value)


def test_a_deep_value_is_no_yaml_either():
    with pytest.raises(ConfigError, match="the value is no YAML: maximum recursion"):
        load_config(Outer, None, ["steps=" + "[" * 5_000])


@pytest.mark.parametrize("kind", [FitSettings, BaselineConfig, EvaluateSettings, PeaksSettings])
@pytest.mark.parametrize("seed", ["-1", str(1 << 63), "9" * 30])
def test_a_seed_has_63_bits(kind, seed):
    with pytest.raises(ConfigError, match="seed: Input should be "):
        load_config(kind, None, [f"seed={seed}"])


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "clip"])
@pytest.mark.parametrize("value", [".inf", "1e400", ".nan"])
def test_a_training_has_finite_settings(name, value):
    # The model was written with weights that are no numbers, and the run ended well.
    with pytest.raises(ConfigError, match=f"{name}: Input should be "):
        load_config(FitSettings, None, [f"{name}={value}"])


class Described(BaseModel):
    """A configuration with a text for each field."""

    model_config = ConfigDict(extra="forbid")
    path: Path = Field(description="Where it is. " + "A long text is wrapped. " * 8)
    steps: int = Field(3, description="How many.")
    inner: Inner = Inner(rate=0.5)
    free: dict[str, object] = Field(default_factory=dict, description="Changes to another one.")
    note: str | None = Field(None, description="What you like.")


def test_a_configuration_is_described_with_every_field_and_reads_as_itself(write):
    text = described(Described, {"free": Inner})
    lines = text.splitlines()
    assert lines[0].startswith("# Where it is. A long text")
    assert lines[1].startswith("# ")
    for part in (
        "path: null  # required\n",
        "# How many.\nsteps: 3\n",
        "inner:\n  rate: 0.5\n  names: []\n",
        "# Changes to another one.\nfree: {}\n  # rate: 0.1\n  # names: []\n",
        "# What you like.\nnote: null\n",
    ):
        assert part in text
    found = load_config(Described, write(text), ["path=here"])
    assert found == Described(path="here")
