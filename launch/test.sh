#!/usr/bin/env bash
# Installs (first time only) and runs lint, spelling, type check, import contracts and tests. Arguments are passed to pytest:
#   bash launch/test.sh -m "not slow"      the quick tests
#   bash launch/test.sh tests/sandbox -x   one folder
# There are three test processes, as many tests wait; DREAMPRM_TEST_WORKERS=8 uses eight, 0 runs all tests in one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

setup_venv "[dev]"
cd "$REPO"
echo "launch: ruff"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
echo "launch: codespell"
git ls-files | xargs "$VENV/bin/codespell"
echo "launch: mypy"
"$VENV/bin/mypy"
echo "launch: import-linter"
"$VENV/bin/lint-imports" --no-logo
echo "launch: pytest"
exec "$VENV/bin/python" -m pytest -n "${DREAMPRM_TEST_WORKERS:-3}" --dist loadfile --no-loadscope-reorder "$@"
