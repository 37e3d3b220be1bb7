#!/usr/bin/env bash
# Installs the package (first time only) and runs configs/embedded.py on this machine; prints the results table and the
# path of the HTML report. Arguments are passed to `dreamprm run`, for example:
#   bash launch/local.sh --config.train.steps=50
#   bash launch/local.sh --workdir=/tmp/other-run --config.seed=1
# Run it again to continue after a kill or to reuse finished stages. List all settings with their defaults:
#   .venv/bin/dreamprm run --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

setup_venv ""
cd "$REPO"
if [ "$(detect_device)" = cpu ]; then # a single CPU device needs no flags
  # Every step takes and frees the same temporaries: glibc keeps them, which saves a step's page faults. Same results.
  export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}" MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-4294967296}"
  export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"
else
  set_device_flags
fi
echo "launch: dreamprm run --config=configs/embedded.py $*"
exec "$VENV/bin/dreamprm" run --config=configs/embedded.py "$@"
