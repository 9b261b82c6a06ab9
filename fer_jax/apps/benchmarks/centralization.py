"""Gradient centralization: the mean gradient per unit that remains, by kernel layout, and its cost."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import binom

from fer_jax.apps.benchmarks.benchmark import CLASSES, FER2013, Benchmark, Row, load_settings
from fer_jax.apps.benchmarks.steps import Program, StepInputs, compile_program, median_seconds, step_inputs
from fer_jax.data.augment import Augmentation
from fer_jax.objectives.objective import Objective
from fer_jax.optim import centralize_gradients, gc_adamw
from fer_jax.runtime.errors import UserError
from fer_jax.training.step import make_train_step

Leaf = Callable[[Any], jax.Array]
Loss = Callable[[jax.Array], jax.Array]

CONV = "linen Conv"
ADAMW, DIRECTION, GRADIENT = "adamw update", "gc_adamw update, direction", "gc_adamw update, gradient"
STEP, GC_STEP = "whole step, adamw", "whole step, gc_adamw, direction"
UPDATES = 20  # timed optimizer updates per timed whole step; updates are much shorter
_BATCH, _INPUTS, _UNITS = 32, 16, 12  # batch size, input features, output features


def layouts(config: str, rounds: int) -> Benchmark:
  """Measures the mean gradient per output unit that remains after `optax.centralize`, and after ours.

  Each gradient comes from a freshly initialised layer on rectified random inputs. The input axes of each kernel are
  listed here explicitly, independently of the axes that the transformations choose.

  Args:
    config: Not used.
    rounds: Not used.

  Returns:
    One row per layer with `before`, `optax_centralize` and `ours`: the maximum |mean gradient| over the output units.
    The last row has the share of a bias's gradient that is lost.

  Raises:
    UserError: Equinox is not installed.
  """
  try:
    import equinox as eqx
  except ImportError:
    raise UserError("--what=layouts: Equinox is not installed; install it by `pip install equinox`") from None
  return Benchmark(CONV, [*_one_output_axis_rows(), *_several_axes_rows(), *_equinox_rows(eqx)])


def gc(config: str, rounds: int) -> Benchmark:
  """Times AdamW's update with and without gradient centralization, alone and within a whole training step.

  The difference is small compared with the noise of either time. It is therefore measured within each turn and
  reported as the median with its 95 % interval; an interval that contains zero means that no difference was detected.

  Args:
    config: Config, FILE.py:VARIANT, that provides network, image size, batch size, precision and the objective of the
      first phase.
    rounds: Timed whole steps per program; updates are timed UPDATES times as often.

  Returns:
    One row per program: `seconds`; `time_ratio`, relative to the same program without centralization; `share_of_step`,
    the additional seconds as a share of the whole step without centralization; `share_low` and `share_high`, the
    interval of that share.
  """
  settings = load_settings(config)
  size = settings.data.image_size or FER2013[1]
  phase = settings.phases[settings.schedule[0]]
  inputs = step_inputs(settings.model, settings.batch_size, settings.precision, size, phase.objective)
  objective = phase.objective.build(inputs.network, frozenset(inputs.network.layers), None)
  adamw, direction = optax.adamw(1e-3, weight_decay=1e-2), gc_adamw(1e-3, weight_decay=1e-2)
  gradient = gc_adamw(1e-3, weight_decay=1e-2, location="gradient")
  updates = {ADAMW: adamw, DIRECTION: direction, GRADIENT: gradient}
  steps = {STEP: adamw, GC_STEP: direction}
  update_turns = _turn_seconds(
    {name: _update(optimizer, inputs) for name, optimizer in updates.items()}, UPDATES * rounds
  )
  step_turns = _turn_seconds({name: _step(objective, optimizer, inputs) for name, optimizer in steps.items()}, rounds)
  step_seconds = statistics.median(turn[STEP] for turn in step_turns)
  rows = [_cost_row(name, ADAMW, update_turns, step_seconds) for name in updates]
  rows += [_cost_row(name, STEP, step_turns, step_seconds) for name in steps]
  return Benchmark(DIRECTION, rows)


def _one_output_axis_rows() -> list[Row]:
  """Returns the rows of kernels [..., in, out], with one output axis."""
  conv, depthwise = nn.Conv(_UNITS, (3, 3)), nn.Conv(_INPUTS, (3, 3), feature_group_count=_INPUTS)
  dense, head = nn.Dense(_UNITS), nn.Dense(CLASSES)
  images, vectors = _inputs(8, 8, _INPUTS), _inputs(_INPUTS)
  ours = centralize_gradients()
  return [
    _row(CONV, _gradients(conv, images), _kernel, (0, 1, 2), ours),
    _row("linen Conv, depthwise", _gradients(depthwise, images), _kernel, (0, 1, 2), ours),
    _row("linen Dense", _gradients(dense, vectors), _kernel, (0,), ours),
    _row("linen Dense, softmax head", _gradients(head, vectors, _cross_entropy), _kernel, (0,), ours),
  ]


def _several_axes_rows() -> list[Row]:
  """Returns the rows of kernels with several input or output axes, or with a leading axis of stacked layers."""

  class Layer(nn.Module):
    @nn.compact
    def __call__(self, carry: jax.Array, _: None) -> tuple[jax.Array, None]:
      return nn.relu(nn.Dense(_INPUTS)(carry)), None

  class Stack(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
      stacked = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
      return stacked(name="layers")(inputs, None)[0]

  default = centralize_gradients()
  heads = _gradients(nn.DenseGeneral((3, 4)), _inputs(_INPUTS))  # kernel [in, heads, depth]
  head_axes = centralize_gradients(axes=lambda path, leaf: (0,) if leaf.ndim == 3 else None)
  attention = _gradients(nn.MultiHeadDotProductAttention(4, qkv_features=_INPUTS), _inputs(5, _INPUTS))
  stack = _gradients(Stack(), _inputs(_INPUTS))  # kernel [layer, in, out]
  stack_axes = centralize_gradients(axes=lambda path, leaf: (1,) if leaf.ndim == 3 else None)

  def scanned(tree: Any) -> jax.Array:
    return tree["layers"]["Dense_0"]["kernel"]

  def out_projection(tree: Any) -> jax.Array:
    return tree["out"]["kernel"]  # [heads, depth, out]

  return [
    _row("linen attention, out-projection", attention, out_projection, (0, 1), default),
    _row("linen DenseGeneral to heads, by default", heads, _kernel, (0,), default),
    _row("linen DenseGeneral to heads, axis function", heads, _kernel, (0,), head_axes),
    _row("linen scanned Dense, by default", stack, scanned, (1,), default),
    _row("linen scanned Dense, axis function", stack, scanned, (1,), stack_axes),
  ]


def _equinox_rows(eqx: Any) -> list[Row]:
  """Returns the rows of Equinox layers, whose weights are [out, in, ...]."""
  conv = eqx.nn.Conv2d(_INPUTS, _UNITS, 3, key=jax.random.key(0))
  linear = eqx.nn.Linear(_INPUTS, _UNITS, key=jax.random.key(0))

  def gradients(layer: Any, inputs: jax.Array) -> Any:
    return eqx.filter_grad(lambda layer: _mean_square(jax.vmap(layer)(inputs)))(layer)

  conv_gradients, linear_gradients = gradients(conv, _inputs(_INPUTS, 8, 8)), gradients(linear, _inputs(_INPUTS))
  ours = centralize_gradients("output_first")
  # Equinox biases are [out, 1, 1]: `optax.centralize` centres them over axes of size 1, which sets them to zero.
  norm = _norm(conv_gradients.bias)
  kept = {name: _norm(_centralized(each, conv_gradients).bias) / norm for name, each in _transforms(ours).items()}
  return [
    _row("Equinox Conv2d, output_first", conv_gradients, lambda tree: tree.weight, (1, 2, 3), ours),
    _row("Equinox Linear, output_first", linear_gradients, lambda tree: tree.weight, (1,), ours),
    {
      "name": "Equinox Conv2d, share of the bias's gradient lost",
      "before": 0.0,
      **{name: 1 - share for name, share in kept.items()},
    },
  ]


def _row(name: str, gradients: Any, kernel: Leaf, inputs: tuple[int, ...], ours: optax.GradientTransformation) -> Row:
  """Returns the row of one layer, whose kernel has the inputs of a unit on the axes `inputs`."""

  def largest_mean(tree: Any) -> float:
    # float64, so that rounding of the mean itself does not hide a remainder of the order of float32 epsilon.
    return float(np.abs(np.asarray(kernel(tree), np.float64).mean(inputs)).max())

  after = {column: largest_mean(_centralized(transform, gradients)) for column, transform in _transforms(ours).items()}
  return {"name": name, "before": largest_mean(gradients), **after}


def _transforms(ours: optax.GradientTransformation) -> dict[str, optax.GradientTransformation]:
  return {"optax_centralize": optax.centralize(), "ours": ours}


def _centralized(transform: optax.GradientTransformation, gradients: Any) -> Any:
  return transform.update(gradients, transform.init(gradients))[0]


def _mean_square(outputs: jax.Array) -> jax.Array:
  return jnp.mean(jnp.square(outputs - 1))


def _gradients(module: nn.Module, inputs: jax.Array, loss: Loss = _mean_square) -> Any:
  """Returns the gradient of a loss with respect to the initial parameters of a linen module."""

  def loss_of(params: Any) -> jax.Array:
    outputs: Any = module.apply({"params": params}, inputs)
    return loss(outputs)

  return jax.grad(loss_of)(module.init(jax.random.key(0), inputs)["params"])


def _kernel(tree: Any) -> jax.Array:
  return tree["kernel"]


def _inputs(*shape: int) -> jax.Array:
  """Returns random inputs [_BATCH, *shape] as after a ReLU: non-negative, so that the mean gradient is not zero."""
  return nn.relu(jax.random.normal(jax.random.key(1), (_BATCH, *shape)))


def _cross_entropy(logits: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits)) % CLASSES).mean()


def _norm(leaf: jax.Array) -> float:
  return float(np.linalg.norm(np.asarray(leaf, np.float64)))


def _update(optimizer: optax.GradientTransformation, inputs: StepInputs) -> Program:
  """Compiles an optimizer update with random gradients; it returns new parameters and a new optimizer state."""
  params = inputs.state.params
  generator = np.random.default_rng(0)
  gradients = jax.tree.map(lambda p: jnp.asarray(generator.normal(size=p.shape), p.dtype), params)

  def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  return compile_program(update, (gradients, optimizer.init(params), params))


def _step(objective: Objective, optimizer: optax.GradientTransformation, inputs: StepInputs) -> Program:
  step = make_train_step(objective, optax.with_extra_args_support(optimizer), Augmentation())
  state = dataclasses.replace(inputs.state, opt_state=optimizer.init(inputs.state.params))
  return compile_program(step, (state, *inputs.arguments[1:]))


def _turn_seconds(programs: Mapping[str, Program], rounds: int) -> list[dict[str, float]]:
  """Returns the seconds of each program in each turn."""
  return [median_seconds(programs, 1) for _ in range(rounds)]


def _cost_row(name: str, baseline: str, turns: Sequence[Mapping[str, float]], step_seconds: float) -> Row:
  """Returns the row of a program, compared in each turn with `baseline`, the program without centralization."""
  # Paired differences cancel slow drifts of the machine, which a difference of two medians would not.
  extra = sorted(turn[name] - turn[baseline] for turn in turns)
  low, high = _median_interval(extra)
  return {
    "name": name,
    "seconds": statistics.median(turn[name] for turn in turns),
    "time_ratio": 1 + statistics.median(extra) / statistics.median(turn[baseline] for turn in turns),
    "share_of_step": statistics.median(extra) / step_seconds,
    "share_low": low / step_seconds,
    "share_high": high / step_seconds,
  }


def _median_interval(ordered: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
  """Returns the confidence interval of a median between two order statistics (inverted sign test).

  The number of values below the median is binomial with p = 1/2, so the ranks are its quantiles. For few values, the
  interval is the whole range.
  """
  rank = max(int(binom.ppf((1 - confidence) / 2, len(ordered), 0.5)), 1)
  return ordered[rank - 1], ordered[-rank]
