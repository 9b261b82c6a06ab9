"""Model files: round trip, size by number of bits, and rejected files."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import pretrained
from fer_jax.apps import export
from fer_jax.inference import model_file, predictor, trained_model
from fer_jax.inference.model_file import StoredModel
from fer_jax.models.ca_resnet import CaResNet
from fer_jax.runtime.errors import UserError
from tests import tiny_run
from tests.pretrained.transfer_test import FILE as TORCHVISION

NETWORK = CaResNet(width=32, blocks=(1, 1))  # `attention` has no statistics
DESCRIPTION = {"model": {"name": "ca_resnet"}, "class_names": ["a", "b"], "temperature": 1.25, "origin": {"step": 7}}


@functools.cache
def variables():
  network = NETWORK.build(2, jnp.float32, None)
  params, stats = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 48, 48, 1)))
  return jax.tree.map(np.asarray, (params, stats))


@pytest.fixture
def written(tmp_path):
  path = tmp_path / "model.safetensors"
  model_file.write(path, StoredModel(*variables(), DESCRIPTION))
  return path


def test_round_trip(written):
  found = model_file.read(written)
  jax.tree.map(np.testing.assert_array_equal, (found.params, found.stats), variables())
  assert found.description == DESCRIPTION


@pytest.mark.parametrize(("bits", "bound"), [(16, 2**-11), (8, 1 / 254)])
def test_fewer_bits_reduce_the_size_within_the_error_bound(tmp_path, written, bits, bound):
  path = tmp_path / "small.safetensors"
  model_file.write(path, StoredModel(*variables(), DESCRIPTION), bits)
  assert path.stat().st_size < (bits / 32 + 0.1) * written.stat().st_size
  found = model_file.read(path)
  for before, after in zip(jax.tree.leaves(variables()), jax.tree.leaves((found.params, found.stats)), strict=True):
    assert after.dtype == np.float32
    largest = np.abs(before).max(axis=tuple(range(before.ndim - 1)), keepdims=True)
    assert (np.abs(after - before) <= bound * largest * 1.0001).all()


def test_detects_a_flipped_bit(written):
  content = bytearray(written.read_bytes())
  content[-5] ^= 1
  written.write_bytes(content)
  with pytest.raises(UserError, match=f"^{re.escape(str(written))}: damaged.*checksum"):
    model_file.read(written)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_rejects_truncated_files(written, length):
  written.write_bytes(written.read_bytes()[:length])
  with pytest.raises(UserError, match=f"^{re.escape(str(written))}: damaged"):
    model_file.read(written)


def test_rejects_weights_of_other_programs():
  with pytest.raises(UserError, match="not a trained network of fer_jax"):
    trained_model.load(TORCHVISION)


def test_rejects_missing_files(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    trained_model.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_an_exported_run_gives_the_predictions_of_the_run(finished_run, tmp_path, bits):
  path = tmp_path / "run.safetensors"
  export.main([f"--checkpoint={finished_run}", "--format=safetensors", f"--bits={bits}", f"--out={path}"])
  images = [np.asarray(image)[..., 0] for image in tiny_run.tiny_arrays().image[:9]]
  run, file = predictor.load_predictor(finished_run, detector="whole"), predictor.load_predictor(path, detector="whole")
  tolerance = {8: 0.02, 16: 1e-3, 32: 1e-6}[bits]
  np.testing.assert_allclose(file.predict(images).probability, run.predict(images).probability, atol=tolerance)
  assert file.model.temperature == run.model.temperature
  assert file.model.origin["config"] == run.model.origin["config"]


def test_pretrained_weights_can_be_a_model_file(finished_run, tmp_path):
  path = tmp_path / "run.safetensors"
  export.main([f"--checkpoint={finished_run}", "--format=safetensors", "--bits=32", f"--out={path}"])
  trained = trained_model.load(finished_run)
  image = jnp.zeros((1, *trained.shape))
  shapes = jax.eval_shape(trained.network.init, jax.random.key(0), image)
  loaded = pretrained.load(
    path, *shapes, extractors=trained.network.extractors, classifier=trained.network.classifier, keep_classifier=True
  )
  jax.tree.map(np.testing.assert_array_equal, loaded.params, trained.params)


def test_rejects_other_suffixes(finished_run, tmp_path):
  with pytest.raises(UserError, match="ends in .safetensors"):
    export.main([f"--checkpoint={finished_run}", "--format=safetensors", f"--out={tmp_path / 'run.npz'}"])
