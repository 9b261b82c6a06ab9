"""Images of every format, intact and damaged, compared with the arrays that they encode."""

import concurrent.futures
import io
import os
import pathlib
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_jax.data import images
from fer_jax.data.images import UnreadableImage, decode, in_channels, is_plain, read_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), np.uint8)
COLOUR = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (30, 20))


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
  """Returns an image encoded as a file of the given format."""
  file = io.BytesIO()
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_formats_are_decoded_exactly(kind, image):
  np.testing.assert_array_equal(decode(encoded(image, kind)), image)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_decodes_the_same_pixels_as_opencv(suffix):
  """Datasets prepared and models trained with OpenCV's decoder keep their pixels."""
  for image in (GREY, COLOUR):
    data = cv2.imencode(suffix, image)[1].tobytes()
    shown = decode(data)
    assert shown.shape == image.shape
    bytes_ = np.frombuffer(data, np.uint8)
    np.testing.assert_array_equal(in_channels(shown, 3), cv2.imdecode(bytes_, cv2.IMREAD_COLOR)[..., ::-1])
    grey = cv2.imdecode(bytes_, cv2.IMREAD_GRAYSCALE)
    # OpenCV converts the colours of a PNG to grey with libpng, which rounds differently.
    np.testing.assert_allclose(in_channels(shown, 1).astype(int), grey, atol=int(suffix == ".png" and image is COLOUR))


