"""The floors of the house: which modules of fer_jax may import which. A module without a floor fails."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fer_jax"

# What a module or folder may import of ours, besides itself. The longest name that fits a module counts.
FLOORS = {
  # Inside a function: to import the package costs nothing.
  "fer_jax": ("inference.predictor",),
  "fer_jax.console": (),
  "fer_jax.runtime": (),
  "fer_jax.kernels": (),
  "fer_jax.losses": (),
  "fer_jax.optim": (),
  "fer_jax.layers": ("kernels",),
  "fer_jax.models": ("kernels", "layers"),
  "fer_jax.objectives": ("kernels", "losses", "layers", "models"),
  "fer_jax.data": ("faces", "runtime"),
  "fer_jax.faces": ("data.images", "runtime.errors"),
  "fer_jax.config.sweep": (),
  "fer_jax.config": ("data", "models", "objectives", "optim", "runtime"),
  "fer_jax.pretrained": ("inference.model_file", "runtime.errors", "training.checkpoint"),
  # Models and objectives only by their signatures.
  "fer_jax.training.step": ("data", "losses", "models.network", "objectives.objective"),
  "fer_jax.training": ("config", "data", "models.network", "pretrained", "runtime"),
  "fer_jax.inference.model_file": ("inference.quantization", "pretrained.weights_file", "runtime.errors"),
  "fer_jax.inference": ("config", "data", "faces", "models.network", "pretrained", "runtime", "training.calibration"),
  "fer_jax.apps": (
    "config",
    "data",
    "faces",
    "inference",
    "kernels",
    "layers",
    "losses",
    "models",
    "objectives",
    "optim",
    "pretrained",
    "runtime",
    "training",
  ),
  "fer_jax.main": ("apps", "config", "runtime", "training"),
}

# Modules of a folder in order: each imports only modules before it.
ORDERS = {
  "fer_jax.config": ("settings", "sweep", "parsing", "command_line"),
  "fer_jax.inference": ("quantization", "model_file", "trained_model", "predictor", "saliency"),
  "fer_jax.runtime": ("errors", "programs", "provenance", "locks", "parallel", "processes", "xla", "interruption"),
  "fer_jax.training": (
    "calibration",
    "intervals",
    "run_log",
    "run_result",
    "run_files",
    "metrics",
    "step",
    "checkpoint",
    "workdir",
    "initialization",
    "phases",
    "evaluate",
    "replicas",
    "compiled_run",
    "replica_state",
    "loop",
    "strategy",
    "time_budget",
    "run",
    "results",
    "combined_result",
    "group",
    "replicated_run",
    "train",
  ),
}

# What others may install and import elsewhere, and the packages that it may need for that.
LIGHT = {
  "fer_jax.losses": {"jax", "numpy"},
  "fer_jax.optim": {"jax", "numpy", "optax"},
  "fer_jax.layers": {"jax", "numpy", "flax"},
  "fer_jax.models": {"jax", "numpy", "flax"},
}

# The only modules that import a package. Grain's state goes into a checkpoint through handlers of its own, so
# checkpoint.py names grain too.
ONLY = {"orbax": {"fer_jax.training.checkpoint"}, "grain": {"fer_jax.data.pipeline", "fer_jax.training.checkpoint"}}


def module_of(path: Path) -> str:
  parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str) -> Iterator[str]:
  """Yields the dotted name of everything that a file imports, inside functions too."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"line {node.lineno}: a relative import; name the module in full"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def first_party(source: str) -> set[str]:
  """The modules of fer_jax that a file imports; of an imported class, its module."""
  found = {name for name in imports(source) if name.split(".")[0] == "fer_jax"}
  return {name if name in SOURCES else name.rpartition(".")[0] for name in found}


def third_party(source: str) -> set[str]:
  return {name.split(".")[0] for name in imports(source)} - set(sys.stdlib_module_names) - {"fer_jax"}


def is_inside(module: str, room: str) -> bool:
  return f"{module}.".startswith(f"{room}.")


