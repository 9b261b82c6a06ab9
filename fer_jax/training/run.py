"""A run before its first step: its config, data, network and phases."""

import dataclasses

import jax
from ml_collections import ConfigDict

from fer_jax.config.settings import Settings
from fer_jax.runtime.parallel import Placement
from fer_jax.training.compiled_run import CompiledRun
from fer_jax.training.initialization import Initialization
from fer_jax.training.phases import Phase
from fer_jax.training.replicas import ReplicaPlan
from fer_jax.training.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of one or several replicas, after all checks and before its first step.

  Attributes:
    config: Config of the run.
    settings: Parsed config.
    source: Config file and variant.
    overrides: Command-line overrides of the config.
    folder: Folder of the run.
    devices: Devices to train on.
    plan: Replicas and their data.
    initialization: Network and its initial variables.
    phases: Phases, with the steps that the config plans.
    commit: Commit of the package.
  """

  config: ConfigDict
  settings: Settings
  source: str
  overrides: tuple[str, ...]
  folder: Workdir
  devices: tuple[jax.Device, ...]
  plan: ReplicaPlan
  initialization: Initialization
  phases: tuple[Phase, ...]
  commit: str

  def compile(self, placement: Placement) -> CompiledRun:
    """Returns the steps and data of the run on a placement; programs are compiled at their first call."""
    arrays = self.plan.replicas[0].arrays
    return CompiledRun(self.settings, self.initialization, self.phases, placement, arrays)
