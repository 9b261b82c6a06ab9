"""Dataset information is looked up on this machine only."""

import tempfile

import pytest

from fer_jax.data import builders


@pytest.mark.parametrize("name", builders.names())
def test_unprepared_dataset_leaves_no_temporary_folder(tmp_path, monkeypatch, name):
  scratch = tmp_path / "scratch"
  scratch.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(scratch))
  builders.make_builder(name, str(tmp_path / "data"))
  assert not list(scratch.iterdir())
