"""Strict settings: what is refused, in which words, and that YAML means what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic
import pytest

from doran.base.config import StrictModel, apply_overrides, build, later, load_yaml, parse_yaml
from doran.base.errors import ConfigError


class Train(StrictModel):
    lr: float = 1e-3
    steps: int = pydantic.Field(default=3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["wsd", "cosine"] = "wsd"
    out: Path | None = None


class Sft(StrictModel):
    kind: Literal["sft"]
    epochs: int = 1


class Rl(StrictModel):
    kind: Literal["rl"]
    group: int = 8


class Recipe(StrictModel):
    name: str
    train: Train = Train()
    stages: list[Annotated[Sft | Rl, pydantic.Field(discriminator="kind")]] = []
    by_task: dict[str, Train] = {}


def refusal(values: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Recipe, {"name": "x", **values}, where="r.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_settings_become_a_frozen_model() -> None:
    recipe = build(
        Recipe, {"name": "x", "train": {"lr": 1, "betas": [0.8, 0.9], "out": "a/b"}, "stages": [{"kind": "rl"}]}
    )
    assert recipe.train.lr == 1.0 and recipe.train.betas == (0.8, 0.9) and recipe.train.out == Path("a/b")
    assert isinstance(recipe.stages[0], Rl)
    with pytest.raises(pydantic.ValidationError):
        recipe.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"lrr": 1}}, "r.yaml: train.lrr: unknown key; did you mean train.lr?"),
        ({"trian": {}}, "r.yaml: trian: unknown key; did you mean train?"),
        ({"lr": 1}, "r.yaml: lr: unknown key; did you mean train.lr?"),
        ({"zzz": 1}, "r.yaml: zzz: unknown key; valid keys here: by_task, name, stages, train"),
        (
            {"stages": [{"kind": "sft"}, {"kind": "rl", "grop": 2}]},
            "r.yaml: stages.1.grop: unknown key; did you mean stages.1.group?",
        ),
        (
            {"by_task": {"math": {"step": 2}}},
            "r.yaml: by_task.math.step: unknown key; did you mean by_task.math.steps?",
        ),
        (
            {"stages": [{"kind": "sft", "group": 2}]},
            "r.yaml: stages.0.group: unknown key; valid keys here: epochs, kind",
        ),
        ({"train": {"lr": "fast"}}, "r.yaml: train.lr: got 'fast', expected a number"),
        ({"train": {"lr": True}}, "r.yaml: train.lr: got True, expected a number"),
        ({"train": {"steps": 1.5}}, "r.yaml: train.steps: got 1.5, expected a whole number"),
        ({"train": {"steps": 0}}, "r.yaml: train.steps: got 0, expected greater than 0"),
        ({"train": {"lr": float("nan")}}, "r.yaml: train.lr: got nan, expected a finite number"),
        (
            {"train": {"schedule": "cosin"}},
            "r.yaml: train.schedule: got 'cosin', expected 'wsd' or 'cosine'; did you mean cosine?",
        ),
        ({"train": {"betas": [1, 2, 3]}}, None),
        ({"train": 3}, "r.yaml: train: got 3, expected keys and values"),
        ({"name": 7}, "r.yaml: name: got 7, expected text"),
        ({"stages": [{"kind": "rll"}]}, "r.yaml: stages.0: unknown 'kind' 'rll'; choose one of: 'sft', 'rl'"),
        ({"stages": [{}]}, "r.yaml: stages.0: 'kind' is missing; it says which kind this is"),
    ],
)
def test_wrong_settings_are_one_clear_line(values: dict, message: str | None) -> None:
    said = refusal(values)
    assert said == message if message else "betas" in said


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"r\.yaml: name: this key is required"):
        build(Recipe, {}, where="r.yaml")


def test_the_misspelt_key_comes_first_and_the_rest_is_counted() -> None:
    assert refusal({"train": {"lr": "x", "stepz": 1}}).startswith("r.yaml: train.stepz: unknown key (and 1 more)")


def test_yaml_scalars_mean_what_they_say() -> None:
    text = "a: 1e-3\nb: no\nc: 010\nd: 1:30\ne: -.inf\nf:\ng: 2024-01-01\nh: [1, 2.5, true]\ni: 1.\nj: '1'"
    assert parse_yaml(text, "x") == {
        "a": 0.001, "b": "no", "c": 10, "d": "1:30", "e": float("-inf"), "f": None, "g": "2024-01-01",
        "h": [1, 2.5, True], "i": 1.0, "j": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "line 2: the key 'a' stands twice"),
        ("a: [1", "line 1"),
        ("- 1", "expected keys and values"),
        ("", "expected keys and values"),
        ("a: !!python/object:os.system x", "line 1"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_broken_yaml_names_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value) and words in str(caught.value)


def test_a_missing_or_binary_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_yaml(tmp_path / "b.yaml")


def test_overrides_reach_mappings_and_list_items_and_leave_the_input_alone() -> None:
    values = {"train": {"lr": 1}, "stages": [{"name": "zero", "steps": 1}, {"name": "r1"}]}
    changed = apply_overrides(
        values, ["train.lr=3e-4", "stages.1.steps=5", "stages.zero.steps=[1, 2]", "new.key=ko", "empty="]
    )
    assert changed == {
        "train": {"lr": 3e-4}, "stages": [{"name": "zero", "steps": [1, 2]}, {"name": "r1", "steps": 5}],
        "new": {"key": "ko"}, "empty": None,
    }  # fmt: skip
    assert values["train"] == {"lr": 1} and values["stages"][0]["steps"] == 1


@pytest.mark.parametrize("override", ["a", "=3", "a..b=1", "train.lr.x=1", "stages.7.a=1", "stages.x=1", "a=[1"])
def test_overrides_that_make_no_sense_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        apply_overrides({"train": {"lr": 1}, "stages": [{}]}, [override])


def test_an_unknown_override_is_refused_when_built() -> None:
    with pytest.raises(ConfigError, match=r"did you mean train\.lr"):
        build(Recipe, apply_overrides({"name": "x"}, ["train.lrr=1"]))


def test_a_later_field_shows_only_when_it_is_used() -> None:
    class Old(StrictModel):
        lr: float = 1e-3

    class New(Old):
        boost: bool = later(False, description="new")

    class Holder(StrictModel):
        train: New = New()

    assert New().model_dump(mode="json") == Old().model_dump(mode="json") == {"lr": 1e-3}
    assert Holder(train=New(boost=True)).model_dump() == {"train": {"lr": 1e-3, "boost": True}}
    assert build(Holder, {"train": {"boost": True}}).train.boost
