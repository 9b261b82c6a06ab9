"""Which operations on files a run is killed before."""

import os
import re

import pytest

from tests.faults import child, kills


def test_a_path_relative_to_an_open_folder_is_named_whole(tmp_path):
  folder = os.open(tmp_path, os.O_RDONLY)
  try:
    assert child._path("os.remove", ("name", folder)) == str(tmp_path / "name")
    assert child._path("os.rename", ("from", "to", -1, folder)) == str(tmp_path / "to")
    assert child._path("os.rmdir", (str(tmp_path), folder)) == str(tmp_path)
  finally:
    os.close(folder)
  assert child._path("open", ("relative", "w", 0)) == "relative"


@pytest.mark.parametrize(
  ("line", "among"),
  [
    ("open /metrics.jsonl", "_ELSEWHERE"),
    ("os.mkdir /checkpoints", "_WRITE"),
    ("os.remove /checkpoints/5.orbax-checkpoint-tmp/state.orbax-checkpoint-tmp/_METADATA", "_WRITE"),
    ("os.rename /checkpoints/5", "_WRITE"),
    ("shutil.rmtree /checkpoints/5", "_REMOVAL"),
    ("os.remove /checkpoints/5/state/_METADATA", "_REMOVAL"),
    ("os.rmdir /checkpoints/5", "_REMOVAL"),
  ],
)
def test_every_operation_is_of_one_fault(line, among):
  assert [name for name in ("_ELSEWHERE", "_WRITE", "_REMOVAL") if re.search(getattr(kills, name), line)] == [among]
