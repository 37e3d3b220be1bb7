#!/usr/bin/env bash
# Trains on a GKE cluster created by xpk (TPU slices, Kueue): one JobSet, restarted as a whole after a preemption.
#
#   bash launch/xpk.sh --workload=NAME --cluster=CLUSTER --project=PROJECT --zone=ZONE --type=v5p-16 --image=IMAGE
#     --storage=NAME [--slices=1] [--restarts=50] [--priority=medium] [--dry-run]
#     [STAGE] --config=FILE --workdir=/MOUNT/RUN [--config.FIELD=VALUE ...]
#   bash launch/xpk.sh --workload=prm7b --cluster=c1 --project=my-project --zone=us-east5-a --type=v5p-16 --slices=2 \
#     --image=us-docker.pkg.dev/my-project/dreamprm/dreamprm:tpu --storage=runs \
#     --config=configs/qwen2_5_coder_7b.py --workdir=/runs/7b --config.train.mesh.data=2
#
# --image is built from launch/Dockerfile with DEVICE=tpu. --storage is a shared storage of the cluster (`xpk storage
# create` or `attach`, Filestore or Lustre) whose mount point contains the workdir. --dry-run lets xpk print the JobSet and
# its commands without contacting the cloud; if xpk is not installed, only the xpk command is printed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/functions.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

WORKLOAD="" CLUSTER="" PROJECT="" ZONE="" TYPE="" IMAGE="" STORAGE="" SLICES=1 RESTARTS=50 PRIORITY=medium rest=()
for argument in "$@"; do
  case "$argument" in
    --workload=*) WORKLOAD="${argument#*=}" ;;
    --cluster=*) CLUSTER="${argument#*=}" ;;
    --project=*) PROJECT="${argument#*=}" ;;
    --zone=*) ZONE="${argument#*=}" ;;
    --type=*) TYPE="${argument#*=}" ;;
    --image=*) IMAGE="${argument#*=}" ;;
    --storage=*) STORAGE="${argument#*=}" ;;
    --slices=*) SLICES="${argument#*=}" ;;
    --restarts=*) RESTARTS="${argument#*=}" ;;
    --priority=*) PRIORITY="${argument#*=}" ;;
    --dry-run) DRY_RUN=1 ;;
    *) rest+=("$argument") ;;
  esac
done
check_pattern --workload "$WORKLOAD" '[a-z]([a-z0-9-]{0,37}[a-z0-9])?' my-run
check_pattern --cluster "$CLUSTER" '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' my-cluster
check_pattern --project "$PROJECT" '[a-z][a-z0-9:.-]{4,61}[a-z0-9]' my-project
check_pattern --zone "$ZONE" '[a-z]+-[a-z]+[0-9]+-[a-z]' us-east5-a
check_pattern --image "$IMAGE" '[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})' REGISTRY/PATH:TAG
check_pattern --storage "$STORAGE" '[a-z]([a-z0-9-]*[a-z0-9])?' runs
check_pattern --priority "$PRIORITY" 'very-low|low|medium|high|very-high' medium
check_count --slices "$SLICES" 1 256
check_count --restarts "$RESTARTS" 0 10000
tpu_type "$TYPE" # CHIPS
parse_dreamprm "${rest[@]}" # STAGE, CONFIG, WORKDIR, OVERRIDES
check_shared_workdir
[[ "$WORKDIR" == /*/?* ]] || fail "--workdir=$WORKDIR: must lie in a folder of the storage, such as /runs/7b"
require_config_in_repository
check_settings "$((CHIPS * SLICES))"
require_tool xpk "pip install xpk"

# With exec, dreamprm itself receives the SIGTERM that xpk's wrapper forwards; it saves within the grace period and exits
# with 143. xpk restarts the JobSet on statuses of 127 or more; invalid settings (2) end it. The compilation cache is
# stored next to the run, so only the first start compiles.
work="JAX_COMPILATION_CACHE_DIR=$(dirname "$WORKDIR")/xla exec dreamprm$(
  printf ' %q' "$STAGE" --config="$CONFIG" --workdir="$WORKDIR" "${OVERRIDES[@]}" --config.distributed.mode=auto
)"
command=(xpk workload create --workload="$WORKLOAD" --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE"
  --tpu-type="$TYPE" --num-slices="$SLICES" --docker-image="$IMAGE" --storage="$STORAGE" --priority="$PRIORITY"
  --max-restarts="$RESTARTS" --termination-grace-period-seconds=180 --command="$work")
if [ -n "$DRY_RUN" ] && command -v xpk >/dev/null; then
  DRY_RUN=""
  command+=(--dry-run --skip-validation)
fi
run "${command[@]}"
