from __future__ import annotations

import numpy as np
import pytest
import torch

import raycal
from raycal import api, models
from raycal.config import Config
from raycal.errors import UserError
from raycal.models.latentflow import LatentFlow
from raycal.search import space as spaces
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate
from raycal.sessions.windows import Part
from raycal.training import checkpoint, first_stage, loop, start_diffusion

L = 16
COMMON = {"windows.length": L, "windows.min_steps": 4, "windows.batch": 16, "windows.stride": 64, "model.width": 16,
          "training.epochs": 2, "training.device": "cpu"}
STAGES = {"vae": {"model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2", "vae.latents": 3,
                  "vae.identity": 8},
          "vqvae": {"model.downsample": 2, "quantizer.codebook_size": 16, "quantizer.code_dim": 4,
                    "model.residual_blocks": 0}}


@pytest.fixture(scope="module")
def recordings():
    return [simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n, id=f"s{n}").session for n in (12, 9)]


@pytest.fixture(scope="module")
def dataset(recordings):
    return prepare(recordings, Config().sessions, L, log=lambda _: None)


@pytest.fixture(scope="module")
def stages(recordings, tmp_path_factory):
    """{family: folder of a trained one}."""
    folder = tmp_path_factory.mktemp("stages")
    for family, settings in STAGES.items():
        raycal.train(Config().replace({**COMMON, **settings}), recordings, out=str(folder / family))
    return {family: folder / family for family in STAGES}


def generative(folder, **changes):
    return Config().replace({
        **COMMON, "model.family": "diffusion", "search.objective": "generation", "model.downsample": 2,
        "diffusion.heads": 2, "diffusion.embedding": 16, "diffusion.evaluations": 4, "optimizer.ema": 0.9,
        "diffusion.first_stage": str(folder), **changes})


def made(config, dataset):
    torch.manual_seed(0)
    model = models.build(config, dataset.n_neurons, 2, dataset.neurons, first_stage.of(config))
    start_diffusion.start(model, dataset, config)
    return model.eval()


@pytest.mark.parametrize("family", STAGES)
def test_the_first_stage_is_the_model_that_was_trained(family, stages, dataset, recordings):
    """Encoded and decoded through it, traces are what that model itself makes of them."""
    model, trained = made(generative(stages[family]), dataset), raycal.load(stages[family])
    x = torch.from_numpy(dataset.recordings[1].traces[:5 * L].reshape(5, L, 9)).mT
    part = Part(1, x, torch.full((5, 2, L), torch.nan), None)
    with torch.no_grad():
        expected = trained.model([part])[0][0].reconstruction
        again = model.first.decode(model.first.encode(x, 1), 1, L)
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", STAGES)
def test_latents_of_the_train_part_have_mean_0_and_variance_1(family, stages, dataset):
    model = made(generative(stages[family]), dataset)
    assert isinstance(model, LatentFlow) and list(model.network.read_in.n_neurons) == [model.first.dim]
    z = []
    for session, recording in enumerate(dataset.recordings):
        windows = start_diffusion._windows(recording, L, generative(stages[family]))
        z.append(model.first.encode(windows, session).transpose(0, 1).flatten(1))
    z = torch.cat(z, 1)
    torch.testing.assert_close(z.mean(1), torch.zeros(len(z)), atol=1e-3, rtol=0)
    varying = z.std(1) > 0.5
    torch.testing.assert_close(z.std(1)[varying], torch.ones(int(varying.sum())), atol=1e-2, rtol=0)


@pytest.mark.parametrize("family", STAGES)
def test_a_generative_model_of_latents_trains_and_leaves_its_first_stage_as_it_was(family, stages, dataset, tmp_path):
    states: list = []
    epochs = list(loop.train(generative(stages[family]), dataset, save=states.append))
    assert all(np.isfinite(e.objective) for e in epochs)
    trained = checkpoint.load(stages[family] / "model.pt")["model"]
    for key, value in trained.items():
        assert torch.equal(states[-1]["model"][f"first.model.{key}"], value), key
    resumed = next(loop.train(generative(stages[family]), dataset, resume=states[0]))
    assert resumed.objective == epochs[1].objective
    checkpoint.save(tmp_path / "model.pt", checkpoint.export(states[-1]))
    (stages[family] / "model.pt").rename(stages[family] / "away.pt")  # a saved model needs no other file
    try:
        loaded = raycal.load(tmp_path)
        windows = loaded.generate(6, "s9")
    finally:
        (stages[family] / "away.pt").rename(stages[family] / "model.pt")
    assert windows.shape == (6, 9, L) and np.isfinite(windows).all()


def test_behaviour_is_told_as_means_over_the_steps_of_the_first_stage(stages, dataset):
    model = made(generative(stages["vqvae"]), dataset)
    behavior = torch.arange(L, dtype=torch.float32).repeat(1, 2, 1)
    behavior[0, 1, 0] = torch.nan
    steps = model._steps(behavior)
    assert steps.shape == (1, 2, L // 2) and steps[0, 0, 0] == 0.5 and steps[0, 1, 0] == 1.0


def test_a_first_stage_of_other_data_or_of_another_kind_is_refused(stages, dataset, recordings, tmp_path):
    other = prepare(recordings[:1], Config().sessions, L, log=lambda _: None)
    with pytest.raises(UserError, match=f"was trained on data and split {dataset.fingerprint}, these are"):
        next(loop.train(generative(stages["vae"]), other))
    with pytest.raises(UserError, match="trained with sessions.normalize=zscore, this is robust"):
        first_stage.check(generative(stages["vae"], **{"sessions.normalize": "robust"}), dataset.fingerprint)
    with pytest.raises(UserError, match="--first-stage .*gone: holds no model.pt"):
        next(loop.train(generative(tmp_path / "gone"), dataset))
    with pytest.raises(UserError, match="--first-stage .* with model.family=vae.*use --space diffusion"):
        Config().replace({**COMMON, **STAGES["vae"], "diffusion.first_stage": "x"})
    states: list = []
    next(loop.train(generative(stages["vae"]), dataset, save=states.append))
    checkpoint.save(tmp_path / "model.pt", checkpoint.export(states[-1]))
    with pytest.raises(UserError, match="is a diffusion model, which has no latents"):
        first_stage.check(generative(tmp_path), dataset.fingerprint)


def test_of_several_first_stages_the_search_takes_its_choice(stages):
    """VAEs of several KL weights, say; the first is the default's."""
    paths = [str(path) for path in stages.values()]
    space, config, _ = api.configure("diffusion", {"diffusion.first_stages": paths},
                                     {"diffusion.first_stage": paths[0]})
    assert config.diffusion.first_stage == paths[0]
    rng = np.random.default_rng(0)
    assert {space.draw(rng)[1].diffusion.first_stage for _ in range(20)} == set(paths)
    assert "diffusion.first_stage" not in spaces.load("diffusion").suggested(rng)
