"""Datasets of ours are looked for on this machine alone."""

import tempfile

import pytest

from fer_jax.data import builders


@pytest.mark.parametrize("name", builders.names())
def test_a_set_that_is_not_prepared_leaves_no_folder_behind(tmp_path, monkeypatch, name):
  scratch = tmp_path / "scratch"
  scratch.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(scratch))
  builders.make_builder(name, str(tmp_path / "data"))
  assert not list(scratch.iterdir())
