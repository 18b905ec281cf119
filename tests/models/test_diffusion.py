from __future__ import annotations

import pytest
import torch

from raycal import models
from raycal.config import Config
from raycal.errors import UserError
from raycal.models.diffusion import drawing
from raycal.models.dit import DiT
from raycal.models.flow.paths import Cosine
from raycal.models.flow.priors import HeavyTailed, Mixed
from raycal.models.flow.times import Mode
from raycal.models.flow.weights import Learned
from raycal.models.traceflow import Drawing
from raycal.models.unet import UNet

SMALL = Config().replace({"model.family": "diffusion", "search.objective": "generation", "model.width": 16,
                          "model.downsample": 1, "windows.length": 16})


def build(n_behaviors=1, **changes):
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    return models.build(SMALL.replace(changes), [5, 7], n_behaviors)


def test_settings_become_the_parts_they_name():
    flow = build(diffusion__path="cosine", diffusion__target="v", diffusion__times="mode", diffusion__prior="mixed",
                 diffusion__share=0.25, diffusion__weighting="learned", diffusion__guidance_dropout=0.7)
    objective = flow.objective
    assert (objective.process.path, objective.process.target) == (Cosine(), "v")
    assert (objective.times, objective.prior, flow.guidance_dropout) == (Mode(), Mixed(0.25), 0.7)
    assert isinstance(objective.weight, Learned)
    assert build(diffusion__prior="heavy_tailed", diffusion__freedom=5).objective.prior == HeavyTailed(5)


@pytest.mark.parametrize("downsample, halvings", [(1, 0), (2, 1), (4, 2), (8, 3)])
def test_a_step_of_the_network_is_as_many_frames_as_set(downsample, halvings):
    unet, dit = (build(diffusion__core=core, model__downsample=downsample).network.core for core in ("unet", "dit"))
    assert isinstance(unet, UNet) and len(unet.halve) == halvings and unet.downsample == downsample
    assert isinstance(dit, DiT) and dit.downsample == downsample


def test_depth_heads_and_base_are_as_set():
    flow = build(diffusion__core="dit", diffusion__depth=3, diffusion__heads=2)
    assert len(flow.network.core.blocks) == 3 and flow.network.core.blocks[0].attention.heads == 2
    assert flow.network.base is not None and build(diffusion__base=0).network.base is None
    assert len(build(diffusion__heads=0).network.core.middle) == 1


def test_sessions_of_one_read_in_share_it():
    assert len(build(sessions__mode="pad").network.read_in.maps) == 1 < len(build().network.read_in.maps)


def test_windows_of_every_session_are_drawn_as_configured():
    config = SMALL.replace({"diffusion.sampler": "euler", "diffusion.evaluations": 3, "diffusion.guidance": 1.5})
    assert drawing(config) == Drawing("euler", 3, 1.5)
    flow = models.build(config, [5, 7], 1)
    assert [flow.draw(2, 16, s, torch.zeros(2, 1, 16), drawing(config)).shape for s in (0, 1)] == [(2, 5, 16), (2, 7, 16)]


def test_a_model_has_a_size_before_it_is_made():
    with torch.device("meta"):
        meta = models.build(SMALL, [5, 7], 1)
    weights = build().state_dict()
    assert {k: v.shape for k, v in meta.state_dict().items()} == {k: v.shape for k, v in weights.items()}


@pytest.mark.parametrize("changes, words", [
    ({"model.linear": 1}, "model.linear=1.*diffusion.base=1"), ({"search.rate_limit": 3.0}, "rate_limit=3.*no codes"),
    ({"sessions.normalize": "none"}, "sessions.normalize=none.*zscore"),
    ({"diffusion.core": "dit", "diffusion.heads": 0}, "diffusion.heads=0.*transformer is attention"),
    ({"model.width": 20}, "model.width=20 with diffusion.heads=4.*such as 16"),
    ({"windows.length": 4, "model.downsample": 8}, "windows.length=4 is shorter than the 8 frames of one step")])
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        SMALL.replace(changes)


def test_guidance_takes_behaviour():
    with pytest.raises(UserError, match="diffusion.guidance=2: no behaviour is in every session"):
        build(n_behaviors=0, diffusion__guidance=2.0)
    assert build(n_behaviors=0).network.behavior is None
