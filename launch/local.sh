#!/usr/bin/env bash
# Sets up (first time only) and runs the embedded main job on this machine; ends with the results table and the
# path of the HTML report. Arguments go to `dreamprm run`, for example:
#   bash launch/local.sh --config.train.steps=50
#   bash launch/local.sh --workdir=/tmp/other-run --config.seed=1
# Run again, it reuses what is finished; killed, it goes on where it stopped. Every setting, with its default:
#   .venv/bin/dreamprm run --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

setup_venv ""
cd "$REPO"
[ "$(detect_device)" = cpu ] || set_device_flags # of the CPU's flags one device needs none
echo "launch: dreamprm run --config=configs/embedded.py $*"
exec "$VENV/bin/dreamprm" run --config=configs/embedded.py "$@"
