"""What a PyTorch file may not do: nothing that its pickle asks for is imported or called."""

import copyreg
import os
import pickle
import re
import zipfile

import numpy as np
import pytest

from fer_jax.pretrained import torch_file
from fer_jax.runtime.errors import UserError
from tests.pretrained import forged
from tests.pretrained.forged import (
  NONE,
  SIX,
  assert_refused,
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
  """Pickles that touch `mark` where a name is imported and called, by the way they do it."""
  command, code = text(f"touch {mark}"), text(f"open({str(mark)!r}, 'w').close()")
  system, evaluate = name("os", "system"), name("builtins", "eval")
  stacked = text("os") + text("system") + b"\x93"
  of_map = sequence(evaluate, b"](" + code + b"e")
  by_new = name("builtins", "map") + of_map + b"\x81"
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
    "NEWOBJ": name("builtins", "tuple") + sequence(by_new) + b"\x81",
    "copyreg": call(name("copyreg", "__newobj__"), name("builtins", "tuple"), by_new),
    "an iterator": call(name("builtins", "list"), name("builtins", "map") + of_map + b"R"),
    "an extension": call(b"\x82\xf0", command),
  }


@pytest.fixture
def extension():
  """Registers os.system as a pickle extension, and has it cached as a program's own pickles would."""
  copyreg.add_extension("posix", "system", 240)
  pickle.loads(pickle.dumps(os.system, protocol=2))
  yield
  copyreg.remove_extension("posix", "system", 240)
  copyreg.clear_extension_cache()


@pytest.mark.usefixtures("extension")
class TestCode:
  @pytest.mark.parametrize("way", payloads("mark"))
  def test_the_standard_library_would_execute_it(self, tmp_path, way):
    mark = tmp_path / "mark"
    try:
      pickle.loads(forged.pickled(payloads(mark)[way]), encoding="utf-8")
    except TypeError:
      assert way == "an argument"  # what the command returned is no pair for a dictionary
    assert mark.exists()

  @pytest.mark.parametrize("way", payloads("mark"))
  @pytest.mark.parametrize("form", ["zip", "stream", "magic", "pickle"])
  def test_is_refused_and_not_executed(self, tmp_path, way, form):
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    body = payloads(mark)[way]
    if form == "zip":
      write_zip(path, body, {})
    elif form == "stream":
      write_stream(path, body, {})
    elif form == "magic":
      path.write_bytes(forged.pickled(number(forged.MAGIC)) + forged.pickled(body))
    else:
      path.write_bytes(forged.pickled(body))
    says = "refers to '.*', so it contains code, not only weights; nothing of it was executed; save model.state_dict"
    assert_refused(path, "damaged" if way == "an extension" else says)
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
  def test_names_what_it_asks_for(self, tmp_path, module, attribute):
    path = write_zip(tmp_path / "w.pth", call(name(module, attribute)), {})
    assert_refused(path, re.escape(f"refers to '{module}.{attribute}'"))

  def test_its_name_may_not_garble_the_message(self, tmp_path):
    asked = text("os\x1b[2J\n") + text("x" * 1000) + b"\x93"
    with pytest.raises(UserError) as caught:
      torch_file.read(write_zip(tmp_path / "w.pth", asked, {}))
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
  def test_state_cannot_change_a_stand_in(self, tmp_path, target, state):
    path = write_zip(tmp_path / "w.pth", build(target, state), {"0": SIX.tobytes()})
    assert_refused(path, "damaged")
    np.testing.assert_array_equal(read_one(tmp_path, tensor(storage(6), (6,))), SIX)

  def test_state_cannot_reach_the_interior_of_a_dictionary(self, tmp_path):
    made = build(call(name("collections", "OrderedDict")), sequence(NONE, dictionary({"__class__": NONE})))
    path = write_zip(
      tmp_path / "w.pth", made + b"(" + text("w") + tensor(storage(6), (6,)) + b"u", {"0": SIX.tobytes()}
    )
    np.testing.assert_array_equal(torch_file.read(path)["w"], SIX)

  def test_a_torchscript_program(self, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
      for member in ("data.pkl", "constants.pkl", "code/__torch__.py"):
        archive.writestr(f"w/{member}", forged.pickled(b"}"))
    assert_refused(tmp_path / "w.pt", "is a TorchScript program, so it contains code, not only weights")

  def test_modules_of_old_files_come_with_their_source(self, tmp_path):
    module = sequence(text("module"), name("torch.nn.modules.linear", "Linear"), text("f.py"), text("import os")) + b"Q"
    assert_refused(write_stream(tmp_path / "w.pth", module, {}), "refers to 'torch.nn.modules.linear.Linear'")
