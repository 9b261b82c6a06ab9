"""A network as ONNX: one file that runtimes of other languages and devices run."""

import contextlib
import json
import logging
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.apps.exports.inlining import evaluate, is_narrow
from fer_jax.apps.exports.program import INPUT, OUTPUT, TOLERANCE, check, faces_of, metadata, program, whole_file
from fer_jax.classifier import Classifier
from fer_jax.errors import UserError

BATCHES = (1, 4)  # that a file is tried with: the converter may have written a number where any is meant
OPSET = 21  # of 2024; nothing later is needed
# Of a probability, where the network computes in bfloat16, with 8 bits, and the file in float32.
NARROW_TOLERANCE = 0.05
_REASON = 400  # characters of it that are shown: onnxruntime prints whole graphs
# What they warn of concerns those who write converters: examples that cannot be imported, shapes that are not noted.
_TALKATIVE = ("jax2onnx", "onnx_ir")


def write(classifier: Classifier, path: Path) -> float:
  """Writes a network whole or not at all; computed in float32, whatever its precision.

  Its input is named INPUT, its output OUTPUT; class names and all that the file says of itself are its properties, as
  text where they are text and else as JSON.

  Args:
    classifier: the network.
    path: of the file.

  Returns:
    the largest difference from the network's own probabilities, on noise and on smooth faces.

  Raises:
    UserError: the converter is not installed; it or onnxruntime fails, as at an operation that it does not know; the
      file cannot be written.
    Failure: the file, run by onnxruntime, differs from the network.
  """
  to_onnx, set_properties, runtime = _packages()
  with whole_file(path) as partial:
    faces = faces_of(classifier)
    traced = jax.make_jaxpr(program(classifier))(faces)
    with _failures(classifier), _silence():
      model = to_onnx(
        lambda faces: evaluate(traced, faces)[0],
        inputs=[faces],
        input_names=[INPUT],
        output_names=[OUTPUT],
        model_name="fer_jax",
        opset=OPSET,
      )
    said = metadata(classifier)
    set_properties(model, {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()})
    partial.write_bytes(model.SerializeToString())
    with _failures(classifier):
      session = runtime.InferenceSession(partial, providers=["CPUExecutionProvider"])

    def run(faces: np.ndarray) -> np.ndarray:
      with _failures(classifier):
        return np.asarray(session.run([OUTPUT], {INPUT: faces})[0])

    with jax.default_matmul_precision("highest"):  # GPUs would round to ten bits, onnxruntime does not
      return check(run, classifier, BATCHES, NARROW_TOLERANCE if is_narrow(traced) else TOLERANCE)


def _packages() -> tuple[Any, Any, Any]:
  """Returns the converter, what gives a model properties, and the runtime; raises UserError where one is missing."""
  try:
    import onnxruntime
    from jax2onnx import to_onnx
    from onnx.helper import set_model_props
  except ImportError as error:
    raise UserError(f"--format=onnx: {error}; expected jax2onnx: pip install jax2onnx") from None
  return to_onnx, set_model_props, onnxruntime


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  loggers = [logging.getLogger(name) for name in _TALKATIVE]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)


@contextlib.contextmanager
def _failures(classifier: Classifier) -> Iterator[None]:
  """Turns what the converter or the runtime raises into a UserError of one line."""
  try:
    yield
  # A network may hold anything, and of what either cannot do both raise nearly anything: KeyError, RuntimeError, their
  # own. Whoever exports can do nothing about it but take the other format.
  except Exception as error:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", _REASON, placeholder=" ...")
    raise UserError(
      f"the network of {classifier.origin.get('config', 'this run')} cannot be written as ONNX: {reason}; "
      "--format=stablehlo can"
    ) from error
