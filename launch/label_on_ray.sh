#!/usr/bin/env bash
# Runs generate and label on a Ray cluster with a model server: waits for the server, generates programs, rolls out and
# judges their prefixes on the cluster's CPUs. Run it on a node of the cluster; launch/ray.yaml and kuberay.yaml call it.
#
#   bash launch/label_on_ray.sh --server=http://HOST:8000/v1 --workers=N [--ray=auto] [--wait=3600] [--dry-run]
#     --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]
#   bash launch/label_on_ray.sh --server=http://vllm:8000/v1 --workers=256 --config=configs/qwen2_5_coder_3b.py --workdir=/runs/3b
#
# N is the number of actors, with one CPU each; for actors without a free CPU Ray's autoscaler adds nodes. All nodes must
# share DIR. If it is killed or loses nodes, run it again to continue. --wait is the maximum wait for a server that is
# loading its model, in seconds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/functions.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

SERVER="" WORKERS="" RAY=auto WAIT=3600 rest=()
for argument in "$@"; do
  case "$argument" in
    --server=*) SERVER="${argument#*=}" ;;
    --workers=*) WORKERS="${argument#*=}" ;;
    --ray=*) RAY="${argument#*=}" ;;
    --wait=*) WAIT="${argument#*=}" ;;
    --dry-run) DRY_RUN=1 ;;
    *) rest+=("$argument") ;;
  esac
done
check_pattern --server "$SERVER" 'https?://[A-Za-z0-9.-]+(:[0-9]+)?/v1' http://HOST:8000/v1
check_pattern --ray "$RAY" 'auto|[A-Za-z0-9.-]+:[0-9]+|ray://[A-Za-z0-9.-]+:[0-9]+' auto
check_count --workers "$WORKERS" 1 100000
check_count --wait "$WAIT" 0 86400
parse_dreamprm "${rest[@]}"
[ "$STAGE" = train ] || fail "$STAGE: the stages of this script are generate and label"
check_shared_workdir
STAGE=label
check_settings 1
dreamprm="$(command -v dreamprm || echo "${DREAMPRM_VENV:-$REPO/.venv}/bin/dreamprm")"
[ -n "$DRY_RUN" ] || [ -x "$dreamprm" ] || fail "dreamprm is not installed on this node"
cd "$REPO"

# Waits for the server, because a label stage that fails at its start would leave the server idle at full cost.
answers() { curl --silent --fail --max-time 10 --output /dev/null "$SERVER/models"; }
say "waiting for $SERVER/models, at most $WAIT seconds"
if [ -z "$DRY_RUN" ]; then
  until answers; do
    [ "$SECONDS" -lt "$WAIT" ] || fail "--server=$SERVER: no answer from $SERVER/models within $WAIT seconds"
    sleep 5
  done
fi
settings=(--config="$CONFIG" --workdir="$WORKDIR" "${OVERRIDES[@]}" --config.policy.base_url="$SERVER")
run "$dreamprm" generate "${settings[@]}"
run "$dreamprm" label "${settings[@]}" --config.engine.executor=ray --config.engine.address="$RAY" \
  --config.engine.workers="$WORKERS"
