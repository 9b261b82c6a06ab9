#!/usr/bin/env bash
# Installs the package into a virtual environment, trains a small network on built-in faces and prints the path of the
# report. Takes minutes on two CPU cores and downloads only Python packages.
#   bash launch/quickstart.sh                                        from any folder; can be repeated
#   bash launch/quickstart.sh --config.seed=1 --workdir=DIR          flags are forwarded to fer_jax.main
# PYTHON and FER_JAX_VENV: see environment.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment
cd -- "$root"
# An absolute workdir: the report's path, printed last, is then valid from any folder.
exec "$venv/bin/python" -m fer_jax.main --config=configs/hsic.py:demo --workdir="$root/workdir/hsic_demo" "$@"
