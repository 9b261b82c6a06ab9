"""PyTorch files, read without PyTorch: their content, and error messages for damaged files."""

import pickle
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.pretrained import torch_file, weights_file
from fer_jax.runtime.errors import UserError
from tests.pretrained import torch_writer
from tests.pretrained.torch_writer import (
  FALSE,
  NONE,
  SIX,
  assert_rejected,
  build,
  call,
  dictionary,
  name,
  number,
  read_one,
  sequence,
  storage,
  tensor,
  text,
  write_stream,
  write_zip,
)

GOLDEN = Path(__file__).parent.parent / "golden"


class TestRead:
  @pytest.mark.parametrize("file", ["resnet18_width4.pth", "resnet18_width4_legacy.pth"])
  def test_both_formats_equal_safetensors(self, file):
    arrays = torch_file.read(GOLDEN / file)
    expected = weights_file.read(GOLDEN / "resnet18_width4.safetensors")
    assert arrays.keys() == expected.keys()
    assert len(arrays) == 122
    for key, array in arrays.items():
      assert array.dtype == expected[key].dtype
      np.testing.assert_array_equal(array, expected[key])

  @pytest.mark.parametrize(
    ("kind", "dtype"),
    [
      ("DoubleStorage", np.float64),
      ("FloatStorage", np.float32),
      ("HalfStorage", np.float16),
      ("BFloat16Storage", jnp.bfloat16),
      ("LongStorage", np.int64),
      ("IntStorage", np.int32),
      ("ShortStorage", np.int16),
      ("CharStorage", np.int8),
      ("ByteStorage", np.uint8),
      ("BoolStorage", np.bool_),
    ],
  )
  def test_reads_all_dtypes(self, tmp_path, kind, dtype):
    numbers = np.array([0, 1, 1, 0], dtype)
    body = dictionary({"w": tensor(storage(4, kind=kind), (2, 2))})
    paths = [
      write_zip(tmp_path / "zip.pt", body, {"0": numbers.tobytes()}),
      write_stream(tmp_path / "stream.pt", body, {"0": (4, numbers.tobytes())}),
    ]
    for path in paths:
      array = torch_file.read(path)["w"]
      assert array.dtype == dtype
      np.testing.assert_array_equal(array, numbers.reshape(2, 2))

  def test_tensors_are_views_of_their_storage(self, tmp_path):
    np.testing.assert_array_equal(read_one(tmp_path, tensor(storage(6), (2, 2), (1, 3), 1)), [[1, 4], [2, 5]])
    np.testing.assert_array_equal(read_one(tmp_path, tensor(storage(6), (), (), 5)), 5)
    np.testing.assert_array_equal(read_one(tmp_path, tensor(storage(6), (1, 6), (2**62, 1))), [SIX])
    assert read_one(tmp_path, tensor(storage(6), (0, 2**40), (1, 1))).size == 0

  def test_arrays_are_read_only(self, tmp_path):
    assert not read_one(tmp_path, tensor(storage(6), (6,))).flags.writeable

  @pytest.mark.parametrize("wrapper", ["state_dict", "model", "net"])
  def test_finds_the_state_dict_in_a_checkpoint(self, tmp_path, wrapper):
    inner = dictionary({"w": tensor(storage(6), (6,)), "note": text("x")})
    body = dictionary({"epoch": number(3), "optimizer": dictionary({"lr": NONE}), wrapper: inner})
    path = write_zip(tmp_path / "w.pth", body, {"0": SIX.tobytes()})
    assert list(torch_file.read(path)) == ["w"]

  def test_reads_parameters_of_all_pytorch_versions(self, tmp_path):
    six = tensor(storage(6), (6,))
    kind = name("torch.nn.parameter", "Parameter")
    v0 = sequence(six, NONE, NONE, FALSE, FALSE)
    body = dictionary(
      {
        "state": build(kind + sequence() + b"\x81", v0),
        "argument": build(call(kind, six), sequence(FALSE, FALSE, NONE)),
        "function": call(name("torch._utils", "_rebuild_parameter"), six, FALSE, NONE),
        "first": call(name("torch._utils", "_rebuild_tensor"), storage(6), number(0), *[sequence(number(1))] * 2),
        "size": call(
          name("torch._utils", "_rebuild_tensor_v2"),
          storage(6),
          number(0),
          call(name("torch", "Size"), sequence(number(6))),
          sequence(number(1)),
          FALSE,
          NONE,
        ),
        "cuda": tensor(storage(6, module="torch.cuda"), (6,)),
      }
    )
    arrays = torch_file.read(write_zip(tmp_path / "w.pth", body, {"0": SIX.tobytes()}))
    np.testing.assert_array_equal(arrays.pop("first"), [0])
    assert len(arrays) == 5
    for array in arrays.values():
      np.testing.assert_array_equal(array, SIX)

  def test_reads_deeply_nested_files(self, tmp_path):
    deep = b"]" * 100_000 + b"a" * 99_999
    assert read_one(tmp_path, tensor(storage(6), (6,))).size == 6
    path = write_zip(
      tmp_path / "w.pth", dictionary({"w": tensor(storage(6), (6,)), "deep": deep}), {"0": SIX.tobytes()}
    )
    assert list(torch_file.read(path)) == ["w"]


