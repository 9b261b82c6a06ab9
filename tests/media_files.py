"""Predicts on files of many formats, whole and damaged, and records what each gave.

Usage:
  python -m tests.media_files --out=results/media_files.json

Every file shows the same portrait, which matplotlib ships. `python -m fer_jax.apps.tables` makes the table of
docs/reliability.md from the JSON file. The exit status is 1 if a file gives something unexpected.
"""

import argparse
import io
import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import matplotlib
import numpy as np
from PIL import Image

from fer_jax.apps import predict
from fer_jax.apps.benchmarks.benchmark_result import BenchmarkResult
from fer_jax.data.images import read_image
from fer_jax.runtime import errors, provenance
from fer_jax.runtime.files import local_path, write_text
from tests.faces.video_files import write_video

FRAMES, RATE = 10, Fraction(25, 2)
PORTRAIT = read_image(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"))[:, :512]


class File(NamedTuple):
  """A file to predict on.

  Attributes:
    name: Name of the file.
    write: Function that writes the file at a path.
    expected: Expected outcome: "face", "no face", or a part of the error message.
    images: Expected number of images or frames with a face; None if any number will do.
  """

  name: str
  write: Callable[[Path], object]
  expected: str = "face"
  images: int | None = 1


def portrait(height: int, width: int) -> np.ndarray:
  """Returns the portrait in another size, uint8 [height, width, 3]."""
  return cv2.resize(PORTRAIT, (width, height), interpolation=cv2.INTER_AREA)


def encoded(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
  """Returns an image in Pillow's format `kind`."""
  file = io.BytesIO()
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
  return file.getvalue()


def image_files() -> Iterator[File]:
  """Yields images of all formats and modes, unusual ones and damaged ones."""
  colour = Image.fromarray(portrait(300, 256))
  grey = colour.convert("L")
  damaged = "damaged or truncated"

  def of(name: str, data: bytes, expected: str = "face") -> File:
    return File(name, lambda path: path.write_bytes(data), expected, None)

  for mode in ("RGB", "L"):
    image = colour.convert(mode)
    for suffix, kind in (("bmp", "BMP"), ("jpg", "JPEG"), ("png", "PNG"), ("tif", "TIFF"), ("webp", "WEBP")):
      yield of(f"{mode}.{suffix}", encoded(image, kind))
  for suffix, kind in (("gif", "GIF"), ("ppm", "PPM"), ("jfif", "JPEG"), ("mpo", "MPO")):
    yield of(f"colour.{suffix}", encoded(colour, kind))
  yield of("grey.pgm", encoded(grey, "PPM"))
  yield of("bilevel.pbm", encoded(grey.convert("1"), "PPM"), "")
  for mode in ("P", "RGBA", "LA", "I;16"):
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else colour.convert(mode)
    yield of(f"{mode.replace(';', '')}.png", encoded(image, "PNG"))
  yield of("CMYK.jpg", encoded(colour.convert("CMYK"), "JPEG"))
  yield of("progressive.jpg", encoded(colour, "JPEG", progressive=True))
  yield of("lossless.webp", encoded(colour, "WEBP", lossless=True))
  yield of("animated.webp", encoded(colour, "WEBP", save_all=True, append_images=[grey.convert("RGB")]))
  yield of("animated.gif", encoded(colour, "GIF", save_all=True, append_images=[grey]))
  yield of("pages.tif", encoded(colour, "TIFF", save_all=True, append_images=[grey]))
  for compression in ("tiff_lzw", "jpeg", "packbits"):
    yield of(f"{compression}.tif", encoded(colour, "TIFF", compression=compression))
  for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Written so that the orientation makes it upright.
    stored = np.asarray(colour)
    stored = stored[::-1] if orientation in (3, 4, 7, 8) else stored
    stored = stored[:, ::-1] if orientation in (2, 3, 6, 7) else stored
    stored = stored.swapaxes(0, 1) if orientation > 4 else stored
    yield of(f"orientation{orientation}.jpg", encoded(np.ascontiguousarray(stored), "JPEG", exif=exif))
  png, jpeg = encoded(colour, "PNG"), encoded(colour, "JPEG")
  text = b"iTXt" + b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 3_000_000
  at = png.index(b"IDAT") - 4
  chunk = struct.pack(">I", len(text) - 4) + text + bytes(4)  # its checksum is wrong as well
  yield of("metadata.png", png[:at] + chunk + png[at:])
  yield of("no_end.jpg", jpeg[:-2])
  yield of("trailing_bytes.jpg", jpeg + b"phone" * 100)
  for suffix, data in (("png", png), ("jpg", jpeg), ("webp", encoded(colour, "WEBP")), ("gif", encoded(colour, "GIF"))):
    yield of(f"cut.{suffix}", data[: len(data) // 2], damaged)
  floats = cv2.imencode(".tiff", np.zeros((20, 20), np.float32))[1].tobytes()
  yield of("float.tiff", floats, "floating-point numbers")
  yield of("empty.jpg", b"", "empty (0 bytes)")
  yield of("text.jpg", b"not an image", "none of BMP")
  yield of("no_suffix", jpeg)
  yield of("photo.dat", png)
  for height, width in ((1, 1), (1, 300), (3000, 2), (40, 40)):
    yield of(f"{width}x{height}.png", encoded(portrait(height, width), "PNG"), "")
  yield of("4000x3000.jpg", encoded(cv2.resize(PORTRAIT, (4000, 3000)), "JPEG"), "")
  yield of("20000x20000.png", encoded(Image.new("1", (20_000, 20_000)), "PNG"), "above the limit of 100 million")
  yield of("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable")
  yield File("folder.jpg", lambda path: path.mkdir(), "a folder", None)
  yield File("missing.jpg", lambda path: None, "does not exist", None)
  yield File("link_to_itself.png", lambda path: path.symlink_to(path), "cannot be opened", None)


def video_files() -> Iterator[File]:
  """Yields videos of many containers, codecs, sizes and time stamps, and damaged ones."""
  images = [portrait(240, 192)] * FRAMES

  def of(
    name: str, codec: str = "libx264", expected: str = "face", count: int | None = FRAMES, **options: object
  ) -> File:
    options = {"images": images} | options
    return File(name, lambda path: write_video(path, codec, RATE, **options), expected, count)

  for suffix, codec in (
    *(("mp4", "libx264"), ("mp4", "libx265"), ("mp4", "mpeg4"), ("mov", "mpeg4"), ("3gp", "mpeg4"), ("m4v", "mpeg4")),
    *(("mkv", "libx264"), ("mkv", "ffv1"), ("mkv", "libsvtav1"), ("webm", "libvpx"), ("webm", "libvpx-vp9")),
    *(("avi", "mjpeg"), ("avi", "mpeg4"), ("ts", "libx264"), ("m2ts", "libx264"), ("flv", "flv1"), ("wmv", "wmv2")),
    *(("nut", "ffv1"), ("h264", "libx264"), ("hevc", "libx265"), ("mjpeg", "mjpeg"), ("mpg", "mpeg2video")),
  ):
    # MPEG-2 has no rate of 12.5 frames per second.
    rate = Fraction(25) if codec == "mpeg2video" else RATE
    write = lambda path, codec=codec, rate=rate: write_video(path, codec, rate, images=images)  # noqa: E731
    yield File(f"{codec}.{suffix}", write, "face", None if codec == "libsvtav1" else FRAMES)
  for name, options in {"faststart": "faststart", "fragments": "frag_keyframe+empty_moov"}.items():
    yield of(f"{name}.mp4", container_options={"movflags": options})
  yield of("no_duration.webm", "libvpx", container_options={"live": "1"})
  yield of("uneven.mkv", times=[0, 0.04, 0.5, 2, 2.04, 2.5, 3, 3.5, 7, 9])
  yield of("late.mkv", times=[5 + n / 10 for n in range(FRAMES)], sound=7.0)
  yield of("broadcast.ts", times=[900 + n / 10 for n in range(FRAMES)])
  yield of("sound.mp4", sound=0.8)
  yield of("long_sound.mp4", sound=8.0)
  yield of("music.mp4", "mjpeg", count=1, images=images[:1], sound=5.0, cover=True)
  yield of("one_frame.mp4", count=1, images=images[:1])
  for aspect in ("4/3", "1/2", "2/1"):
    width = round(192 / Fraction(aspect) / 2) * 2
    yield of(f"aspect_{aspect.replace('/', '_')}.mkv", images=[portrait(240, width)] * FRAMES, aspect=Fraction(aspect))
  for degrees, matrix in {
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
  }.items():
    turned = np.rot90(images[0], 0 if degrees == "mirrored" else degrees // 90)
    stored = np.ascontiguousarray(turned[:, ::-1] if degrees == "mirrored" else turned)
    yield File(
      f"rotated_{degrees}.mp4", lambda path, stored=stored, matrix=matrix: _rotated(path, stored, matrix)
    )._replace(images=FRAMES)
  for height, width in ((48, 64), (1080, 1920), (568, 320), (18, 16)):
    yield of(f"{width}x{height}.mp4", images=[portrait(height, width)] * FRAMES, expected="", count=None)
  yield of(os.fsdecode(b"caf\xe9.mp4"))
  for name in ("no_suffix_video", "video.dat"):
    yield File(
      name, lambda path: (write_video(path.with_suffix(".mkv"), "libx264", RATE, images=images)).rename(path)
    )._replace(images=FRAMES)
  noise = np.random.default_rng(0).integers(0, 255, (FRAMES * 4, 48, 64, 3), np.uint8)
  for suffix, codec, options in (
    ("mp4", "libx264", {"movflags": "faststart"}),
    ("mkv", "libx264", {}),
    ("webm", "libvpx", {}),
    ("avi", "mjpeg", {}),
    ("flv", "flv1", {}),
  ):
    for share in (0.5, 0.9):
      write = lambda path, codec=codec, options=options, share=share: _cut(path, codec, list(noise), options, share)  # noqa: E731
      yield File(f"cut_{share}.{suffix}", write, "it may be truncated", None)
  yield File("cut_before_index.mp4", lambda path: _cut(path, "libx264", list(noise), {}, 0.5), "unknown format", None)
  unknown = "unknown format, damaged or truncated"
  for name, data in {
    "text.mp4": b"frame,time\n" * 99,
    "zeros.avi": bytes(9999),
    "playlist.ts": b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "script.mp4": b"ffconcat version 1.0\nfile a.mp4\n",
  }.items():
    yield File(name, lambda path, data=data: path.write_bytes(data), unknown, None)
  yield File("empty.mp4", lambda path: path.touch(), "empty (0 bytes)", None)


def _rotated(path: Path, image: np.ndarray, matrix: tuple[int, int, int, int]) -> None:
  write_video(path, "libx264", RATE, images=[image] * FRAMES)
  data = path.read_bytes()
  at = data.index(b"tkhd") + 4 + 40  # the display matrix
  a, b, c, d = (value << 16 for value in matrix)
  path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])


def _cut(path: Path, codec: str, images: list[np.ndarray], options: dict[str, str], share: float) -> None:
  write_video(path, codec, RATE, images=images, container_options=options)
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def measure(folder: Path) -> list[dict[str, object]]:
  """Writes all files, predicts on them in one call, and returns a row for each file."""
  files = [*image_files(), *video_files()]
  for file in files:
    file.write(folder / file.name)
  out = folder / "rows.jsonl"
  # By a list, because a path that does not exist is an error on the command line.
  sys.stdin = io.TextIOWrapper(
    io.BytesIO(b"".join(os.fsencode(folder / file.name) + b"\n" for file in files)), errors="surrogateescape"
  )
  predict.main(["-", f"--out={out}", "--detector=cascade", "--smallest_face=0.2"])
  found: dict[str, list[dict[str, object]]] = {}
  with out.open(encoding="utf-8", errors="surrogateescape") as lines:
    for row in map(json.loads, lines):
      found.setdefault(row["file"], []).append(row)
  return [_row(file, found.get(str(folder / file.name), [])) for file in files]


def _row(file: File, rows: list[dict[str, object]]) -> dict[str, object]:
  faces = sum(row["face"] == 0 for row in rows)
  failure = next((str(row["status"]) for row in rows if str(row["status"]).startswith("error")), "")
  if file.expected == "face":
    as_expected = not failure and faces == (file.images or max(faces, 1))
  else:
    as_expected = file.expected in (failure or "face")
  return {
    "name": os.fsencode(file.name).decode("utf-8", "backslashreplace"),
    "images": len({row["frame"] for row in rows if not str(row["status"]).startswith("error")}),
    "faces": sum(row["face"] is not None for row in rows),
    "gave": failure or "read",
    "as expected": "yes" if as_expected else "NO",
  }


def main() -> int:
  """Runs the command line; returns 1 if a file gave something unexpected."""
  parser = argparse.ArgumentParser(
    prog="python -m tests.media_files", description=str(__doc__).split("\n", maxsplit=1)[0]
  )
  parser.add_argument("--out", type=local_path, help="JSON file for the rows")
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    rows = measure(Path(folder))
  for row in rows:
    print(*row.values(), sep=" | ")
  if flags.out is not None:
    result = BenchmarkResult(
      what="files",
      device=provenance.device(jax.local_devices()[:1]),
      versions=provenance.versions(),
      commit=provenance.commit(),
      rows=tuple(rows),
    )
    write_text(flags.out, json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n")
  unexpected = [row["name"] for row in rows if row["as expected"] == "NO"]
  print(f"{len(rows)} files; unexpected: {', '.join(map(str, unexpected)) or 'none'}")
  return 1 if unexpected else 0


if __name__ == "__main__":
  errors.run(main)
