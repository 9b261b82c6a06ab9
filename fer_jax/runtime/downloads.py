"""Files of other projects that are downloaded once, on request, to the user's cache folder."""

import dataclasses
import os
import tempfile
from pathlib import Path

from fer_jax.runtime.errors import UserError
from fer_jax.runtime.files import cache_folder


@dataclasses.dataclass(frozen=True)
class Download:
  """A file that can be downloaded.

  Attributes:
    url: Address of the file.
    sha256: SHA-256 digest of the file in hexadecimal digits, or the first digits of it.
    size: Size of the file in bytes, approximately.
    description: Content of the file, and its licence.
  """

  url: str
  sha256: str
  size: float
  description: str


DOWNLOADS = {
  "yunet": Download(
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    232_589,
    "YuNet, the face detector of OpenCV's model zoo (MIT licence)",
  ),
  # torchvision's names contain the first digits of the digest.
  "resnet34": Download(
    "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "b627a593",
    87.3e6,
    "torchvision's ResNet-34, trained on ImageNet (BSD licence), for config.pretrained.path",
  ),
}


def path_of(name: str) -> Path:
  """Returns the path that a file has after its download; raises UserError if there is no folder for it."""
  cache = cache_folder()
  if cache is None:
    raise UserError("there is no home folder for downloads; set HOME or XDG_CACHE_HOME")
  return cache / "downloads" / Path(DOWNLOADS[name].url).name


def is_fetched(name: str) -> bool:
  """Returns whether a file was downloaded."""
  return cache_folder() is not None and path_of(name).is_file()


def fetch(name: str, url: str | None = None) -> Path:
  """Downloads a file, unless it was downloaded before; a file with another digest is replaced.

  Args:
    name: Key of DOWNLOADS.
    url: Another address of the same file; None for the usual one.

  Returns:
    Path of the file.

  Raises:
    UserError: The file cannot be downloaded or stored, or its digest is wrong; nothing is stored then.
  """
  import pooch  # imports requests, which is slow
  import requests

  wanted, path = DOWNLOADS[name], path_of(name)
  if path.is_file() and pooch.file_hash(str(path), "sha256").startswith(wanted.sha256):
    return path
  url = url or wanted.url
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
      part = os.path.join(folder, path.name)
      pooch.HTTPDownloader(timeout=60, stream=False)(url, part, None)  # a stream would stay open after an error
      found = pooch.file_hash(part, "sha256")
      if not found.startswith(wanted.sha256):
        raise UserError(
          f"{url}: has the SHA-256 digest {found[:16]}..., expected {wanted.sha256[:16]}...: another or an incomplete "
          "file; nothing was stored"
        )
      os.replace(part, path)
  except (requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL):
    raise UserError(f"{url}: is no address that can be downloaded; expected one that begins with https://") from None
  except requests.RequestException as error:
    # The text of a failed connection contains the address again, and the names of objects.
    unconnected = isinstance(error, requests.ConnectionError)
    reason = "no connection" if unconnected else " ".join(str(error).split())[:160]
    raise UserError(
      f"{url}: cannot be downloaded ({reason}); check the network, or copy the file to {path} yourself"
    ) from None
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise UserError(f"{path}: cannot be stored ({reason}); free disk space, or set XDG_CACHE_HOME") from None
  return path
