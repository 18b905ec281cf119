import numpy as np
import pytest
import torch

from raycal import config
from raycal.errors import UserError
from raycal.sessions.prepare import Dataset, Recording
from raycal.sessions.windows import WindowSampler


def recording(pieces, n_neurons=3, first=0.0, valid=None):
    """Traces that say where they come from: neuron n at row t is 1000 n + t + first; behaviour is t."""
    n_frames = max(b for runs in pieces.values() for _, b in runs)
    t = np.arange(n_frames, dtype=np.float32)[:, None]
    traces = t + 1000 * np.arange(n_neurons, dtype=np.float32) + np.float32(first)
    behavior = t.copy()
    behavior[::7] = np.nan
    center, spread = np.arange(n_neurons, dtype=np.float32) + 5, np.arange(n_neurons, dtype=np.float32) + 2
    nothing = (np.zeros(n_neurons, np.float32), np.ones(n_neurons, np.float32))
    for array in (traces, behavior):
        array.flags.writeable = False  # as in the object store
    return Recording("r", traces, valid, behavior, pieces, 10.0, ("",) * n_neurons,
                     {"zscore": (center, spread), "none": nothing}, np.float32([10.0]), np.float32([4.0]))


def dataset(*recordings):
    window = min(b - a for r in recordings for runs in r.pieces.values() for a, b in runs)
    return Dataset(recordings, ("t",), ("",), "separate", window, "0" * 16)


PIECES = {"train": ((0, 90), (120, 203)), "validation": ((90, 120), (203, 240))}


def sampler(data=None, normalize="none", rank=0, world=1, **changes):
    data = data or dataset(recording(PIECES), recording({"train": ((0, 61),), "validation": ((61, 99),)}, 4, 10_000))
    windows = config.Windows(**{"length": 16, "stride": 2, "batch": 8, "min_steps": 1, **changes})
    return WindowSampler(data, windows, normalize, "cpu", rank, world)


def starts(batch):
    """Return [(session, first row)] of a batch of unscaled windows."""
    return [(p.session, int(round(float(w[0, 0]))) - (10_000 if p.session else 0)) for p in batch for w in p.traces]


def test_windows_are_rows_in_a_run_inside_one_train_piece():
    s = sampler()
    seen = [x for epoch in range(30) for batch in s.epoch(epoch, 0) for x in starts(batch)]
    for session, start in seen:
        runs = PIECES["train"] if session == 0 else ((0, 61),)
        assert any(a <= start and start + 16 <= b for a, b in runs)
    every = {(0, t) for a, b in PIECES["train"] for t in range(a, b - 15)} | {(1, t) for t in range(46)}
    assert set(seen) == every  # every offset has its turn
    for part in next(iter(s.epoch(0, 0))):
        assert (part.traces.diff(dim=2) == 1).all() and (part.traces.diff(dim=1) == 1000).all()


def test_an_epoch_is_one_of_stride_of_the_offsets_without_repeats():
    s = sampler(stride=3)
    offsets = (90 - 15) + (83 - 15) + (61 - 15)
    assert s.steps_per_epoch == offsets // 3 // 8
    batches = list(s.epoch(0, 0))
    assert len(batches) == s.steps_per_epoch and all(sum(len(p.traces) for p in b) == 8 for b in batches)
    seen = [x for b in batches for x in starts(b)]
    assert len(set(seen)) == len(seen)


def test_there_is_a_batch_even_of_a_tiny_part():
    s = sampler(dataset(recording({"train": ((0, 17),), "validation": ((17, 33),)})))
    assert s.steps_per_epoch == 1 and len(next(s.epoch(0, 0))[0].traces) == 8


def test_shapes_normalisation_and_nan_in_behaviour():
    data = dataset(recording(PIECES))
    part = next(sampler(data, "zscore").epoch(3, 1))[0]
    assert part.traces.shape == (8, 3, 16) and part.behavior.shape == (8, 1, 16) and part.valid is None
    assert part.traces.dtype == part.behavior.dtype == torch.float32 and part.traces.is_contiguous()
    rows = (part.traces[:, 0] * 2 + 5).round().long().numpy()
    raw = data.recordings[0].traces[rows]  # (b, L, N)
    np.testing.assert_allclose(part.traces.numpy(), ((raw - [5, 6, 7]) / [2, 3, 4]).transpose(0, 2, 1), rtol=1e-6)
    assert np.array_equal(np.isnan(part.behavior[:, 0].numpy()), rows % 7 == 0)
    np.testing.assert_allclose(part.behavior[:, 0].numpy()[rows % 7 != 0], (rows[rows % 7 != 0] - 10) / 4, rtol=1e-6)


def test_masked_frames_are_zero_even_under_noise():
    valid = np.ones((240, 3), bool)
    valid[:, 1] = np.arange(240) % 2 == 0
    for noise in (0.0, 0.5):
        part = next(sampler(dataset(recording(PIECES, valid=valid)), "zscore", noise=noise).epoch(0, 0))[0]
        assert part.valid.dtype == torch.bool and part.valid.shape == part.traces.shape
        assert (part.traces[~part.valid] == 0).all() and (part.traces[part.valid] != 0).any()
        assert part.valid[:, 0].all() and (part.valid[:, 1].sum(1) == 8).all()


