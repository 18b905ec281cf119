"""Two workers hold what one holds that trains on their joint batch: codes, counts and parameters, of every type."""
import os
import subprocess
import sys

import torch

WORKER = """
import sys
import torch
import torch.distributed as dist
from raycal.config import Config
from raycal.models import quantizers

OPTIONS = [{"type": kind} for kind in quantizers.QUANTIZERS] + [
    {"type": "ema", "distance": "cosine"}, {"type": "vq", "gradient": "rotation"}, {"type": "simvq", "init": "batch"},
    {"type": "grvq", "init": "normal"}, {"type": "vq", "distance": "cosine", "init": "batch"}]

class Net(torch.nn.Module):
    def __init__(self, options):
        super().__init__()
        values = {"codebook_size": 16, "code_dim": 6, "groups": 2, "levels": 1 if "distance" in options else 2,
                  "decay": 0.5, "revive": 2.0, **options}
        self.encoder = torch.nn.Linear(5, 6)
        settings = Config().replace({f"quantizer.{k}": v for k, v in values.items()}).quantizer
        self.quantizer = quantizers.build(settings).sized(10, 1)

    def forward(self, x):
        quantized, _, loss, _ = self.quantizer(self.encoder(x))
        return loss + (quantized[..., :5] - x).square().mean()

def trained(options, rank, world):
    # Take every world-th of 160 latents that are the same on every rank.
    torch.manual_seed(0)
    net = Net(options)
    loss = torch.nn.parallel.DistributedDataParallel(net) if world > 1 else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    for scale in (1.0, 1.0, 4.0, 1.0, 1.0):
        optimizer.zero_grad()
        x = scale * torch.randn(160, 5)
        windows = x.view(16, 10, 5)[rank::world] if options["type"] == "transform" else x[rank::world][None]
        loss(windows).backward()
        optimizer.step()
    return net.state_dict()

if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, world, meet, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if world > 1:
        dist.init_process_group("gloo", init_method="file://" + meet, rank=rank, world_size=world)
    torch.save([(str(o), trained(o, rank, world)) for o in OPTIONS], out)
    if world > 1:
        dist.destroy_process_group()
"""


def test_two_workers_hold_what_one_holds_of_the_joint_batch(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    runs = {(0, 1): tmp_path / "alone", (0, 2): tmp_path / "first", (1, 2): tmp_path / "second"}
    started = [subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(world), str(tmp_path / "meet"), str(out)],
                                env=environment) for (rank, world), out in runs.items()]
    assert [process.wait(280) for process in started] == [0, 0, 0]
    alone, first, second = (torch.load(out, weights_only=True) for out in runs.values())
    assert len(alone) == 13
    for (options, expected), (_, one), (_, two) in zip(alone, first, second):
        for name, value in expected.items():
            assert torch.equal(one[name], two[name]), (options, name)
            torch.testing.assert_close(one[name], value, atol=1e-4, rtol=1e-4, msg=lambda m: f"{options} {name}: {m}")
