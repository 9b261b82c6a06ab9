"""JSON files that are read, and text files that are written atomically."""

from pathlib import Path

import platformdirs
import pytest

from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import cache_folder, local_path, read_json, write_text


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


class TestLocalPath:
  def test_home_is_expanded(self, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert local_path("~/faces.csv") == Path("/home/ann/faces.csv")
    assert local_path("a/~/b") == Path("a/~/b")
    assert local_path("~nobody_at_all.png") == Path("~nobody_at_all.png")

  @pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run", "https://host/a.png", "hdfs://a"])
  def test_addresses_are_refused(self, address: str) -> None:
    with pytest.raises(
      UserError, match=rf"^{address}: expected a local path, found an address of .*://; mount or copy"
    ):
      local_path(address)

  def test_no_home_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match="^~/a: there is no home folder; set HOME or give an absolute path$"):
      local_path("~/a")
    assert local_path("a") == Path("a")


def test_cache_folder_is_none_without_a_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert cache_folder() == tmp_path / "fer_jax"

  def fail(name: str) -> Path:
    raise RuntimeError("could not determine the home directory")

  monkeypatch.setattr(platformdirs, "user_cache_path", fail)
  assert cache_folder() is None
