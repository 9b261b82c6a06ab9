"""Weight files of all formats: their content, and one-line error messages."""

import json
import shutil
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.pretrained import weights_file
from fer_jax.runtime.errors import UserError
from tests.pretrained.torch_writer import NONE, dictionary, number, storage, tensor, write_zip

GOLDEN = Path(__file__).parent.parent / "golden"
FORMATS = ["pth", "pt", "safetensors", "npz"]
W = np.arange(6, dtype=np.float32).reshape(2, 3)


def write_safetensors(path, tensors):
  """Writes {name: (dtype, shape, bytes)} as the specification of the format describes."""
  header, at = {}, 0
  for key, (kind, shape, data) in tensors.items():
    header[key] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(data)]}
    at += len(data)
  encoded = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(data for _, _, data in tensors.values()))
  return path


def write(path, arrays):
  """Writes float32 arrays in the format of the path's suffix."""
  if path.suffix == ".npz":
    np.savez(path, **arrays)
  elif path.suffix == ".safetensors":
    write_safetensors(path, {key: ("F32", array.shape, array.tobytes()) for key, array in arrays.items()})
  else:
    tensors = {key: tensor(storage(array.size, key), array.shape) for key, array in arrays.items()}
    write_zip(path, dictionary(tensors), {key: array.tobytes() for key, array in arrays.items()})
  return path


def assert_rejected(path, pattern):
  """Asserts that reading a file raises an error that names it and is printable."""
  with pytest.raises(UserError, match=pattern) as caught:
    weights_file.read(path)
  assert str(caught.value).startswith(str(path))
  assert str(caught.value).isprintable()


class TestRead:
  @pytest.mark.parametrize("suffix", [*FORMATS, "PTH"])
  def test_reads_arrays_unchanged(self, tmp_path, suffix):
    arrays = {"conv1.weight": W, "fc.bias": W[0]}
    path = write(tmp_path / f"w.{suffix.lower()}", arrays).rename(tmp_path / f"x.{suffix}")
    read = weights_file.read(path)
    assert read.keys() == arrays.keys()
    for key, array in read.items():
      assert array.dtype == np.float32
      np.testing.assert_array_equal(array, arrays[key])

  @pytest.mark.parametrize(
    ("kind", "dtype"),
    [
      ("F64", np.float64),
      ("F32", np.float32),
      ("F16", np.float16),
      ("BF16", jnp.bfloat16),
      ("BOOL", np.bool_),
      ("I64", np.int64),
      ("I32", np.int32),
      ("I16", np.int16),
      ("I8", np.int8),
      ("U8", np.uint8),
    ],
  )
  def test_reads_all_dtypes_of_safetensors(self, tmp_path, kind, dtype):
    numbers = np.array([[0, 1], [1, 1]], dtype)
    (array,) = weights_file.read(
      write_safetensors(tmp_path / "w.safetensors", {"w": (kind, (2, 2), numbers.tobytes())})
    ).values()
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, numbers)

  @pytest.mark.parametrize("suffix", FORMATS)
  def test_removes_the_prefix_of_data_parallel_modules(self, tmp_path, suffix):
    assert list(weights_file.read(write(tmp_path / f"a.{suffix}", {"module.a": W, "module.b": W}))) == ["a", "b"]
    assert list(weights_file.read(write(tmp_path / f"b.{suffix}", {"b": W, "module.a": W}))) == ["b", "module.a"]


