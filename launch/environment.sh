# Sourced by the other scripts in this folder, under `set -euo pipefail`: finds a Python interpreter, creates the
# virtual environment and installs missing packages into it. Two environment variables configure it:
#   PYTHON        interpreter to use (default: the newest of PYTHONS that is found and works)
#   FER_JAX_VENV  folder of the virtual environment (default: .venv in the repository)

PYTHONS="3.13 3.12 3.11"

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${FER_JAX_VENV:-$root/.venv}"
[[ "$venv" == /* ]] || venv="$PWD/$venv"
# This file marks an environment that the scripts created and may delete and recreate. Each line identifies a finished
# installation. It is empty during an installation, so an interrupted one is detected.
finished="$venv/.fer_jax_installs"

fail() { # STATUS MESSAGE
  echo "error: $2" >&2
  exit "$1"
}

# Prints the version of an interpreter, such as 3.12; nothing if it does not run (a pyenv shim without a version).
version_of() { # PYTHON
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null || true
}

is_one_of() { # WORD "WORDS"
  [[ -n "$1" && " $2 " == *" $1 "* ]]
}

can_make_environments() { # PYTHON
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 </dev/null
}

fail_without_venv() { # PYTHON VERSION
  fail 2 "$1 (Python $2) has no module venv: install it (Debian, Ubuntu: apt install python$2-venv) or set PYTHON=PATH to another interpreter"
}

# Lists interpreters that may have this version: those on PATH, then all of pyenv's, newest first.
list_pythons() { # VERSION
  type -aP "python$1" python3 python || true
  printf '%s\n' "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*/bin/python | sort -rV
}

# Sets `python` to the first working interpreter, in the order of the versions; returns 1 if there is none. If the only
# interpreters lack the module venv, `without_venv` is the first of them.
find_python() { # "VERSIONS"
  local candidate version
  python="" without_venv="" without_venv_version=""
  for version in $1; do
    while IFS= read -r candidate; do
      [[ "$(version_of "$candidate")" == "$version" ]] || continue
      if can_make_environments "$candidate"; then
        python="$candidate"
        return 0
      fi
      [[ -n "$without_venv" ]] || without_venv="$candidate" without_venv_version="$version"
    done < <(list_pythons "$version")
  done
  return 1
}

# Sets `python` to the interpreter from which the environment is created.
choose_python() {
  local version expected="Python ${PYTHONS// /, Python }"
  if [[ -n "${PYTHON:-}" ]]; then
    version="$(version_of "$PYTHON")"
    [[ -n "$version" ]] || fail 2 "PYTHON=$PYTHON does not run; expected the path of $expected"
    is_one_of "$version" "$PYTHONS" || fail 2 "PYTHON=$PYTHON is Python $version; expected $expected"
    can_make_environments "$PYTHON" || fail_without_venv "$PYTHON" "$version"
    python="$PYTHON"
  elif ! find_python "$PYTHONS"; then
    [[ -z "$without_venv" ]] || fail_without_venv "$without_venv" "$without_venv_version"
    fail 2 "found none of $expected: install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13) or set PYTHON=PATH to one"
  fi
}

# Prints an identifier of the Python installation of an interpreter; the same for a virtual environment and its parent.
origin_of() { # PYTHON
  "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null </dev/null || true
}

# Succeeds if the environment is completely installed, its interpreter runs, and it is from PYTHON if that is set.
is_whole() {
  [[ -s "$finished" ]] || return 1
  is_one_of "$(version_of "$venv/bin/python")" "$PYTHONS" || return 1
  [[ -z "${PYTHON:-}" || "$(origin_of "$PYTHON")" == "$(origin_of "$venv/bin/python")" ]]
}

make_environment() {
  choose_python
  if [[ -e "$venv" && ! -e "$finished" ]] && [[ ! -d "$venv" || -n "$(ls -A "$venv")" ]]; then
    fail 2 "$venv exists but was not created by these scripts: remove it, or set FER_JAX_VENV=FOLDER to another folder"
  fi
  echo "Creating $venv with $python (Python $(version_of "$python"))"
  mkdir -p "$venv" && : >"$finished" || fail 2 "cannot write to $venv: set FER_JAX_VENV=FOLDER to another folder"
  # Empty the folder but keep the marker file.
  find "$venv/" -mindepth 1 -maxdepth 1 ! -name "${finished##*/}" -exec rm -rf {} +
  "$python" -m venv "$venv" || fail 1 "cannot create $venv (see Python's message above)"
}

# Prints a hash of everything that determines an installation: its arguments and the requirements files.
install_of() { # REQUIREMENTS EXTRA
  "$venv/bin/python" -c '
import hashlib, pathlib, sys
files = [pathlib.Path(sys.argv[1], name) for name in ("pyproject.toml", "requirements.txt", "requirements-cpu.txt")]
print(hashlib.sha256(b"\0".join([repr(sys.argv[1:]).encode(), *(file.read_bytes() for file in files)])).hexdigest())
' "$root" "$1" "$2"
}

# Creates the environment if necessary, and installs the package, its requirements and one of its extras.
prepare_environment() { # [EXTRA]
  local extra="${1:-}" requirements=requirements-cpu.txt why="no working nvidia-smi: CPU version" wanted base
  is_whole || make_environment
  if nvidia-smi >/dev/null 2>&1 </dev/null; then
    requirements=requirements.txt why="nvidia-smi works: GPU version"
  fi
  wanted="$(install_of "$requirements" "$extra")"
  base="$(install_of "$requirements" "")"
  if grep -qxF "$wanted" "$finished"; then
    return 0
  fi
  echo "Installing $requirements${extra:+ and the extra $extra} ($why); this takes a minute or more"
  : >"$finished"
  if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    -r "$root/$requirements" -e "$root${extra:+[$extra]}" >"$venv/pip.log" 2>&1; then
    tail -n 6 "$venv/pip.log" >&2
    fail 1 "the packages could not be installed (end of pip's output above, all of it in $venv/pip.log): check the network connection, then run the same command again"
  fi
  printf '%s\n' "$base" "$wanted" >"$finished"
}
