# Sourced by the other scripts: finds the repository, makes the virtual environment once, installs the package into it.
# Overrides: DREAMPRM_PYTHON (interpreter, 3.11 or newer), DREAMPRM_VENV (folder, default .venv in the repository).
set -euo pipefail

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${DREAMPRM_VENV:-$REPO/.venv}"

find_python() {
  local candidate
  for candidate in ${DREAMPRM_PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  echo "launch: no Python 3.11 or newer found; install one, or set DREAMPRM_PYTHON to it" >&2
  return 1
}

# setup_venv EXTRAS: installs the package (editable) with these extras, unless setup.py is what was installed before.
setup_venv() {
  local extras="$1" python stamp
  stamp="$extras $(cksum "$REPO/setup.py" | cut -d' ' -f1,2)"
  if [ ! -x "$VENV/bin/python" ]; then
    python="$(find_python)"
    echo "launch: making a virtual environment in $VENV ($("$python" --version))"
    "$python" -m venv "$VENV"
  fi
  if [ "$(cat "$VENV/.installed$extras" 2>/dev/null)" != "$stamp" ]; then
    echo "launch: installing dreamprm_jax$extras and what it needs (once; a few minutes)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$REPO$extras"
    echo "$stamp" >"$VENV/.installed$extras"
  else
    echo "launch: using $VENV"
  fi
}

# Compiled programs are kept between runs: the second run of a job starts in seconds.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamprm_jax/xla}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-1}"
