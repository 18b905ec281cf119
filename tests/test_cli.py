from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from raycal import api, cli
from raycal.config import Config
from raycal.search import run as runner
from raycal.search.folder import RunFolder

FLAGS = """--space --sessions --split --trials --epochs --out --seed --objective --sampler --pruner --workers-per-trial
--gpus-per-trial --max-concurrent --max-minutes --address --storage --config --set --print-config --list-spaces
--first-stage --resume --more --allow-space-change --device --confirm-top --confirm-seeds --no-confirm --dry-run -v -q -h --help"""


@pytest.fixture
def searched(monkeypatch):
    """What a search would be started with; none is."""
    calls = []

    def run(space, config, options):
        calls.append((space, config, options))
        best = {"number": 0, "epoch": 1, "metrics": {}, "value": 0.1}
        return {"best": best, "default": best, "trials": {"complete": 1, "pruned": 0, "failed": 0}, "seconds": 1.0,
                "folder": "runs/x", "interrupted": False}

    monkeypatch.setattr(runner, "run", run)
    return calls


def fails(capsys, *argv):
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("raycal: ") and "Traceback" not in err
    return err


def printed(capsys, *argv):
    assert cli.main([*argv, "--print-config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_the_flags_of_a_search_are_frozen():
    flags = [f for action in cli.search_parser()._actions for f in action.option_strings]
    assert sorted(flags) == sorted(FLAGS.split())
    assert not [a for a in cli.search_parser()._actions if not a.option_strings]


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f in shown for f in FLAGS.split())


@pytest.mark.parametrize("argv, words", [
    (["--space", "grvq", "--trails", "3"], ["--trails", "did you mean '--trials'", "--help"]),
    (["--space", "grvq", "--trial", "3"], ["--trial"]),  # no abbreviations
    (["--space", "grqv"], ["'grqv'", "did you mean 'grvq'"]),
    (["serch"], ["unknown verb 'serch'", "did you mean 'search'"]),
    ([], ["--space is missing", "grvq, quantizers, transform, vae, vq"]),
    (["--space", "grvq", "--trials", "0"], ["search.trials=0", "at least 1"]),
    (["--space", "grvq", "--trials", "many"], ["search.trials='many'", "whole number"]),
    (["--space", "grvq", "--max-concurrent", "x"], ["--max-concurrent", "'x' must be a whole number"]),
    (["--space", "grvq", "--max-concurrent", "0"], ["--max-concurrent", "'0'"]),
    (["--space", "grvq", "--max-minutes", "-1"], ["--max-minutes", "above 0"]),
    (["--space", "grvq", "--max-minutes", "nan"], ["--max-minutes", "above 0"]),
    (["--space", "grvq", "--sampler", "tpo"], ["search.sampler='tpo'", "did you mean 'tpe'"]),
    (["--space", "grvq", "--set", "optimizer.lr"], ["key=value"]),
    (["--space", "grvq", "--set", "optimizer.rl=1"], ["'optimizer.rl'", "did you mean 'optimizer.lr'"]),
    (["--space", "grvq", "--config", "missing.yaml"], ["missing.yaml", "no such file"]),
    (["--space", "grvq", "--confirm-seeds", "1"], ["search.confirm_seeds=1", "from 2"]),
    (["confirm"], ["the following arguments are required: RUN", "raycal confirm --help"]),
    (["confirm", "nowhere"], ["nowhere: no run there"]), (["test", "nowhere"], ["nowhere: no run there"]),
    (["reproduce", "nowhere"], ["--trial"]), (["reproduce", "nowhere", "--trial", "x"], ["'x' must be the number"]),
    (["confirm", "runs/x", "--tops", "3"], ["--tops", "did you mean '--top'"]),
    (["--space", "grvq", "--more", "3"], ["--more", "--resume DIR"]),
    (["--resume", "nowhere"], ["--resume nowhere", "no run there"]),
    (["--space", "grvq", "--gpus-per-trial", "0.5", "--workers-per-trial", "2"], ["fraction of a GPU"]),
    (["--space"], ["--space", "expected one argument"])])
def test_bad_input_ends_with_status_2_and_says_what_to_do(argv, words, capsys, searched):
    message = fails(capsys, *argv)
    assert all(w in message for w in words), message
    assert not searched


def test_spaces_are_listed_with_their_purpose(capsys):
    assert cli.main(["--list-spaces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["diffusion", "grvq", "quantizers", "transform", "vae", "vq"]
    assert "new windows" in lines[0] and all("VAE" in line for line in lines[1:])


@pytest.mark.parametrize("space", ["grvq", "quantizers", "transform", "vq"])
def test_printed_settings_given_back_are_the_same_settings(space, capsys, tmp_path):
    path = tmp_path / "config.yaml"
    first = printed(capsys, "--space", space, "--epochs", "7", "--set", "sessions.behavior=[velocity, head]",
                    "--set", "optimizer.lr=3e-4", "--gpus-per-trial", "0.25")
    path.write_text(yaml.safe_dump(first))
    assert printed(capsys, "--space", space, "--config", str(path)) == first
    path.write_text(json.dumps(first))
    assert printed(capsys, "--space", space, "--config", str(path)) == first
    assert first["training"]["epochs"] == 7 and first["optimizer"]["lr"] == 3e-4


def test_defaults_give_way_to_space_to_file_to_the_command_line(capsys, tmp_path, space_file):
    (tmp_path / "c.yaml").write_text("windows: {stride: 16}\nmodel: {width: 20}\ntraining: {epochs: 4}\n")
    base = ["--space", space_file]
    lines = [printed(capsys, *argv) for argv in (
        base, [*base, "--config", str(tmp_path / "c.yaml")],
        [*base, "--config", str(tmp_path / "c.yaml"), "--epochs", "5"],
        [*base, "--config", str(tmp_path / "c.yaml"), "--epochs", "5", "--set", "training.epochs=6"])]
    assert [x["training"]["epochs"] for x in lines] == [3, 4, 5, 6]
    assert [x["model"]["width"] for x in lines] == [16, 20, 20, 20]
    assert [x["windows"]["stride"] for x in lines] == [32, 16, 16, 16]
    assert all(x["training"]["patience"] == Config().training.patience for x in lines)


def test_every_short_flag_sets_its_setting(searched):
    given = {"trials": 7, "epochs": 8, "seed": 9, "objective": "correlation", "sampler": "random", "pruner": "none",
             "workers-per-trial": 2, "gpus-per-trial": 1.0, "device": "cuda", "confirm-top": 4, "confirm-seeds": 6,
             "split": "file"}
    assert cli.main(["search", "--space", "grvq", *(w for k, v in given.items() for w in (f"--{k}", str(v)))]) == 0
    (_, config, _), = searched
    assert set(api.SHORT) == {k.replace("-", "_") for k in given}
    assert {k: config.get(api.SHORT[k.replace("-", "_")]) for k in given} == given


def test_no_confirm_and_dry_run_reach_the_run(searched, monkeypatch):
    cli.main(["--space", "grvq", "--no-confirm", "--confirm-seeds", "2"])
    assert searched[-1][1].search.confirm_top == 0 and searched[-1][1].search.confirm_seeds == 2
    for argv in (["plan", "--space", "grvq"], ["--space", "grvq", "--dry-run"]):
        cli.main(argv)
        assert searched[-1][2].dry_run and searched[-1][1].search.confirm_top == 2


def test_options_of_the_run_reach_it(searched, capsys):
    assert cli.main(["--space", "grvq", "--sessions", "a.h5", "b.h5", "--out", "here", "--max-concurrent", "3",
                     "--max-minutes", "1.5", "--address", "auto", "--storage", "file:///x", "-v", "-q"]) == 0
    (_, _, options), = searched
    assert options == runner.Options(sessions=["a.h5", "b.h5"], out="here", max_concurrent=3, max_minutes=1.5,
                                     address="auto", storage="file:///x", verbose=True, quiet=True)
    assert "1 trials complete" in capsys.readouterr().out


def test_a_setting_of_the_command_line_is_held_and_one_of_the_file_is_searched(searched, tmp_path):
    (tmp_path / "c.yaml").write_text("optimizer: {lr: 0.002}\n")
    cli.main(["--space", "grvq", "--config", str(tmp_path / "c.yaml"), "--set", "quantizer.type=vq", "--epochs", "3"])
    (space, config, options), = searched
    assert options.held == space.fixed == {"quantizer.type": "vq"}
    assert space.default()["optimizer.lr"] == config.optimizer.lr == 0.002 and "quantizer.type" not in space.default()


def test_a_value_of_the_file_outside_the_searched_range_is_refused(capsys, tmp_path, searched):
    (tmp_path / "c.yaml").write_text("optimizer: {lr: 5.0}\n")
    assert "optimizer.lr=5.0" in fails(capsys, "--space", "grvq", "--config", str(tmp_path / "c.yaml"))
    assert cli.main(["--space", "grvq", "--set", "optimizer.lr=5.0"]) == 0  # held, whatever the range


@pytest.fixture
def earlier(tmp_path):
    """The folder of a run of grvq on one recording, with the quantizer held."""
    folder = RunFolder.create(str(tmp_path / "run"), "grvq")
    folder.journal.write_text("")
    run = {"run": {"space": "grvq", "sessions": ["/data/a.h5"], "held": {"quantizer.type": "vq"}}}
    config = api.configure("grvq", {"quantizer.type": "vq", "training.epochs": 5}, {})[1]
    (folder.path / "config.yaml").write_text(yaml.safe_dump(run) + config.to_yaml())
    return folder.path


def test_a_resumed_run_needs_only_its_folder(searched, earlier):
    assert cli.main(["--resume", str(earlier), "--more", "5"]) == 0
    (space, config, options), = searched
    assert space.name == "grvq" and config.training.epochs == 5 and config.quantizer.type == "vq"
    assert options.sessions == ["/data/a.h5"] and options.held == {"quantizer.type": "vq"} and options.more == 5


def test_a_config_file_changes_a_resumed_run_and_does_not_replace_it(searched, earlier, tmp_path):
    (tmp_path / "c.yaml").write_text("search: {keep: 9}\n")
    assert cli.main(["--resume", str(earlier), "--config", str(tmp_path / "c.yaml")]) == 0
    (space, config, options), = searched
    assert config.search.keep == 9 and config.training.epochs == 5 and options.sessions == ["/data/a.h5"]


def test_the_config_of_a_run_starts_the_same_search_anew(searched, earlier):
    assert cli.main(["--config", str(earlier / "config.yaml"), "--sessions", "other.h5"]) == 0
    (space, config, options), = searched
    assert config.training.epochs == 5 and options.sessions == ["other.h5"] and options.resume is None


def test_a_search_without_a_winner_ends_with_status_1(monkeypatch, capsys):
    monkeypatch.setattr(runner, "run", lambda *_: {
        "best": None, "default": None, "trials": {"complete": 0, "pruned": 0, "failed": 3}, "seconds": 1.0,
        "folder": "runs/x", "interrupted": False})
    assert cli.main(["--space", "grvq"]) == 1
    assert "no trial completed" in capsys.readouterr().out


def test_an_interrupt_ends_with_status_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert cli.main(["--space", "grvq"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_search_from_python_takes_the_flags_by_name(searched):
    api.search("grvq", trials=3, settings={"quantizer.type": "vq"}, out="here")
    (space, config, options), = searched
    assert config.search.trials == 3 and options.held == {"quantizer.type": "vq"} and options.out == "here"
    with pytest.raises(api.UserError, match="unknown option 'trails'; did you mean 'trials'"):
        api.search("grvq", trails=3)
    with pytest.raises(api.UserError, match="did you mean 'max_minutes'"):
        api.search("grvq", max_minuets=3)


def test_looking_at_settings_loads_no_framework():
    code = ("import sys; from raycal import cli; cli.main(['--space', 'grvq', '--print-config']);"
            "print([m for m in ('torch', 'ray', 'matplotlib', 'scipy') if m in sys.modules], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_training_leaves_its_model_what_its_codes_cost_and_their_pictures(space_file, tmp_path, capsys):
    import raycal
    from raycal.sessions.readers import npz
    from raycal.sessions.simulate import simulate

    npz.write(simulate(n_neurons=5, n_frames=900, rate=5.0, seed=1).session, tmp_path / "a.npz")
    assert cli.main(["train", "--space", space_file, "--sessions", str(tmp_path / "a.npz"), "--epochs", "1", "-q",
                     "--out", str(tmp_path / "one")]) == 0
    assert f"{tmp_path / 'one'}/figures" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "one" / "figures").glob("*.png")) == ["codes.png", "latents.png"]
    cost, metrics = json.loads((tmp_path / "one" / "code_length.json").read_text()), raycal.load(tmp_path / "one").metrics
    assert cost["entropy_bits_per_second"] == pytest.approx(metrics["val/bits_per_second"], rel=1e-5)