def test_reads_the_first_frame_or_page():
  first, second = (Image.fromarray(image).quantize(64) for image in (COLOUR, 255 - COLOUR))
  expected = np.asarray(first.convert("RGB"))
  for kind in ("GIF", "TIFF"):
    np.testing.assert_array_equal(
      decode(encoded(first, kind, save_all=True, append_images=[second])), expected, err_msg=kind
    )
  frames = [Image.fromarray(image) for image in (COLOUR, 255 - COLOUR)]
  webp = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
  np.testing.assert_array_equal(decode(webp), COLOUR)
  several = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95)
  np.testing.assert_array_equal(decode(several), decode(encoded(COLOUR, "JPEG", quality=95)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_applies_the_exif_orientation(kind, orientation):
  stored = np.full((16, 32, 3), 255, np.uint8)
  stored[:8, :8] = 0
  exif = Image.Exif()
  exif[0x0112] = orientation
  # Position of the black corner in the upright image; in the stored, landscape image, it is at the upper left.
  is_portrait = orientation >= 5
  height, width = (32, 16) if is_portrait else (16, 32)
  down, right = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
  shown = decode(encoded(stored, kind, exif=exif))
  assert shown.shape == (height, width, 3)
  y, x = down * (height - 8), right * (width - 8)
  assert shown[y : y + 8, x : x + 8].mean() < 10
  assert abs(shown.mean() - 255 * 7 / 8) < 5


def test_ignores_an_invalid_orientation():
  exif = Image.Exif()
  exif[0x0112] = 77
  np.testing.assert_array_equal(decode(encoded(COLOUR, "PNG", exif=exif)), COLOUR)
  for damage in (b"Exif\0\0MM\0*\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0" + b"\xff" * 4):
    np.testing.assert_array_equal(
      decode(encoded(COLOUR, "JPEG", exif=damage, quality=90)), decode(encoded(COLOUR, "JPEG", quality=90))
    )
    np.testing.assert_array_equal(decode(encoded(COLOUR, "PNG", exif=damage)), COLOUR)


def test_reads_images_for_which_pillow_warns():
  # The header announces two entries; the first is the orientation, the second is missing.
  entries = struct.pack("<H", 2) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
  exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries
  data = encoded(COLOUR, "JPEG", exif=exif)
  with pytest.warns(UserWarning, match="Corrupt EXIF data"):
    Image.open(io.BytesIO(data)).getexif()
  assert decode(data).shape == (30, 20, 3)


def test_composites_transparent_pixels_onto_white():
  alpha = np.tile(np.array([0, 128, 255], np.uint8), (20, 10))
  share = alpha / 255
  for image in (GREY, COLOUR):
    weight = share if image.ndim == 2 else share[..., None]
    alphas = alpha if image.ndim == 2 else alpha[..., None]
    data = encoded(Image.fromarray(np.dstack([image, alphas])), "PNG")
    shown = decode(data)
    assert shown.shape == image.shape
    np.testing.assert_allclose(shown, weight * image + (1 - weight) * 255, atol=1)
  palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
  palette.putpalette([9, 8, 7, 1, 2, 3])
  assert decode(encoded(palette, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [1, 2, 3]]]
  assert decode(encoded(palette, "GIF", transparency=0)).tolist() == [[[255, 255, 255], [1, 2, 3]]]
  one_colour = Image.new("RGB", (2, 1), (1, 2, 3))
  assert decode(encoded(one_colour, "PNG", transparency=(1, 2, 3))).min() == 255
  assert decode(encoded(Image.new("L", (2, 1), 5), "PNG", transparency=5)).tolist() == [[255, 255]]


def test_scales_16_bit_grey_to_8_bits():
  deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
  expected = [[0, 0, 1, 1, 128, 255]]
  for data in (encoded(deep, "PNG"), encoded(deep, "TIFF"), b"P5 6 1 65535\n" + deep.astype(">u2").tobytes()):
    assert decode(data).tolist() == expected
  big_endian = Image.frombytes("I;16B", (6, 1), deep.astype(">u2").tobytes())
  assert decode(encoded(big_endian, "TIFF")).tolist() == expected
  colour = cv2.imencode(".png", np.full((2, 2, 3), 65535 // 2, np.uint16))[1].tobytes()
  assert decode(colour).tolist() == np.full((2, 2, 3), 127).tolist()


def test_reads_bilevel_palette_and_cmyk_images():
  assert decode(encoded(Image.fromarray(GREY > 99), "PNG")).tolist() == np.where(GREY > 99, 255, 0).tolist()
  palette = Image.fromarray(COLOUR).quantize(32)
  np.testing.assert_array_equal(decode(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
  cmyk = Image.fromarray(COLOUR).convert("CMYK")
  assert np.abs(decode(encoded(cmyk, "JPEG", quality=95)).astype(int) - COLOUR).mean() < 4
  np.testing.assert_array_equal(decode(encoded(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_reads_an_image_of_one_pixel(kind):
  assert decode(encoded(Image.new("RGB", (1, 1), "white"), kind)).min() == 255


def error_message(data: bytes, **options) -> str:
  """Returns the one-line message of the error that decoding raises."""
  with pytest.raises(UnreadableImage) as caught:
    decode(data, **options)
  assert "\n" not in str(caught.value)
  assert "Error" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_rejects_truncated_images(kind, share, capfd):
  data = encoded(RNG.integers(0, 256, (50, 40, 3), np.uint8), kind)
  assert error_message(data[: max(17, int(share * len(data)))]) == "not a readable image: damaged or truncated"
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_reads_compressed_tiff_and_rejects_it_if_damaged(compression):
  data = encoded(COLOUR, "TIFF", compression=compression)
  assert np.abs(decode(data).astype(int) - COLOUR).mean() < 5
  # The pixels are at the start of the file. libtiff prints its own message about them to the terminal.
  assert error_message(data[:8] + bytes(60) + data[68:]) == "not a readable image: damaged or truncated"


def png_chunk(kind, content, checksum=None):
  checksum = zlib.crc32(kind + content) if checksum is None else checksum
  return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


@pytest.mark.parametrize(
  "chunk",
  [
    png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 3_000_000),
    png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
    png_chunk(b"tEXt", b"Comment\0" + b"x" * 100, checksum=1),
    png_chunk(b"iCCP", b"profile\0\0" + b"damaged"),
    png_chunk(b"teST", b"unknown"),
  ],
  ids=["long XMP", "long compressed text", "wrong checksum", "damaged profile", "unknown kind"],
)
@pytest.mark.parametrize("at", ["before the pixels", "after the pixels"])
def test_metadata_of_png_does_not_matter(chunk, at):
  data = encoded(COLOUR, "PNG")
  start = data.index(b"IDAT") - 4 if at == "before the pixels" else data.index(b"IEND") - 4
  np.testing.assert_array_equal(decode(data[:start] + chunk + data[start:]), COLOUR)


def test_png_keeps_its_transparency_and_orientation():
  exif = Image.Exif()
  exif[0x0112] = 6
  data = encoded(GREY, "PNG", exif=exif, transparency=int(GREY[0, 0]))
  expected = np.where(GREY[0, 0] == GREY, 255, GREY)
  np.testing.assert_array_equal(decode(data), np.rot90(expected, -1))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_jpeg_without_its_end_marker_is_complete(options):
  noise = RNG.integers(0, 256, (80, 60, 3), np.uint8)
  data = encoded(noise, "JPEG", **options)
  assert data.endswith(b"\xff\xd9")
  np.testing.assert_array_equal(decode(data[:-2]), decode(data))
  np.testing.assert_array_equal(decode(data[:-1]), decode(data))
  for missing in (8, 40, 400):
    assert error_message(data[:-missing]) == "not a readable image: damaged or truncated"


def tiff(pixels):
  """Returns pixels of any type, [H, W] or [H, W, 3], as an uncompressed TIFF file."""
  height, width, channels = (*pixels.shape, 1)[:3]
  sample_format = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
  data = pixels.tobytes()
  short, long = 3, 4
  bits, formats = 8 + len(data), 8 + len(data) + 2 * channels  # positions of the values, three if in colour
  tags = [
    (256, short, 1, width),
    (257, short, 1, height),
    (258, short, channels, bits if channels == 3 else 8 * pixels.itemsize),
    (259, short, 1, 1),
    (262, short, 1, 2 if channels == 3 else 1),
    (273, long, 1, 8),
    (277, short, 1, channels),
    (278, short, 1, height),
    (279, long, 1, len(data)),
    (339, short, channels, formats if channels == 3 else sample_format),
  ]
  values = struct.pack(f"<{channels}H", *[8 * pixels.itemsize] * channels)
  values += struct.pack(f"<{channels}H", *[sample_format] * channels)
  directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
  return struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(values)) + data + values + directory


def test_reads_an_uncompressed_tiff():
  np.testing.assert_array_equal(decode(tiff(COLOUR)), COLOUR)
  np.testing.assert_array_equal(decode(tiff(GREY)), GREY)


@pytest.mark.parametrize(
  ("pixels", "reason"),
  [
    (np.zeros((4, 5, 3), np.float32), "its pixels are floating-point numbers, for which white is undefined"),
    (np.zeros((4, 5), np.float32), "its pixels are floating-point numbers, for which white is undefined"),
    (np.zeros((4, 5, 3), np.float64), "its pixels are floating-point numbers, for which white is undefined"),
    (np.zeros((4, 5, 3), np.float16), "its pixels are floating-point numbers, for which white is undefined"),
    (np.zeros((4, 5, 3), np.int32), "its pixels of 32 bits are not supported"),
  ],
  ids=["RGB", "grey", "64 bits", "16 bits", "integers"],
)
def test_names_the_reason_why_a_tiff_is_not_supported(pixels, reason):
  assert error_message(tiff(pixels)) == reason


def test_changed_bytes_give_an_image_or_an_error_and_print_nothing(capfd):
  """Every error and warning of Pillow becomes UnreadableImage; with the default filters, nothing is printed."""
  rng, rejected = np.random.default_rng(1), 0
  with warnings.catch_warnings():
    warnings.simplefilter("default")
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
      data = np.frombuffer(encoded(COLOUR, kind), np.uint8)
      for _ in range(60):
        changed = data.copy()
        changed[rng.integers(0, min(200, len(data)), 4)] = rng.integers(0, 256, 4)
        try:
          shown = decode(changed.tobytes(), max_pixels=10_000)
          assert shown.dtype == np.uint8
        except UnreadableImage:
          rejected += 1
  assert rejected > 50
  assert capfd.readouterr() == ("", "")


def test_rejects_files_that_are_not_images():
  assert error_message(b"") == "empty (0 bytes)"
  for data in (b"x", b"label,pixels\n" * 9, bytes(99), b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
    assert error_message(data) == "not a readable image: none of BMP, GIF, JPEG, PNG, PPM, TIFF and WebP"
  numbers = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
  assert (
    error_message(encoded(numbers, "TIFF")) == "its pixels are floating-point numbers, for which white is undefined"
  )
  wide = encoded(numbers.astype(np.int32), "TIFF")
  assert error_message(wide) == "its pixels are 32-bit integers, for which white is undefined"


def decompression_bomb(width: int, height: int) -> bytes:
  """Returns a small PNG file whose header states a large size."""

  def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


def test_rejects_large_images_before_decoding(monkeypatch):
  data = encoded(COLOUR, "PNG")
  assert decode(data, max_pixels=600).shape == (20, 30, 3)
  monkeypatch.setattr(images.PngImageFile, "load", lambda image: pytest.fail("the image was decoded"))
  assert error_message(data, max_pixels=599) == "30x20 pixels, above the limit of 599"
  # Pillow warns above 89 million pixels and raises an error above 179 million.
  for side in (10_001, 13_000, 60_000):
    assert error_message(decompression_bomb(side, side)) == f"{side}x{side} pixels, above the limit of 100 million"


def test_does_not_warn_above_the_limit_of_pillow():
  # 95 million pixels; the file is too small to contain them.
  assert error_message(decompression_bomb(10_000, 9_500)) == "not a readable image: damaged or truncated"


def test_rejects_a_large_webp():
  side = struct.pack("<I", 16_000 - 1)[:3]
  data = b"RIFF" + struct.pack("<I", 60) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + side + side + bytes(60)
  # Older versions of Pillow detect the damage before they check the size.
  assert error_message(data) in (
    "too many pixels for this format",
    "not a readable image: damaged or truncated",
  )


def test_errors_explain_why_a_file_cannot_be_opened(tmp_path, monkeypatch):
  (tmp_path / "image.png").write_bytes(encoded(COLOUR, "PNG"))
  np.testing.assert_array_equal(read_image(tmp_path / "image.png"), COLOUR)
  np.testing.assert_array_equal(read_image(str(tmp_path / "image.png")), COLOUR)
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "link").symlink_to("nowhere")
  (tmp_path / "empty.png").write_bytes(b"")
  expected = {
    "absent.png": "does not exist",
    "link": "does not exist",
    "image.png/more": "cannot be opened: Not a directory",
    "": "a folder",
    "pipe": "not a regular file",
    "empty.png": "empty (0 bytes)",
    "x" * 300: "cannot be opened: File name too long",
    "a\0b": "cannot be opened: not a name of a file",
  }
  for name, message in expected.items():
    with pytest.raises(UnreadableImage) as caught:
      read_image(os.path.join(tmp_path, name))
    assert str(caught.value) == message
  with pytest.raises(UnreadableImage, match="^30x20 pixels, above the limit of 500$"):
    read_image(tmp_path / "image.png", max_pixels=500)

  def forbid(path: pathlib.Path, mode: str) -> None:
    raise PermissionError(13, "Permission denied", str(path))

  monkeypatch.setattr(pathlib.Path, "open", forbid)
  with pytest.raises(UnreadableImage, match="^no permission to read it$"):
    read_image(tmp_path / "image.png")


def test_converts_colour_to_grey_and_grey_to_colour():
  np.testing.assert_array_equal(in_channels(COLOUR, 1), cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY))
  np.testing.assert_array_equal(in_channels(GREY, 3), np.dstack([GREY] * 3))
  assert in_channels(GREY, 1) is GREY
  assert in_channels(COLOUR, 3) is COLOUR
  with pytest.raises(ValueError, match="channels=4"):
    in_channels(GREY, 4)


def test_plain_images_are_those_that_other_decoders_read_alike():
  turned = Image.Exif()
  turned[0x0112] = 6
  plain = [encoded(GREY, kind) for kind in ("PNG", "JPEG", "BMP")]
  plain_colour = [encoded(COLOUR, kind) for kind in ("PNG", "JPEG", "BMP")]
  others = [
    encoded(COLOUR, "JPEG", exif=turned),
    encoded(GREY, "TIFF"),
    encoded(GREY.astype(np.uint16), "PNG"),
    cv2.imencode(".png", COLOUR.astype(np.uint16))[1].tobytes(),
    encoded(np.dstack([COLOUR, GREY]), "PNG"),
    encoded(np.dstack([GREY, GREY]), "PNG"),
    encoded(COLOUR, "PNG", transparency=(1, 2, 3)),
    encoded(Image.fromarray(COLOUR).quantize(9), "PNG"),
    encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    encoded(COLOUR, "WEBP"),
  ]
  for channels, expected in ((1, plain), (3, plain + plain_colour)):
    assert [data for data in plain + plain_colour + others if is_plain(data, channels)] == expected
  with pytest.raises(UnreadableImage):
    is_plain(b"x", 3)


def test_concurrent_decoding_is_exact():
  images = [RNG.integers(0, 256, (60, 40 + index, 3), np.uint8) for index in range(40)]
  files = [encoded(image, ("PNG", "TIFF", "BMP")[index % 3]) for index, image in enumerate(images)]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for image, shown in zip(images, pool.map(decode, files), strict=True):
      np.testing.assert_array_equal(shown, image)
