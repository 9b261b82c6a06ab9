"""Table 1 of Han et al. 2023: seconds per step and parameters of three standard networks and of theirs."""

from typing import Any, NamedTuple

from fer_jax.apps.benchmarks.benchmark import Benchmark, Row, find_bottleneck, load_settings
from fer_jax.apps.benchmarks.steps import build_step, compile_program, median_seconds, step_inputs
from fer_jax.config.settings import PhaseSettings
from fer_jax.objectives.backprop import Backprop


class PaperFigures(NamedTuple):
  """Figures of the paper: seconds per step, number of parameters."""

  seconds: float
  parameters: float


# Variant of configs/baselines.py -> seconds per step on an RTX 2080 at batch 128, parameters.
PRINTED = {
  "alexnet": PaperFigures(0.243178, 60e6),
  "bn_inception": PaperFigures(0.565114, 11e6),
  "resnet50": PaperFigures(0.180212, 24e6),
}
THEIRS = PaperFigures(0.049286, 7e6)
OURS = "hsic_dense, hsic_bottleneck"
BACKPROP = "hsic_dense, backprop"


def table1(config: str, rounds: int) -> Benchmark:
  """Times a step of each network of the paper's table 1, at the same batch size in one process.

  The standard networks are trained by back-propagation, as in the paper; the dense network by both methods. Ratios are
  relative to the dense network with the HSIC bottleneck: they depend less on the device than the seconds do.

  Args:
    config: Config of the dense network, FILE.py:VARIANT; it must have an hsic_bottleneck phase.
    rounds: Timed steps per network.

  Returns:
    One row per network: seconds per step, parameters and `time_ratio`, with the paper's figures where it has any.

  Raises:
    UserError: The config has no hsic_bottleneck phase.
  """
  settings = load_settings(config)
  sizes = ",small" if "small" in config.partition(":")[2].split(",") else ""
  candidates: dict[str, tuple[Any, Any]] = {
    OURS: (settings.model, find_bottleneck(config, settings)),
    BACKPROP: (settings.model, Backprop()),
  }
  for name in PRINTED:
    baseline = load_settings(f"configs/baselines.py:{name}{sizes}")
    phase: PhaseSettings = baseline.phases[baseline.schedule[0]]
    candidates[f"{name}, backprop"] = (baseline.model, phase.objective)
  programs, parameters = {}, {}
  for name, (model, objective) in candidates.items():
    inputs = step_inputs(model, settings.batch_size, settings.precision, objective=objective)
    step = build_step(objective.build(inputs.network, frozenset(inputs.network.layers), None))
    programs[name], parameters[name] = compile_program(step, inputs.arguments), inputs.parameters
  seconds = median_seconds(programs, rounds)
  rows: list[Row] = []
  for name in candidates:
    printed = THEIRS if name == OURS else PRINTED.get(name.partition(",")[0])
    row: Row = {
      "name": name,
      "seconds_a_step": seconds[name],
      "parameters": parameters[name],
      "time_ratio": seconds[name] / seconds[OURS],
    }
    if printed is not None:  # the paper has no figures of the back-propagated dense network
      row["paper_time_ratio"] = printed.seconds / THEIRS.seconds
      row["paper_seconds_a_step"] = printed.seconds
      row["paper_parameters"] = printed.parameters
    rows.append(row)
  return Benchmark(OURS, rows)
