"""JSON files that are read, and text files that are written atomically."""

from pathlib import Path

import pytest

from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import read_json, write_text


def test_reads_what_was_written_and_leaves_nothing_else(tmp_path: Path) -> None:
  path = tmp_path / "new" / "object.json"
  write_text(path, '{"é": 1}\n')
  assert path.read_bytes() == '{"é": 1}\n'.encode()
  assert read_json(path) == {"é": 1}
  write_text(path, "{}")
  assert read_json(path) == {}
  assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[1]"])
def test_rejects_a_file_that_is_not_a_json_object(tmp_path: Path, content: bytes | None) -> None:
  path = tmp_path / "object.json"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=r"object\.json: expected a JSON object") as caught:
    read_json(path)
  assert "\n" not in str(caught.value)


def test_names_a_file_that_cannot_be_written(tmp_path: Path) -> None:
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match=r"below: cannot be written .*choose another path"):
    write_text(tmp_path / "file" / "below", "text")
