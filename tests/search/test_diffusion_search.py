"""A search of generative models from its command to its test, on two small recordings; real Ray, real files."""
from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest

import raycal
from raycal import cli
from raycal.report.confirmed import against, generators
from raycal.sessions.readers import npz
from raycal.sessions.simulate import simulate

pytestmark = pytest.mark.slow
SPACE = '''from raycal import Config

BASE = Config().replace({"model.family": "diffusion", "search.objective": "generation", "model.width": 16,
                         "model.downsample": 2, "diffusion.heads": 2, "diffusion.embedding": 16,
                         "diffusion.evaluations": 4, "windows.length": 16, "windows.min_steps": 2,
                         "windows.batch": 16, "windows.stride": 64, "optimizer.ema": 0.9, "training.epochs": 2})


def propose(trial, base):
    trial.suggest_categorical("diffusion.target", ["velocity", "x0"])
    return base.replace(trial.params)
'''


@pytest.fixture(scope="module")
def searched(ray_session, tmp_path_factory):
    """The folder of a search of two trials that was confirmed and tested, and what each verb printed."""
    folder = tmp_path_factory.mktemp("drawn")
    for n in (8, 11):
        npz.write(simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n, id=f"s{n}").session, folder / f"s{n}.npz")
    (folder / "small.py").write_text(SPACE)
    run, printed = folder / "run", []
    for argv in (["--space", f"{folder}/small.py", "--sessions", f"{folder}/*.npz", "--trials", "2", "--pruner", "none",
                  "--out", f"{run}", "--confirm-top", "1", "--confirm-seeds", "2"],
                 ["test", f"{run}", "--seeds", "2"], ["report", f"{run}"], ["generate", f"{run}", "--windows", "20"]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert cli.main(argv) == 0, out.getvalue()
        printed.append(out.getvalue())
    return run, printed


def test_the_closing_block_sets_classical_generators_beside_the_winner(searched):
    run, (text, *_) = searched
    summary = json.loads((run / "summary.json").read_text())
    best, beside = summary["best"]["metrics"], summary["generators"]
    assert set(beside) == {"Gaussian", "autoregression"} and summary["objective"] == "generation"
    confirmed = summary["confirm"]["trials"][str(summary["best"]["number"])]
    for name, figures in beside.items():
        ends = f"{against(confirmed, figures['generation'], lower=True)} it over fresh seeds"
        row, = (line for line in text.splitlines() if line.startswith(f"  {name} "))
        assert row.endswith(f"generation score: the winner {ends}") and f"{figures['generation']:.4f}" in row
    assert "confirmed    generation over 2 fresh seeds" in text and "evaluations" in text
    assert {"val/generation/spectrum", "val/c2st", "val/copied", "val/flow", "val/behavior_r2"} <= set(best)


def test_the_sealed_blocks_judge_model_and_generators_alike(searched):
    run, (_, tested, *_) = searched
    opened, = json.loads((run / "test_receipt.json").read_text())
    assert opened["metric"] == "test/generation" and len(opened["winner"]["metrics"]["test/generation"]["values"]) == 2
    summary = json.loads((run / "summary.json").read_text())
    for name, figures in opened["baselines"]["generators"].items():
        assert np.isfinite(figures["generation"]) and figures["generation"] != summary["generators"][name]["generation"]
    assert all(line in tested for line in generators(opened)) and len(generators(opened)) == 2


def test_page_and_pictures_show_what_was_drawn(searched):
    run, _ = searched
    page = (run / "report.html").read_text()
    assert "Gaussian" in page and "generation score" in page
    opened, = json.loads((run / "test_receipt.json").read_text())
    assert all(f"There {line}." in page for line in generators(opened))
    for name in ("traces", "spectra", "correlations"):
        assert (run / "figures" / f"generated-{name}.png").stat().st_size > 5000
    assert "What the winner makes" in page and "Correlations between neurons" in page


def test_the_winner_draws(searched):
    run, _ = searched
    with np.load(run / "generated.npz") as found:
        np.testing.assert_array_equal(found["windows"], raycal.load(run).generate(20))
