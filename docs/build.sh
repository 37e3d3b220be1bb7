#!/usr/bin/env bash
# Builds the docs site into site/; every warning is an error.   bash docs/build.sh [mkdocs options]
# With EXECUTE_NOTEBOOKS=true the notebooks' pages have their outputs (about a minute more).
set -euo pipefail
cd "$(dirname "$0")/.."
python -c 'import mkdocs' 2>/dev/null || { echo "docs/build.sh: pip install -e '.[docs]' first" >&2; exit 2; }
exec python -m mkdocs build --strict --site-dir site "$@"
