"""The bilinear network's step against PyTorch's; what needs PyTorch is skipped where it is not installed."""

import importlib.util

import pytest

from fer_jax.apps.benchmarks import bilinear
from fer_jax.errors import UserError
from fer_jax.models import resnet

TINY = """
from configs import obsr
def get_config(variant=""):
  config = obsr.get_config("demo")
  config.batch_size = 4
  config.model.update({"depth": 18, "width": 2})
  config.data.image_size = 32
  return config
"""


@pytest.fixture
def config(write_config):
  return write_config(TINY)


def test_ours_is_compared_with_the_faster_of_pytorch_s(config, monkeypatch):
  pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
  from fer_jax.apps.benchmarks import torch_resnet

  monkeypatch.setitem(resnet.STAGES, 18, (1, 1, 1, 1))
  monkeypatch.setitem(torch_resnet.BLOCKS, 18, (1, 1, 1, 1))
  headline, rows = bilinear.bilinear(config, 2)
  seconds = {row["name"]: row["seconds_a_step"] for row in rows}
  assert list(seconds) == [headline, *bilinear.THEIRS]
  fastest = min(seconds[name] for name in bilinear.THEIRS)
  for row in rows:
    assert row["time_ratio"] == pytest.approx(row["seconds_a_step"] / fastest)
    assert (row["image_size"], row["batch_size"]) == (32, 4)
    assert row["images_per_second"] == pytest.approx(4 / row["seconds_a_step"])


def test_without_pytorch_it_is_asked_for(config, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install torch"):
    bilinear.bilinear(config, 1)


def test_another_network_is_refused():
  with pytest.raises(UserError, match=r"--config=configs/hsic.py:small: expected a bilinear network"):
    bilinear.bilinear("configs/hsic.py:small", 1)
