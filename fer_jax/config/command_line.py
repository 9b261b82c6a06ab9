"""Command line of a training run: config file and variant, run folder, config overrides, and process addresses."""

import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from fer_jax.config.parsing import check_override
from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import local_path
from fer_jax.runtime.processes import Address

USAGE = """usage: python -m fer_jax.main --config=FILE.py[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...]
         [--processes=N --process=I --coordinator=HOST:PORT | --processes=auto]

  --config         config file and variant, for example configs/hsic.py:demo, which needs no data
  --workdir        folder of the run; default workdir/<config>_<variant>
  --config.KEY     override of a config key, for example --config.seed=1 or --config.budget_minutes=8
  --processes      number of processes of a multi-process run, or "auto" to read the addresses from the cluster (srun,
                   Kubernetes, mpirun); a number requires the next two flags, and all other flags equal
  --process        index of this process, from 0
  --coordinator    HOST:PORT on which process 0 listens

Run the same command again to resume an interrupted run. Exit status: 0 success, 1 the training diverged or failed,
2 wrong usage or invalid input, 128 + signal number if stopped by a signal.
"""


class Command(NamedTuple):
  """A parsed command line.

  Attributes:
    source: Config file and variant, FILE.py or FILE.py:VARIANT.
    config: Config with all overrides applied.
    overrides: Override arguments as given on the command line.
    workdir: Folder of the run.
    multi_process: Whether --processes was given, so that this process joins others.
    address: Address of this process; None for a single process, or if the cluster provides it.
  """

  source: str
  config: ConfigDict
  overrides: list[str]
  workdir: Path
  multi_process: bool = False
  address: Address | None = None


def parse(argv: Sequence[str]) -> Command | None:
  """Parses a command line.

  Args:
    argv: Command-line arguments, starting with the program name.

  Returns:
    Parsed command, or None if help was requested.

  Raises:
    UserError: A flag, the config file, its variant or a key does not exist, or a value has the wrong type.
  """
  if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
    return None
  source, rest = _pop_source(list(argv))
  # The config file defines which --config.KEY flags exist, so it is loaded before the flags are parsed.
  config = load_config(source)
  overrides = [argument for argument in rest if re.match(r"--?config\.", argument)]
  # absl reports an unknown --config.KEY without a suggestion; `check_override` names the closest key.
  for override in overrides:
    check_override(config, override)
  # Not the global flags.FLAGS: the flags would otherwise persist between calls.
  values = flags.FlagValues()
  workdir, *address_flags = (
    flags.DEFINE_string(name, None, "", flag_values=values)
    for name in ("workdir", "processes", "process", "coordinator")
  )
  try:
    config_holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
    unexpected = values(rest)[1:]
  except (flags.Error, ValueError) as error:  # ValueError: a key that is not a Python identifier
    raise UserError(f"{str(error).splitlines()[0]} (--help shows the usage)") from None
  if unexpected:
    raise UserError(f"{unexpected[0]!r}: unexpected argument (--help shows the usage)")
  address = _address(*(flag.value for flag in address_flags))
  multi_process = address_flags[0].value is not None
  folder = local_path(workdir.value or _default_workdir(source))
  return Command(source, config_holder.value, overrides, folder, multi_process, address)


def _address(processes: str | None, process: str | None, coordinator: str | None) -> Address | None:
  """Returns the address of this process; None for a single process, or if the cluster provides the address."""
  if processes in (None, "auto"):
    for name, value in (("process", process), ("coordinator", coordinator)):
      if value is not None:
        raise UserError(f"--{name}={value}: expected with --processes=N, the number of processes")
    return None
  if not re.fullmatch("[1-9][0-9]*", processes or ""):
    raise UserError(f"--processes={processes}: expected a number, 1 or more, or auto")
  count = int(processes or "")
  if not re.fullmatch("[0-9]+", process or "") or int(process or "") >= count:
    raise UserError(f"--process{_describe(process)}: expected the number of this process, 0 to {count - 1}")
  if not re.fullmatch(r".+:[0-9]+", coordinator or ""):
    raise UserError(f"--coordinator{_describe(coordinator)}: expected HOST:PORT, where process 0 listens")
  return Address(coordinator or "", count, int(process or ""))


def _describe(value: str | None) -> str:
  return " is missing" if value is None else f"={value}"


def _pop_source(argv: list[str]) -> tuple[str, list[str]]:
  """Returns the value of --config, and the command line without it."""
  for i, argument in enumerate(argv):
    match = re.fullmatch(r"--?config(?:=(.*))?", argument)
    if match and match[1] is not None:
      return match[1], argv[:i] + argv[i + 1 :]
    if match and i + 1 < len(argv):
      return argv[i + 1], argv[:i] + argv[i + 2 :]
  raise UserError("--config is missing: for example --config=configs/hsic.py:demo, which needs no data")


def load_config(source: str) -> ConfigDict:
  """Returns the config that a file defines, without overrides."""
  return call_in_file(source, "get_config", f"--config={source}")


def call_in_file(source: str, function: str, prefix: str) -> Any:
  """Calls a function of a config file and returns its result.

  Args:
    source: FILE.py, for a call without arguments, or FILE.py:VARIANT, for a call with the variant as the only one.
    function: Name of the function in the file.
    prefix: Start of every error message, such as the flag that names the file.

  Returns:
    Return value of the function.

  Raises:
    UserError: The file, the function or the variant does not exist.
  """
  path, _, variant = source.partition(":")
  file = Path(path)
  if not file.is_file():
    raise UserError(f"{prefix}: no file {path}; expected FILE.py or FILE.py:VARIANT")
  spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise UserError(f"{prefix}: {path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  # Configs import others of their folder, also if the program was started elsewhere.
  if (root := import_root(file)) not in sys.path:
    sys.path.insert(0, root)
  try:
    spec.loader.exec_module(module)
  except (SyntaxError, ImportError) as error:
    raise UserError(f"{prefix}: cannot be imported ({error})") from None
  target = getattr(module, function, None)
  if target is None:
    raise UserError(f"{prefix}: {path} has no function {function}")
  if variant and not inspect.signature(target).parameters:
    raise UserError(f"{prefix}: {path} has no variants")
  try:
    return target(variant) if variant else target()
  except ValueError as error:
    raise UserError(f"{prefix}: {error}") from None


def import_root(file: Path) -> str:
  """Returns the folder from which a file's package is imported; the file's own folder if that is no package."""
  folder = file.resolve().parent
  while (folder / "__init__.py").is_file():
    folder = folder.parent
  return str(folder)


def _default_workdir(source: str) -> Path:
  """Returns workdir/<config>_<variant>."""
  path, _, variant = source.partition(":")
  return Path("workdir") / "_".join([Path(path).stem, *re.findall(r"\w+", variant)])
