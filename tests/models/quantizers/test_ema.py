import os
import subprocess
import sys

import pytest
import torch

from raycal.config import Config
from raycal.models import quantizers
from raycal.models.quantizers.codebook import Codebook, kmeans, nearest


def settings(**values):
    values = {"codebook_size": 2, "code_dim": 2, "revive": 0.0, **values}
    return Config().replace({f"quantizer.{k}": v for k, v in values.items()}).quantizer


def started(codes, **values):
    """Return an EMA quantizer that holds these codes and is past its start."""
    codes = torch.tensor(codes)
    model = quantizers.build(settings(codebook_size=len(codes), code_dim=codes.shape[1], **values))
    book = model.levels[0]
    book.codes.copy_(codes[None])
    book.counts.fill_(1.0)
    book.steps.fill_(1)
    return model, book


def test_nearest_codes_are_those_computed_by_hand():
    model, _ = started([[0.0, 0.0], [4.0, 0.0]])
    z = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [1.0, 5.0], [2.5, 0.0]]])
    out = model.eval()(z)
    assert out.indices[0, :, 0].tolist() == [0, 1, 0, 1]
    assert out.quantized.tolist() == [[[0, 0], [4, 0], [0, 0], [4, 0]]]
    # mean over elements of (1, 0), (1, 0), (1, 25), (2.25, 0), times the commitment
    assert out.loss.item() == pytest.approx(0.25 * (1 + 1 + 26 + 2.25) / 8)


def test_nearest_agrees_with_distances_in_float64_and_takes_the_first_of_equals(monkeypatch):
    x, codes = torch.randn(3, 50, 5), torch.randn(3, 17, 5)
    expected = torch.cdist(x.double(), codes.double()).argmin(-1)
    assert torch.equal(nearest(x, codes), expected)
    monkeypatch.setattr("raycal.models.quantizers.codebook._TILE", 3 * 17 * 7)
    assert torch.equal(nearest(x, codes), expected)
    assert nearest(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0], [0, 1], [-1, 0]]])).item() == 0


def test_moving_averages_are_those_computed_by_hand():
    model, book = started([[0.0, 0.0], [4.0, 0.0]], decay=0.9)
    model(torch.tensor([[[1.0, 0.0], [1.0, 2.0], [3.0, 0.0]]]))
    # N = 0.9 * 1 + 0.1 * n; m = 0.9 * e + 0.1 * sum; e = m / N
    assert book.counts[0].tolist() == pytest.approx([1.1, 1.0])
    assert book.codes[0, 0].tolist() == pytest.approx([0.2 / 1.1, 0.2 / 1.1])
    assert book.codes[0, 1].tolist() == pytest.approx([(3.6 + 0.3) / 1.0, 0.0])


def test_averages_follow_those_that_store_their_sums_over_many_steps():
    torch.manual_seed(0)
    model, book = started(torch.randn(8, 4).tolist(), decay=0.8)
    counts, sums = torch.ones(8, dtype=torch.float64), book.codes[0].double().clone()
    for _ in range(50):
        z = torch.randn(2, 30, 4)
        hot = torch.nn.functional.one_hot(model(z).indices.flatten(), 8).double()
        counts = 0.8 * counts + 0.2 * hot.sum(0)
        sums = 0.8 * sums + 0.2 * hot.T @ z.flatten(0, 1).double()
    torch.testing.assert_close(book.codes[0].double(), sums / counts[:, None], atol=1e-5, rtol=1e-5)


def test_a_code_never_hit_stays_where_it_is_until_its_count_underflows():
    model, book = started([[0.0, 0.0], [100.0, 100.0]], decay=0.1)
    for _ in range(100):
        model(torch.randn(1, 4, 2))
    assert book.counts[0, 1] == 0 and book.codes[0, 1].tolist() == [100.0, 100.0]


def test_a_decay_of_zero_takes_the_mean_of_the_batch():
    model, book = started([[0.0, 0.0], [9.0, 9.0]], decay=0.0)
    model(torch.tensor([[[1.0, 0.0], [2.0, 4.0]]]))
    assert book.codes[0].tolist() == [[1.5, 2.0], [9.0, 9.0]]


