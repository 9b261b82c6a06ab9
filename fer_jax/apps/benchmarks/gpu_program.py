"""The kernels and collectives of a program that is compiled for a GPU, parsed from the text of its optimised HLO."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fer_jax.apps.benchmarks.gpu_target import GpuTarget

KINDS = ("fusion", "cudnn", "cublas", "triton", "copy", "other")
LAUNCH_SECONDS = 3e-6
"""Assumed time of a kernel that does nothing: the gap between two small kernels of one stream."""

# `%name = TYPE opcode(ARGUMENTS), ATTRIBUTES`; types contain no word that is followed by a parenthesis.
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%(?P<name>\S+) = (?P<type>.*?) (?P<opcode>[a-z][\w-]*)\((?P<arguments>[^)]*)\)(?P<attributes>.*)"
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>\S+) \(.*\{$")
_ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+\d+\w*)\[(?P<dimensions>[\d,]*)\]")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Instructions that are no kernels: they rename buffers, wait, or take no time.
_FREE = frozenset(
  {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
  | {"opt-barrier", "domain", "add-dependency"}
)
_READS_PART = frozenset({"gather", "dynamic-slice", "slice"})


class Array(NamedTuple):
  """Type of an array in HLO.

  Attributes:
    dtype: Name in HLO, such as "f32" or "pred".
    shape: Lengths of the axes.
  """

  dtype: str
  shape: tuple[int, ...]

  @property
  def bytes(self) -> int:
    """Bytes of the array; a boolean takes one byte."""
    bits = re.search(r"\d+", self.dtype)
    return math.prod(self.shape) * max(1, int(bits[0]) // 8 if bits else 1)


class Kernel(NamedTuple):
  """A kernel of the program.

  Attributes:
    name: Name of the instruction.
    kind: One of KINDS.
    source: JAX's name of the operation that it computes; for fusions, of the last one.
    times: Number of runs in one run of the program; more than 1 inside a loop.
    flops: Floating-point operations of products and convolutions in one run; 0 for other kernels.
    bytes: Bytes that one run reads and writes.
    dtype: Name in HLO of the dtype of its largest result, such as "f32".
  """

  name: str
  kind: str
  source: str
  times: int
  flops: int
  bytes: int
  dtype: str

  def seconds(self, target: GpuTarget) -> float:
    """Returns the estimated seconds of one run: a launch, and the slower of memory and arithmetic at their peaks."""
    arithmetic = self.flops / target.peak.get(self.dtype, target.peak["f32"])
    return LAUNCH_SECONDS + max(self.bytes / target.bandwidth, arithmetic)


class Collective(NamedTuple):
  """A collective operation.

  Attributes:
    kind: Operation, such as "all-reduce" or "all-gather".
    result: Bytes of the result on each device.
  """

  kind: str
  result: int


class GpuProgram(NamedTuple):
  """What a compiled program consists of.

  Attributes:
    kernels: Kernels without the collectives.
    collectives: Collectives, after XLA has combined them.
    donated: Number of arguments whose buffers the results reuse.
    dtypes: All dtypes of arrays in the program.
    host_transfers: Names of instructions that exchange data with the host.
  """

  kernels: tuple[Kernel, ...]
  collectives: tuple[Collective, ...]
  donated: int
  dtypes: frozenset[str]
  host_transfers: tuple[str, ...]

  def count(self, kind: str = "") -> int:
    """Returns the number of kernels of a kind that one run launches; of all kinds without an argument."""
    return sum(kernel.times for kernel in self.kernels if kind in ("", kernel.kind))

  def seconds(self, target: GpuTarget) -> float:
    """Returns the estimated seconds of all kernels, one after another, without the collectives."""
    return sum(kernel.times * kernel.seconds(target) for kernel in self.kernels)


class _Instruction(NamedTuple):
  """A line of HLO; `arguments` is the text between the parentheses, `attributes` the text after them."""

  name: str
  type: str
  opcode: str
  arguments: str
  attributes: str

  @property
  def operands(self) -> list[str]:
    return re.findall(r"%([^\s,()]+)", self.arguments)

  @property
  def arrays(self) -> list[Array]:
    return _arrays(self.type)

  def called(self, key: str) -> str:
    match = re.search(rf"\b{key}=%?([^,\s}}]+)", self.attributes)
    assert match is not None, f"{self.name} has no {key}"
    return match[1]


_Computation = Mapping[str, _Instruction]


def parse_program(text: str) -> GpuProgram:
  """Parses the optimised HLO of a program.

  Args:
    text: Result of `compiled.as_text()`, for a program compiled for a GPU.
  """
  entry, computations = _parse(text)
  kernels, collectives, host = [], [], []
  for instruction, times, computation in _walk(entry, 1, computations):
    kind = next((kind for kind in _COLLECTIVES if instruction.opcode in (kind, f"{kind}-start")), None)
    if kind is not None:
      collectives += [Collective(kind, _collective_bytes(instruction))] * times
    elif instruction.opcode in ("send", "recv", "infeed", "outfeed") or "S(5)" in instruction.type:
      host.append(instruction.name)
    else:
      kernels.append(_kernel(instruction, times, computation, computations))
  header = text.partition("\n")[0]
  dtypes = frozenset(match["dtype"] for match in _ARRAY.finditer(text))
  donated = len(re.findall(r"(?:may|must)-alias", header))
  return GpuProgram(tuple(kernels), tuple(collectives), donated, dtypes, tuple(host))


def _arrays(text: str) -> list[Array]:
  return [
    Array(match["dtype"], tuple(int(n) for n in match["dimensions"].split(",") if n)) for match in _ARRAY.finditer(text)
  ]


def _parse(text: str) -> tuple[_Computation, Mapping[str, _Computation]]:
  """Returns the entry computation, and all computations by name."""
  computations: dict[str, dict[str, _Instruction]] = {}
  entry = current = None
  for line in text.splitlines():
    if (start := _COMPUTATION.match(line)) is not None:
      current = computations[start["name"]] = {}
      entry = current if start["entry"] else entry
    elif (match := _INSTRUCTION.match(line)) is not None and current is not None:
      current[match["name"]] = _Instruction(*match.groups())
  assert entry is not None, "no entry computation"
  return entry, computations


def _walk(
  computation: _Computation, times: int, computations: Mapping[str, _Computation]
) -> Iterator[tuple[_Instruction, int, _Computation]]:
  """Yields the instructions that take time, with their number of runs; loops and calls are followed."""
  for instruction in computation.values():
    opcode = instruction.opcode
    if opcode == "while":
      trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.attributes)
      yield from _walk(computations[instruction.called("body")], times * int(trips[1] if trips else 1), computations)
    elif opcode == "call":
      yield from _walk(computations[instruction.called("to_apply")], times, computations)
    elif opcode == "async-start":
      yield from _walk(computations[instruction.called("calls")], times, computations)
    elif opcode == "conditional":
      branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
      names = re.findall(r"%([^\s,]+)", branches[1]) if branches else [instruction.called("true_computation")]
      yield from _walk(computations[names[0]], times, computations)
    elif opcode not in _FREE and not opcode.endswith(("-done", "-update")):
      yield instruction, times, computation


def _kernel(
  instruction: _Instruction, times: int, computation: _Computation, computations: Mapping[str, _Computation]
) -> Kernel:
  source = re.search(r'op_name="([^"]*)"', instruction.attributes)
  results = instruction.arrays
  body = computations[instruction.called("calls")] if instruction.opcode == "fusion" else None
  largest = max(results, key=lambda array: array.bytes, default=Array("f32", (0,)))
  return Kernel(
    name=instruction.name,
    kind=_kind(instruction),
    source=source[1] if source else "",
    times=times,
    flops=_flops(instruction, computation, computations),
    bytes=sum(array.bytes for array in results) + _bytes_read(instruction, computation, body),
    dtype=largest.dtype,
  )


def _kind(instruction: _Instruction) -> str:
  if instruction.opcode == "fusion":
    return "triton" if "__triton" in instruction.attributes else "fusion"
  if instruction.opcode in ("copy", "copy-start"):
    return "copy"
  target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
  for kind in ("cudnn", "cublas", "triton"):
    if target is not None and target[1].startswith(f"__{kind}"):
      return kind
  return "other"


def _bytes_read(instruction: _Instruction, computation: _Computation, body: _Computation | None) -> int:
  """Returns the bytes of the operands; of those that a fusion only gathers or slices, the bytes of the parts."""
  whole = [sum(array.bytes for array in computation[name].arrays) for name in instruction.operands]
  if body is None:
    return sum(whole)
  parameters = {int(each.arguments): each.name for each in body.values() if each.opcode == "parameter"}
  total = 0
  for position, size in enumerate(whole):
    readers = [each for each in body.values() if parameters.get(position) in each.operands]
    if readers and all(each.opcode in _READS_PART and each.operands[0] == parameters[position] for each in readers):
      size = min(size, sum(array.bytes for each in readers for array in each.arrays))  # noqa: PLW2901
    total += size
  return total


def _flops(instruction: _Instruction, computation: _Computation, computations: Mapping[str, _Computation]) -> int:
  """Returns the floating-point operations of a convolution or product, also inside a fusion; 0 for all others."""
  if instruction.opcode == "fusion":
    body = computations[instruction.called("calls")]
    return sum(_flops(each, body, computations) for each in body.values())
  arrays = [computation[name].arrays[0] for name in instruction.operands if computation[name].arrays]
  if labels := re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes):
    # maps, kernel and result of the convolution, whichever of them this instruction computes
    kernel, result = arrays[1], instruction.arrays[0]
    if "BackwardFilter" in instruction.attributes:
      kernel, result = result, kernel
    elif "BackwardInput" in instruction.attributes:
      result = arrays[0]
    return 2 * math.prod(result.shape) * math.prod(kernel.shape) // max(1, kernel.shape[labels[1].index("o")])
  contracted = re.search(r"lhs_contracting_dim(?:s|ensions)\W+([\d\W]*?)[}\]]", instruction.attributes)
  if contracted is None:
    return 0
  lengths = [arrays[0].shape[int(axis)] for axis in re.findall(r"\d+", contracted[1])]
  return 2 * math.prod(instruction.arrays[0].shape) * math.prod(lengths)


def _collective_bytes(instruction: _Instruction) -> int:
  arrays, operands = instruction.arrays, len(instruction.operands)
  # An asynchronous collective returns (operands, results); some versions of XLA return only the results.
  return sum(array.bytes for array in (arrays[operands:] if len(arrays) == 2 * operands else arrays))