class TestErrors:
  @pytest.mark.parametrize("suffix", FORMATS)
  def test_missing_file(self, tmp_path, suffix):
    assert_rejected(tmp_path / f"w.{suffix}", "no such file; expected .pth, .pt, .safetensors, .npz or the folder of")

  @pytest.mark.parametrize("suffix", FORMATS)
  def test_folder_instead_of_a_file(self, tmp_path, suffix):
    (tmp_path / f"w.{suffix}").mkdir()
    assert_rejected(tmp_path / f"w.{suffix}", r"cannot be read \(Is a directory\); expected .pth")

  @pytest.mark.parametrize("file", ["w.h5", "w", "w.pth.tar"])
  def test_unknown_suffix(self, tmp_path, file):
    (tmp_path / file).write_bytes(b"x")
    assert_rejected(tmp_path / file, r"unknown file format \(by its suffix\); expected .pth, .pt, .safetensors, .npz")

  @pytest.mark.parametrize("suffix", FORMATS)
  @pytest.mark.parametrize(
    "content", [b"", b"x", b"<!DOCTYPE html>\n<html>" * 100, b"PK\x03\x04", b"\x80\x02.", bytes(99)]
  )
  def test_content_of_another_format(self, tmp_path, suffix, content):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    assert_rejected(tmp_path / f"w.{suffix}", "damaged, or not|damaged: incomplete zip archive")

  @pytest.mark.parametrize("suffix", FORMATS)
  @pytest.mark.parametrize("share", [0.05, 0.5, 0.999])
  def test_truncated_file(self, tmp_path, suffix, share):
    path = write(tmp_path / f"w.{suffix}", {"a": W, "b": np.zeros(1000, np.float32)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_rejected(path, "damaged")

  @pytest.mark.parametrize("suffix", ["pth", "npz"])
  def test_corrupted_numbers(self, tmp_path, suffix):
    path = write(tmp_path / f"w.{suffix}", {"a": W})
    data = path.read_bytes()
    at = data.index(W.tobytes())
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    assert_rejected(path, "damaged")

  @pytest.mark.parametrize("suffix", FORMATS)
  def test_no_arrays(self, tmp_path, suffix):
    assert_rejected(write(tmp_path / f"w.{suffix}", {}), "contains no array; expected the weights of a network by name")

  def test_only_other_objects(self, tmp_path):
    path = write_zip(tmp_path / "w.pth", dictionary({"epoch": number(3), "note": NONE}), {})
    assert_rejected(path, "contains no array")

  def test_npz_with_objects(self, tmp_path):
    np.savez(tmp_path / "w.npz", a=W, b=np.array([{"a": 1}], object))
    assert_rejected(tmp_path / "w.npz", "contains Python objects, which are not read because they may be code")

  def test_npy_with_the_suffix_npz(self, tmp_path):
    np.save(tmp_path / "w.npy", W)
    shutil.move(tmp_path / "w.npy", tmp_path / "w.npz")
    assert_rejected(tmp_path / "w.npz", "damaged, or not a .npz file")

  def test_npz_that_declares_more_data_than_it_has(self, tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros((100, 100), np.float32))
    data = (tmp_path / "w.npz").read_bytes()
    (tmp_path / "w.npz").write_bytes(data.replace(b"(100, 100), }      ", b"(9999999999999,), }"))
    assert_rejected(tmp_path / "w.npz", "damaged, or not a .npz file")

  def test_corrupted_compression(self, tmp_path):
    np.savez_compressed(tmp_path / "w.npz", a=np.random.default_rng(0).random(1000))
    data = bytearray((tmp_path / "w.npz").read_bytes())
    for at in range(100, len(data) - 100):
      data[at] ^= 0x5A
    (tmp_path / "w.npz").write_bytes(data)
    assert_rejected(tmp_path / "w.npz", r"damaged, or not a .npz file \(Error -3")

  def test_unsupported_safetensors_dtype(self, tmp_path):
    path = write_safetensors(tmp_path / "w.safetensors", {"w": ("F8_E4M3", (2,), b"12")})
    assert_rejected(path, "'w' has the unsupported dtype F8_E4M3; expected one of F64, F32, F16, BF16")

  @pytest.mark.parametrize("key", ["a\nb", "a\x1b[2J", "a" * 201])
  def test_unprintable_and_long_names(self, tmp_path, key):
    path = write_safetensors(tmp_path / "w.safetensors", {key: ("F32", (1,), bytes(4))})
    assert_rejected(path, "contains an array with the name 'a.*'; expected up to 200 printable characters")

  def test_names_that_are_not_strings(self, tmp_path):
    body = b"}(" + number(1) + tensor(storage(6), (6,)) + b"u"
    assert_rejected(
      write_zip(tmp_path / "w.pth", body, {"0": W.tobytes()}), "contains an array with a name of type int"
    )
