from __future__ import annotations

import numpy as np
import pytest
import torch

from raycal.config import Config
from raycal.errors import UserError
from raycal.sessions.prepare import prepare
from raycal.sessions.session import Session
from raycal.sessions.simulate import simulate
from raycal.training import checkpoint, kl
from raycal.training.loop import Epoch, train


@pytest.fixture(scope="module")
def settings():
    return Config().replace({"model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2",
                             "model.width": 16, "windows.length": 16, "windows.min_steps": 2, "windows.batch": 8,
                             "windows.stride": 64, "vae.latents": 3, "vae.identity": 8, "training.epochs": 4,
                             "training.device": "cpu", "model.dropout": 0.1})


@pytest.fixture(scope="module")
def dataset():
    recordings = [simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n, id=f"s{n}").session for n in (12, 9)]
    return prepare(recordings, Config().sessions, 16, log=lambda _: None)


def untimed(epoch: Epoch):
    return {k: v for k, v in epoch.metrics.items() if k != "seconds"}


@pytest.mark.parametrize("schedule", [*kl.SHAPES, "target"])
def test_a_resumed_run_goes_on_exactly_its_kl_weight_included(schedule, settings, dataset):
    """In the middle of a warm-up or a cycle as at its turn; the weight differs before and after, but for constant."""
    config = settings.replace({"kl.schedule": schedule, "kl.warmup": 0.7, "kl.cycles": 2, "kl.target": 3.0,
                               "optimizer.schedule": "plateau"})
    states: list = []
    whole = [untimed(e) for e in train(config, dataset, save=states.append)]
    weights = [m["train/kl_weight"] for m in whole]
    assert len(set(weights)) > 1 or (schedule, set(weights)) == ("constant", {config.kl.weight})
    last: list = []
    assert [untimed(e) for e in train(config, dataset, resume=states[1], save=last.append)] == whole[2:]
    assert all(torch.equal(v, last[-1]["model"][k]) for k, v in states[-1]["model"].items())


def test_the_kl_of_every_latent_is_kept_epoch_by_epoch_and_across_a_resumption(settings, dataset):
    states: list = []
    epochs = list(train(settings, dataset, save=states.append))
    kl = states[-1]["kl"]
    assert kl.shape == (4, 3) and [s["kl"].shape for s in states] == [(e, 3) for e in (1, 2, 3, 4)]
    assert kl.sum(1).tolist() == pytest.approx([e.metrics["val/rate"] for e in epochs], rel=1e-5)
    last: list = []
    list(train(settings, dataset, resume=states[1], save=last.append))
    assert torch.equal(last[-1]["kl"], kl)
    exported = checkpoint.export(states[-1])["arrays"]
    assert torch.equal(exported["kl_by_epoch"], kl)
    assert torch.allclose(exported["kl"], kl[states[-1]["best"]["epoch"] - 1])
    older = {k: v for k, v in states[1].items() if k != "kl"}
    list(train(settings, dataset, resume=older, save=last.append))
    assert last[-1]["kl"][:2].isnan().all() and torch.equal(last[-1]["kl"][2:], kl[2:])


def test_the_state_and_the_export_are_no_larger_than_said(settings, dataset, tmp_path):
    config, files = settings.replace({"training.epochs": 2, "vae.latents": 64}), {}
    list(train(config, dataset, save=files.update))
    bounds = checkpoint.size(config, dataset.n_neurons, len(dataset.behavior_names))
    for bound, tree in zip(bounds, (files, checkpoint.export(files))):
        checkpoint.save(tmp_path / "file", tree)
        assert (tmp_path / "file").stat().st_size <= bound


def test_the_weight_of_each_step_is_the_schedule_at_that_step(settings, dataset):
    config = settings.replace({"kl.schedule": "linear", "kl.weight": 2.0, "kl.warmup": 0.5})
    found = [e.metrics["train/kl_weight"] for e in train(config, dataset)]
    at = [[2.0 * min(1.0, (s / 7) / 0.5) for s in (2 * e, 2 * e + 1)] for e in range(4)]  # 8 steps, 2 an epoch
    assert found == pytest.approx([sum(pair) / 2 for pair in at])


def test_the_objective_does_not_hold_what_the_loss_weighs(settings, dataset):
    """At a learning rate of nothing, every weight and loss gives the same co-smoothing R2."""
    frozen = settings.replace({"optimizer.lr": 1e-8, "training.epochs": 1, "optimizer.weight_decay": 0.0})
    values = [next(train(frozen.replace(change), dataset)).objective for change in (
        {}, {"kl.weight": 100.0, "kl.schedule": "constant"}, {"kl.free_bits": 5.0}, {"vae.reconstruction": "huber"},
        {"vae.masking": 0.9}, {"vae.behavior_dropout": 1.0})]
    assert values == pytest.approx([values[0]] * len(values), abs=1e-4)


def made(**changed):
    session = simulate(n_neurons=6, n_frames=1500, rate=5.0, seed=1).session
    return Session.build(**{"id": "s", "traces": session.traces, "rate": 5.0, **changed}), session


def test_counts_below_0_are_refused(settings):
    session, _ = made()
    config = settings.replace({"sessions.normalize": "none", "vae.reconstruction": "poisson"})
    prepared = prepare([Session.build(id="s", traces=session.traces - 5.0, rate=5.0)], config.sessions, 16)
    with pytest.raises(UserError, match="vae.reconstruction=poisson: session s has traces down to -"):
        next(train(config, prepared))


def test_a_neuron_that_is_masked_throughout_is_left_out_and_said(settings):
    session, _ = made()
    valid = np.ones(session.traces.shape, bool)
    valid[:, 2] = False
    said: list[str] = []
    prepared = prepare([made(valid=valid)[0]], settings.sessions, 16, log=said.append)
    assert prepared.n_neurons == (5,) and any("left out: 2" in line for line in said)
    assert next(train(settings, prepared)).objective < 1.0


def test_masks_that_leave_nothing_are_refused(settings):
    session, _ = made()
    with pytest.raises(UserError, match="session s: 0 of 6 neurons left"):
        prepare([made(valid=np.zeros(session.traces.shape, bool))[0]], settings.sessions, 16)


def test_conditions_that_are_not_there_are_refused(settings):
    prepared = prepare([made()[0]], settings.sessions, 16)
    with pytest.raises(UserError, match="vae.condition=always: no behaviour is in every session"):
        next(train(settings.replace({"vae.condition": "always"}), prepared))


@pytest.mark.parametrize("running", [np.nan, 2.0])
def test_conditions_that_say_nothing_are_refused(running, settings):
    session, behavior = made()[1], made()[1].behavior.copy()
    behavior[:, session.behavior_names.index("running")] = running
    prepared = prepare([made(behavior=behavior, behavior_names=session.behavior_names)[0]], settings.sessions, 16)
    with pytest.raises(UserError, match=r"session s: running: constant or not .*--set sessions.behavior=\[stimulus\]"):
        next(train(settings.replace({"vae.condition": "always"}), prepared))
    assert next(train(settings, prepared)).objective < 1.0  # observed: as far as it is there
