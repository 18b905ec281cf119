from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

from raycal import cli
from raycal.errors import UserError
from raycal.sessions import best, catalogue
from raycal.sessions.readers import read

pytestmark = [pytest.mark.allen, pytest.mark.skipif(
    importlib.util.find_spec("allensdk") is None or sys.version_info >= (3, 12),
    reason="AllenSDK is not installed: Allen's catalogue was not tested")]
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens
# Ids that AllenSDK's own table joins to sessions with eye tracking: experiment -> session.
A, B, C, RORB, FAILED = 617388117, 675062364, 638056634, 675477919, 676024958
SESSIONS = {A: 617204394, C: 637886705, RORB: 675094980}


@pytest.fixture
def server(allen_server):
    """Two containers that stand and one that failed; the first has other cells in each of its sessions."""
    for id, kind in ((A, "three_session_A"), (B, "three_session_B"), (C, "three_session_C2")):
        allen_server.add(id, 1, kind)
    allen_server.add(RORB, 2, "three_session_A", area="VISl", cre="Rorb-IRES2-Cre", depth=275)
    allen_server.add(FAILED, 3, "three_session_A", area="VISpm", failed=True)
    allen_server.add_cells(1, a=120, b=90, c=130)
    allen_server.add_cells(2, a=60)
    allen_server.add_cells(3, a=200)
    allen_server.eye_sessions += SESSIONS.values()
    return allen_server


def ids(**conditions):
    return [e.id for e in catalogue.experiments(**conditions)]


def test_experiments_come_with_the_cells_of_their_own_session(server):
    found = {e.id: e for e in catalogue.experiments()}
    assert {id: e.cells for id, e in found.items()} == {C: 130, A: 120, B: 90, RORB: 60}  # in this order
    assert list(found) == [C, A, B, RORB] and [e.eye_tracking for e in found.values()] == [True, True, False, True]
    assert found[RORB] == catalogue.Experiment(RORB, 2, "VISl", "Rorb-IRES2-Cre", 275, "three_session_A", 60, "2", 104,
                                               True)


def test_cells_are_the_containers_where_the_session_is_not_told(server):
    server.cells.clear()
    server.add_cells(1, a=120)
    assert {e.id: e.cells for e in catalogue.experiments()} == {A: 120, B: 120, C: 120, RORB: 0}


def test_the_command_line_lists_what_fits_and_says_what_to_run(server, capsys):
    assert cli.main(["sessions", "allen", "--area", "VISp", "--min-cells", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["id", str(C), str(A), "next"]
    assert lines[-1].endswith(f"--sessions allen:{C},{A}")
    assert cli.main(["sessions", "allen", "--min-cells", "1000"]) == 1
    assert "no session of Allen's fits" in capsys.readouterr().out
    assert cli.main(["sessions", "allen", "--area", "VISx"]) == 2


def test_lists_longer_than_a_page_are_fetched_whole(server):
    server.add_cells(2, a=4100)
    assert catalogue.experiments()[0].cells == 4160


@pytest.mark.parametrize("conditions, expected", [
    ({"area": "visl"}, [RORB]), ({"cre": "cux2"}, [C, A, B]), ({"cre": "Cux2-CreERT2"}, [C, A, B]),
    ({"depth": "175"}, [C, A, B]), ({"depth": "200:"}, [RORB]), ({"depth": ":275"}, [C, A, B, RORB]),
    ({"depth": "176:274"}, []), ({"min_cells": 100}, [C, A]), ({"stimulus": "drifting_gratings"}, [A, RORB]),
    ({"stimulus": "locally_sparse_noise_8deg"}, [C]), ({"stimulus": "three_session_B"}, [B]),
    ({"area": "VISp", "stimulus": "natural_movie_one", "min_cells": 130}, [C])])
def test_conditions_are_all_met(server, conditions, expected):
    assert ids(**conditions) == expected


@pytest.mark.parametrize("conditions, message", [
    ({"area": "VISpp"}, r"area 'VISpp'.*did you mean 'VISp'\? \(it has VISl, VISp\)"),
    ({"area": "VISpm"}, "area 'VISpm'"),  # its only container failed
    ({"cre": "Cuz2-CreERT2"}, "cre 'Cuz2-CreERT2'.*did you mean 'Cux2-CreERT2'"),
    ({"stimulus": "drifting_grating"}, "stimulus 'drifting_grating'.*did you mean 'drifting_gratings'"),
    ({"depth": "deep"}, "depth 'deep'.*175 or 150:300"), ({"depth": "300:200"}, "depth '300:200'")])
def test_unknown_names_are_refused_with_the_nearest(server, conditions, message):
    with pytest.raises(UserError, match=message):
        catalogue.experiments(**conditions)


def test_a_filled_cache_needs_no_network(server, monkeypatch):
    online = catalogue.experiments()
    monkeypatch.setenv("RAYCAL_ALLEN_API", NOBODY)
    assert catalogue.experiments() == online


def test_without_the_list_of_eye_tracking_no_experiment_counts_as_tracked(server, tmp_path, monkeypatch):
    catalogue.experiments()
    (tmp_path / "cache" / "eye_mapping_files.json").unlink()
    monkeypatch.setenv("RAYCAL_ALLEN_API", NOBODY)
    assert not any(e.eye_tracking for e in catalogue.experiments())


def test_no_network_and_no_cache_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCAL_ALLEN_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="allen:catalogue: .*refused.*check the network.*RAYCAL_ALLEN_CACHE"):
        catalogue.experiments(base_uri=NOBODY)


@pytest.mark.parametrize("text", ["[{", "{}", '[{"id": 1}]', ""])
def test_a_damaged_list_is_said(server, tmp_path, text):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "ophys_experiments.json").write_text(text)
    with pytest.raises(UserError, match="allen:catalogue: Allen's lists cannot be used .*delete the .json files in"):
        catalogue.experiments()


