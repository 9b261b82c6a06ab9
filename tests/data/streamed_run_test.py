"""A complete run on a streamed dataset, compared with one from memory."""

import numpy as np
import pytest

from fer_jax.data import builders
from fer_jax.data.builders.synthetic_faces.builder import SyntheticFaces, SyntheticFacesConfig
from fer_jax.runtime.errors import UserError
from tests.tiny_run import config, final_state, rows, run

SHORT = {"duration": "6 steps", "evaluate_every": "3 steps", "checkpoint_every": "3 steps", "log_every": "1 steps"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Folder of the built-in dataset, reduced to 70 faces."""
  small = SyntheticFacesConfig(name="48px", size=48, subjects=(8, 1, 1), repetitions=1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(SyntheticFaces, "BUILDER_CONFIGS", [small])
    folder = str(tmp_path_factory.mktemp("data"))
    builders.prepare("synthetic_faces", folder)
    yield folder


def short_config(data_dir, residence, **changes):
  return config(**SHORT, **{"data.data_dir": data_dir, "data.image_size": 16, "data.residence": residence}, **changes)


@pytest.mark.slow
def test_streamed_run_equals_the_run_from_memory(data_dir, tmp_path):
  results = {}
  for residence in ("host", "stream"):
    results[residence] = run(tmp_path / residence, short_config(data_dir, residence))
  losses = [[row["loss"] for row in rows(tmp_path / residence, "train")] for residence in results]
  assert losses[0] == losses[1]
  assert len(losses[0]) == 6
  from_memory, streamed = (final_state(tmp_path / residence) for residence in results)
  np.testing.assert_equal(from_memory, streamed)
  for key in ("loss", "confusion_matrix", "deduplicated", "input"):
    assert results["host"][key] == results["stream"][key]
  saved = [dict(np.load(tmp_path / residence / "predictions.npz")) for residence in results]
  np.testing.assert_equal(saved[0], saved[1])
  assert any("decoded from their records" in note for note in results["stream"]["notes"])


def test_rejects_expansion_before_training(data_dir, tmp_path):
  with pytest.raises(UserError, match=r"config\.expansion\.protocol='honest'.*config\.data\.residence='host'"):
    run(tmp_path / "run", short_config(data_dir, "stream", **{"expansion.protocol": "honest", "expansion.factor": 2}))