def test_same_seed_and_epoch_give_the_same_batches_whatever_came_before():
    fresh, used = sampler(noise=0.1), sampler(noise=0.1)
    for _ in range(3):
        list(used.epoch(0, 9))
    iterator = used.epoch(5, 9)
    next(iterator)  # left half-way
    for a, b in zip(fresh.epoch(5, 9), used.epoch(5, 9)):
        for p, q in zip(a, b):
            assert p.session == q.session and torch.equal(p.traces, q.traces)
            assert torch.equal(p.behavior.nan_to_num(), q.behavior.nan_to_num())
    first = [x for b in sampler().epoch(0, 0) for x in starts(b)]
    assert first != [x for b in sampler().epoch(1, 0) for x in starts(b)]
    assert first != [x for b in sampler().epoch(0, 1) for x in starts(b)]


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_partition_the_global_batch(world):
    whole = [sorted(starts(b)) for b in sampler().epoch(2, 4)]
    shares = [list(sampler(rank=r, world=world).epoch(2, 4)) for r in range(world)]
    for step, expected in enumerate(whole):
        counts = [sum(len(p.traces) for p in s[step]) for s in shares]
        assert max(counts) - min(counts) <= 1
        assert sorted(x for s in shares for x in starts(s[step])) == expected


def test_noise_has_its_sd_and_is_absent_from_the_cover():
    data = dataset(recording(PIECES))
    plain, noisy = (next(sampler(data, noise=n, batch=64).epoch(0, 0))[0].traces for n in (0.0, 0.5))
    assert abs(float((noisy - plain).std()) - 0.5) < 0.02
    (covered, _), = sampler(data, noise=0.5).cover("train")
    assert torch.equal(covered[0].traces, covered[0].traces.round())


@pytest.mark.parametrize("length", [4, 7, 16, 29, 30])
@pytest.mark.parametrize("batch", [1, 3, 256])
def test_cover_counts_every_frame_once(length, batch):
    s, seen, windows = sampler(length=length), [], 0
    for parts, keep in s.cover("validation", batch):
        (part,) = parts
        assert keep.shape == (len(part.traces), length) and keep.dtype == torch.bool and len(keep) <= batch
        windows += len(keep)
        rows = (part.traces[:, 0] - (10_000 if part.session else 0)).long()
        seen += [(part.session, int(t)) for t in rows[keep]]
    expected = [(0, t) for a, b in PIECES["validation"] for t in range(a, b)] + [(1, t) for t in range(61, 99)]
    assert sorted(seen) == expected and windows == s.n_windows("validation")


def test_cover_never_leaves_a_piece_and_counts_random_pieces_once():
    rng = np.random.default_rng(0)
    for _ in range(50):
        length = int(rng.integers(4, 20))
        edges = np.cumsum(rng.integers(length, 60, 6)).tolist()
        runs = tuple(zip([0, *edges[:-1]], edges))
        data = dataset(recording({"train": runs[::2], "validation": runs[1::2]}))
        count = np.zeros(edges[-1], int)
        for (part,), keep in sampler(data, length=length).cover("validation"):
            for window, kept in zip(part.traces[:, 0].long().numpy(), keep.numpy()):
                assert any(a <= window[0] and window[-1] < b for a, b in runs[1::2])
                count[window[kept]] += 1
        assert (count == np.isin(np.arange(edges[-1]), np.concatenate([np.arange(*r) for r in runs[1::2]]))).all()


def test_writing_into_a_batch_leaves_the_dataset_alone():
    valid = np.ones((240, 3), bool)
    valid[5] = False
    data = dataset(recording(PIECES, valid=valid))
    before = data.recordings[0].traces.copy(), data.recordings[0].behavior.copy(), valid.copy()
    s = sampler(data, "zscore")
    for (part,) in [*s.epoch(0, 0), *(batch for batch, _ in s.cover("train"))]:
        part.traces.fill_(99.0)
        part.behavior.fill_(99.0)
        part.valid.fill_(False)
    after = data.recordings[0].traces, data.recordings[0].behavior, data.recordings[0].valid
    assert all(np.array_equal(a, b, equal_nan=a.dtype != bool) for a, b in zip(before, after))


def test_no_behaviour_is_an_empty_tensor():
    plain = recording(PIECES)
    nothing = np.zeros((0,), np.float32)
    bare = Recording("r", plain.traces, None, plain.behavior[:, :0], PIECES, 10.0, plain.neurons, plain.scalers,
                     nothing, nothing)
    assert next(sampler(dataset(bare)).epoch(0, 0))[0].behavior.shape == (8, 0, 16)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="windows.length=31 does not fit: the shortest piece.* holds 30"):
        sampler(length=31)
    with pytest.raises(UserError, match="windows.batch=8 cannot feed 9 workers"):
        sampler(world=9)
    with pytest.raises(KeyError):  # a sealed part is not there to be covered
        next(sampler().cover("test"))
