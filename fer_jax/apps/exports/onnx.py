"""Exports a network as ONNX, one file for runtimes in other languages and on other devices."""

import contextlib
import json
import logging
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.apps.exports.formats import (
  INPUT,
  OUTPUT,
  TOLERANCE,
  atomic_file,
  check,
  exported_function,
  input_spec,
  metadata,
)
from fer_jax.apps.exports.inlining import evaluate, uses_bfloat16
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.runtime.errors import UserError

# Batch sizes tested, because the converter may fix the symbolic batch size by mistake.
BATCHES = (0, 1, 4)
OPSET = 21  # released in 2024; sufficient for all operations used
# Maximum difference of a probability if the network computes in bfloat16 (8 significant bits), the file in float32.
BFLOAT16_TOLERANCE = 0.05
_MAX_REASON = 400  # maximum characters of an error message; onnxruntime prints whole graphs
# Loggers that are silenced: their warnings concern converter development (failed imports of examples, missing shapes).
_NOISY_LOGGERS = ("jax2onnx", "onnx_ir")


def write_onnx(model: TrainedModel, path: Path) -> float:
  """Writes a network as an ONNX file, atomically; the file computes in float32 whatever the network's precision.

  Its input is named INPUT and its output OUTPUT. The metadata, class names included, is stored in the model's
  properties: strings as they are, other values as JSON.

  Args:
    model: Network to export.
    path: Path of the file.

  Returns:
    Largest difference from the network's probabilities, on noise and on smooth test images.

  Raises:
    UserError: The converter is not installed; the converter or onnxruntime fails, for example on an unsupported
      operation; or the file cannot be written.
    Failure: The file's probabilities, computed by onnxruntime, differ from the network's.
  """
  to_onnx, helper, runtime = _packages()
  with atomic_file(path) as partial:
    faces = input_spec(model)
    traced = jax.make_jaxpr(exported_function(model))(faces)
    # Inline all calls: the converter gets a flat program of supported primitives.
    with _convert_errors(model), _quiet_loggers():
      onnx_model = to_onnx(
        lambda faces: evaluate(traced, faces)[0],
        inputs=[faces],
        input_names=[INPUT],
        output_names=[OUTPUT],
        model_name="fer_jax",
        opset=OPSET,
      )
    properties = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata(model).items()}
    helper.set_model_props(onnx_model, properties)
    _accept_empty_batches(onnx_model, helper)
    partial.write_bytes(onnx_model.SerializeToString())
    with _convert_errors(model):
      session = runtime.InferenceSession(partial, providers=["CPUExecutionProvider"])

    def run(faces: np.ndarray) -> np.ndarray:
      with _convert_errors(model):
        return np.asarray(session.run([OUTPUT], {INPUT: faces})[0])

    with jax.default_matmul_precision("highest"):  # GPUs would use TF32 (10-bit mantissa), unlike onnxruntime
      return check(run, model, BATCHES, BFLOAT16_TOLERANCE if uses_bfloat16(traced) else TOLERANCE)


def _packages() -> tuple[Any, Any, Any]:
  """Returns (to_onnx, onnx.helper, onnxruntime); raises UserError if a package is missing."""
  try:
    import onnx.helper
    import onnxruntime
    from jax2onnx import to_onnx
  except ImportError as error:
    raise UserError(f"--format=onnx: {error}; expected jax2onnx: pip install jax2onnx") from None
  return to_onnx, onnx.helper, onnxruntime


def _accept_empty_batches(model: Any, helper: Any) -> None:
  """Adds one face to an empty batch, and removes its probabilities: onnxruntime's convolutions need one image.

  Args:
    model: ONNX model with the input INPUT [B, H, W, C] and the output OUTPUT [B, K]; modified in place.
    helper: The module onnx.helper.
  """
  graph, padded, all_rows = model.graph, f"{INPUT}_or_one", f"{OUTPUT}_or_one"
  for node in graph.node:
    for names, name, new in (
      (node.input, INPUT, padded),
      (node.output, OUTPUT, all_rows),
      (node.input, OUTPUT, all_rows),
    ):
      for position, old in enumerate(names):
        if old == name:
          names[position] = new

  def constant(name: str, *values: int) -> Any:
    tensor = helper.make_tensor(name, 7, [len(values)], values)  # 7 is int64
    return helper.make_node("Constant", [], [name], value=tensor)

  before = [
    constant("fer_jax_one", 1),
    constant("fer_jax_zero", 0),
    constant("fer_jax_no_padding_before", 0, 0, 0, 0),
    constant("fer_jax_no_padding_after", 0, 0, 0),
    helper.make_node("Shape", [INPUT], ["fer_jax_batch"], start=0, end=1),
    helper.make_node("Sub", ["fer_jax_one", "fer_jax_batch"], ["fer_jax_lacking"]),
    helper.make_node("Max", ["fer_jax_lacking", "fer_jax_zero"], ["fer_jax_missing"]),
    helper.make_node(
      "Concat",
      ["fer_jax_no_padding_before", "fer_jax_missing", "fer_jax_no_padding_after"],
      ["fer_jax_padding"],
      axis=0,
    ),
    helper.make_node("Pad", [INPUT, "fer_jax_padding"], [padded]),
  ]
  nodes = [
    *before,
    *graph.node,
    helper.make_node("Slice", [all_rows, "fer_jax_zero", "fer_jax_batch", "fer_jax_zero"], [OUTPUT]),
  ]
  del graph.node[:]
  graph.node.extend(nodes)


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
  """Raises the level of the loggers in _NOISY_LOGGERS to ERROR inside the context."""
  loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)


@contextlib.contextmanager
def _convert_errors(model: TrainedModel) -> Iterator[None]:
  """Converts any exception of the converter or the runtime to a one-line UserError."""
  try:
    yield
  # For unsupported operations both packages raise many exception types: KeyError, RuntimeError, and their own. In every
  # case the user's only remedy is the other format.
  except Exception as error:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", _MAX_REASON, placeholder=" ...")
    raise UserError(
      f"the network of {model.origin.get('config', 'this run')} cannot be written as ONNX: {reason}; "
      "use --format=stablehlo"
    ) from error
