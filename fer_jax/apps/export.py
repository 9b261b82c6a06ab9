"""Exports a trained network as one file: StableHLO or ONNX, which run without fer_jax, or safetensors.

Examples:
  python -m fer_jax.apps.export --checkpoint=WORKDIR --format=stablehlo --out=faces.npz
  python load_exported.py faces.npz FACES.npy
  python -m fer_jax.apps.export --checkpoint=WORKDIR --format=onnx --out=faces.onnx
  python -m fer_jax.apps.export --checkpoint=WORKDIR --format=safetensors --bits=8 --out=faces.safetensors

StableHLO and ONNX files take cropped faces, uint8 [B, H, W, C] with any batch size, and return probabilities, float32
[B, K]. safetensors files are for `fer_jax.load`. Each file is run and compared with the network before it is moved to
its final path.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from fer_jax.apps.exports.formats import LOADER, write_safetensors, write_stablehlo
from fer_jax.apps.exports.onnx import write_onnx
from fer_jax.apps.predictions.options import add_checkpoint_option
from fer_jax.inference import model_file, trained_model
from fer_jax.inference.trained_model import TrainedModel
from fer_jax.runtime.errors import UserError, run
from fer_jax.runtime.files import local_path

# Functions that write a network to a path and return the largest difference of a probability.
FORMATS: dict[str, Callable[[TrainedModel, Path], float]] = {
  "stablehlo": write_stablehlo,
  "onnx": write_onnx,
  "safetensors": write_safetensors,
}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the program; raises UserError if a flag is invalid or no run has finished in the folder."""
  flags = _parser().parse_args(arguments)
  write = FORMATS[flags.format]
  if flags.format == "safetensors":
    if flags.out.suffix != model_file.SUFFIX:
      raise UserError(f"--out={flags.out}: expected a name that ends in {model_file.SUFFIX}")
    write = functools.partial(write_safetensors, bits=flags.bits)
  model = trained_model.load(flags.checkpoint)
  difference = write(model, flags.out)
  height, width, channels = model.shape
  print(f"{flags.out}: {flags.out.stat().st_size / 1e6:,.2f} MB, {', '.join(model.class_names)}")
  print(f"  input: faces of {height}x{width}, {'grey' if channels == 1 else 'RGB'}, uint8 [B, H, W, {channels}]")
  print(f"  compared with the network: largest difference of a probability {difference:.1g}")
  if flags.format == "stablehlo":
    loader = flags.out.with_name(LOADER)
    print(f"  to run it without fer_jax: python {loader} {flags.out} FACES.npy")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.export",
    description="Export a trained network as one file. stablehlo: .npz file for jax, with a loader script next to it; "
    "onnx: for onnxruntime and others; both include preprocessing and softmax. safetensors: for fer_jax.load.",
  )
  add_checkpoint_option(parser)
  parser.add_argument("--format", required=True, choices=sorted(FORMATS), help="file format")
  parser.add_argument("--out", required=True, type=local_path, metavar="FILE", help="output file")
  parser.add_argument(
    "--bits",
    type=int,
    choices=model_file.BITS,
    default=16,
    help="bits per number in large kernels, with --format=safetensors (default: %(default)s)",
  )
  return parser


if __name__ == "__main__":
  run(main)
