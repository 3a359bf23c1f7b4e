"""The config: complete, rereadable, and clear about what is wrong with it."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from loev_cli.errors import UsageError
from loev_cli.train.augment import AugmentationsConfig
from loev_cli.train.augment.spectrum import Eq
from loev_cli.train.config import (
    TrainConfig,
    from_mapping,
    parse_assignment,
    read_toml,
    shipped_configs,
    to_toml,
)
from loev_cli.train.loop import Trainer


def test_toml_and_back() -> None:
    config = TrainConfig(
        data='a "quoted" \\ path',
        minutes=2.5,
        augs=("tempo",),
        encoder_options={"width": 16},
        augmentations=AugmentationsConfig(eq=Eq(gain_db=3)),
    )
    assert from_mapping(TrainConfig, tomllib.loads(to_toml(config))) == config


def test_whole_numbers_serve_as_floats() -> None:
    config = from_mapping(TrainConfig, {"lr": 1, "minutes": 3})
    assert config.lr == 1.0 and config.minutes == 3.0


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"batchsize": 8}, "unknown key 'batchsize' (did you mean 'batch_size'?"),
        ({"learning_rate": 1}, "unknown key 'learning_rate' (did you mean 'lr'?"),
        ({"augmentations": {"eq": {"gain": 3}}}, "did you mean 'gain_db'?"),
        ({"augs": ["pich"]}, "did you mean 'pitch'?"),
        ({"augs": ["pitch", "pitch"]}, "duplicate augmentation in augs: pitch"),
        ({"augs": []}, "augs is empty"),
        ({"augs": "pitch"}, "must be a list"),
        ({"method": "simclr"}, "no method 'simclr'"),
        ({"positives": "near"}, "no positives 'near'"),
        ({"views_on": "feature"}, "did you mean 'features'?"),
        ({"precision": "fp16"}, "no precision 'fp16'"),
        ({"n_views": 1}, "at least 2 views"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"val_fraction": 1.0}, "below 1"),
        ({"n_views": "two"}, "must be of type int"),
        ({"batch_size": 1}, "at least 2 tracks"),
        ({"batch_size": "many"}, "must be of type int"),
        ({"batch_size": True}, "must be of type int"),
        ({"lr": 0}, "above 0"),
        ({"steps": -3}, "steps is -3"),
        ({"view_scheme": "sharing"}, "no view scheme"),
        ({"augmentations": {"tempo": {"rate": [1.5, 0.5]}}}, "lower bound exceeds upper bound"),
        ({"augmentations": {"tempo": {"rate": [1.5]}}}, "must have 2 values"),
        ({"augmentations": {"noise": {"p": 1.5}}}, "within 0 and 1"),
        ({"augmentations": 3}, "must be a table"),
    ],
)
def test_what_is_wrong_is_named(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_mapping(TrainConfig, raw)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_assignments() -> None:
    assert parse_assignment("lr=0.01") == (["lr"], 0.01)
    assert parse_assignment("augs=['pitch']") == (["augs"], ["pitch"])
    assert parse_assignment("augmentations.eq.p = 0.5") == (["augmentations", "eq", "p"], 0.5)
    assert parse_assignment("data=my music") == (["data"], "my music")
    for bad in ("lr", "=3", "a..b=1"):
        with pytest.raises(UsageError, match="KEY=VALUE"):
            parse_assignment(bad)


def test_unreadable_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = = 3")
    for file in (broken, tmp_path / "missing.toml"):
        with pytest.raises(UsageError, match=file.name):
            read_toml(str(file))


@pytest.mark.parametrize("name", ["laptop", "loevpp-small", "paper"])
def test_configs_that_come_along_can_be_trained(name: str) -> None:
    assert name in shipped_configs()
    config = from_mapping(TrainConfig, read_toml(name))
    assert from_mapping(TrainConfig, tomllib.loads(to_toml(config))) == config
    Trainer(dataclasses.replace(config, steps=1), Path("nowhere"))


def test_a_checkpoints_values_are_read_back_with_those_left_open() -> None:
    config = TrainConfig(steps=3)
    assert from_mapping(TrainConfig, dataclasses.asdict(config)) == config
