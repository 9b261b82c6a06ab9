#!/usr/bin/env bash
# Installs the requirements of the tests into a virtual environment and runs the tests; arguments are forwarded to
# pytest, which runs in the repository's root.
#   bash launch/test.sh                      all tests except the slow ones
#   bash launch/test.sh -m slow              the slow tests: whole training runs, kill and resume
#   bash launch/test.sh -x tests/losses      a part of the tests
# PYTHON and FER_JAX_VENV: see environment.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment dev
cd -- "$root"
# The tests run on four CPU devices, also on a machine with a GPU.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# One worker per core, at most 8: a worker takes up to 4 GB. Files are not split between workers, so that their fixtures
# are created once.
exec "$venv/bin/python" -m pytest -m "not slow" -n auto --maxprocesses=8 --dist=loadfile "$@"
