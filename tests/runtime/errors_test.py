"""Programs whose standard streams are closed."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from fer_jax.runtime import errors

def main():
  with open(sys.argv[1], "w") as file:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(2, b"from a library")
    file.write("content")
  return 0

errors.run(main)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_end_the_program_or_reach_its_files(tmp_path, closed):
  command = f'"$1" -c "$2" "$3" {closed}'
  arguments = ["bash", "-c", command, "bash", sys.executable, PROGRAM, str(tmp_path / "file")]
  done = subprocess.run(arguments, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "file").read_text() == "content"
  assert done.stdout == ("" if "1" in closed or closed.startswith(">") else "to stdout\n")
