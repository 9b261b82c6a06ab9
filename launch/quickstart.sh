#!/usr/bin/env bash
# Installs what is needed into a virtual environment, trains a small network on built-in faces and prints where the
# report is. Minutes on two CPU cores; nothing to download but Python packages.
#   bash launch/quickstart.sh                        from any folder, any number of times
#   bash launch/quickstart.sh --config.seed=1 --workdir=DIR          flags of fer_jax.main are passed on
# PYTHON and FER_JAX_VENV: see environment.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment
cd -- "$root"
# An absolute folder: the report's path, the last line, then holds from wherever this was called.
exec "$venv/bin/python" -m fer_jax.main --config=configs/hsic.py:demo --workdir="$root/workdir/hsic_demo" "$@"
