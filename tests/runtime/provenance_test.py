import importlib.util
import platform
import shutil
import subprocess
import sys

import flax
import jax
import numpy as np
import pytest

from fer_jax.runtime import provenance


def test_versions_equal_the_imported_packages():
  versions = provenance.versions()
  assert versions["python"] == platform.python_version()
  for module in (jax, flax, np):
    assert versions[module.__name__] == module.__version__


def test_versions_include_compared_packages_if_imported():
  if importlib.util.find_spec("equinox") is None:
    pytest.skip("Equinox is not installed")
  program = (
    "from fer_jax.runtime.provenance import versions; assert 'equinox' not in versions(); import equinox; "
    "assert versions()['equinox'] == equinox.__version__"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def test_device_description():
  one, four = provenance.device(jax.devices()[:1]), provenance.device(jax.devices())
  assert one.startswith("cpu (")
  assert one.endswith(" cores)")
  assert four == f"4 x {one}"


@pytest.fixture
def package(tmp_path, monkeypatch):
  """Folder that `provenance` regards as its package."""
  folder = tmp_path / "checkout" / "package"
  (folder / "runtime").mkdir(parents=True)
  (folder / "runtime" / "provenance.py").write_text("first")
  (folder / "main.py").write_text("first")
  monkeypatch.setattr(provenance, "__file__", str(folder / "runtime" / "provenance.py"))
  monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
  return folder


class TestCommit:
  def test_is_unknown_outside_a_checkout(self, package):
    assert provenance.commit() == "unknown"

  def test_is_unknown_without_git(self, package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == "unknown"

  @pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
  def test_marks_changed_checkouts(self, package):
    def git(*arguments):
      identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
      command = ["git", "-C", str(package), *identity, *arguments]
      return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert provenance.commit() == "unknown"
    git("add", ".")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")[:12]
    assert provenance.commit() == head
    (package / "notes.txt").write_text("untracked files are not the program")
    assert provenance.commit() == head
    (package / "main.py").write_text("second")
    assert provenance.commit() == f"{head}-dirty"
