"""Writes torch.save files opcode by opcode, both valid ones and ones that PyTorch never writes."""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from fer_jax.pretrained import torch_file
from fer_jax.runtime.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
FALSE, TRUE, NONE = b"\x89", b"\x88", b"N"
SIX = np.arange(6, dtype=np.float32)


def text(value: str) -> bytes:
  encoded = value.encode()
  return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
  encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
  return b"\x8a" + bytes([len(encoded)]) + encoded


def name(module: str, attribute: str) -> bytes:
  return f"c{module}\n{attribute}\n".encode()


def sequence(*items: bytes) -> bytes:
  return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
  return function + sequence(*arguments) + b"R"


def build(instance: bytes, state: bytes) -> bytes:
  return instance + state + b"b"


def dictionary(pairs: Mapping[str, bytes]) -> bytes:
  return b"}(" + b"".join(text(key) + value for key, value in pairs.items()) + b"u"


def listing(*items: bytes) -> bytes:
  return b"](" + b"".join(items) + b"e"


def storage(length: int, key: str = "0", kind: str = "FloatStorage", module: str = "torch") -> bytes:
  return sequence(text("storage"), name(module, kind), text(key), text("cpu"), number(length)) + b"Q"


def tensor(numbers: bytes, size: tuple[int, ...], stride: tuple[int, ...] | None = None, offset: int = 0) -> bytes:
  if stride is None:
    stride = tuple(int(np.prod(size[i + 1 :])) for i in range(len(size)))
  axes = [sequence(*map(number, axis)) for axis in (size, stride)]
  hooks = call(name("collections", "OrderedDict"))
  return call(name("torch._utils", "_rebuild_tensor_v2"), numbers, number(offset), *axes, FALSE, hooks)


def pickled(body: bytes) -> bytes:
  return b"\x80\x02" + body + b"."


def write_zip(
  path: Path,
  body: bytes,
  storages: Mapping[str, bytes],
  byteorder: str = "little",
  compression: int = zipfile.ZIP_STORED,
) -> Path:
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickled(body))
    archive.writestr("archive/byteorder", byteorder)
    for key, data in storages.items():
      archive.writestr(f"archive/data/{key}", data)
  return path


def write_stream(
  path: Path, body: bytes, storages: Mapping[str, tuple[int, bytes]], little_endian: bytes = TRUE
) -> Path:
  """Writes the format of PyTorch before 1.6; a storage is a tuple (number of elements, bytes)."""
  stream = io.BytesIO()
  stream.write(pickled(number(MAGIC)))
  stream.write(pickled(number(1001)))
  stream.write(pickled(dictionary({"protocol_version": number(1001), "little_endian": little_endian})))
  stream.write(pickled(body))
  stream.write(pickled(listing(*map(text, storages))))
  for length, data in storages.values():
    stream.write(struct.pack("<q", length) + data)
  path.write_bytes(stream.getvalue())
  return path


def read_one(path: Path, body: bytes, numbers: np.ndarray = SIX) -> np.ndarray:
  """Returns the array "w" read from a zip file with `body` as "w" and `numbers` as its only storage."""
  return torch_file.read(write_zip(path / "w.pth", dictionary({"w": body}), {"0": numbers.tobytes()}))["w"]


def assert_rejected(path: Path, pattern: str) -> None:
  """Asserts that reading a file raises a one-line error that names it."""
  with pytest.raises(UserError, match=pattern) as caught:
    torch_file.read(path)
  assert "\n" not in str(caught.value)
  assert str(path) in str(caught.value)
