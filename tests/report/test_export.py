from __future__ import annotations

import csv
import io
import json

import pytest

from raycal.cli import main
from raycal.errors import UserError
from raycal.report.export import export


@pytest.fixture
def run(made):
    return made(trials=12).confirm().test().read()


def test_csv_ranks_complete_trials_alone_and_holds_confirmed_and_tested_figures(run):
    table = list(csv.DictReader(io.StringIO(export(run, "csv"))))
    ranked = [r for r in table if r["rank"]]
    assert [float(r["nmse"]) for r in ranked] == sorted(float(r["nmse"]) for r in ranked) and len(ranked) == 9
    assert {r["state"] for r in ranked} == {"complete"} and {r["state"] for r in table[9:]} == {"pruned"}
    assert all(not r["nmse"] for r in table[9:])
    by_number = {int(r["trial"]): r for r in table}
    winner, default = by_number[run.winner.number], by_number[0]
    assert float(winner["confirmed_mean"]) == pytest.approx(run.confirmed(run.winner)["mean"], rel=1e-5)
    assert float(winner["tested_mean"]) == pytest.approx(0.36) and float(default["tested_mean"]) == pytest.approx(0.46)
    assert sum(bool(r["tested_mean"]) for r in table) == 2


def test_json_holds_the_whole_record(run):
    held = json.loads(export(run, "json"))
    assert held["confirm"]["winner"] == str(run.winner.number) and len(held["test"]) == 1 and len(held["table"]) == 12
    assert held["best"]["number"] == min(run.complete, key=lambda t: t.values[0]).number


def test_markdown_and_latex_are_tables_of_equal_columns(run):
    lines = [line for line in export(run, "markdown").splitlines() if line.startswith("|")]
    widths = [line.count("|") for line in lines]
    assert widths[0] == widths[1] == 5 and len(set(widths)) == 2
    latex = export(run, "latex")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 2
    assert r"best\_epoch" in latex and "_" not in latex.replace(r"\_", "")


def test_another_format_is_refused_with_the_nearest(run):
    with pytest.raises(UserError, match="did you mean 'markdown'"):
        export(run, "markdwn")


def test_the_command_prints_or_writes(run, capsys, tmp_path):
    assert main(["export", str(run.path), "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    assert main(["export", str(run.path), "--format", "csv", "--out", str(tmp_path / "t.csv")]) == 0
    assert (tmp_path / "t.csv").read_text() == printed and printed.startswith("rank,trial,state,nmse")
    assert main(["export", str(tmp_path / "nowhere")]) == 2
    assert "no run there" in capsys.readouterr().err
