"""Safety of reading PyTorch files: nothing that a pickle refers to is imported or called."""

import copyreg
import os
import pickle
import re
import zipfile

import numpy as np
import pytest

from fer_jax.pretrained import torch_file
from fer_jax.runtime.errors import UserError
from tests.pretrained import torch_writer
from tests.pretrained.torch_writer import (
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


def payloads(mark):
  """Returns pickles that create the file `mark` when executed, by their method."""
  command, code = text(f"touch {mark}"), text(f"open({str(mark)!r}, 'w').close()")
  system, evaluate = name("os", "system"), name("builtins", "eval")
  stacked = text("os") + text("system") + b"\x93"
  map_arguments = sequence(evaluate, b"](" + code + b"e")
  map_iterator = name("builtins", "map") + map_arguments + b"\x81"
  return {
    "REDUCE": call(system, command),
    "eval": call(evaluate, code),
    "exec": call(name("builtins", "exec"), code),
    "Python 2's name": call(name("__builtin__", "eval"), code),
    "nested": dictionary({"state_dict": dictionary({"w": b"](" + call(system, command) + b"e"})}),
    "an argument": call(name("collections", "OrderedDict"), b"](" + call(system, command) + b"e"),
    "STACK_GLOBAL": call(stacked, command),
    "INST": b"(" + command + b"ios\nsystem\n",
    "OBJ": b"(" + system + command + b"o",
    "NEWOBJ": name("builtins", "tuple") + sequence(map_iterator) + b"\x81",
    "copyreg": call(name("copyreg", "__newobj__"), name("builtins", "tuple"), map_iterator),
    "an iterator": call(name("builtins", "list"), name("builtins", "map") + map_arguments + b"R"),
    "an extension": call(b"\x82\xf0", command),
  }


@pytest.fixture
def extension():
  """Registers os.system as a pickle extension and caches it, as a program's own pickles would."""
  copyreg.add_extension("posix", "system", 240)
  pickle.loads(pickle.dumps(os.system, protocol=2))
  yield
  copyreg.remove_extension("posix", "system", 240)
  copyreg.clear_extension_cache()


@pytest.mark.usefixtures("extension")
class TestCode:
  @pytest.mark.parametrize("method", payloads("mark"))
  def test_standard_library_executes_the_code(self, tmp_path, method):
    mark = tmp_path / "mark"
    try:
      pickle.loads(torch_writer.pickled(payloads(mark)[method]), encoding="utf-8")
    except TypeError:
      assert method == "an argument"  # the result of the command is not a pair for a dictionary
    assert mark.exists()

  @pytest.mark.parametrize("method", payloads("mark"))
  @pytest.mark.parametrize("file_format", ["zip", "stream", "magic", "pickle"])
  def test_code_is_rejected_and_not_executed(self, tmp_path, method, file_format):
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    body = payloads(mark)[method]
    if file_format == "zip":
      write_zip(path, body, {})
    elif file_format == "stream":
      write_stream(path, body, {})
    elif file_format == "magic":
      path.write_bytes(torch_writer.pickled(number(torch_writer.MAGIC)) + torch_writer.pickled(body))
    else:
      path.write_bytes(torch_writer.pickled(body))
    message = "refers to '.*', so it contains code, not only weights; nothing of it was executed; save model.state_dict"
    assert_rejected(path, "damaged" if method == "an extension" else message)
    assert not mark.exists()

  @pytest.mark.parametrize(
    ("module", "attribute"),
    [
      ("torchvision.models.resnet", "ResNet"),
      ("torch.nn.modules.conv", "Conv2d"),
      ("numpy.core.multiarray", "_reconstruct"),
      ("torch._utils", "_rebuild_tensor_v2.__globals__"),
      ("torch", "load"),
      ("torch.jit", "FloatStorage"),
      ("collections", "Counter"),
      ("builtins", "getattr"),
      ("fer_jax.runtime.errors", "run"),
    ],
  )
  def test_error_names_the_referenced_object(self, tmp_path, module, attribute):
    path = write_zip(tmp_path / "w.pth", call(name(module, attribute)), {})
    assert_rejected(path, re.escape(f"refers to '{module}.{attribute}'"))

  def test_error_message_is_printable_and_short(self, tmp_path):
    reference = text("os\x1b[2J\n") + text("x" * 1000) + b"\x93"
    with pytest.raises(UserError) as caught:
      torch_file.read(write_zip(tmp_path / "w.pth", reference, {}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500

  @pytest.mark.parametrize(
    "target",
    [
      name("torch._utils", "_rebuild_tensor_v2"),
      name("collections", "OrderedDict"),
      name("torch.nn.parameter", "Parameter"),
      name("torch", "FloatStorage"),
      name("torch", "Size"),
      storage(6),
      tensor(storage(6), (6,)),
      b"}",
      text("text"),
    ],
  )
  @pytest.mark.parametrize(
    "state",
    [
      dictionary({"__call__": name("collections", "OrderedDict"), "_function": NONE}),
      sequence(NONE, dictionary({"__init__": NONE, "__class__": name("collections", "OrderedDict")})),
      sequence(NONE, dictionary({"__setstate__": NONE, "__defaults__": sequence(NONE), "offset": number(1)})),
    ],
  )
  def test_state_cannot_change_substitutes_for_classes_and_functions(self, tmp_path, target, state):
    path = write_zip(tmp_path / "w.pth", build(target, state), {"0": SIX.tobytes()})
    assert_rejected(path, "damaged")
    np.testing.assert_array_equal(read_one(tmp_path, tensor(storage(6), (6,))), SIX)

  def test_state_cannot_change_attributes_of_a_dictionary(self, tmp_path):
    instance = build(call(name("collections", "OrderedDict")), sequence(NONE, dictionary({"__class__": NONE})))
    path = write_zip(
      tmp_path / "w.pth", instance + b"(" + text("w") + tensor(storage(6), (6,)) + b"u", {"0": SIX.tobytes()}
    )
    np.testing.assert_array_equal(torch_file.read(path)["w"], SIX)

  def test_rejects_torchscript_programs(self, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
      for member in ("data.pkl", "constants.pkl", "code/__torch__.py"):
        archive.writestr(f"w/{member}", torch_writer.pickled(b"}"))
    assert_rejected(tmp_path / "w.pt", "is a TorchScript program, so it contains code, not only weights")

  def test_rejects_modules_of_old_files_with_source_code(self, tmp_path):
    module = sequence(text("module"), name("torch.nn.modules.linear", "Linear"), text("f.py"), text("import os")) + b"Q"
    assert_rejected(write_stream(tmp_path / "w.pth", module, {}), "refers to 'torch.nn.modules.linear.Linear'")
