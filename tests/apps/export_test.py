"""Tests exported files, run by onnxruntime and by a process without fer_jax, against the network itself."""

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
from fer_jax.apps.exports.formats import LOADER, check, write_stablehlo
from fer_jax.apps.exports.onnx import write_onnx
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
# Every kind of layer of the network, but few layers.
BASELINES = {
  "alexnet": AlexNet(hidden=8),
  "bn_inception": BnInception(),
  "densenet": DenseNet(layers=(1, 1), growth=4),
  "mobilenet_v3": MobileNetV3(size="small"),
  "vgg": Vgg(depth=13, width=2, hidden=8),
  "xception": Xception(width=2),
}


def random_model(network, shape):
  """Returns a network with random parameters and statistics, so small that no probability is close to 1."""
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


FAST_NETWORKS = [name for name in NETWORKS if name != "mini_xception"]


@pytest.fixture(scope="module", params=[*FAST_NETWORKS, pytest.param("mini_xception", marks=pytest.mark.slow)])
def model(request):
  settings, shape = NETWORKS[request.param]
  return random_model(settings.build(len(NAMES), jnp.float32, None), shape)


def linear_model(forward):
  """Returns a network of few operations, for tests that do not depend on the network."""
  return random_model(Network({}, forward, (), "classifier"), (4, 4, 1))


def linear(apply, image):
  features = image.reshape(image.shape[0], -1)
  return features[:, :3], features


def faces_of(model, count=8):
  return np.random.default_rng(1).integers(0, 256, (count, *model.shape), dtype=np.uint8)


def probabilities(model, faces):
  return model.probability(faces, batch_size=4)  # batch size of the check in the program


def run_without_fer_jax(folder, file, faces):
  """Runs the loader script in a process where importing fer_jax is an error."""
  np.save(folder / "faces.npy", faces)
  program = "import runpy, sys; sys.modules['fer_jax'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
  command = [sys.executable, "-I", "-c", program, LOADER, file.name, "faces.npy"]
  return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@needs_onnx
