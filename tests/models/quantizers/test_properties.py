"""What holds for every type of quantizer."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raycal.config import Config
from raycal.models import quantizers
from raycal.models.quantizers import laplace

OPTIONS = [{"type": kind, "levels": 2} for kind in quantizers.QUANTIZERS]
OPTIONS += [{"type": kind, "gradient": "rotation", "levels": 2} for kind in ("vq", "ema", "simvq", "rvq", "grvq")]
OPTIONS += [{"type": kind, "distance": "cosine"} for kind in ("vq", "ema", "simvq", "rvq", "grvq")]
every = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
CODEBOOKS = ("vq", "ema", "rvq", "grvq")  # those that revive


def build(seed=0, **values):
    torch.manual_seed(seed)
    values = {"codebook_size": 32, "code_dim": 8, "groups": 2, "levels": 1, "revive": 1.0, **values}
    settings = Config().replace({f"quantizer.{k}": v for k, v in values.items()}).quantizer
    return quantizers.build(settings).sized(20, 1)


def latents(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def books(model):
    return [m for m in model.modules() if hasattr(m, "counts")]


@every
@pytest.mark.parametrize("training", [True, False])
def test_lookup_gives_back_exactly_what_was_quantized(options, training):
    model = build(**{**options, "revive": 0.0, "decay": 0.9999})
    model(latents(3, 20, 8))
    model.train(training and model.codebook_sizes != ())  # without a codebook, training moves what it looks up by
    before = [b.codes.clone() for b in books(model)]
    out = model(latents(2, 9, 8, seed=2))
    for book, codes in zip(books(model), before):
        book.codes.data.copy_(codes)  # a training step moves the codes after it took them
    assert torch.equal(model.lookup(out.indices), out.quantized)
    if model.codebook_sizes:
        assert out.indices.amax((0, 1)).lt(torch.tensor(model.codebook_sizes)).all() and out.indices.min() >= 0


@every
def test_a_state_dict_restores_exactly_what_comes_next(options):
    one, two = build(**options), build(seed=5, **options)
    optimizers = []
    one(latents(2, 20, 8))
    two.load_state_dict(one.state_dict())
    for model in (one, two):
        optimizers.append(torch.optim.SGD([*model.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.01))
    for seed in range(4):
        outs = []
        for model, optimizer in zip((one, two), optimizers):
            z = latents(2, 20, 8, seed=seed).requires_grad_()
            out = model(z)
            (out.loss + out.quantized.square().mean()).backward()
            optimizer.step()
            outs.append((out.indices, out.quantized, out.loss, z.grad))
        assert all(torch.equal(a, b) for a, b in zip(*outs))
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


@every
def test_evaluation_changes_nothing(options):
    model = build(**options)
    model(latents(2, 20, 8))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()(latents(2, 20, 8, seed=2))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@every
def test_bf16_latents_are_quantized_in_float32(options):
    half, full = build(**options), build(**options)
    for seed in range(3):
        z = latents(2, 40, 8, seed=seed).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            a = half(z)
        b = full(z.float())
    assert a.quantized.dtype == torch.bfloat16 and a.loss.dtype == torch.float32
    assert torch.equal(a.indices, b.indices) and torch.equal(a.loss, b.loss)
    assert all(torch.equal(v, full.state_dict()[k]) and v.dtype == full.state_dict()[k].dtype
               for k, v in half.state_dict().items())


@every
def test_every_parameter_and_latent_gets_a_gradient(options):
    model, z = build(**options), latents(2, 40, 8).requires_grad_()
    out = model(z)
    (out.loss + (out.quantized - 1).square().mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in [z, *model.parameters()])
    assert z.grad.abs().sum() > 0


@every
def test_codes_stay_in_use(options):
    model = build(**{**options, "codebook_size": 16})
    optimizer = torch.optim.Adam([*model.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    for seed in range(30):
        z = latents(8, 40, 8, seed=seed).requires_grad_()
        out = model(z)
        optimizer.zero_grad()
        (out.loss + (out.quantized - z).square().mean()).backward()
        optimizer.step()
    indices = model.eval()(latents(8, 100, 8, seed=99)).indices.flatten(0, 1).T
    for column, size in zip(indices, model.codebook_sizes):
        assert len(column.unique()) > 0.7 * size


@every
def test_latents_that_are_no_numbers_still_have_codes_to_count(options):
    model = build(**options)
    model(latents(2, 20, 8))
    z = latents(2, 3, 8)
    z[0, 0], z[0, 1, 3], z[1, 0] = torch.nan, torch.inf, -torch.inf
    indices = model.eval()(z).indices
    if model.codebook_sizes:
        assert indices.min() >= 0 and (indices < torch.tensor(model.codebook_sizes)).all()
    else:
        assert indices.abs().max() <= laplace.LARGEST


@pytest.mark.parametrize("kind", CODEBOOKS)
@pytest.mark.parametrize("init", ["kmeans", "batch", "normal"])
def test_every_codebook_starts_at_the_latents_and_revives_what_dies(kind, init):
    model = build(type=kind, init=init, codebook_size=8, decay=0.5, revive=2.0, levels=2)
    z = 30 + latents(4, 40, 8)
    model(z)
    assert (model.eval()(z).quantized - z).square().mean() < 3
    first = books(model)[0]
    first.codes.data[:, 0] = 1e4
    model.train()
    for _ in range(6):
        model(z)
    assert first.codes[:, 0].abs().max() < 100


class _Spy(TorchDispatchMode):
    """Collects the operations that would make a GPU wait for the host, or the host for a GPU."""

    WAITING = ("_local_scalar_dense", "nonzero", "bincount", "unique", "masked_select", "is_nonzero", "equal.")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        masks = name.startswith("aten.index") and any(
            t is not None and t.dtype == torch.bool for t in (args[1] if isinstance(args[1], (list, tuple)) else ()))
        if masks or any(word in name for word in self.WAITING):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@every
def test_a_training_step_never_waits_for_the_device(options):
    model = build(**options)
    model(latents(2, 40, 8))  # the start may
    z = latents(2, 40, 8).requires_grad_()
    with _Spy() as spy:
        out = model(z)
        (out.loss + out.quantized.square().mean()).backward()
        model.eval()(z)
    assert spy.seen == []


def test_the_spy_sees_what_it_looks_for():
    x = torch.arange(4)
    with _Spy() as spy:
        x.sum().item()
        x[x > 1]
        x.nonzero()
        x.bincount()
        x.unique()
        bool(x[0] == 0)
    assert len(spy.seen) >= 6
