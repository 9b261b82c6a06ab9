# Sourced by the scripts beside it, with `set -euo pipefail`: finds a Python, makes the virtual environment and
# installs into it what is not there yet. Two variables change what it does:
#   PYTHON        the interpreter to use; otherwise the newest of PYTHONS that is found and works
#   FER_JAX_VENV  the environment's folder; otherwise .venv in the repository

PYTHONS="3.13 3.12 3.11"

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${FER_JAX_VENV:-$root/.venv}"
[[ "$venv" == /* ]] || venv="$PWD/$venv"
# Ours to remove and make anew, because this file is in it. Its lines are the finished installs; it is empty while
# one is on, so an install that was interrupted is seen.
finished="$venv/.fer_jax_installs"

fail() { # STATUS MESSAGE
  echo "error: $2" >&2
  exit "$1"
}

# Prints an interpreter's version, such as 3.12; nothing where it does not run (a pyenv shim of no version, say).
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
  fail 2 "$1 (Python $2) has no module venv: install it (Debian, Ubuntu: apt install python$2-venv) or set PYTHON=PATH to another Python"
}

# Lists interpreters that may be of this version: those on PATH, then pyenv's, active or not, the newest first.
list_pythons() { # VERSION
  type -aP "python$1" python3 python || true
  printf '%s\n' "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*/bin/python | sort -rV
}

# Sets `python` to the first interpreter that works, version by version; fails, with status 1, where there is none.
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

# Sets `python` to the interpreter that the environment is made with.
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

# Says which installation of Python an interpreter belongs to; a virtual environment's says its parent's.
origin_of() { # PYTHON
  "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null </dev/null || true
}

# Whether the environment was installed to an end, still runs, and is of the Python that PYTHON asks for, if any.
is_whole() {
  [[ -s "$finished" ]] || return 1
  is_one_of "$(version_of "$venv/bin/python")" "$PYTHONS" || return 1
  [[ -z "${PYTHON:-}" || "$(origin_of "$PYTHON")" == "$(origin_of "$venv/bin/python")" ]]
}

make_environment() {
  choose_python
  if [[ -e "$venv" && ! -e "$finished" ]] && [[ ! -d "$venv" || -n "$(ls -A "$venv")" ]]; then
    fail 2 "$venv exists and these scripts did not make it: remove it, or set FER_JAX_VENV=FOLDER to another"
  fi
  echo "Making $venv with $python (Python $(version_of "$python"))"
  mkdir -p "$venv" && : >"$finished" || fail 2 "cannot write $venv: set FER_JAX_VENV=FOLDER to another"
  find "$venv/" -mindepth 1 -maxdepth 1 ! -name "${finished##*/}" -exec rm -rf {} +
  "$python" -m venv "$venv" || fail 1 "$venv could not be made (Python's own message is above)"
}

# Prints one word that changes when what has to be installed changes.
install_of() { # REQUIREMENTS EXTRA
  "$venv/bin/python" -c '
import hashlib, pathlib, sys
files = [pathlib.Path(sys.argv[1], name) for name in ("pyproject.toml", "requirements.txt", "requirements-cpu.txt")]
print(hashlib.sha256(b"\0".join([repr(sys.argv[1:]).encode(), *(file.read_bytes() for file in files)])).hexdigest())
' "$root" "$1" "$2"
}

# Makes sure that the environment holds the package, its requirements and one of its extras.
prepare_environment() { # [EXTRA]
  local extra="${1:-}" requirements=requirements-cpu.txt why="no working nvidia-smi: for the CPU" wanted base
  is_whole || make_environment
  if nvidia-smi >/dev/null 2>&1 </dev/null; then
    requirements=requirements.txt why="nvidia-smi works: for the GPU"
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
    fail 1 "the packages could not be installed (pip's last words are above, all of them in $venv/pip.log): is there a network? Run the same command to try again"
  fi
  printf '%s\n' "$base" "$wanted" >"$finished"
}