class TestOnnx:
  def test_equals_the_network_for_every_batch_size(self, model, tmp_path):
    import onnxruntime

    difference = write_onnx(model, tmp_path / "faces.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "faces.onnx")
    faces = faces_of(model)
    expected = probabilities(model, faces)
    assert expected.max() < 0.99 and expected.std(axis=0).max() > 1e-4, "the probabilities are constant"
    for batch in (faces[:0], faces[:1], faces[:3], faces):
      (found,) = session.run(["probabilities"], {"faces": batch})
      assert found.dtype == np.float32
      np.testing.assert_allclose(found, expected[: len(batch)], atol=1e-5, strict=True)
    assert difference < 1e-5

  def test_has_names_shapes_and_metadata(self, tmp_path):
    import onnxruntime

    model = linear_model(linear)
    write_onnx(model, tmp_path / "new" / "faces.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "new" / "faces.onnx")
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("faces", "tensor(uint8)", ["B", 4, 4, 1])
    assert (result.name, result.type, result.shape) == ("probabilities", "tensor(float)", ["B", 3])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(NAMES) and json.loads(metadata["shape"]) == [4, 4, 1]
    assert metadata["fer_jax"] == fer_jax.__version__ and metadata["config"] == "configs/some.py:variant"
    assert metadata["commit"] == "abc" and metadata["dataset"] == "faces"
    assert metadata["crop"] == "detector" and float(metadata["margin"]) == model.margin
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["faces.onnx"]

  def test_unsupported_operation_is_named(self, tmp_path):
    def forward(apply, image):
      logits, features = linear(apply, image)
      shape = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
      return jax.pure_callback(lambda x: x, shape, logits), features

    with pytest.raises(UserError, match=r"configs/some\.py:variant .*'pure_callback'.*stablehlo"):
      write_onnx(linear_model(forward), tmp_path / "faces.onnx")
    assert not list(tmp_path.iterdir())

  @pytest.mark.slow
  @pytest.mark.parametrize("name", BASELINES)
  def test_exports_every_baseline(self, name, tmp_path, monkeypatch):
    monkeypatch.setattr(bn_inception, "MODULES", {key: bn_inception.MODULES[key] for key in ("3c", "4e", "5b")})
    monkeypatch.setitem(mobilenet_v3.ROWS, "small", mobilenet_v3.SMALL[:4])
    monkeypatch.setattr(xception, "MIDDLE", xception.MIDDLE[:1])
    model = random_model(BASELINES[name].build(len(NAMES), jnp.float32, None), (48, 48, 1))
    assert probabilities(model, faces_of(model)).max() < 0.99
    assert write_onnx(model, tmp_path / "faces.onnx") < 1e-5

  @pytest.mark.parametrize("step", ["to_onnx", "InferenceSession", "run"])
  def test_any_exception_of_converter_or_runtime_is_one_line(self, step, tmp_path, monkeypatch):
    class BrokenSession:
      def __init__(self, *arguments, **options):
        if step == "InferenceSession":
          raise RuntimeError("no kernel\n for Gelu(20)")

      def run(self, *arguments):
        raise RuntimeError("no kernel\n for Gelu(20)")

    def fail(*arguments, **options):
      raise RuntimeError("no kernel\n for Gelu(20)")

    replaced = ("jax2onnx.to_onnx", fail) if step == "to_onnx" else ("onnxruntime.InferenceSession", BrokenSession)
    monkeypatch.setattr(*replaced)
    with pytest.raises(
      UserError, match=r"some\.py:variant .*RuntimeError: no kernel for Gelu\(20\).*stablehlo"
    ) as caught:
      write_onnx(linear_model(linear), tmp_path / "faces.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())

  def test_bfloat16_network_is_exported_in_float32(self, tmp_path):
    def forward(apply, image):
      logits, features = linear(apply, image.astype(jnp.bfloat16) * jnp.bfloat16(1.1))
      return logits.astype(jnp.float32), features

    assert 1e-4 < write_onnx(linear_model(forward), tmp_path / "faces.onnx") < 0.02

  @pytest.mark.parametrize("package", ["jax2onnx", "onnxruntime"])
  def test_missing_package_is_named(self, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install jax2onnx"):
      write_onnx(linear_model(linear), tmp_path / "faces.onnx")


class TestStableHlo:
  @pytest.mark.slow
  @pytest.mark.parametrize("model", ["bilinear", "two_channel", "ca_resnet"], indirect=True)
  def test_equals_the_network(self, model, tmp_path):
    assert write_stablehlo(model, tmp_path / "faces.npz") < 1e-6

  @pytest.mark.parametrize("model", ["resnet"], indirect=True)
  def test_runs_without_fer_jax(self, model, tmp_path):
    write_stablehlo(model, tmp_path / "faces.npz")
    faces = faces_of(model, 2)
    for given in (faces, faces[0]):  # several faces, and one face
      process = run_without_fer_jax(tmp_path, tmp_path / "faces.npz", given)
      assert process.returncode == 0, process.stderr
      rows = [json.loads(line) for line in process.stdout.splitlines()]
      assert tuple(rows[0]) == NAMES
      found = np.array([list(row.values()) for row in rows])
      np.testing.assert_allclose(found, probabilities(model, given.reshape(faces[-len(rows) :].shape)), atol=1e-6)

  def test_loader_rejects_faces_of_another_size(self, tmp_path):
    model = linear_model(linear)  # faces of 4x4
    write_stablehlo(model, tmp_path / "faces.npz")
    process = run_without_fer_jax(tmp_path, tmp_path / "faces.npz", np.zeros((4, 2, 2, 1), np.uint8))
    assert process.returncode != 0
    assert not process.stdout

  def test_rejects_the_name_of_the_loader(self, tmp_path):
    with pytest.raises(UserError, match=rf"{LOADER}.*loader"):
      write_stablehlo(linear_model(linear), tmp_path / LOADER)
    assert not list(tmp_path.iterdir())

  def test_writes_no_file_without_its_loader(self, tmp_path):
    (tmp_path / LOADER).mkdir()
    with pytest.raises(UserError, match=LOADER):
      write_stablehlo(linear_model(linear), tmp_path / "faces.npz")
    assert [path.name for path in tmp_path.iterdir()] == [LOADER]

  def test_has_metadata_and_platforms(self, tmp_path):
    from fer_jax.apps.exports.loader import load

    model = linear_model(linear)
    write_stablehlo(model, tmp_path / "faces.npz")
    _, _, metadata = load(tmp_path / "faces.npz")
    assert (
      metadata["class_names"] == list(NAMES) and metadata["shape"] == [4, 4, 1] and metadata["margin"] == model.margin
    )
    assert {key: metadata[key] for key in ("fer_jax", "config", "dataset", "commit", "crop", "step")} == {
      "fer_jax": fer_jax.__version__,
      "config": "configs/some.py:variant",
      "dataset": "faces",
      "commit": "abc",
      "crop": "detector",
      "step": 7,
    }
    with np.load(tmp_path / "faces.npz") as arrays:
      exported = jax.export.deserialize(bytearray(arrays["program"]))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.npz", LOADER]


class InconsistentModel(TrainedModel):
  """Model whose logits differ from those of its network."""

  def logits(self, faces, batch_size=1):
    return super().logits(faces) + np.array([self.origin["step"], 0, 0], np.float32)


@pytest.mark.parametrize("write", [write_stablehlo, pytest.param(write_onnx, marks=needs_onnx)])
@pytest.mark.parametrize("error", [0.01, np.nan])
def test_writes_no_file_that_differs_from_the_network(write, error, tmp_path):
  model = linear_model(linear)
  fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
  (tmp_path / "faces").write_text("earlier file")
  with pytest.raises(Failure, match="differ from the network's"):
    write(InconsistentModel(**{**fields, "origin": {"step": error}}), tmp_path / "faces")
  assert [path.name for path in tmp_path.iterdir()] == ["faces"]
  assert (tmp_path / "faces").read_text() == "earlier file"


@pytest.mark.parametrize("kind", ["noise", "smooth", "constant"])
def test_check_finds_a_difference_on_every_kind_of_face(kind):
  model = linear_model(linear)
  kinds = {
    "noise": lambda faces: faces.std(axis=(1, 2, 3)) > 50,
    "smooth": lambda faces: (faces.std(axis=(1, 2, 3)) > 5) & (faces.std(axis=(1, 2, 3)) < 40),
    "constant": lambda faces: faces.std(axis=(1, 2, 3)) == 0,
  }

  def run(faces):
    return probabilities(model, faces) + 0.01 * kinds[kind](faces)[:, None]

  with pytest.raises(Failure, match="differ from the network's"):
    check(run, model, (1, 4))


class TestProgram:
  @pytest.mark.parametrize("form", ["stablehlo", pytest.param("onnx", marks=needs_onnx)])
  def test_writes_and_describes_the_file(self, form, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trained_model, "load", {tmp_path / "run": linear_model(linear)}.get)
    out = tmp_path / "faces.file"
    export.main([f"--checkpoint={tmp_path / 'run'}", f"--format={form}", f"--out={out}"])
    assert out.is_file()
    output = capsys.readouterr()
    assert not output.err
    assert str(out) in output.out and "angry, happy" in output.out and "faces of 4x4, grey" in output.out
    assert (LOADER in output.out) == (form == "stablehlo")

  def test_rejects_a_folder_without_a_finished_run(self, tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
      export.main([f"--checkpoint={tmp_path}", "--format=onnx", f"--out={tmp_path / 'faces.onnx'}"])

  @pytest.mark.parametrize("write", [write_stablehlo, pytest.param(write_onnx, marks=needs_onnx)])
  def test_unwritable_path_raises_user_error(self, write, tmp_path):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "folder"), (tmp_path / "file" / "faces", "file")):
      with pytest.raises(UserError, match=reason):
        write(linear_model(linear), path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
