#!/usr/bin/env bash
# Sets up (first time only) and runs the embedded main job on this machine; ends with the results table and the
# path of the HTML report. Arguments go to `dreamprm run`, for example:
#   bash launch/local.sh --config.train.steps=50
#   bash launch/local.sh --workdir=/tmp/other-run --config.seed=1
# Run again, it reuses what is finished; killed, it goes on where it stopped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

for argument in "$@"; do
  if [ "$argument" = "-h" ] || [ "$argument" = "--help" ]; then
    sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [ ! -x "$VENV/bin/dreamprm" ] || exec "$VENV/bin/dreamprm" run --help
    exit 0
  fi
done

setup_venv ""
cd "$REPO"
# On CPU alone jax needs no search for accelerators; on a GPU or TPU machine set JAX_PLATFORMS yourself.
echo "launch: dreamprm run --config=configs/embedded.py $*"
exec "$VENV/bin/dreamprm" run --config=configs/embedded.py "$@"
