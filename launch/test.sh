#!/usr/bin/env bash
# Installs what the tests need into a virtual environment and runs them; arguments go to pytest, which runs in the
# repository's root.
#   bash launch/test.sh                      all but the slow tests
#   bash launch/test.sh -m slow              the slow ones: whole trainings, kill and resume
#   bash launch/test.sh -x tests/losses      some of them
# PYTHON and FER_JAX_VENV: see environment.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment dev
cd -- "$root"
# The tests run on four CPU devices, on a machine with a GPU too.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# A worker a core, each with whole files, whose fixtures are made once; a worker takes up to 4 GB.
exec "$venv/bin/python" -m pytest -m "not slow" -n auto --maxprocesses=8 --dist=loadfile "$@"
