"""Training step of the HSIC bottleneck against its back-propagated twin: time, memory, and time per part."""

import dataclasses
from typing import Any

import jax

from fer_jax.apps.benchmarks.benchmark import (
  Benchmark,
  Row,
  bottleneck_of,
  compile_program,
  make_step_inputs,
  settings_of,
  step_of,
  time_by_turns,
)
from fer_jax.data.augment import Augmentation, standardize
from fer_jax.objectives import ObjectiveSettings
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import GROUPS
from fer_jax.objectives.objective import Examples
from fer_jax.training.step import Metrics, TrainState, rows_of

BLOCKWISE = "hsic_bottleneck, unit=block"


def objectives(config: str, rounds: int) -> Benchmark:
  """Times a step of the HSIC bottleneck, with every grouping and with blocks as units, against back-propagation.

  Args:
    config: Config, FILE.py:VARIANT, that provides network, batch size and precision; it must have an hsic_bottleneck
      phase.
    rounds: Timed steps per candidate.

  Returns:
    One row per candidate, with `time_ratio` and `memory_ratio` (peak temporary memory) relative to back-propagation.

  Raises:
    UserError: The config has no hsic_bottleneck phase.
  """
  settings = settings_of(config)
  local = bottleneck_of(config, settings)
  inputs = make_step_inputs(settings.model, settings.batch_size, settings.precision)
  trainable = frozenset(inputs.network.layers)
  candidates: dict[str, ObjectiveSettings] = {"backprop": Backprop()}
  by_layer = dataclasses.replace(local, group="network", unit="layer")
  candidates |= {f"hsic_bottleneck, group={g}": dataclasses.replace(by_layer, group=g) for g in GROUPS}
  candidates[BLOCKWISE] = dataclasses.replace(by_layer, group="block", unit="block")
  programs = {
    name: compile_program(step_of(candidate.build(inputs.network, trainable, None)), inputs.arguments)
    for name, candidate in candidates.items()
  }
  seconds = time_by_turns(programs, rounds)
  rows: list[Row] = [
    {
      "name": name,
      "seconds_a_step": seconds[name],
      "temporary_bytes": program.temporary_bytes,
      "time_ratio": seconds[name] / seconds["backprop"],
      "memory_ratio": program.temporary_bytes / programs["backprop"].temporary_bytes,
      "images_per_second": settings.batch_size / seconds[name],
    }
    for name, program in programs.items()
  ]
  return Benchmark(BLOCKWISE if local.unit == "block" else f"hsic_bottleneck, group={local.group}", rows)


def parts(config: str, rounds: int) -> Benchmark:
  """Measures the time of each part of a training step, for the HSIC bottleneck and for back-propagation.

  The programs are cumulative: each computes one part more than the previous one, and the time of a part is the
  difference. Fusion across parts blurs the boundaries, and a difference of two noisy times can be negative.

  Args:
    config: Config, FILE.py:VARIANT; see `objectives`.
    rounds: Timed runs per program.

  Returns:
    One row per part: seconds in each of the two steps, and share of the whole step of back-propagation.

  Raises:
    UserError: The config has no hsic_bottleneck phase.
  """
  settings = settings_of(config)
  local = bottleneck_of(config, settings)
  inputs = make_step_inputs(settings.model, settings.batch_size, settings.precision)
  network, trainable = inputs.network, frozenset(inputs.network.layers)
  key = jax.random.key(0)
  # With group="network", no measure depends on a gradient. XLA then removes all gradients from `measured`, which does
  # not return them.
  dependence = dataclasses.replace(local, group="network").build(network, trainable, None)
  local_gradients, twin_gradients = local.build(network, trainable, None), Backprop().build(network, trainable, None)

  def examples(resident: Any, batch: Any) -> Examples:
    image, target = rows_of(resident, batch)  # uint8 [B, H, W, C], float32 [B, K]
    image = jax.vmap(Augmentation())(image, jax.random.split(key, len(image)))
    return Examples(standardize(image), target)

  def forward(state: TrainState, resident: Any, batch: Any, context: Any) -> Any:
    outputs, stats = network.apply(state.params, state.stats, examples(resident, batch).image, key=key)
    return outputs.logits, stats

  def measured(state: TrainState, resident: Any, batch: Any, context: Any) -> Metrics:
    learned = dependence(state.params, state.stats, examples(resident, batch), key)
    return {**learned.metrics, **learned.stats}

  def learned(objective: Any) -> Any:
    return lambda state, resident, batch, _: objective(state.params, state.stats, examples(resident, batch), key)

  functions = {
    "examples": lambda state, resident, batch, _: examples(resident, batch),
    "forward": forward,
    "measured": measured,
    "hsic gradients": learned(local_gradients),
    "hsic step": step_of(local_gradients),
    "backprop gradients": learned(twin_gradients),
    "backprop step": step_of(twin_gradients),
  }
  programs = {name: compile_program(function, inputs.arguments) for name, function in functions.items()}
  t = time_by_turns(programs, rounds)
  whole = t["backprop step"]
  # Part -> (HSIC bottleneck, back-propagation), as differences of cumulative times.
  table = {
    "rows, augmentation, standardisation": (t["examples"], t["examples"]),
    "forward pass": (t["forward"] - t["examples"],) * 2,
    "inner products, kernels, measures": (t["measured"] - t["forward"], 0.0),
    "gradients": (t["hsic gradients"] - t["measured"], t["backprop gradients"] - t["forward"]),
    "optimiser": (t["hsic step"] - t["hsic gradients"], t["backprop step"] - t["backprop gradients"]),
    "whole step": (t["hsic step"], whole),
  }
  rows: list[Row] = [
    {
      "name": name,
      "hsic_seconds": ours,
      "backprop_seconds": twin,
      "hsic_share": ours / whole,
      "backprop_share": twin / whole,
    }
    for name, (ours, twin) in table.items()
  ]
  return Benchmark("whole step", rows)