@pytest.mark.parametrize("kind", ["ema", "vq", "grvq"])
def test_straight_through_passes_the_gradient_once(kind):
    model = quantizers.build(settings(type=kind, codebook_size=8, code_dim=4, levels=3, groups=2))
    z = torch.randn(2, 6, 4, requires_grad=True)
    out, weight = model(z), torch.randn(2, 6, 4)
    assert torch.equal(torch.autograd.grad((out.quantized * weight).sum(), z)[0], weight)


def test_the_commitment_weight_counts_once():
    model, _ = started([[0.0, 0.0], [9.0, 9.0]], commitment=0.25)
    z = torch.ones(1, 1, 2, requires_grad=True)
    loss = model(z).loss
    assert loss.item() == 0.25
    assert torch.autograd.grad(loss, z)[0].tolist() == [[[0.25, 0.25]]]  # 0.25 * 2 z / 2 elements


def test_a_dead_code_is_revived_on_a_latent_and_survives_the_next_update():
    model, book = started([[0.0, 0.0], [100.0, 100.0]], decay=0.5, revive=1.0)
    z = torch.randn(1, 16, 2)
    for _ in range(3):  # 1 -> 0.5 -> 0.25: below 1 at the first
        model(z)
        revived = book.codes[0, 1].clone()
        if not torch.equal(revived, torch.tensor([100.0, 100.0])):
            break
    assert (z[0] == revived).all(-1).any() and book.counts[0, 1] == 8  # 16 latents over 2 codes
    model(z)
    hits = (model.eval()(z).indices == 1).sum()
    assert hits > 0 and torch.dist(book.codes[0, 1], revived) < 2 and book.counts[0, 1] > 1


def test_a_revived_code_without_hits_is_not_pulled_by_the_dead_one():
    model, book = started([[0.0, 0.0], [100.0, 100.0]], decay=0.5, revive=1.0)
    model(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [1.0, 0.0]]]))
    revived = book.codes[0, 1].clone()
    model(torch.full((1, 4, 2), -5.0) if revived[0] > book.codes[0, 0, 0] else torch.full((1, 4, 2), 5.0))
    assert torch.equal(book.codes[0, 1], revived)


def test_a_book_larger_than_its_batch_is_not_reseeded_at_every_step():
    torch.manual_seed(0)
    model = quantizers.build(settings(codebook_size=256, code_dim=4, revive=2.0, decay=0.95))
    model(torch.randn(4, 8, 4))
    before = model.levels[0].codes.clone()
    model(torch.randn(4, 8, 4))
    same = (model.levels[0].codes == before).all(-1).sum().item()
    assert same >= 256 - 32  # at most the codes that were hit have moved


