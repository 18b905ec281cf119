from __future__ import annotations

import numpy as np
import pytest

from raycal.report import latent_sections, page
from raycal.report.latent_sections import costs, costs_by_epoch, predicted


def kinds(blocks):
    return [b.kind for b in blocks]


def test_what_latents_cost_is_said_and_drawn(made_latents):
    run = made_latents().read()
    said, one, all_epochs, text, command = latent_sections.latents(run)
    assert "3 of 5 latents of trial 7 are active" in said.text and "2.0000 nats for all latents" in said.text
    assert "ELBO at weight 1 is -20" in said.text
    assert len(one.figure.data[0].y) == 5 and one.figure.data[0].y[0] == max(one.figure.data[0].y)
    assert kinds((all_epochs, text, command)) == ["plot", "text", "code"] and run.place in command.text


def test_what_a_search_and_a_traversal_drew_is_shown(made_latents):
    one = made_latents()
    (one.path / "figures").mkdir()
    for name in ("trajectories", "traverse-latent-1", "traverse-window-latent-0", "kl-by-epoch"):
        (one.path / "figures" / f"{name}.png").write_bytes(b"\x89PNG")
    *_, course, traversed = latent_sections.latents(one.read())
    assert course.title.startswith("Course of the latents")
    assert [p.title for p in traversed.blocks] == ["Latent 1", "Window latent 0"]


def test_hidden_neurons_are_shown_with_what_they_come_to(made_latents):
    run = made_latents().read()
    said, picture, plot, folded = latent_sections.hidden(run)
    scores = np.concatenate([np.asarray(r2) for r2 in run.arrays(run.winner)["hidden"]["r2"]])
    assert f"Of 21 neurons {int((scores > 0).sum())} are" in said.text and f"is {np.median(scores):.2f}" in said.text
    assert picture.png.startswith(b"\x89PNG") and "of s12 at epoch 2" in picture.title
    assert [row[:2] for row in folded.blocks[0].rows] == [("s12", "12"), ("s9", "9")]
    assert [len(t.x) for t in plot.figure.data] == [12, 9]


def test_runs_of_codes_have_neither_and_runs_of_latents_no_codebooks(made, made_latents):
    codes, of_frames = made(trials=4).read(), made_latents().read()
    assert (codes.gives, of_frames.gives) == ("codes", "latents")
    ids = [{s.id for s in page.shown(runs)} for runs in ([codes], [of_frames], [codes, of_frames])]
    assert not {"latents", "hidden"} & ids[0] and {"usage", "rate"} <= ids[0]
    assert {"latents", "hidden"} <= ids[1] and not {"usage", "rate"} & ids[1]
    assert ids[2] == ids[0] | ids[1]
    for section in (latent_sections.latents, latent_sections.hidden):
        assert "has no latents of frames" in section(codes)[0].text


def test_latents_stand_from_the_most_costly_and_holes_part_the_others():
    kl = np.array([[1.0, 9.0, 0.0, 2.0, 3.0, 4.0], [0.5, 0.1, 0.2, 0.3, 0.4, 0.0]])
    names = [f"latent {k}" for k in range(6)]
    assert costs(kl[1], names).data[0].text == ("latent 0", "latent 4", "latent 3", "latent 2", "latent 1", "latent 5")
    drawn = {t.name: t for t in costs_by_epoch(kl, names, 2).data}
    assert list(drawn) == ["others", "latent 0", "latent 4", "latent 3", "latent 2"]
    assert list(drawn["others"].y) == [9.0, 0.1, None, 4.0, 0.0, None]
    assert list(drawn["latent 3"].y) == [2.0, 0.3]
    assert len(costs_by_epoch(kl[:, :2], names, 2).data) == 2


def test_neurons_stand_from_the_best_predicted_and_what_is_far_below_is_drawn_at_the_edge():
    drawn = predicted([np.array([0.2, np.nan, -30.0, 0.8])], ["<b>mouse"]).data[0]
    assert list(drawn.y) == [0.8, 0.2, -1.0] and list(drawn.customdata) == [0.8, 0.2, -30.0]
    assert drawn.x[0] == pytest.approx(100 / 6) and drawn.name == "&lt;b&gt;mouse"


def test_a_run_without_a_winner_or_a_kept_model_says_so(made_latents):
    one = made_latents()
    one.folder.trial(one.best).joinpath("model.pt").unlink()
    assert "its checkpoint was not kept" in latent_sections.hidden(one.read())[0].text
