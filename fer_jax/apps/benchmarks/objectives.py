"""The HSIC bottleneck's training step against its back-propagated twin's: time, memory, parts, communication."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from fer_jax.apps.benchmarks.benchmark import (
  CLASSES,
  FER2013,
  Benchmark,
  Row,
  bottleneck_of,
  compile_program,
  make_rig,
  settings_of,
  step_of,
  time_by_turns,
)
from fer_jax.data.augment import Augmentation, standardize
from fer_jax.objectives import ObjectiveSettings
from fer_jax.objectives.backprop import Backprop
from fer_jax.objectives.hsic_bottleneck import GROUPS
from fer_jax.objectives.objective import Examples
from fer_jax.step import Metrics, TrainState, rows_of

BLOCKWISE = "hsic_bottleneck, unit=block"
DEVICES = 8  # that the communication is counted for


def objectives(config: str, rounds: int) -> Benchmark:
  """Times a step of the HSIC bottleneck, by every grouping and by units of a block, against its back-propagated twin.

  Args:
    config: whose network, batch size and precision are taken, FILE.py:VARIANT; it must have an hsic_bottleneck phase.
    rounds: timed steps of each.

  Returns:
    a row for each candidate, with `time_ratio` and `memory_ratio` (peak temporary memory) over the twin's.
  """
  settings = settings_of(config)
  local = bottleneck_of(config, settings)
  rig = make_rig(settings.model, settings.batch_size, settings.precision)
  trainable = frozenset(rig.network.layers)
  candidates: dict[str, ObjectiveSettings] = {"backprop": Backprop()}
  by_layer = dataclasses.replace(local, group="network", unit="layer")
  candidates |= {f"hsic_bottleneck, group={g}": dataclasses.replace(by_layer, group=g) for g in GROUPS}
  candidates[BLOCKWISE] = dataclasses.replace(by_layer, group="block", unit="block")
  programs = {
    name: compile_program(step_of(candidate.build(rig.network, trainable, None)), rig.arguments)
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
  """Says where the time of a training step goes, for the HSIC bottleneck and for its twin.

  Programs that each do one part more than the last are timed by turns; a part is the difference. A compiler that
  fuses across parts blurs them, and a difference of two noisy times may come out below zero.

  Args:
    config: see `objectives`.
    rounds: timed runs of each program.

  Returns:
    a row for each part: its seconds in either step, and its share of the twin's whole step.
  """
  settings = settings_of(config)
  local = bottleneck_of(config, settings)
  rig = make_rig(settings.model, settings.batch_size, settings.precision)
  network, trainable = rig.network, frozenset(rig.network.layers)
  key = jax.random.key(0)
  # One vmap over the whole network waits for no gradient, so that all gradients fall away where none is asked for.
  dependence = dataclasses.replace(local, group="network").build(network, trainable, None)
  local_gradients, twin_gradients = local.build(network, trainable, None), Backprop().build(network, trainable, None)

  def examples(resident: Any, batch: Any) -> Examples:
    image, target = rows_of(resident, batch)
    image = jax.vmap(Augmentation())(image, jax.random.split(key, len(image)))
    return Examples(standardize(image), target)

  def forward(state: TrainState, resident: Any, batch: Any, moment: Any) -> Any:
    outputs, stats = network.apply(state.params, state.stats, examples(resident, batch).image, key=key)
    return outputs.logits, stats

  def measured(state: TrainState, resident: Any, batch: Any, moment: Any) -> Metrics:
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
  programs = {name: compile_program(function, rig.arguments) for name, function in functions.items()}
  t = time_by_turns(programs, rounds)
  whole = t["backprop step"]
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


def communication(config: str, rounds: int) -> Benchmark:
  """Counts what a step on several devices sends, from the traced program; nothing is run.

  A ring all-gather brings every device the others' parts; a ring all-reduce sends every number twice.

  Args:
    config: see `objectives`; its batch is dealt over DEVICES devices.
    rounds: not used.

  Returns:
    a row for either objective: bytes that one device sends a step, and how many collective operations.
  """
  settings = settings_of(config)
  local = bottleneck_of(config, settings)
  network = settings.model.build(CLASSES, jnp.dtype(settings.precision), "devices")
  trainable = frozenset(network.layers)
  rows_a_device = settings.batch_size // DEVICES
  batch = Examples(jnp.zeros((rows_a_device, *FER2013[1:])), jnp.zeros((rows_a_device, CLASSES)))
  alone = settings.model.build(CLASSES, jnp.dtype(settings.precision), None)
  variables = jax.eval_shape(alone.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *FER2013[1:]), jnp.float32))
  rows: list[Row] = []
  candidates: dict[str, ObjectiveSettings] = {"backprop": Backprop(), "hsic_bottleneck": local}
  for name, candidate in candidates.items():
    objective = candidate.build(network, trainable, "devices")
    traced = jax.make_jaxpr(objective, axis_env=[("devices", DEVICES)])(*variables, batch, jax.random.key(0))
    collectives = list(_collectives(traced.jaxpr))
    row: Row = {"name": name, "devices": DEVICES, "collectives": len(collectives)}
    for kind in ("all_gather", "all_reduce"):
      row[f"{kind}_bytes"] = sum(sent for found, sent in collectives if found == kind)
    row["bytes_a_step"] = row["all_gather_bytes"] + row["all_reduce_bytes"]
    rows.append(row)
  for row in rows:
    row["bytes_ratio"] = row["bytes_a_step"] / rows[0]["bytes_a_step"]
  return Benchmark("hsic_bottleneck", rows)


def _collectives(jaxpr: Any) -> Iterator[tuple[str, int]]:
  """Yields the kind of every collective operation, inner programs' too, and the bytes that one device sends."""
  for equation in jaxpr.eqns:
    size = sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in equation.outvars if hasattr(v.aval, "shape"))
    if equation.primitive.name == "all_gather":
      yield "all_gather", size * (DEVICES - 1) // DEVICES
    elif equation.primitive.name.startswith("psum"):
      yield "all_reduce", 2 * size * (DEVICES - 1) // DEVICES
    for value in equation.params.values():
      for inner in value if isinstance(value, (tuple, list)) else (value,):
        if hasattr(inner, "eqns"):
          yield from _collectives(inner)
        elif hasattr(inner, "jaxpr"):
          yield from _collectives(inner.jaxpr)
