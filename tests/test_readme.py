"""What README.md says is run as it stands."""
from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import raycal
from raycal import cli, cli_cluster, cli_report, cli_runs, cli_sessions, config
from raycal.sessions import readers
from raycal.sessions.readers import npz
from raycal.sessions.simulate import simulate

ROOT = pathlib.Path(raycal.__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("  #")[0].strip() for block in re.findall(r"```bash\n(.*?)```", README, re.S)
            for line in block.splitlines() if line.strip()]
WORDS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.S))


PARSERS = {"report": cli_report.report_parser, "export": cli_report.export_parser, "compare": cli_report.compare_parser,
           "traverse": cli_report.traverse_parser, "confirm": cli_runs.confirm_parser, "test": cli_runs.test_parser,
           "reproduce": cli_runs.reproduce_parser, "train": cli.train_parser,
           "sessions": cli_sessions.sessions_parser, "doctor": cli.doctor_parser, "apply": cli.apply_parser,
           "generate": cli.generate_parser,
           "cluster": cli_cluster.cluster_parser}


def blocks(*words):
    """The python blocks that hold all the words."""
    found = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if all(w in b for w in words)]
    assert found, f"README has no python block with {words}"
    return found


@pytest.fixture
def beside_recordings(tmp_path, monkeypatch):
    """A working folder with recordings/ in it, two small ones of different size."""
    (tmp_path / "recordings").mkdir()
    for n in (8, 11):
        npz.write(simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n).session, tmp_path / "recordings" / f"{n}.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(block):
    space = {}
    exec(compile(block, "README.md", "exec"), space)
    return space


def test_every_python_block_is_run_by_one_of_these_tests():
    assert len(blocks()) == len(blocks("raycal.train")) + len(blocks("raycal.search")) + len(blocks("def propose"))


def test_training_and_its_model(beside_recordings, capsys):
    for block in blocks("raycal.train"):
        done = run(block)
        session, codes = done["session"], done["codes"]
        assert done["reconstruction"].shape == session.traces.shape and codes.dtype.kind == "i" and codes.ndim == 2
        assert capsys.readouterr().out.strip().endswith(f"{codes.shape} {session.traces.shape}")
    assert not list(beside_recordings.glob("runs")), "without out= nothing is left"


@pytest.mark.slow
def test_a_search_and_its_model(beside_recordings, ray_session):
    for block in blocks("raycal.search"):
        done = run(block)
        assert done["summary"]["trials"]["complete"] + done["summary"]["trials"]["pruned"] == 4
        assert done["best"].sessions == tuple(s.id for s in raycal.read("recordings/*.npz"))
        folder = pathlib.Path(done["summary"]["folder"])
        tree, = re.findall(r"```\nruns/grvq-20260101-1/\n(.*?)```", README, re.S)
        for name in (line.split()[0] for line in tree.splitlines()):
            assert (folder / name.replace("0007", "0000")).exists(), name
        assert re.fullmatch(r"vq-\d{8}-1", folder.name) and folder.parent == beside_recordings / "runs"


def test_the_space_is_one(tmp_path):
    import numpy as np

    from raycal.search.space import load

    block, = blocks("def propose")
    (tmp_path / "my_space.py").write_text(block)
    space = load(str(tmp_path / "my_space.py"))
    space.check(np.random.default_rng(0))
    assert set(space.default()) == {"quantizer.codebook_size", "optimizer.lr"}
    assert space.base.quantizer.type == "ema" and "python run_search.py --space my_space.py" in README


@pytest.mark.parametrize("command", [c for c in COMMANDS + WORDS if re.match(r"(python )?(run_search\.py|raycal) ", c)])
def test_a_command_is_one_that_the_program_takes(command):
    words = shlex.split(command.removeprefix("python "))
    if words[0] == "raycal" and words[1] in PARSERS:
        PARSERS[words[1]]().parse_args(words[2:] or ["RUN"] * (words[1] != "train"))
        return
    if words[:2] == ["raycal", "plan"]:
        words = ["run_search.py", *words[2:], "--dry-run"]
    assert (ROOT / words[0]).is_file()
    args = cli.search_parser().parse_args(words[1:])
    assert args.space in (None, "my_space.py", *_spaces()) and (args.space or args.resume or args.config)


def _spaces():
    from raycal.search import space

    return space.names()


