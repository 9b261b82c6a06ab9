"""Compiles steps for GPUs that are not here; skipped without XLA for CUDA."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hsic
from fer_jax.apps import bench
from fer_jax.apps.benchmarks.gpu import with_twin
from fer_jax.apps.benchmarks.gpu_step import Step, compile_step, evaluation_step, faults, training_steps
from fer_jax.apps.benchmarks.gpu_target import TARGETS, absent_devices, is_installed
from fer_jax.config.parsing import parse
from fer_jax.runtime.errors import UserError
from tests.configs.configs_test import NARROW, VARIANTS

needs_cuda = pytest.mark.skipif(not is_installed(), reason="XLA for CUDA is not installed: fer_jax[gpu-aot]")
TINY = """
from configs import hsic
def get_config():
  config = hsic.get_config("demo,layerwise")
  config.model.update({"blocks": 1, "convs": 1, "growth": 8, "stem": 8, "pyramid": 8})
  config.batch_size = config.eval_batch_size = 16
  config.phases.bottleneck.objective.group = "layer"
  return config
"""


def settings_of(name, variant):
  config = importlib.import_module(f"configs.{name}").get_config(variant)
  config.model.update(NARROW[name])
  config.pretrained.required = False
  return parse(config)


@needs_cuda
def test_rows_describe_each_program(write_config, tmp_path, monkeypatch):
  monkeypatch.setattr("fer_jax.apps.benchmarks.gpu.PRECISIONS", ("float32",))
  out = tmp_path / "gpu.json"
  config = write_config(TINY)
  bench.main(["--what=gpu", f"--config={config}", "--target=l4", f"--out={out}"])
  result = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
  assert [name.removeprefix(f"{config}, ") for name in result] == [
    f"{step}, float32, {count}" for count in ("1 GPU", "8 GPUs") for step in ("backprop", "bottleneck", "evaluation")
  ]
  for name, row in result.items():
    assert row["kernels"] == sum(row[kind] for kind in ("fusion", "cudnn", "cublas", "triton", "copy", "other"))
    assert (row["collectives"] > 0) == name.endswith("8 GPUs")
    assert row["peak_bytes"] >= row["temporary_bytes"] + row["argument_bytes"] > 28709 * 48 * 48
    assert row["estimated_seconds"] > 0
    assert ("largest_batch" in row) == (name.endswith("1 GPU") and "evaluation" not in name)
  backprop, bottleneck = (result[f"{config}, {name}, float32, 1 GPU"] for name in ("backprop", "bottleneck"))
  assert backprop["largest_batch"] > 16
  assert bottleneck["kernels_ratio"] == pytest.approx(bottleneck["kernels"] / backprop["kernels"])


@needs_cuda
@pytest.mark.slow
def test_bottleneck_takes_less_memory_than_its_twin_and_a_third_more_kernels():
  config = hsic.get_config("small,layerwise")
  devices = absent_devices(TARGETS["h100"], 1)
  twin, bottleneck = (
    compile_step(training_steps(settings, devices)["bottleneck"], quick=True)
    for settings in with_twin(parse(config)).values()
  )
  # Concatenating the inputs of dense layers removed 201 of the twin's 648 kernels and 110 of the bottleneck's 707.
  assert bottleneck.program.count() <= 1.35 * twin.program.count()
  assert bottleneck.temporary_bytes <= 0.45 * twin.temporary_bytes
  assert bottleneck.program.count("copy") <= 2  # the state is updated in place


def test_explains_what_to_install(write_config, monkeypatch):
  monkeypatch.setattr("fer_jax.apps.benchmarks.gpu_target.is_installed", lambda: False)
  with pytest.raises(UserError, match=r"needs XLA for CUDA, which is not installed: pip install 'fer_jax\[gpu-aot\]'"):
    bench.main(["--what=gpu", f"--config={write_config(TINY)}"])


@needs_cuda
class TestFaults:
  def compiled(self, function, donated=0):
    (device,) = absent_devices(TARGETS["h100"], 1)
    shape = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))
    step = Step(function, (shape,), donated)
    return faults(step, compile_step(step, quick=True))

  def test_a_step_without_faults(self):
    assert self.compiled(jax.jit(lambda x: 2 * x, donate_argnums=0), donated=1) == []

  def test_a_float64_constant(self):
    with jax.enable_x64(True):
      found = self.compiled(jax.jit(lambda x: (x * np.linspace(0, 1, 64)).astype(jnp.float32)))
    assert found == ["computes in float64"]

  def test_a_state_that_is_copied(self):
    assert self.compiled(jax.jit(lambda x: 2 * x), donated=1) == ["donates 0 of 1 arrays of the state"]


def slow_but(fast, cases):
  return [case if fast(*case) else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


# The defaults of all systems are compiled in the fast tests, for eight devices.
CASES = [(*variant, count) for variant in VARIANTS for count in (1, 8)]
STEPS = slow_but(lambda _, variant, count: (variant, count) == ("", 8), CASES)
REPLICAS = slow_but(lambda *variant: variant == ("resnet", "demo"), VARIANTS)


@needs_cuda
@pytest.mark.parametrize(("name", "variant", "count"), STEPS)
def test_steps_compile_without_faults(name, variant, count):
  devices = absent_devices(TARGETS["h100"], count)
  settings = settings_of(name, variant)
  steps = {**training_steps(settings, devices), "evaluation": evaluation_step(settings, devices)}
  for phase, step in steps.items():
    compiled = compile_step(step, quick=True)
    assert faults(step, compiled) == [], phase
    assert (len(compiled.program.collectives) > 0) == (count > 1), phase


@needs_cuda
@pytest.mark.parametrize(("name", "variant"), REPLICAS)
def test_replicas_compile_without_faults(name, variant):
  settings, devices = settings_of(name, variant), absent_devices(TARGETS["h100"], 1)
  for phase, step in training_steps(settings, devices, together=3).items():
    assert faults(step, compile_step(step, quick=True)) == [], phase
