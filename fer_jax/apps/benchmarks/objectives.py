"""Training step of the HSIC bottleneck against its back-propagated twin: time, memory, and time per part."""

import dataclasses
from typing import Any

import jax

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, find_bottleneck, load_settings
from fer_jax.apps.benchmarks.steps import build_step, compile_program, median_seconds, step_inputs
from fer_jax.data.augment import Augmentation, standardize
from fer_jax.objectives import ObjectiveSettings
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.local_units import GROUPS
from fer_jax.objectives.objective import Examples
from fer_jax.training.step import Metrics, TrainState, rows_of

CONFIGURED = "hsic_bottleneck, as configured"


def objectives(config: str, rounds: int) -> Benchmark:
  """Times a step of the HSIC bottleneck against back-propagation: as configured, and in its plain forms.

  The plain forms have neither projection heads nor samples: layers as units with every grouping, and blocks as units.
  Back-propagation is also timed with its own means of saving memory, checkpoints of blocks and accumulated gradients.

  Args:
    config: Config, FILE.py:VARIANT, that provides network, batch size and precision; it must have an hsic_bottleneck
      phase.
    rounds: Timed steps per candidate.

  Returns:
    One row per candidate, with `time_ratio` and `memory_ratio` (peak temporary memory) relative to back-propagation.

  Raises:
    UserError: The config has no hsic_bottleneck phase.
  """
  settings = load_settings(config)
  bottleneck = find_bottleneck(config, settings)
  candidates: dict[str, ObjectiveSettings] = {
    "backprop": Backprop(),
    "backprop, checkpoint": Backprop(checkpoint=True),
    "backprop, accumulation=4": Backprop(accumulation=4),
    CONFIGURED: bottleneck,
  }
  plain = dataclasses.replace(
    bottleneck, group="network", unit="layer", grid=6, head_layers=0, sampling=1, classifier_blocks=0
  )
  candidates |= {f"hsic_bottleneck, group={g}": dataclasses.replace(plain, group=g) for g in GROUPS}
  candidates["hsic_bottleneck, unit=block"] = dataclasses.replace(plain, group="block", unit="block")
  programs = {}
  for name, candidate in candidates.items():
    inputs = step_inputs(settings.model, settings.batch_size, settings.precision, objective=candidate)
    step = build_step(candidate.build(inputs.network, frozenset(inputs.network.layers), None))
    programs[name] = compile_program(step, inputs.arguments)
  seconds = median_seconds(programs, rounds)
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
  return Benchmark(CONFIGURED, rows)


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
  settings = load_settings(config)
  bottleneck = find_bottleneck(config, settings)
  inputs = step_inputs(settings.model, settings.batch_size, settings.precision, objective=bottleneck)
  network, trainable = inputs.network, frozenset(inputs.network.layers)
  key = jax.random.key(0)
  # With group="network", no measure depends on a gradient. XLA then removes all gradients from `measures`, which does
  # not return them.
  measures_only = dataclasses.replace(bottleneck, group="network").build(network, trainable, None)
  hsic_objective, backprop_objective = (
    bottleneck.build(network, trainable, None),
    Backprop().build(network, trainable, None),
  )

  def examples(resident: Any, batch: Any) -> Examples:
    image, target = rows_of(resident, batch)  # uint8 [B, H, W, C], float32 [B, K]
    image = jax.vmap(Augmentation())(image, jax.random.split(key, len(image)))
    return Examples(standardize(image), target)

  def forward(state: TrainState, resident: Any, batch: Any, context: Any) -> Any:
    outputs, stats = network.apply(state.params, state.stats, examples(resident, batch).image, key=key)
    return outputs.logits, stats

  def measures(state: TrainState, resident: Any, batch: Any, context: Any) -> Metrics:
    output = measures_only(state.params, state.stats, examples(resident, batch), key)
    return {**output.metrics, **output.stats}

  def gradients(objective: Any) -> Any:
    return lambda state, resident, batch, _: objective(state.params, state.stats, examples(resident, batch), key)

  functions = {
    "examples": lambda state, resident, batch, _: examples(resident, batch),
    "forward": forward,
    "measured": measures,
    "hsic gradients": gradients(hsic_objective),
    "hsic step": build_step(hsic_objective),
    "backprop gradients": gradients(backprop_objective),
    "backprop step": build_step(backprop_objective),
  }
  programs = {name: compile_program(function, inputs.arguments) for name, function in functions.items()}
  seconds = median_seconds(programs, rounds)
  whole_step = seconds["backprop step"]
  # Part -> (HSIC bottleneck, back-propagation), as differences of cumulative times.
  table = {
    "rows, augmentation, standardisation": (seconds["examples"], seconds["examples"]),
    "forward pass": (seconds["forward"] - seconds["examples"],) * 2,
    "inner products, kernels, measures": (seconds["measured"] - seconds["forward"], 0.0),
    "gradients": (seconds["hsic gradients"] - seconds["measured"], seconds["backprop gradients"] - seconds["forward"]),
    "optimiser": (
      seconds["hsic step"] - seconds["hsic gradients"],
      seconds["backprop step"] - seconds["backprop gradients"],
    ),
    "whole step": (seconds["hsic step"], whole_step),
  }
  rows: list[Row] = [
    {
      "name": name,
      "hsic_seconds": hsic,
      "backprop_seconds": backprop,
      "hsic_share": hsic / whole_step,
      "backprop_share": backprop / whole_step,
    }
    for name, (hsic, backprop) in table.items()
  ]
  return Benchmark("whole step", rows)