def test_the_table_is_aligned_under_its_titles(server):
    lines = catalogue.table(catalogue.experiments()).splitlines()
    assert lines[0].split() == ["id", "container", "area", "cre", "depth", "session", "type", "cells", "donor", "age",
                                "eye", "tracking"]
    assert lines[1].split()[:7] == [str(C), "1", "VISp", "Cux2-CreERT2", "175", "three_session_C2", "130"]
    assert lines[1].split()[7:] == ["1", "104", "yes"]
    assert {line.index("VIS") for line in lines[1:]} == {lines[0].index("area")}
    assert catalogue.table([]).split() == lines[0].split()


RUN = "processing/brain_observatory_pipeline/BehavioralTimeSeries/running_speed/data"


@pytest.fixture
def animals(server, write_allen, tmp_path):
    """Give the experiments files: the animal of C stood still, that of A ran in 5 % of the frames."""
    for seed, (id, running) in enumerate({C: 14, A: 15, B: 295, RORB: 295}.items()):
        speed = np.where(np.arange(295) < running, 2.0, 1.0).astype(np.float32)
        dff = np.random.default_rng(seed).normal(size=(6, 300))
        path = write_allen(tmp_path / f"{id}.nwb", {RUN: speed, "general/session_id": str(id), "processing/"
                           "brain_observatory_pipeline/DfOverF/imaging_plane_1/data": dff})
        server.files[f"/api/v2/well_known_file_download/{id}"] = path.read_bytes()
    return server


def test_the_best_are_tracked_large_and_of_running_animals(animals, capsys, monkeypatch):
    chosen = [s.id for s in read("allen:best3")]
    assert chosen == [str(A), str(RORB), str(B)]  # B has more cells than RORB, but no eye tracking
    said = capsys.readouterr().out.splitlines()
    assert "most cells" in said[0] and "1 cm/s in 5% of the frames" in said[0]
    assert f"{C}  VISp Cux2-CreERT2 175 um, 130 cells: passed over, ran in 5% of the frames" in said[1]
    assert f"{A}  VISp Cux2-CreERT2 175 um, 120 cells: ran in 5% of the frames" in said[2]
    monkeypatch.setenv("RAYCAL_ALLEN_API", NOBODY)
    assert [s.id for s in read("allen:best3")] == chosen, "the choice holds without a network"


def test_no_more_are_fetched_than_needed(animals):
    assert [s.id for s in read("allen:best1")] == [str(A)]
    assert sum("download" in url and command == "GET" for command, url, _ in animals.asked) == 2


def test_sessions_that_cannot_be_read_or_do_not_exist_are_passed_over(animals):
    del animals.files[f"/api/v2/well_known_file_download/{A}"]
    animals.files[f"/api/v2/well_known_file_download/{RORB}"] = b"no NWB"
    said = []
    assert [p.stem for p in best.files("best1", say=said.append)] == [str(B)]
    assert "Allen has no file of it" in said[2] and "unknown format" in said[3]


def test_too_few_runners_are_said(animals):
    with pytest.raises(UserError, match="allen:best4: 3 of the 4 sessions looked at can be taken; ask for fewer"):
        read("allen:best4")


@pytest.mark.parametrize("bad", ["best0", "best", "best-1", "best1000", "worst3"])
def test_the_count_is_a_whole_number(bad):
    with pytest.raises(UserError, match=f"allen:{bad}: give an ophys experiment id.*allen:best3"):
        read(f"allen:{bad}")


def test_the_cache_is_one_that_allensdk_reads(animals, tmp_path):
    from allensdk.core.brain_observatory_cache import BrainObservatoryCache

    read(f"allen:{A}")
    catalogue.experiments()
    sdk = BrainObservatoryCache(manifest_file=str(tmp_path / "cache" / "manifest.json"), base_uri=animals.address)
    assert sdk.get_ophys_experiment_data(A).get_metadata()["ophys_experiment_id"] == A
    assert len(sdk.get_ophys_experiments()) == 4
    assert len(json.loads((tmp_path / "cache" / "cell_specimens.json").read_text())) == 390
