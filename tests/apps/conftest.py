"""A config whose steps take no time."""

import pytest

TINY = """
from configs import hsic
def get_config(variant=""):
  config = hsic.get_config(variant)
  config.batch_size = 8
  config.model.update({"blocks": 1, "convs": 1, "growth": 4, "stem": 4, "pyramid": 4})
  return config
"""


@pytest.fixture
def config(tmp_path):
  """The path of the HSIC config with a network of four channels."""
  path = tmp_path / "tiny.py"
  path.write_text(TINY)
  return str(path)
