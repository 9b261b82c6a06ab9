"""Paths of file operations, and their assignment to the faults that kill a run before them."""

import os
import re

import pytest

from tests.faults import faulty_run, kills


def test_path_relative_to_a_folder_descriptor_becomes_absolute(tmp_path):
  folder = os.open(tmp_path, os.O_RDONLY)
  try:
    assert faulty_run._path("os.remove", ("name", folder)) == str(tmp_path / "name")
    assert faulty_run._path("os.rename", ("from", "to", -1, folder)) == str(tmp_path / "to")
    assert faulty_run._path("os.rmdir", (str(tmp_path), folder)) == str(tmp_path)
  finally:
    os.close(folder)
  assert faulty_run._path("open", ("relative", "w", 0)) == "relative"


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
def test_every_operation_belongs_to_one_fault(line, among):
  assert [name for name in ("_ELSEWHERE", "_WRITE", "_REMOVAL") if re.search(getattr(kills, name), line)] == [among]
