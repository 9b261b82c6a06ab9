"""Exported networks, run by onnxruntime and by a process that cannot import fer_jax, against the classifier itself."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fer_jax
from fer_jax.apps import export
from fer_jax.apps.exports import onnx, stablehlo
from fer_jax.apps.exports.program import check
from fer_jax.inference import trained_model
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.models.baselines import bn_inception, mobilenet_v3, xception
from fer_jax.models.baselines.alexnet import AlexNet
from fer_jax.models.baselines.bn_inception import BnInception
from fer_jax.models.baselines.densenet import DenseNet
from fer_jax.models.baselines.mini_xception import MiniXception
from fer_jax.models.baselines.mobilenet_v3 import MobileNetV3
from fer_jax.models.baselines.vgg import Vgg
from fer_jax.models.baselines.xception import Xception
from fer_jax.models.bilinear import Bilinear
from fer_jax.models.ca_resnet import CaResNet
from fer_jax.models.hsic_dense import HsicDense
from fer_jax.models.network import Network
from fer_jax.models.resnet import CifarResNet
from fer_jax.models.two_channel import TwoChannel
from fer_jax.runtime.errors import Failure, UserError

needs_onnx = pytest.mark.skipif(
  importlib.util.find_spec("jax2onnx") is None or importlib.util.find_spec("onnxruntime") is None,
  reason="jax2onnx and onnxruntime are not installed: pip install -e .[export], on Python 3.11",
)
NAMES = ("angry", "happy", "ärgerlich 'q'")
NETWORKS = {
  "hsic": (HsicDense(blocks=2, convs=1, growth=4, stem=4, transition=4, pyramid=4, head_grid=3), (16, 16, 1)),
  "resnet": (CifarResNet(depth=8, width=4), (12, 16, 1)),
  "ca_resnet": (CaResNet(width=4, blocks=(1,)), (16, 16, 1)),
  "bilinear": (Bilinear(depth=18, width=2, shared=True), (32, 32, 3)),
  "two_channel": (TwoChannel(width=2, separable=(1,), neighbours=4), (16, 16, 1)),
  "mini_xception": (MiniXception(width=2), (32, 32, 1)),
}
# With every kind of layer that they have, but few of each.
BASELINES = {
  "alexnet": AlexNet(hidden=8),
  "bn_inception": BnInception(),
  "densenet": DenseNet(layers=(1, 1), growth=4),
  "mobilenet_v3": MobileNetV3(size="small"),
  "vgg": Vgg(depth=13, width=2, hidden=8),
  "xception": Xception(width=2),
}


def classifier_of(network, shape):
  """A network with random parameters and statistics, small enough that no class gets all."""
  generator = np.random.default_rng(0)

  def draw(path, leaf):
    noise = 0.2 * generator.standard_normal(leaf.shape, np.float32)
    if path[-1].key in ("scale", "var"):
      return np.exp(noise)
    return noise if len(leaf.shape) < 2 else noise * np.float32(5 / np.sqrt(np.prod(leaf.shape[:-1])))

  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  params, stats = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(network.init, jax.random.key(0), image))
  origin = {"config": "configs/some.py:variant", "dataset": "faces", "step": 7, "accuracy": 0.5, "commit": "abc"}
  return TrainedModel(network, params, stats, NAMES, shape, "detector", {**origin, "versions": {"jax": "0"}})


SYSTEMS = [name for name in NETWORKS if name != "mini_xception"]


@pytest.fixture(scope="module", params=[*SYSTEMS, pytest.param("mini_xception", marks=pytest.mark.slow)])
def classifier(request):
  settings, shape = NETWORKS[request.param]
  return classifier_of(settings.build(len(NAMES), jnp.float32, None), shape)


def linear(walk):
  """A classifier of few operations, for what does not depend on the network."""
  return classifier_of(Network({}, walk, (), "classifier"), (4, 4, 1))


def plain(apply, image):
  features = image.reshape(image.shape[0], -1)
  return features[:, :3], features


def faces_of(classifier, count=8):
  return np.random.default_rng(1).integers(0, 256, (count, *classifier.shape), dtype=np.uint8)


def probabilities(classifier, faces):
  return classifier.probability(faces, batch_size=4)  # as many as the program's own check fills up to


def in_another_process(folder, file, faces):
  """Runs the loader where importing fer_jax is an error."""
  np.save(folder / "faces.npy", faces)
  program = "import runpy, sys; sys.modules['fer_jax'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
  command = [sys.executable, "-I", "-c", program, stablehlo.LOADER, file.name, "faces.npy"]
  return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@needs_onnx
class TestOnnx:
  def test_it_agrees_with_the_classifier_for_any_number_of_faces(self, classifier, tmp_path):
    import onnxruntime

    difference = onnx.write(classifier, tmp_path / "faces.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "faces.onnx")
    faces = faces_of(classifier)
    expected = probabilities(classifier, faces)
    assert expected.max() < 0.99 and expected.std(axis=0).max() > 1e-4, "the classes of this network say nothing"
    for batch in (faces[:1], faces[:3], faces):
      (found,) = session.run(["probabilities"], {"faces": batch})
      assert found.dtype == np.float32
      np.testing.assert_allclose(found, expected[: len(batch)], atol=1e-5)
    assert difference < 1e-5

  def test_it_says_what_it_is(self, tmp_path):
    import onnxruntime

    classifier = linear(plain)
    onnx.write(classifier, tmp_path / "new" / "faces.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "new" / "faces.onnx")
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("faces", "tensor(uint8)", ["B", 4, 4, 1])
    assert (result.name, result.type, result.shape) == ("probabilities", "tensor(float)", ["B", 3])
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == list(NAMES) and json.loads(said["shape"]) == [4, 4, 1]
    assert said["fer_jax"] == fer_jax.__version__ and said["config"] == "configs/some.py:variant"
    assert said["commit"] == "abc" and said["dataset"] == "faces"
    assert said["crop"] == "detector" and float(said["margin"]) == classifier.margin
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["faces.onnx"]

  def test_what_cannot_be_converted_is_named(self, tmp_path):
    def walk(apply, image):
      logits, features = plain(apply, image)
      shape = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
      return jax.pure_callback(lambda x: x, shape, logits), features

    with pytest.raises(UserError, match=r"configs/some\.py:variant .*'pure_callback'.*stablehlo"):
      onnx.write(linear(walk), tmp_path / "faces.onnx")
    assert not list(tmp_path.iterdir())

  @pytest.mark.slow
  @pytest.mark.parametrize("name", BASELINES)
  def test_every_baseline_can_be_written(self, name, tmp_path, monkeypatch):
    monkeypatch.setattr(bn_inception, "MODULES", {key: bn_inception.MODULES[key] for key in ("3c", "4e", "5b")})
    monkeypatch.setitem(mobilenet_v3.ROWS, "small", mobilenet_v3.SMALL[:4])
    monkeypatch.setattr(xception, "MIDDLE", xception.MIDDLE[:1])
    classifier = classifier_of(BASELINES[name].build(len(NAMES), jnp.float32, None), (48, 48, 1))
    assert probabilities(classifier, faces_of(classifier)).max() < 0.99
    assert onnx.write(classifier, tmp_path / "faces.onnx") < 1e-5

  @pytest.mark.parametrize("step", ["to_onnx", "InferenceSession", "run"])
  def test_whatever_the_converter_or_the_runtime_raises_is_one_line(self, step, tmp_path, monkeypatch):
    class Broken:
      def __init__(self, *arguments, **options):
        if step == "InferenceSession":
          raise RuntimeError("no kernel\n for Gelu(20)")

      def run(self, *arguments):
        raise RuntimeError("no kernel\n for Gelu(20)")

    def fails(*arguments, **options):
      raise RuntimeError("no kernel\n for Gelu(20)")

    broken = ("jax2onnx.to_onnx", fails) if step == "to_onnx" else ("onnxruntime.InferenceSession", Broken)
    monkeypatch.setattr(*broken)
    with pytest.raises(
      UserError, match=r"some\.py:variant .*RuntimeError: no kernel for Gelu\(20\).*stablehlo"
    ) as caught:
      onnx.write(linear(plain), tmp_path / "faces.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())

  def test_a_network_of_bfloat16_is_written_in_float32(self, tmp_path):
    def walk(apply, image):
      logits, features = plain(apply, image.astype(jnp.bfloat16) * jnp.bfloat16(1.1))
      return logits.astype(jnp.float32), features

    assert 1e-4 < onnx.write(linear(walk), tmp_path / "faces.onnx") < 0.02

  @pytest.mark.parametrize("package", ["jax2onnx", "onnxruntime"])
  def test_without_the_converter_the_extra_is_named(self, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install jax2onnx"):
      onnx.write(linear(plain), tmp_path / "faces.onnx")


class TestStableHlo:
  @pytest.mark.slow
  @pytest.mark.parametrize("classifier", ["bilinear", "two_channel", "ca_resnet"], indirect=True)
  def test_it_agrees_with_the_classifier(self, classifier, tmp_path):
    assert stablehlo.write(classifier, tmp_path / "faces.npz") < 1e-6

  @pytest.mark.parametrize("classifier", ["resnet"], indirect=True)
  def test_it_runs_where_there_is_no_fer_jax(self, classifier, tmp_path):
    stablehlo.write(classifier, tmp_path / "faces.npz")
    faces = faces_of(classifier, 2)
    for given in (faces, faces[0]):  # several, and one
      done = in_another_process(tmp_path, tmp_path / "faces.npz", given)
      assert done.returncode == 0, done.stderr
      rows = [json.loads(line) for line in done.stdout.splitlines()]
      assert tuple(rows[0]) == NAMES
      found = np.array([list(row.values()) for row in rows])
      np.testing.assert_allclose(found, probabilities(classifier, given.reshape(faces[-len(rows) :].shape)), atol=1e-6)

  def test_faces_of_another_size_are_refused_by_the_loader(self, tmp_path):
    classifier = linear(plain)  # of 4x4
    stablehlo.write(classifier, tmp_path / "faces.npz")
    done = in_another_process(tmp_path, tmp_path / "faces.npz", np.zeros((4, 2, 2, 1), np.uint8))
    assert done.returncode != 0
    assert not done.stdout

  def test_the_file_may_not_have_the_loaders_name(self, tmp_path):
    with pytest.raises(UserError, match=rf"{stablehlo.LOADER}.*loader"):
      stablehlo.write(linear(plain), tmp_path / stablehlo.LOADER)
    assert not list(tmp_path.iterdir())

  def test_no_file_appears_without_its_loader(self, tmp_path):
    (tmp_path / stablehlo.LOADER).mkdir()
    with pytest.raises(UserError, match=stablehlo.LOADER):
      stablehlo.write(linear(plain), tmp_path / "faces.npz")
    assert [path.name for path in tmp_path.iterdir()] == [stablehlo.LOADER]

  def test_it_says_what_it_is_and_where_it_runs(self, tmp_path):
    from fer_jax.apps.exports.loader import load

    classifier = linear(plain)
    stablehlo.write(classifier, tmp_path / "faces.npz")
    _, _, said = load(tmp_path / "faces.npz")
    assert said["class_names"] == list(NAMES) and said["shape"] == [4, 4, 1] and said["margin"] == classifier.margin
    assert {key: said[key] for key in ("fer_jax", "config", "dataset", "commit", "crop", "step")} == {
      **{"fer_jax": fer_jax.__version__, "config": "configs/some.py:variant", "dataset": "faces", "commit": "abc"},
      **{"crop": "detector", "step": 7},
    }
    with np.load(tmp_path / "faces.npz") as arrays:
      exported = jax.export.deserialize(bytearray(arrays["program"]))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.npz", stablehlo.LOADER]


class Different(TrainedModel):
  """One whose own logits are not what its network computes."""

  def logits(self, faces, batch_size=1):
    return super().logits(faces) + np.array([self.origin["step"], 0, 0], np.float32)


@pytest.mark.parametrize("write", [stablehlo.write, pytest.param(onnx.write, marks=needs_onnx)])
@pytest.mark.parametrize("error", [0.01, np.nan])
def test_a_file_that_differs_from_the_network_does_not_appear(write, error, tmp_path):
  classifier = linear(plain)
  fields = {field.name: getattr(classifier, field.name) for field in dataclasses.fields(classifier)}
  (tmp_path / "faces").write_text("an earlier one")
  with pytest.raises(Failure, match="differ from the network's"):
    write(Different(**{**fields, "origin": {"step": error}}), tmp_path / "faces")
  assert [path.name for path in tmp_path.iterdir()] == ["faces"]
  assert (tmp_path / "faces").read_text() == "an earlier one"


@pytest.mark.parametrize("kind", ["noise", "smooth", "constant"])
def test_a_difference_is_found_on_whatever_kind_of_face_it_shows(kind):
  classifier = linear(plain)
  kinds = {
    "noise": lambda faces: faces.std(axis=(1, 2, 3)) > 50,
    "smooth": lambda faces: (faces.std(axis=(1, 2, 3)) > 5) & (faces.std(axis=(1, 2, 3)) < 40),
    "constant": lambda faces: faces.std(axis=(1, 2, 3)) == 0,
  }

  def computed(faces):
    return probabilities(classifier, faces) + 0.01 * kinds[kind](faces)[:, None]

  with pytest.raises(Failure, match="differ from the network's"):
    check(computed, classifier, (1, 4))


class TestProgram:
  @pytest.mark.parametrize("form", ["stablehlo", pytest.param("onnx", marks=needs_onnx)])
  def test_it_writes_the_file_and_says_so(self, form, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trained_model, "load", {tmp_path / "run": linear(plain)}.get)
    out = tmp_path / "faces.file"
    export.main([f"--checkpoint={tmp_path / 'run'}", f"--format={form}", f"--out={out}"])
    assert out.is_file()
    said = capsys.readouterr()
    assert not said.err
    assert str(out) in said.out and "angry, happy" in said.out and "faces of 4x4, grey" in said.out
    assert (stablehlo.LOADER in said.out) == (form == "stablehlo")

  def test_no_finished_run(self, tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
      export.main([f"--checkpoint={tmp_path}", "--format=onnx", f"--out={tmp_path / 'faces.onnx'}"])

  @pytest.mark.parametrize("write", [stablehlo.write, pytest.param(onnx.write, marks=needs_onnx)])
  def test_a_place_that_cannot_be_written(self, write, tmp_path):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "folder"), (tmp_path / "file" / "faces", "file")):
      with pytest.raises(UserError, match=reason):
        write(linear(plain), path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