@pytest.mark.parametrize("kind", ["ema", "vq", "grvq"])
@pytest.mark.parametrize("begun", [False, True])
def test_evaluation_changes_nothing(kind, begun):
    model = quantizers.build(settings(type=kind, codebook_size=8, code_dim=4, revive=1.0, levels=2))
    if begun:
        model(torch.randn(2, 6, 4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()(torch.randn(2, 6, 4))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_kmeans_puts_codes_on_the_centres():
    torch.manual_seed(0)
    centres = 10 * torch.eye(6)
    latents = centres.repeat(40, 1) + 0.01 * torch.randn(240, 6)
    model = quantizers.build(settings(codebook_size=6, code_dim=6, decay=0.99))
    model(latents[torch.randperm(240)].view(8, 30, 6))
    assert torch.cdist(centres, model.levels[0].codes[0]).min(-1).values.max() < 0.02
    assert (model.levels[0].counts == 40).all()


def test_kmeans_of_fewer_latents_than_codes_uses_every_latent():
    rows = torch.arange(5.0)[None, :, None]
    centres = kmeans(rows, torch.zeros(1, 12, 1))
    assert sorted(set(centres.flatten().tolist())) == [0, 1, 2, 3, 4]


def test_a_batch_start_takes_latents_and_a_normal_start_their_spread():
    z = 5 + 3 * torch.randn(4, 100, 2)
    book = quantizers.build(settings(init="batch", codebook_size=20, decay=0.9999))
    assert (_start(book, z)[:, None] == z.flatten(0, 1)).all(-1).any(-1).all()
    codes = _start(quantizers.build(settings(init="normal", codebook_size=2000)), z)
    assert codes.mean().item() == pytest.approx(5, abs=0.5) and codes.std().item() == pytest.approx(3, abs=0.5)


def _start(model, z):
    model.levels[0]._start(z.flatten(0, 1)[None])
    return model.levels[0].codes[0].clone()


@pytest.mark.parametrize("kind", ["ema", "vq", "grvq"])
def test_a_state_dict_restores_exactly_what_comes_next(kind):
    torch.manual_seed(0)
    made = settings(type=kind, codebook_size=8, code_dim=4, revive=1.0, levels=2, groups=2)
    one, two = quantizers.build(made), quantizers.build(made)
    one(torch.randn(2, 20, 4))
    two.load_state_dict(one.state_dict())
    for z in torch.randn(5, 2, 20, 4):
        a, b = one(z), two(z)
        assert torch.equal(a.indices, b.indices) and torch.equal(a.loss, b.loss)
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def test_loading_a_state_that_has_not_started_starts_again():
    model = quantizers.build(settings(codebook_size=8, code_dim=4))
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.randn(2, 20, 4))
    model.load_state_dict(fresh)
    z = 50 + torch.randn(2, 20, 4)
    model(z)
    assert model.levels[0].codes.min() > 40


def test_bf16_latents_are_quantized_in_float32():
    z = torch.randn(2, 40, 4).bfloat16()
    torch.manual_seed(0)
    half = quantizers.build(settings(codebook_size=8, code_dim=4))
    torch.manual_seed(0)
    full = quantizers.build(settings(codebook_size=8, code_dim=4))
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            a = half(z)
        b = full(z.float())
    assert a.quantized.dtype == torch.bfloat16 and a.loss.dtype == torch.float32
    assert half.levels[0].codes.dtype == torch.float32
    assert torch.equal(a.indices, b.indices) and torch.equal(half.levels[0].codes, full.levels[0].codes)


JOINT = """
import torch
from raycal.config import Config
from raycal.models import quantizers

def joint(kind, rank, world):
    # Train on every world-th latent of batches that are the same on every rank; return state and revivals.
    torch.manual_seed(0)
    made = Config().replace({"quantizer.type": kind, "quantizer.codebook_size": 16, "quantizer.code_dim": 4,
        "quantizer.levels": 2, "quantizer.groups": 2, "quantizer.decay": 0.5, "quantizer.revive": 2.0})
    model, revived = quantizers.build(made.quantizer), 0
    for scale in (1.0, 1.0, 8.0, 1.0, 1.0, 1.0):
        model(scale * torch.randn(160, 4)[rank::world][None])
        fair = 160 / 16
        revived += int((model.get_buffer("levels.0.counts") == fair).sum())
    return model.state_dict(), revived
"""
RANK = JOINT + """
import sys
import torch.distributed as dist
rank, meet, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + meet, rank=rank, world_size=2)
torch.save({kind: joint(kind, rank, 2)[0] for kind in ("ema", "grvq")}, out)
dist.destroy_process_group()
"""


def test_two_processes_hold_the_codebook_of_one_on_the_joint_batch(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    outs = [tmp_path / "0.pt", tmp_path / "1.pt"]
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(r), str(tmp_path / "meet"), str(out)], env=environment)
             for r, out in enumerate(outs)]
    space: dict = {}
    exec(JOINT, space)
    alone = {kind: space["joint"](kind, 0, 1) for kind in ("ema", "grvq")}
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    first, second = (torch.load(out, weights_only=True) for out in outs)
    for kind, (state, revived) in alone.items():
        assert revived > 0  # else the joint draw of latents would not be tested
        for name, value in state.items():
            assert torch.equal(first[kind][name], second[kind][name]), (kind, name)
            torch.testing.assert_close(first[kind][name], value, atol=1e-4, rtol=1e-4)


def test_groups_of_one_codebook_do_not_know_of_each_other():
    made = settings(codebook_size=5, code_dim=3, decay=0.7)
    x = torch.randn(2, 40, 3)
    both, alone = Codebook(2, 5, 3, made), Codebook(1, 5, 3, made)
    for _ in range(3):
        (found, indices), (one, index) = both(x), alone(x[1:])
    torch.testing.assert_close(found[1:], one)
    assert torch.equal(indices[1:], index)
    torch.testing.assert_close(both.codes[1:], alone.codes)
