"""Layers of the package: which modules of fer_jax may import which. A module without a layer fails."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fer_jax"

# Modules and folders of the package that each may import, in addition to itself. The longest matching name applies.
LAYERS = {
  # Imported inside a function, so that `import fer_jax` stays cheap.
  "fer_jax": ("inference.predictor",),
  "fer_jax.console": ("runtime",),
  "fer_jax.runtime": (),
  "fer_jax.kernels": (),
  "fer_jax.losses": (),
  "fer_jax.optim": (),
  "fer_jax.layers": ("kernels",),
  "fer_jax.models": ("kernels", "layers"),
  "fer_jax.objectives": ("kernels", "losses", "layers", "models"),
  "fer_jax.data": ("faces", "runtime"),
  "fer_jax.faces": ("data.images", "runtime.downloads", "runtime.errors"),
  "fer_jax.config.sweep": (),
  "fer_jax.config": ("data", "models", "objectives", "optim", "runtime"),
  "fer_jax.pretrained": (
    "inference.model_file",
    "models.network",
    "runtime",
    "training.checkpoint",
    "training.run_result",
  ),
  # Depends on models and objectives only by their signatures.
  "fer_jax.training.step": (
    "data.augment",
    "data.batch",
    "data.mixing",
    "data.views",
    "losses",
    "models.network",
    "objectives.objective",
  ),
  "fer_jax.training": ("config", "data", "models.network", "pretrained", "runtime"),
  "fer_jax.inference.model_file": ("inference.quantization", "pretrained.weights_file", "runtime.errors"),
  "fer_jax.inference": (
    "config",
    "data",
    "faces",
    "models.network",
    "pretrained",
    "runtime",
    "training.calibration",
    "training.run_result",
  ),
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
  "fer_jax.runtime": (
    "errors",
    "files",
    "downloads",
    "typed_json",
    "programs",
    "provenance",
    "locks",
    "parallel",
    "processes",
    "xla",
    "interruption",
  ),
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

# Folders that can be used without the rest of fer_jax, and the packages that they may import.
ALLOWED_PACKAGES = {
  "fer_jax.losses": {"jax", "numpy", "optax"},
  "fer_jax.optim": {"jax", "numpy", "optax"},
  "fer_jax.layers": {"jax", "numpy", "flax"},
  "fer_jax.models": {"jax", "numpy", "flax"},
}

# The only modules that import a package. checkpoint.py imports grain too: it saves the state of grain's iterator.
IMPORTERS = {
  "orbax": {"fer_jax.training.checkpoint"},
  "grain": {"fer_jax.data.pipeline", "fer_jax.training.checkpoint"},
}


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
  """Returns the modules of fer_jax that a file imports; for an imported class, its module."""
  found = {name for name in imports(source) if name.split(".")[0] == "fer_jax"}
  return {name if name in SOURCES else name.rpartition(".")[0] for name in found}


def third_party(source: str) -> set[str]:
  return {name.split(".")[0] for name in imports(source)} - set(sys.stdlib_module_names) - {"fer_jax"}


def is_inside(module: str, folder: str) -> bool:
  return f"{module}.".startswith(f"{folder}.")


def layer_of(module: str) -> str | None:
  folders = [folder for folder in LAYERS if is_inside(module, folder) and (folder != "fer_jax" or module == "fer_jax")]
  return max(folders, key=len, default=None)


def uses_name(source: str, word: str) -> bool:
  """Returns whether the code of a file, without comments and strings, uses a name."""
  for node in ast.walk(ast.parse(source)):
    names = {getattr(node, field, None) for field in ("id", "attr", "name", "asname")}
    if word in names or (isinstance(node, ast.alias) and word in node.name.split(".")):
      return True
  return False


class TestLayers:
  def test_modules_import_only_what_their_layer_allows(self) -> None:
    for module, source in SOURCES.items():
      layer = layer_of(module)
      assert layer is not None, f"{module} has no layer: add it to LAYERS"
      allowed = {f"fer_jax.{folder}" for folder in (layer.removeprefix("fer_jax."), *LAYERS[layer])}
      # Every module may import `fer_jax` itself, for its version.
      imported = first_party(source) - {"fer_jax"}
      forbidden = {name for name in imported if not any(is_inside(name, folder) for folder in allowed)}
      assert not forbidden, f"{module} imports {sorted(forbidden)}; its layer allows {sorted(allowed)}"

  @pytest.mark.parametrize("folder", ORDERS)
  def test_modules_of_a_folder_are_in_order(self, folder: str) -> None:
    modules = [f"{folder}.{name}" for name in ORDERS[folder]]
    assert sorted(modules) == sorted(module for module in SOURCES if module.startswith(f"{folder}."))
    for position, module in enumerate(modules):
      later = first_party(SOURCES[module]) & set(modules[position + 1 :])
      assert not later, f"{module} imports {sorted(later)}, which come after it in ORDERS"

  def test_reusable_folders_import_only_allowed_packages(self) -> None:
    for module, source in SOURCES.items():
      for folder, allowed in ALLOWED_PACKAGES.items():
        not_allowed = third_party(source) - allowed
        assert not is_inside(module, folder) or not not_allowed, f"{module} imports {sorted(not_allowed)}"

  def test_packages_are_imported_only_by_their_modules(self) -> None:
    for package, importers in IMPORTERS.items():
      assert {module for module, source in SOURCES.items() if package in third_party(source)} == importers

  def test_pmap_is_used_only_in_parallel(self) -> None:
    assert {module for module, source in SOURCES.items() if uses_name(source, "pmap")} == {"fer_jax.runtime.parallel"}

  def test_jax_distributed_is_used_only_in_processes(self) -> None:
    assert {module for module, source in SOURCES.items() if uses_name(source, "distributed")} == {
      "fer_jax.runtime.processes"
    }

  def test_no_file_has_a_generic_name(self) -> None:
    assert {path.stem for path in PACKAGE.rglob("*.py")}.isdisjoint({"utils", "util", "helpers", "misc", "common"})

  def test_every_layer_exists(self) -> None:
    folders = {*LAYERS, *(f"fer_jax.{folder}" for allowed in LAYERS.values() for folder in allowed)}
    assert folders <= SOURCES.keys()


def test_all_forms_of_imports_are_found() -> None:
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
def test_names_are_found_in_code_only(source: str) -> None:
  assert uses_name(source, "pmap")
  assert not uses_name(f'"""{source}"""  # {source}', "pmap")
