"""Tests of the report with feature maps of three layers, of one run and of the runs that it is compared with."""

import base64
import re
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.apps.report import main, write_report
from fer_jax.apps.report_page.feature_maps import CHANNELS, FACES
from fer_jax.data.augment import standardize
from fer_jax.inference import trained_model
from fer_jax.models.hsic_dense import HsicDense
from fer_jax.runtime.errors import UserError
from tests.apps.fake_run import NAMES, write_run
from tests.apps.html_page import Page

SIDE, GAP = 48, 4  # pixels of a drawn map, and between two of them


def dense_model(seed: int, side: int = 48) -> trained_model.TrainedModel:
  """Returns a network with random parameters whose hidden layers output 2 to 8 channels."""
  network = HsicDense(blocks=1, convs=1, growth=4, stem=8, pyramid=2).build(len(NAMES), jnp.float32, None)
  params, stats = jax.jit(network.init)(jax.random.key(seed), jnp.zeros((1, side, side, 1)))
  return trained_model.TrainedModel(network, params, stats, tuple(NAMES), (side, side, 1), "face", {})


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, trained_model.TrainedModel]:
  """Replaces trained networks by random ones, by the name of the run's folder."""
  models = {"run": dense_model(0), "other": dense_model(1)}
  monkeypatch.setattr(trained_model, "load", lambda folder: models[folder.name])
  return models


def section(page: Path) -> tuple[str, list[np.ndarray]]:
  """Returns the HTML of the section with feature maps and its images, uint8 [H, W] each."""
  found = re.search(r'<section id="features">.*?</section>', page.read_text(), flags=re.DOTALL)
  assert found
  data = re.findall(r"data:image/png;base64,([^\"]*)", found[0])
  return found[0], [cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_GRAYSCALE) for png in data]


def test_feature_maps_are_drawn_only_with_features(workdir: Path, models: dict) -> None:
  write_run(workdir)
  main([f"--workdir={workdir}"])
  page = workdir / "report" / "index.html"
  assert "Feature maps" not in page.read_text()
  main([f"--workdir={workdir}", "--features"])
  text, (*faces, first, middle, last) = section(page)
  Page(page)  # checks that the elements are nested
  for words in ("first layer: block1_stem", "middle layer: block1_lateral", "last layer: pyramid_level1"):
    assert words in text
  with np.load(workdir / "predictions.npz") as saved:
    samples = saved["sample_image"][:FACES]
  np.testing.assert_array_equal(np.stack(faces)[..., None], samples)
  # Of the 8 channels of the first layer, the 6 that vary most; the last layer has only 2.
  assert first.shape == (FACES * (SIDE + GAP) - GAP, CHANNELS * (SIDE + GAP) - GAP)
  assert last.shape[1] == 2 * (SIDE + GAP) - GAP
  assert middle.shape == last.shape
  # Each drawn channel of the last layer is the activation, scaled to 0 to 255 over all faces and enlarged.
  model = models["run"]
  taps = model.network.apply(model.params, model.stats, standardize(jnp.asarray(samples)), taps=True)[0].taps
  maps = np.asarray(taps[-1])
  low, high = maps.min((0, 1, 2)), maps.max((0, 1, 2))
  scale = SIDE // maps.shape[1]
  for face in range(FACES):
    for channel in range(2):
      drawn = last[face * (SIDE + GAP) :, channel * (SIDE + GAP) :][:SIDE:scale, :SIDE:scale]
      expected = 255 * (maps[face, ..., channel] - low[channel]) / (high - low)[channel]
      np.testing.assert_allclose(drawn, expected, atol=0.6)


def test_compared_runs_receive_the_same_faces(workdir: Path, models: dict) -> None:
  other = workdir.parent / "other"
  write_run(workdir)
  write_run(other)
  text, images = section(write_report(workdir, [other], with_features=True))
  assert re.findall(r"<h3>(.*?)</h3>", text) == ["this run", "other"]
  own, compared = images[FACES : FACES + 3], images[FACES + 3 :]
  assert [image.shape for image in own] == [image.shape for image in compared]
  assert (own[0] != compared[0]).any()


def test_rejects_runs_without_samples_or_with_other_images(workdir: Path, models: dict) -> None:
  other = workdir.parent / "other"
  write_run(workdir)
  write_run(other)
  models["other"] = dense_model(1, side=32)
  with pytest.raises(UserError, match=r"other: its images have shape \(32, 32, 1\), expected \(48, 48, 1\)"):
    write_report(workdir, [other], with_features=True)
  with np.load(workdir / "predictions.npz") as saved:
    rest = {name: array for name, array in saved.items() if name != "sample_image"}
  np.savez(workdir / "predictions.npz", **rest)
  with pytest.raises(UserError, match=r"predictions.npz: expected sample images, which --features needs"):
    write_report(workdir, with_features=True)
  assert not list(workdir.parent.rglob("index.html"))
