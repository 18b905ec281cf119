from __future__ import annotations

import dataclasses
import json
import math

import pytest

from raycal.config import Config, names, parse_set, read_file
from raycal.errors import UserError, nearest


def test_every_default_passes_its_own_declaration():
    assert Config().replace(Config().flat()) == Config()
    assert len(names()) == len(set(names())) > 40


def test_a_config_is_frozen_and_a_copy_changes_only_what_is_named():
    config = Config()
    changed = config.replace({"optimizer.lr": 0.5, "optimizer.clip": 2})
    assert changed.optimizer.lr == 0.5 and changed.get("optimizer.clip") == 2.0 and config.optimizer.lr != 0.5
    assert {k for k in names() if changed.get(k) != config.get(k)} == {"optimizer.lr", "optimizer.clip"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optimizer.lr = 1.0


def test_yaml_holds_every_setting(tmp_path):
    config = Config().replace({"sessions.behavior": ["velocity", "head_angle"], "optimizer.lr": 1.25e-7})
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert Config().replace(read_file(tmp_path / "c.yaml")) == config


def test_json_and_flat_names_are_read_too(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"optimizer": {"lr": 0.5}, "training.epochs": 3}))
    assert read_file(tmp_path / "c.json") == {"optimizer.lr": 0.5, "training.epochs": 3}
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_file(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize("content, message", [
    (b"- 1\n- 2\n", "holds a list"), (b"a: [", "cannot be read as YAML or JSON"), (b"\xff\xfe\x00", "cannot be read")])
def test_a_file_that_holds_no_settings_is_refused_naming_it(content, message, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(UserError, match=f"--config .*bad.yaml: {message}"):
        read_file(tmp_path / "bad.yaml")


def test_missing_config_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_file(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_file(tmp_path)


def test_a_number_as_a_name_is_unknown_and_not_a_crash(tmp_path):
    (tmp_path / "c.yaml").write_text("7: 8\n")
    with pytest.raises(UserError, match="unknown setting '7'"):
        Config().replace(read_file(tmp_path / "c.yaml"))


@pytest.mark.parametrize("name, meant", [("optimizer.learning_rate", None), ("optimiser.lr", "optimizer.lr"),
                                         ("quantizer.codebok_size", "quantizer.codebook_size"),
                                         ("codebook_size", "quantizer.codebook_size"), ("optimizer", None),
                                         ("optimizer.lr.x", None), ("", None)])
def test_unknown_names_are_refused_with_the_nearest(name, meant):
    with pytest.raises(UserError, match=f"unknown setting '{name}'") as caught:
        Config().replace({name: 1})
    assert meant is None or f"did you mean '{meant}'" in str(caught.value)
    with pytest.raises(UserError, match="unknown setting"):
        Config().get(name)


@pytest.mark.parametrize("name, value, message", [
    ("training.epochs", "many", "must be a whole number"), ("training.epochs", 2.5, "must be a whole number"),
    ("training.epochs", True, "must be a whole number"), ("training.epochs", None, "must be a whole number"),
    ("training.epochs", 0, "from 1 to"), ("optimizer.lr", "fast", "must be a number"), ("optimizer.lr", [1], "number"),
    ("optimizer.lr", math.nan, "must be finite"), ("optimizer.lr", math.inf, "must be finite"),
    ("optimizer.lr", -1, "from 1e-08 to 10"), ("windows.stride", 0, "at least 1"), ("optimizer.lr", False, "a number"),
    ("quantizer.type", "grqv", "one of vq, ema, rvq, grvq, fsq, lfq, simvq, transform; did you mean 'grvq'"), ("quantizer.type", 3, "must be a word"),
    ("model.downsample", 3, "must be one of 1, 2, 4, 8"), ("sessions.behavior", 3, "a list of names"),
    ("sessions.behavior", [3], "a list of names"), ("sessions.select", "varience", "did you mean 'variance'"),
    ("sessions.smooth", 11, "from 0.0 to 10.0"), ("sessions.resample", -1, "from 0.0 to 1000.0"),
    ("sessions.features", 601, "from 0.0 to 600.0"), ("sessions.neurons", -1, "at least 0")])
def test_bad_values_are_refused_naming_setting_value_and_what_is_allowed(name, value, message):
    with pytest.raises(UserError, match=message) as caught:
        Config().replace({name: value})
    assert str(caught.value).startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize("name, value, expected", [
    ("optimizer.lr", "1e-3", 1e-3), ("optimizer.clip", 1, 1.0), ("training.epochs", 5.0, 5),
    ("sessions.behavior", "velocity, head_angle", ("velocity", "head_angle")), ("sessions.behavior", [], ())])
def test_values_take_the_declared_type(name, value, expected):
    got = Config().replace({name: value}).get(name)
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize("values, message", [
    ({"sessions.train": 0.7, "sessions.validation": 0.3}, "leave a share for the test part"),
    ({"sessions.neurons": 30}, "neurons=30 with sessions.select=all: .*sessions.select=variance"),
    ({"sessions.select": "activity"}, "select=activity with sessions.neurons=0: .*at least 2"),
    ({"sessions.select": "variance", "sessions.neurons": 1}, "at least 2"),
    ({"quantizer.type": "grvq", "quantizer.groups": 3, "quantizer.code_dim": 32}, "such as 33"),
    ({"windows.length": 4, "model.downsample": 8}, "windows.length=4 is shorter than the 8 frames"),
    ({"training.gpus": 0.5, "training.workers": 2}, "a fraction of a GPU serves one worker"),
    ({"training.device": "cpu", "training.gpus": 1.0}, "drop one of the two"),
    ({"training.device": "cpu", "training.precision": "fp16"}, "use float32 or bf16")])
def test_impossible_combinations_are_refused_with_the_way_out(values, message):
    with pytest.raises(UserError, match=message):
        Config().replace(values)


def test_combinations_are_judged_after_all_changes():
    assert Config().replace({"windows.length": 8, "model.downsample": 8}).windows.length == 8


@pytest.mark.parametrize("text, expected", [
    ("optimizer.lr=1e-3", ("optimizer.lr", "1e-3")), ("training.epochs=5", ("training.epochs", 5)),
    ("sessions.behavior=[a, b]", ("sessions.behavior", ["a", "b"])),
    ("search.warm_start=a=b", ("search.warm_start", "a=b")),
    ("search.pruner=none", ("search.pruner", "none")), ("search.warm_start=[", ("search.warm_start", "["))])
def test_a_setting_is_parsed_from_key_and_value(text, expected):
    assert parse_set(text) == expected


@pytest.mark.parametrize("text", ["optimizer.lr", "=3", ""])
def test_a_setting_without_key_or_value_is_refused(text):
    with pytest.raises(UserError, match="write it as key=value"):
        parse_set(text)


def test_a_gpu_is_wanted_when_asked_for():
    assert not Config().gpu_wanted()
    assert Config().replace({"training.gpus": 0.5}).gpu_wanted()
    assert Config().replace({"training.device": "cuda"}).gpu_wanted()


def test_nearest_is_silent_about_strangers():
    assert nearest("zebra", ["nmse", "correlation"]) == "" and nearest("x", []) == ""
    assert nearest("nsme", ["nmse", "correlation"]) == "; did you mean 'nmse'?"
