#!/usr/bin/env bash
# Runs on each worker of a TPU slice, started by tpu_vm.sh: mounts the share, installs the package, trains.
#
#   bash launch/tpu_worker.sh HOST:/EXPORT [STAGE] --config=FILE --workdir=/mnt/dreamprm/RUN [--config.FIELD=VALUE ...]
#
# It can run again on a worker that survived an earlier attempt. --dry-run as the first argument only prints the commands.
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=launch/functions.sh
source "$here/functions.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"
if [ "${1:-}" = --dry-run ]; then
  DRY_RUN=1
  shift
fi
check_pattern "the share" "${1:-}" '[A-Za-z0-9.-]+:/[A-Za-z0-9/_.-]+' 10.0.0.2:/runs
share="$1"
shift
parse_dreamprm "$@"

export JAX_COMPILATION_CACHE_DIR=/mnt/dreamprm/xla # shared by all workers, and kept after a preemption
export PATH="$HOME/.local/bin:$PATH"
# shellcheck source=launch/env.sh
source "$here/env.sh"

if ! mountpoint -q /mnt/dreamprm; then
  run sudo apt-get install -qq -y nfs-common python3-venv
  run sudo mkdir -p /mnt/dreamprm
  run sudo mount -t nfs -o hard "$share" /mnt/dreamprm
fi
if ! find_python >/dev/null 2>&1; then # the images of v4 to v6e have Python 3.10
  run python3 -m pip install --quiet --user uv
  run uv python install --quiet 3.12
fi
export DREAMPRM_JAX="jax[tpu]"
if [ -z "$DRY_RUN" ]; then
  setup_venv "[server]"
  set_device_flags tpu
fi
cd "$REPO"
run exec "$VENV/bin/dreamprm" "$STAGE" --config="$CONFIG" --workdir="$WORKDIR" "${OVERRIDES[@]}" --config.distributed.mode=auto