def floor_of(module: str) -> str | None:
  rooms = [room for room in FLOORS if is_inside(module, room) and (room != "fer_jax" or module == "fer_jax")]
  return max(rooms, key=len, default=None)


def says(source: str, word: str) -> bool:
  """Whether a file's code, its comments and texts left out, uses a name."""
  for node in ast.walk(ast.parse(source)):
    names = {getattr(node, field, None) for field in ("id", "attr", "name", "asname")}
    if word in names or (isinstance(node, ast.alias) and word in node.name.split(".")):
      return True
  return False


class TestFloors:
  def test_no_import_runs_upwards(self) -> None:
    for module, source in SOURCES.items():
      floor = floor_of(module)
      assert floor is not None, f"{module} has no floor: say in FLOORS what it may import"
      allowed = {f"fer_jax.{room}" for room in (floor.removeprefix("fer_jax."), *FLOORS[floor])}
      # The package itself imports nothing before it is asked to, so that all may have its version.
      ours = first_party(source) - {"fer_jax"}
      upwards = {name for name in ours if not any(is_inside(name, room) for room in allowed)}
      assert not upwards, f"{module} imports {sorted(upwards)}; its floor allows {sorted(allowed)}"

  @pytest.mark.parametrize("folder", ORDERS)
  def test_modules_of_a_folder_are_in_order(self, folder: str) -> None:
    modules = [f"{folder}.{name}" for name in ORDERS[folder]]
    assert sorted(modules) == sorted(module for module in SOURCES if module.startswith(f"{folder}."))
    for position, module in enumerate(modules):
      later = first_party(SOURCES[module]) & set(modules[position + 1 :])
      assert not later, f"{module} imports {sorted(later)}, which come after it in ORDERS"

  def test_what_others_import_stays_light(self) -> None:
    for module, source in SOURCES.items():
      for room, allowed in LIGHT.items():
        heavy = third_party(source) - allowed
        assert not is_inside(module, room) or not heavy, f"{module} imports {sorted(heavy)}"

  def test_a_package_has_one_home(self) -> None:
    for package, homes in ONLY.items():
      assert {module for module, source in SOURCES.items() if package in third_party(source)} == homes

  def test_pmap_has_one_home(self) -> None:
    assert {module for module, source in SOURCES.items() if says(source, "pmap")} == {"fer_jax.runtime.parallel"}

  def test_processes_meet_in_one_place(self) -> None:
    assert {module for module, source in SOURCES.items() if says(source, "distributed")} == {
      "fer_jax.runtime.processes"
    }

  def test_every_file_has_a_name_that_says_something(self) -> None:
    assert {path.stem for path in PACKAGE.rglob("*.py")}.isdisjoint({"utils", "util", "helpers", "misc", "common"})

  def test_every_floor_has_a_room(self) -> None:
    rooms = {*FLOORS, *(f"fer_jax.{room}" for allowed in FLOORS.values() for room in allowed)}
    assert rooms <= SOURCES.keys()


def test_imports_are_seen_in_every_form() -> None:
  source = """
import fer_jax.training.train
import fer_jax.apps.bench as b
from fer_jax import main, console as c
from fer_jax.data import pipeline
from fer_jax.training.step import TrainState
def late():
  from fer_jax.models.network import Network
"""
  expected = ("training.train", "apps.bench", "main", "console", "data.pipeline", "training.step", "models.network")
  assert first_party(source) == {f"fer_jax.{name}" for name in expected}
  assert third_party("import os, jax.numpy\nfrom optax import sgd\n") == {"jax", "optax"}
  with pytest.raises(AssertionError, match="relative import"):
    first_party("from . import step")


@pytest.mark.parametrize(
  "source", ["jax.pmap(f)", "from jax import pmap", "from jax import pmap as p", "import a.pmap"]
)
def test_a_name_is_seen_in_code(source: str) -> None:
  assert says(source, "pmap")
  assert not says(f'"""{source}"""  # {source}', "pmap")
