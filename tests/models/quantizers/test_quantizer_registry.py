import subprocess
import sys

import pytest
import torch

from raycal.config import Config
from raycal.models import quantizers


def settings(**values):
    return Config().replace({f"quantizer.{k}": v for k, v in values.items()}).quantizer


@pytest.mark.parametrize("kind", quantizers.QUANTIZERS)
def test_every_quantizer_holds_to_the_same_fields(kind):
    made = settings(type=kind, codebook_size=16, code_dim=8, groups=2, levels=3)
    model = quantizers.build(made).sized(7, 1)
    out = model(torch.randn(3, 7, 8))
    assert out.quantized.shape == (3, 7, 8) and out.loss.shape == ()
    columns = len(quantizers.codebook_sizes(made)) or 8
    assert out.indices.shape == (3, 7, columns) and out.indices.dtype == torch.int64
    assert out.bits.shape == (3,) if kind == "transform" else 0 <= out.indices.min() and out.indices.max() < 16
    assert model.codebook_sizes == quantizers.codebook_sizes(made)
    assert model.bits_per_code == quantizers.bits_per_code(made)


def test_nominal_bits_are_known_before_training():
    assert quantizers.bits_per_code(settings(type="ema", codebook_size=512, groups=4, levels=2)) == 9
    assert quantizers.bits_per_code(settings(type="vq", codebook_size=512)) == 9
    assert quantizers.bits_per_code(settings(type="grvq", codebook_size=128, groups=4, levels=2)) == 56
    assert quantizers.codebook_sizes(settings(type="grvq", codebook_size=128, groups=4, levels=2)) == (128,) * 8
    assert quantizers.codebook_sizes(settings(type="rvq", codebook_size=128, groups=4, levels=2)) == (128,) * 2
    assert quantizers.codebook_sizes(settings(type="simvq", codebook_size=300, levels=2)) == (300,)
    assert quantizers.codebook_sizes(settings(type="fsq", codebook_size=1024, levels=2)) == (1000,)
    assert quantizers.bits_per_code(settings(type="lfq", codebook_size=1023, groups=2)) == 9


def test_sizes_rates_and_families_are_known_without_a_framework():
    code = ("import sys, raycal.models, raycal.models.quantizers as q; from raycal.config import Config;"
            "c = Config(); q.bits_per_code(c.quantizer); raycal.models.bits_per_second(c, 10.0);"
            "raycal.models.objectives(c); assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": ":".join(sys.path)})
