from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from raycal import cli
from raycal.config import Config
from raycal.errors import UserError
from raycal.inference import load
from raycal.report import traversals
from raycal.traversal import VALUES, traverse


@pytest.fixture(scope="module")
def trained(vae):
    return load(vae[0])


def changed(trained, kl=None, **latents):
    """The same model, whose latents were measured to be otherwise."""
    arrays = {**trained.arrays, "latents": {**trained.arrays["latents"], **latents}}
    return dataclasses.replace(trained, arrays=arrays if kl is None else {**arrays, "kl": kl})


def test_one_latent_goes_and_all_else_is_held_at_its_mean(trained):
    found = traverse(changed(trained, moved=np.ones(5)), 3)
    assert found.latents.shape == (3,) and [s.traces.shape for s in found.sessions] == [(3, 13, 12), (3, 13, 9)]
    told = trained.data["sessions"][1]["behavior_center"].numpy()[None]
    for row, k in enumerate(found.latents):
        for v, away in ((0, -3.0), (6, 0.0), (9, 1.5)):
            z = found.mean.copy()
            z[k] += away * found.sd[k]
            np.testing.assert_allclose(found.sessions[1].traces[row, v], trained.decode(z[None], "s9", told)[0],
                                       rtol=1e-5)
    middle = found.sessions[0].traces[:, len(VALUES) // 2]
    np.testing.assert_allclose(middle, np.broadcast_to(middle[0], middle.shape), rtol=1e-6)


def test_the_most_active_come_first_and_what_does_not_move_not_at_all(trained):
    kl, moved = np.array([0.1, 0.5, 0.3, 2.0, 0.2]), np.array([1.0, 1.0, 0.02, 0.001, 1.0])
    found = traverse(changed(trained, kl=kl, moved=moved))
    assert found.latents.tolist() == [1, 2, 4, 0] and found.kl.tolist() == [0.5, 0.3, 0.2, 0.1]
    assert found.names == ("latent 1", "latent 2", "window latent 1", "latent 0")
    assert traverse(changed(trained, kl=kl, moved=moved), 2).latents.tolist() == [1, 2]


def test_neurons_that_the_model_does_not_see_are_nan(trained):
    entry = {**trained.data["sessions"][0], "n_neurons": 13, "kept": [*range(4), *range(5, 13)]}
    wider = dataclasses.replace(trained, data={**trained.data, "sessions": [entry, trained.data["sessions"][1]]})
    session = traverse(changed(wider, moved=np.ones(5))).sessions[0]
    assert np.isnan(session.traces[..., 4]).all() and np.isfinite(np.delete(session.traces, 4, axis=2)).all()
    assert np.isnan(session.sd[4]) and len(session.labels) == 13
    for figure in traversals.draw(traverse(changed(wider, moved=np.ones(5))), VALUES).values():
        assert len(figure.axes) == 5


def test_the_command_leaves_pictures_and_arrays_and_says_where(vae, tmp_path, capsys):
    shutil.copytree(vae[0], tmp_path / "run" / "best")
    assert cli.main(["traverse", str(tmp_path / "run"), "--latents", "2"]) == 0
    said, folder = capsys.readouterr().out, tmp_path / "run" / "figures"
    assert f"arrays       {folder}/traverse.npz" in said
    assert said.splitlines()[-1] == f"next         tensorboard --logdir {folder}"
    with np.load(folder / "traverse.npz") as f:
        names, found = f["names"].tolist(), {k: f[k].shape for k in f}
        assert np.array_equal(f["values"], VALUES) and f["sessions"].tolist() == ["s12", "s9"]
    assert found["traces_0"] == (2, 13, 12) and found["traces_1"] == (2, 13, 9) and found["sd"] == (5,)
    assert sorted(p.stem for p in folder.glob("*.png")) == sorted(f"traverse-{n.replace(' ', '-')}" for n in names)


def test_a_collapsed_posterior_is_said(trained):
    with pytest.raises(UserError, match=r"no latent of this model moves .*collapsed; train with a lower kl.weight"):
        traverse(changed(trained, moved=np.zeros(5)))


def test_models_without_latents_are_refused(trained):
    with pytest.raises(UserError, match="older raycal wrote this model"):
        traverse(dataclasses.replace(trained, arrays={}))
    with pytest.raises(UserError, match="a vqvae gives codes, no latents to go along; give a run of --space vae"):
        traverse(dataclasses.replace(trained, config=Config()))


def test_no_model_is_said(tmp_path, capsys):
    assert cli.main(["traverse", str(tmp_path)]) == 2
    assert "holds no model.pt" in capsys.readouterr().err
