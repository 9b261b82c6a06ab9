"""Downloads from a local server: digests, errors, and what remains after them."""

import functools
import hashlib
import http.server
import threading

import pytest

from fer_jax.apps import fetch
from fer_jax.runtime import downloads
from fer_jax.runtime.downloads import Download
from fer_jax.runtime.errors import UserError

CONTENT = b"a small file" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path):
  """Address of a server of one file, `model.bin`, and of `wrong.bin`."""
  folder = tmp_path / "server"
  folder.mkdir()
  (folder / "model.bin").write_bytes(CONTENT)
  (folder / "wrong.bin").write_bytes(CONTENT[:-1])

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as running:
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "fer_jax" / "downloads"


def register(monkeypatch, url, sha256=DIGEST):
  monkeypatch.setattr(downloads, "DOWNLOADS", {"yunet": Download(url, sha256, len(CONTENT), "a file")})


@pytest.mark.parametrize("digits", [8, 64])
def test_downloads_once(server, cache, monkeypatch, capsys, digits):
  register(monkeypatch, f"{server}/model.bin", DIGEST[:digits])
  assert not downloads.is_fetched("yunet")
  fetch.main(["yunet"])
  assert capsys.readouterr().out == f"{cache / 'model.bin'}\n"
  assert (cache / "model.bin").read_bytes() == CONTENT
  assert downloads.is_fetched("yunet")
  assert [path.name for path in cache.iterdir()] == ["model.bin"]
  register(monkeypatch, "http://127.0.0.1:9/model.bin")
  assert downloads.fetch("yunet") == cache / "model.bin"


def test_another_address(server, cache, monkeypatch):
  register(monkeypatch, "http://127.0.0.1:9/model.bin")
  fetch.main(["yunet", f"--url={server}/model.bin"])
  assert (cache / "model.bin").read_bytes() == CONTENT


def test_a_damaged_file_is_replaced(server, cache, monkeypatch):
  register(monkeypatch, f"{server}/model.bin")
  cache.mkdir(parents=True, exist_ok=True)
  (cache / "model.bin").write_text("<html>not found</html>")
  assert downloads.fetch("yunet").read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["bogus", "file:///model.bin"])
def test_rejects_other_addresses(cache, monkeypatch, url):
  register(monkeypatch, "http://127.0.0.1:9/model.bin")
  with pytest.raises(UserError, match=f"^{url}: is no address that can be downloaded; expected one that begins with"):
    downloads.fetch("yunet", url)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("wrong.bin", r"/wrong.bin: has the SHA-256 digest .*, expected .*; nothing was stored"),
    (
      "absent.bin",
      r"/absent.bin: cannot be downloaded \(404 .*\); check the network, or copy the file to .*bin yours",
    ),
  ],
)
def test_errors_leave_no_file(server, cache, monkeypatch, name, message):
  register(monkeypatch, f"{server}/{name}")
  with pytest.raises(UserError, match=message) as caught:
    fetch.main(["yunet"])
  assert "\n" not in str(caught.value)
  assert caught.value.status == 2
  assert list(cache.iterdir()) == []


def test_no_network_is_one_line(cache, monkeypatch):
  register(monkeypatch, "http://127.0.0.1:9/model.bin")
  with pytest.raises(
    UserError, match=r"model.bin: cannot be downloaded \(no connection\); check the network"
  ) as caught:
    downloads.fetch("yunet")
  assert len(str(caught.value)) < 400


def test_unwritable_cache(server, tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  register(monkeypatch, f"{server}/model.bin")
  with pytest.raises(UserError, match="cannot be stored"):
    downloads.fetch("yunet")


def test_digests_of_torchvision_are_in_its_names():
  known = downloads.DOWNLOADS["resnet34"]
  assert known.sha256 in known.url
