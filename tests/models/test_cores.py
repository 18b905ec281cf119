"""The DiT and the U-Net between which a search chooses: what both promise, and what each is."""
import pytest
import torch

from raycal.errors import UserError
from raycal.models import dit, unet
from raycal.models.dit import DiT
from raycal.models.unet import UNet

CORES = {"dit": lambda **k: DiT(16, depth=2, heads=2, embedding=8, **k),
         "dit of patches": lambda **k: DiT(16, depth=2, heads=2, patch=4, embedding=8, **k),
         "unet": lambda **k: UNet(16, (1, 2, 2), blocks=1, heads=2, embedding=8, **k),
         "unet without attention": lambda **k: UNet(8, (1, 2), blocks=2, heads=0, embedding=8, **k),
         "one level": lambda **k: UNet(8, (1,), blocks=1, heads=2, embedding=8, **k)}


def width(core):
    return (core.patches if isinstance(core, DiT) else core.down[0][0].first[2]).in_channels


def awake(core):
    """Return the core with every weight drawn: what begins at 0 would hide the rest."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return core


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("length", [4, 5, 13, 16, 64])
def test_any_window_of_at_least_one_step_comes_back_as_long(name, length):
    core = awake(CORES[name]())
    x, embedding = torch.randn(3, width(core), length), torch.randn(3, 8)
    out = core(x, embedding)
    assert out.shape == x.shape and bool(out.isfinite().all())


@pytest.mark.parametrize("name", [n for n in CORES if n not in ("dit", "one level")])
def test_shorter_windows_are_refused(name):
    core = CORES[name]()
    short = core.downsample - 1
    with pytest.raises(UserError, match=f"windows.length={short} is shorter than the {core.downsample} frames"):
        core(torch.randn(1, width(core), short), torch.randn(1, 8))


@pytest.mark.parametrize("name", CORES)
def test_windows_do_not_see_each_other_and_all_see_their_own_embedding(name):
    core = awake(CORES[name]()).eval()
    x, embedding = torch.randn(3, width(core), 16), torch.randn(3, 8)
    out = core(x, embedding)
    torch.testing.assert_close(core(x[1:2], embedding[1:2]), out[1:2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(core(x, embedding.flip(0))[0], out[0], atol=1e-3)


@pytest.mark.parametrize("name", CORES)
def test_checkpointing_changes_no_gradient_and_computes_the_blocks_twice(name):
    grads, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        core, count = awake(CORES[name](checkpointing=checkpointing)), [0]
        kinds = (dit.Block, unet.Block, unet.AttentionBlock)
        blocks = [m for m in core.modules() if isinstance(m, kinds)]
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, width(core), 16, generator=generator, requires_grad=True)
        core(x, torch.randn(2, 8, generator=generator)).square().sum().backward()
        grads.append([x.grad, *(p.grad for p in core.parameters())])
        calls.append((count[0], len(blocks)))
    for a, b in zip(*grads):
        assert torch.equal(a, b)
    assert calls[0][0] == calls[0][1] and calls[1][0] == 2 * calls[1][1]


@pytest.mark.parametrize("name", CORES)
def test_every_weight_is_used(name):
    core = awake(CORES[name]())
    core(torch.randn(2, width(core), 16), torch.randn(2, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in core.parameters())


def test_new_blocks_are_the_identity():
    x, embedding = torch.randn(2, 16, 8), torch.randn(2, 8)
    assert torch.equal(dit.Block(16, 2, 8, 0.0)(x.mT, embedding), x.mT)
    assert torch.equal(unet.Block(16, 16, 8, 0.0)(x, embedding), x)
    assert torch.equal(unet.AttentionBlock(16, 2)(x, embedding), x)


def test_a_dit_sees_the_whole_window_and_a_unet_its_neighbourhood_and_beyond():
    for core in (awake(CORES["dit"]()), awake(CORES["unet"]())):
        x = torch.randn(1, 16, 64, requires_grad=True)
        core(x, torch.randn(1, 8))[0, :, 0].sum().backward()
        assert bool((x.grad[0].abs().sum(0) > 0).all())
