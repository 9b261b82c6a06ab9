"""Downloads a file of another project to the user's cache folder: a face detector, or pretrained weights.

Examples:
  python -m fer_jax.apps.fetch yunet
  python -m fer_jax.apps.fetch resnet34
"""

import argparse
from collections.abc import Sequence

from fer_jax.runtime import downloads
from fer_jax.runtime.errors import run


def main(arguments: Sequence[str] | None = None) -> None:
  """Downloads the file and prints its path; raises UserError if that fails."""
  listed = [f"  {name:<10}{each.description}, {each.size / 1e6:.1f} MB" for name, each in downloads.DOWNLOADS.items()]
  parser = argparse.ArgumentParser(
    prog="python -m fer_jax.apps.fetch",
    description="Download a file once, check its SHA-256 digest, and print its path.",
    epilog="\n".join(["files:", *listed]),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("name", choices=sorted(downloads.DOWNLOADS), help="file to download")
  parser.add_argument("--url", help="another address of the same file, such as that of a mirror")
  flags = parser.parse_args(arguments)
  print(downloads.fetch(flags.name, flags.url))


if __name__ == "__main__":
  run(main)
