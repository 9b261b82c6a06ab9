"""Trained networks as files: what comes back, in how many bytes, and what is refused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import pretrained
from fer_jax.apps import export
from fer_jax.inference import model_file, predictor, trained_model
from fer_jax.inference.model_file import Model
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
  model_file.write(path, Model(*variables(), DESCRIPTION))
  return path


def test_everything_comes_back(written):
  found = model_file.read(written)
  jax.tree.map(np.testing.assert_array_equal, (found.params, found.stats), variables())
  assert found.description == DESCRIPTION


@pytest.mark.parametrize(("bits", "bound"), [(16, 2**-11), (8, 1 / 254)])
def test_fewer_bits_are_that_much_smaller_and_no_number_moves_far(tmp_path, written, bits, bound):
  path = tmp_path / "small.safetensors"
  model_file.write(path, Model(*variables(), DESCRIPTION), bits)
  assert path.stat().st_size < (bits / 32 + 0.1) * written.stat().st_size
  found = model_file.read(path)
  for before, after in zip(jax.tree.leaves(variables()), jax.tree.leaves((found.params, found.stats)), strict=True):
    assert after.dtype == np.float32
    largest = np.abs(before).max(axis=tuple(range(before.ndim - 1)), keepdims=True)
    assert (np.abs(after - before) <= bound * largest * 1.0001).all()


def test_a_flipped_bit_is_found(written):
  content = bytearray(written.read_bytes())
  content[-5] ^= 1
  written.write_bytes(content)
  with pytest.raises(UserError, match=f"^{re.escape(str(written))}: damaged.*checksum"):
    model_file.read(written)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_file_cut_short_is_damaged(written, kept):
  written.write_bytes(written.read_bytes()[:kept])
  with pytest.raises(UserError, match=f"^{re.escape(str(written))}: damaged"):
    model_file.read(written)


def test_weights_of_other_programs_are_no_network():
  with pytest.raises(UserError, match="not a trained network of fer_jax"):
    trained_model.load(TORCHVISION)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    trained_model.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_an_exported_run_answers_as_the_run_does(finished_run, tmp_path, bits):
  path = tmp_path / "run.safetensors"
  export.main([f"--checkpoint={finished_run}", "--format=safetensors", f"--bits={bits}", f"--out={path}"])
  images = [np.asarray(image)[..., 0] for image in tiny_run.tiny_arrays().image[:9]]
  run, file = predictor.load(finished_run, face="whole"), predictor.load(path, face="whole")
  tolerance = {8: 0.02, 16: 1e-3, 32: 1e-6}[bits]
  np.testing.assert_allclose(file.predict(images).probability, run.predict(images).probability, atol=tolerance)
  assert file.classifier.temperature == run.classifier.temperature
  assert file.classifier.origin["config"] == run.classifier.origin["config"]


def test_a_run_may_begin_with_a_file(finished_run, tmp_path):
  path = tmp_path / "run.safetensors"
  export.main([f"--checkpoint={finished_run}", "--format=safetensors", "--bits=32", f"--out={path}"])
  trained = trained_model.load(finished_run)
  image = jnp.zeros((1, *trained.shape))
  shapes = jax.eval_shape(trained.network.init, jax.random.key(0), image)
  loaded = pretrained.load(
    path, *shapes, extractors=trained.network.extractors, classifier=trained.network.classifier, keep_classifier=True
  )
  jax.tree.map(np.testing.assert_array_equal, loaded.params, trained.params)


def test_another_ending_is_refused(finished_run, tmp_path):
  with pytest.raises(UserError, match="ends in .safetensors"):
    export.main([f"--checkpoint={finished_run}", "--format=safetensors", f"--out={tmp_path / 'run.npz'}"])