class TestBounds:
  @pytest.mark.parametrize(
    ("length", "size", "stride", "offset"),
    [
      (6, (7,), (1,), 0),
      (6, (6,), (1,), 1),
      (6, (2, 3), (4, 1), 0),
      (6, (1,), (1,), 6),
      (6, (2,), (-1,), 3),
      (6, (2,), (1,), -1),
      (6, (-2, -3), (1, 1), 0),
      (6, (2**31, 2**31), (0, 0), 0),
      (6, (10**6,), (0,), 0),
      (6, (2,), (2**63,), 0),
      (6, (1,), (2**64,), 0),
      (6, (2**70,), (1,), 0),
      (6, (0,), (1,), 7),
      (6, (2, 3), (1,), 0),
      (6, (1,) * 33, (1,) * 33, 0),
      (7, (6,), (1,), 0),
      (5, (5,), (1,), 0),
      (-1, (0,), (1,), 0),
      (10**600, (1,), (1,), 0),
    ],
  )
  def test_rejects_tensors_outside_their_storage(self, tmp_path, length, size, stride, offset):
    body = dictionary({"w": tensor(storage(length), size, stride, offset)})
    path = write_zip(tmp_path / "w.pth", body, {"0": SIX.tobytes()})
    assert_rejected(path, "damaged: a (tensor|storage)")
    if 0 <= length < 2**60:
      path = write_stream(tmp_path / "w.pt", body, {"0": (6, SIX.tobytes())})
      assert_rejected(path, "damaged: a (tensor|storage)")

  @pytest.mark.parametrize(
    "arguments",
    [
      (text("s"), number(0), sequence(number(1)), sequence(number(1))),
      (storage(6), text("0"), sequence(number(1)), sequence(number(1))),
      (storage(6), number(0), text("1"), sequence(number(1))),
      (storage(6), number(0), sequence(text("1")), sequence(number(1))),
      (storage(6), FALSE, sequence(number(1)), sequence(number(1))),
      (storage(6), number(0)),
      (),
    ],
  )
  def test_rejects_invalid_tensors(self, tmp_path, arguments):
    body = dictionary({"w": call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)})
    assert_rejected(write_zip(tmp_path / "w.pth", body, {"0": SIX.tobytes()}), "damaged")

  @pytest.mark.parametrize(
    "reference",
    [
      text("0") + b"Q",
      sequence() + b"Q",
      sequence(text("storage")) + b"Q",
      sequence(text("storage"), NONE, text("0"), text("cpu"), number(6)) + b"Q",
      sequence(text("storage"), storage(6), text("0"), text("cpu"), number(6)) + b"Q",
      sequence(text("storage"), name("torch", "FloatStorage"), number(0), text("cpu"), number(6)) + b"Q",
      sequence(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), text("6")) + b"Q",
      storage(6)[:-2] + sequence(text("1"), number(0), number(6)) + b"tQ",
      b"P0\n",
    ],
  )
  def test_rejects_invalid_storages(self, tmp_path, reference):
    path = write_zip(tmp_path / "w.pth", dictionary({"w": tensor(reference, (6,))}), {"0": SIX.tobytes()})
    assert_rejected(path, "damaged")

  def test_rejects_a_storage_with_two_dtypes(self, tmp_path):
    body = dictionary({"a": tensor(storage(6), (6,)), "b": tensor(storage(12, kind="HalfStorage"), (12,))})
    assert_rejected(write_zip(tmp_path / "w.pth", body, {"0": SIX.tobytes()}), "damaged")

  @pytest.mark.parametrize("body", [b"r\xff\xff\xff\x7f", b"p2147483647\n"])
  def test_large_memo_indices_do_not_allocate_memory(self, tmp_path, body):
    assert_rejected(write_zip(tmp_path / "w.pth", b"}" + body, {}), r"damaged.*ValueError")

  @pytest.mark.parametrize("body", [b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x00", b"\x8b\xff\xff\xff\x7f"])
  def test_large_lengths_do_not_allocate_memory(self, tmp_path, body):
    assert_rejected(write_zip(tmp_path / "w.pth", body, {}), "damaged")

  @pytest.mark.parametrize("kind", ["ComplexFloatStorage", "QInt8Storage", "UntypedStorage"])
  def test_rejects_unsupported_dtypes(self, tmp_path, kind):
    path = write_zip(tmp_path / "w.pth", dictionary({"w": tensor(storage(6, kind=kind), (6,))}), {"0": bytes(48)})
    assert_rejected(path, f"numbers of the unsupported type 'torch.{kind}'; .* save the weights as float32")


class TestDamage:
  @pytest.mark.parametrize("file", ["resnet18_width4.pth", "resnet18_width4_legacy.pth"])
  def test_rejects_files_truncated_anywhere(self, tmp_path, file):
    data, path = (GOLDEN / file).read_bytes(), tmp_path / file
    for length in [0, 1, 2, 10, 100, 1000, *range(4000, len(data), 13_001), len(data) - 1]:
      path.write_bytes(data[:length])
      assert_rejected(path, "damaged")

  @pytest.mark.parametrize("file", ["resnet18_width4.pth", "resnet18_width4_legacy.pth"])
  def test_corrupted_files_give_an_error_or_arrays(self, tmp_path, file):
    data, path = (GOLDEN / file).read_bytes(), tmp_path / file
    generator = np.random.default_rng(0)
    positions = {"resnet18_width4.pth": (0, len(data)), "resnet18_width4_legacy.pth": (0, 25_000)}[file]
    for _ in range(100):
      corrupted = bytearray(data)
      for position in generator.integers(*positions, 10):
        corrupted[position] = generator.integers(256)
      path.write_bytes(corrupted)
      try:
        arrays = torch_file.read(path)
      except UserError as error:
        assert "\n" not in str(error)
      else:
        assert all(isinstance(array, np.ndarray) for array in arrays.values())

  def test_rejects_archives_without_a_storage(self, tmp_path):
    path = write_zip(tmp_path / "w.pth", dictionary({"w": tensor(storage(6), (6,))}), {})
    assert_rejected(path, "its zip archive has no 'data/0'")
    path = write_zip(tmp_path / "w.pth", dictionary({"w": tensor(storage(6, "../../x"), (6,))}), {"0": SIX.tobytes()})
    assert_rejected(path, "its zip archive has no 'data/../../x'")

  def test_rejects_archives_without_a_pickle(self, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
      archive.writestr("something/else", b"")
    assert_rejected(tmp_path / "w.pth", "no data.pkl")

  def test_rejects_compressed_archives(self, tmp_path):
    body = dictionary({"w": tensor(storage(10**7, kind="ByteStorage"), (10**7,))})
    path = write_zip(tmp_path / "w.pth", body, {"0": bytes(10**7)}, compression=zipfile.ZIP_DEFLATED)
    assert_rejected(path, "compressed, which torch.save never does")

  def test_rejects_members_larger_than_the_file(self, tmp_path):
    body = dictionary({"w": tensor(storage(10**9, kind="ByteStorage"), (10**9,))})
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
      archive.writestr("archive/data.pkl", torch_writer.pickled(body))
      archive.writestr("archive/data/0", bytes(10))
      archive.getinfo("archive/data/0").file_size = 10**9
    assert_rejected(tmp_path / "w.pth", "declares more bytes than the file has")

  def test_rejects_invalid_storages_of_the_old_format(self, tmp_path):
    body = dictionary({"w": tensor(storage(6), (6,))})
    assert_rejected(write_stream(tmp_path / "w.pth", body, {}), "lacks the storage '0'")
    assert_rejected(write_stream(tmp_path / "w.pth", body, {"1": (6, SIX.tobytes())}), "storage '1' of unknown type")
    assert_rejected(write_stream(tmp_path / "w.pth", body, {"0": (-1, SIX.tobytes())}), "ends inside the storage '0'")
    assert_rejected(write_stream(tmp_path / "w.pth", body, {"0": (7, SIX.tobytes())}), "ends inside the storage '0'")
    assert_rejected(write_stream(tmp_path / "w.pth", body, {"0": (5, SIX.tobytes())}), "storage of 20 bytes")

  def test_rejects_big_endian_files(self, tmp_path):
    body = dictionary({"w": tensor(storage(6), (6,))})
    assert_rejected(write_zip(tmp_path / "w.pth", body, {"0": SIX.tobytes()}, byteorder="big"), "big-endian machine")
    path = write_stream(tmp_path / "w.pth", body, {"0": (6, SIX.tobytes())}, little_endian=FALSE)
    assert_rejected(path, "big-endian machine")

  def test_rejects_files_without_a_state_dict(self, tmp_path):
    assert_rejected(write_zip(tmp_path / "w.pth", b"]", {}), "contains a list; expected a state_dict")
    path = write_zip(tmp_path / "w.pth", tensor(storage(6), (6,)), {"0": SIX.tobytes()})
    assert_rejected(path, "contains a Tensor; expected a state_dict")
    path.write_bytes(pickle.dumps({"w": [1.0, 2.0]}))
    assert_rejected(path, "a pickle, but not one from torch.save")

  def test_accepts_a_dictionary_that_contains_itself(self, tmp_path):
    body = b"}q\x00" + text("state_dict") + b"h\x00s" + text("model") + b"h\x00s"
    assert torch_file.read(write_zip(tmp_path / "w.pth", body, {})) == {}