def test_every_other_command_is_known():
    others = [c for c in COMMANDS if not re.match(r"(python run_search\.py|raycal) ", c)]
    known = (r'pip install -c (constraints\.txt) -e "\.\[([a-z,]+)\]" && (python run_search\.py --space grvq|pytest)',
             r"tensorboard --logdir (s3://bucket/)?runs/grvq-20260101-1",
             r"ray (up|down -y) (cluster/gpu\.yaml)( && ray submit .*)?",
             r"pip install optuna-dashboard && optuna-dashboard runs/grvq-20260101-1/study\.journal")
    assert others and all(any(re.fullmatch(k, c) for k in known) for c in others), others
    text = (ROOT / "pyproject.toml").read_text()
    extras = {e for c in others for e in (re.findall(r"\[([a-z,]+)\]", c) or [""])[0].split(",") if e}
    assert (ROOT / "constraints.txt").is_file() and all(re.search(rf"^{e} = \[", text, re.M) for e in extras)
    assert {"allen", "test"} == extras
    __import__("tensorboard")


def test_the_search_on_a_cluster_is_one_that_the_program_takes():
    line, = [c for c in COMMANDS if "ray submit" in c]
    up, submit, search = re.fullmatch(r"ray up (\S+) && ray submit (\S+) run_search\.py -- (.*)", line).groups()
    args = cli.search_parser().parse_args(shlex.split(search))
    assert up == submit and (ROOT / up).is_file() and args.address == "auto" and args.storage.startswith("s3://")


def test_every_flag_and_setting_that_is_named_exists():
    parsers = (cli.search_parser(), cli.apply_parser(), cli_report.export_parser(), cli_runs.confirm_parser(),
               cli_runs.test_parser())
    flags = {f for p in parsers for action in p._actions for f in action.option_strings}
    named = {w.split()[0].split("=")[0] for w in WORDS if w.startswith("--")}
    assert {"--sessions", "--config", "--set", "--print-config"} <= named <= flags
    sections = {n.split(".")[0] for n in config.names()}
    dotted = {w for w in WORDS if re.fullmatch(r"[a-z]+\.[a-z_]+", w) and w.split(".")[0] in sections}
    settings = dotted | set(re.findall(r'"([a-z]+\.[a-z_]+)":', README))
    assert "sessions.mode" in settings and settings <= set(config.names())
    for value in ("separate", "pad", "first_only"):
        assert value in WORDS and config.Config().replace({"sessions.mode": value})


def test_every_format_of_the_table_has_a_reader():
    section = README.split("| format | read from |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (?!-)(.+?) \|", section, re.M)
    assert len(rows) == len(readers.READERS)
    keys = re.findall(r"`([a-z_]+)`", next(line for line in README.splitlines() if "raycal `.npz`" in line))
    assert set(keys) <= {*npz.NEEDED, *npz.OPTIONAL} and set(npz.NEEDED) <= set(keys)


def test_every_setting_of_the_recordings_table_is_one_and_takes_what_is_said():
    section = README.split("| setting | what it does |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(sessions\.[a-z_]+)`", section))
    assert {"sessions.normalize", "sessions.select", "sessions.resample", "sessions.smooth"} <= named <= set(config.names())
    for setting, neurons in (("normalize", 0), ("select", 5)):
        line = next(line for line in section.splitlines() if f"`sessions.{setting}`" in line)
        for value in re.findall(r"`([a-z_]+)`", line.split(" | ", 1)[1]):
            config.Config().replace({f"sessions.{setting}": value, "sessions.neurons": neurons})


def test_files_and_numbers_that_are_named_are_those_of_the_program():
    named = re.findall(r"`(?:python )?([\w/]+/|[\w/]+\.(?:txt|py|toml))[` ]", README)
    assert {"constraints.txt", "run_search.py"} <= set(named)
    for path in named:
        assert (ROOT / path).exists() or path == "my_space.py", path
    assert "8 s" in README and config.Config().sessions.gap == 8.0 and config.Config().sessions.rounds == 3


def test_the_gpu_check_of_the_readme_runs():
    line, = [w for w in WORDS if w.startswith("python -c")]
    done = subprocess.run([sys.executable, *shlex.split(line)[1:]], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("True", "False")
    version, = re.findall(r"`torch==([\d.]+)`", README)
    assert f"torch=={version}" in (ROOT / "constraints.txt").read_text()


def test_the_check_takes_the_test_command_from_here():
    """`.ci/run` must find exactly the line a reader is told to type."""
    expression, = re.findall(r"sed -n '(.+?)' README\.md", (ROOT / ".ci" / "run").read_text())
    found = subprocess.run(["sed", "-n", expression, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [c for c in COMMANDS if c.endswith("pytest")]
    assert len(found.stdout.splitlines()) == 1
