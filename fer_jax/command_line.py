"""The flags of a training run: a config file with its variant, a folder, overrides of its keys, its processes."""

import importlib.util
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from fer_jax.config import check_override
from fer_jax.errors import UserError
from fer_jax.processes import Address

USAGE = """usage: python -m fer_jax.main --config=FILE.py[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...]
         [--processes=N --process=I --coordinator=HOST:PORT | --processes=auto]

  --config         the config and its variant, for example configs/hsic.py:demo, which needs no data
  --workdir        folder of the run; default workdir/<config>_<variant>
  --config.KEY     overrides a key, for example --config.seed=1 or --config.budget_minutes=8
  --processes      of one run, each of which is started with the same flags but --process, its number from 0, and with
                   --coordinator, where number 0 listens; "auto" where a cluster knows these (srun, Kubernetes, mpirun)

A run that was interrupted goes on when the same command is given again. Exit status: 0 done, 1 the training
diverged, 2 wrong use or bad input, 128 + signal when it was told to stop.
"""


class Command(NamedTuple):
  """What a command line asks for.

  Attributes:
    source: of the config, FILE.py or FILE.py:VARIANT.
    config: with all overrides applied.
    overrides: as they were written.
    workdir: folder of the run.
    several: whether the run is of several processes.
    address: of this one among them; None where the cluster knows it.
  """

  source: str
  config: ConfigDict
  overrides: list[str]
  workdir: Path
  several: bool = False
  address: Address | None = None


def parse(argv: Sequence[str]) -> Command | None:
  """Parses a command line, the program's name first; None where it asks for help.

  Raises:
    UserError: a flag, the file, the variant or a key does not exist, or a value has the wrong type.
  """
  if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
    return None
  source, rest = _take_source(list(argv))
  config = load_config(source)
  overrides = [argument for argument in rest if re.match(r"--?config\.", argument)]
  for override in overrides:
    check_override(config, override)
  values = flags.FlagValues()
  workdir, *where = (
    flags.DEFINE_string(name, None, "", flag_values=values)
    for name in ("workdir", "processes", "process", "coordinator")
  )
  try:
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
    unread = values(rest)[1:]
  except (flags.Error, ValueError) as error:  # ValueError: a key that is no Python name
    raise UserError(f"{str(error).splitlines()[0]} (--help shows the usage)") from None
  if unread:
    raise UserError(f"{unread[0]!r}: unexpected argument (--help shows the usage)")
  address = _address(*(flag.value for flag in where))
  several = where[0].value is not None
  return Command(source, holder.value, overrides, Path(workdir.value or _default_workdir(source)), several, address)


def _address(processes: str | None, process: str | None, coordinator: str | None) -> Address | None:
  """Reads where a process stands among others; None where it is alone, or the cluster is to say."""
  if processes in (None, "auto"):
    for name, value in (("process", process), ("coordinator", coordinator)):
      if value is not None:
        raise UserError(f"--{name}={value}: expected with --processes=N, the number of processes")
    return None
  if not re.fullmatch("[1-9][0-9]*", processes or ""):
    raise UserError(f"--processes={processes}: expected a number, 1 or more, or auto")
  count = int(processes or "")
  if not re.fullmatch("[0-9]+", process or "") or int(process or "") >= count:
    raise UserError(f"--process{_given(process)}: expected the number of this process, 0 to {count - 1}")
  if not re.fullmatch(r".+:[0-9]+", coordinator or ""):
    raise UserError(f"--coordinator{_given(coordinator)}: expected HOST:PORT, where process 0 listens")
  return Address(coordinator or "", count, int(process or ""))


def _given(value: str | None) -> str:
  return " is missing" if value is None else f"={value}"


def _take_source(argv: list[str]) -> tuple[str, list[str]]:
  """Returns what --config is set to, and the command line without it."""
  for i, argument in enumerate(argv):
    match = re.fullmatch(r"--?config(?:=(.*))?", argument)
    if match and match[1] is not None:
      return match[1], argv[:i] + argv[i + 1 :]
    if match and i + 1 < len(argv):
      return argv[i + 1], argv[:i] + argv[i + 2 :]
  raise UserError("--config is missing: for example --config=configs/hsic.py:demo, which needs no data")


def load_config(source: str) -> ConfigDict:
  """Returns the config as its file makes it, before any override."""
  return call_in_file(source, "get_config", f"--config={source}")


def call_in_file(source: str, function: str, where: str) -> Any:
  """Returns what a function of FILE.py says of VARIANT, given FILE.py:VARIANT, or FILE.py for no variant.

  Raises:
    UserError: there is no such file, function or variant; the message begins with `where`.
  """
  path, _, variant = source.partition(":")
  file = Path(path)
  if not file.is_file():
    raise UserError(f"{where}: no file {path}; expected FILE.py or FILE.py:VARIANT")
  spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
  if spec is None or spec.loader is None:
    raise UserError(f"{where}: {path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except (SyntaxError, ImportError) as error:
    raise UserError(f"{where}: cannot be imported ({error})") from None
  called = getattr(module, function, None)
  if called is None:
    raise UserError(f"{where}: {path} has no function {function}")
  if variant and not inspect.signature(called).parameters:
    raise UserError(f"{where}: {path} has no variants")
  try:
    return called(variant) if variant else called()
  except ValueError as error:
    raise UserError(f"{where}: {error}") from None


def _default_workdir(source: str) -> Path:
  path, _, variant = source.partition(":")
  return Path("workdir") / "_".join([Path(path).stem, *re.findall(r"\w+", variant)])
