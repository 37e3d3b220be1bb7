#!/usr/bin/env bash
# Trains on Cloud TPU VMs from queued resources: requests them, waits, installs the package on every worker of every
# slice, runs the same command on all, deletes the TPUs. After a preemption it requests them again and continues the run.
#
#   bash launch/tpu_vm.sh --name=NAME --zone=ZONE --type=v5p-16 --share=HOST:/EXPORT [--slices=1] [--spot | --reserved]
#     [--project=PROJECT] [--runtime=VERSION] [--attempts=20] [--keep] [--dry-run]
#     [STAGE] --config=FILE --workdir=/mnt/dreamprm/RUN [--config.FIELD=VALUE ...]
#   bash launch/tpu_vm.sh --name=prm7b --zone=us-east5-a --type=v5p-16 --spot --share=10.0.0.2:/runs \
#     --config=configs/qwen2_5_coder_7b.py --workdir=/mnt/dreamprm/7b --config.train.mesh.fsdp=8
#
# --share is an NFS export (such as Filestore) that every worker mounts at /mnt/dreamprm; it holds the run's folder and the
# compilation cache. The workers get the last commit of this repository. --slices=2 is a multislice run: only the mesh's
# data axis spans several slices. The TPUs are deleted at the end, also after errors; --keep keeps them, at your cost. The
# script stays in the foreground, so start it in tmux. --dry-run prints every command and requests nothing.
#
# Costs begin when the request is ACTIVE. If the command itself fails, the script ends; only after a preemption, detected
# from the state of the request, are the TPUs requested again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/functions.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

NAME="" ZONE="" TYPE="" SHARE="" SLICES=1 PROJECT="" RUNTIME="" ATTEMPTS=20 KEEP="" capacity="" rest=()
for argument in "$@"; do
  case "$argument" in
    --name=*) NAME="${argument#*=}" ;;
    --zone=*) ZONE="${argument#*=}" ;;
    --type=*) TYPE="${argument#*=}" ;;
    --share=*) SHARE="${argument#*=}" ;;
    --slices=*) SLICES="${argument#*=}" ;;
    --project=*) PROJECT="${argument#*=}" ;;
    --runtime=*) RUNTIME="${argument#*=}" ;;
    --attempts=*) ATTEMPTS="${argument#*=}" ;;
    --spot | --reserved)
      [ -z "$capacity" ] || fail "--spot and --reserved exclude each other"
      capacity="$argument"
      ;;
    --keep) KEEP=1 ;;
    --dry-run) DRY_RUN=1 ;;
    *) rest+=("$argument") ;;
  esac
done
check_pattern --name "$NAME" '[a-z][a-z0-9-]{0,36}[a-z0-9]' my-run
check_pattern --zone "$ZONE" '[a-z]+-[a-z]+[0-9]+-[a-z]' us-east5-a
[ -z "$PROJECT" ] || check_pattern --project "$PROJECT" '[a-z][a-z0-9:.-]{4,61}[a-z0-9]' my-project
[ -z "$RUNTIME" ] || check_pattern --runtime "$RUNTIME" '[a-z0-9-]+' v2-alpha-tpuv6e
check_pattern --share "$SHARE" '[A-Za-z0-9.-]+:/[A-Za-z0-9/_.-]+' 10.0.0.2:/runs
check_count --slices "$SLICES" 1 256
check_count --attempts "$ATTEMPTS" 1 1000
tpu_type "$TYPE" # CHIPS, DEFAULT_RUNTIME
parse_dreamprm "${rest[@]}" # STAGE, CONFIG, WORKDIR, OVERRIDES
check_shared_workdir
[[ "$WORKDIR" == /mnt/dreamprm/?* ]] || fail "--workdir=$WORKDIR: must lie in /mnt/dreamprm, where --share is mounted"
require_config_in_repository
check_settings "$((CHIPS * SLICES))"
require_tool gcloud "install the Google Cloud CLI and run: gcloud auth login"
[ -z "$(git -C "$REPO" status --porcelain --untracked-files=no)" ] || say "uncommitted changes are not copied to the workers"

common=("--zone=$ZONE")
[ -z "$PROJECT" ] || common+=("--project=$PROJECT")
resources=(gcloud compute tpus queued-resources)
if [ "$SLICES" = 1 ]; then nodes=(--node-id="$NAME"); else nodes=(--node-count="$SLICES" --node-prefix="$NAME"); fi
# By default gcloud connects to 64 workers at a time, and these would wait forever for the others.
everywhere=(--node=all --worker=all --batch-size=all)
archive=/tmp/dreamprm-$NAME.tar.gz
unpack="rm -rf ~/dreamprm && mkdir ~/dreamprm && tar -xzf $archive -C ~/dreamprm && exec bash ~/dreamprm/launch/tpu_worker.sh"

create() {
  run "${resources[@]}" create "$NAME" "${common[@]}" "${nodes[@]}" --accelerator-type="$TYPE" \
    --runtime-version="${RUNTIME:-$DEFAULT_RUNTIME}" ${capacity:+"$capacity"} --async
}

delete() { run "${resources[@]}" delete "$NAME" "${common[@]}" --force --quiet; }

state() { "${resources[@]}" describe "$NAME" "${common[@]}" --format='value(state.state)' 2>/dev/null || true; }

# wait_while PATTERN [SECONDS]: waits until the state does not match, or for SECONDS. Sets STATE.
wait_while() {
  local before="" since=$SECONDS
  while true; do
    STATE="$(state)"
    [ "$STATE" = "$before" ] || say "$(date +%T) $NAME: ${STATE:-no such request}"
    before="$STATE"
    [[ "$STATE" =~ ^($1)$ ]] || return 0
    [ -z "${2:-}" ] || [ $((SECONDS - since)) -lt "$2" ] || return 0
    sleep "${DREAMPRM_POLL_SECONDS:-30}"
  done
}

# shellcheck disable=SC2153  # STAGE is parse_dreamprm's
attempt() {
  run "${resources[@]}" scp "$archive" "$NAME:$archive" "${common[@]}" "${everywhere[@]}" &&
    run "${resources[@]}" ssh "$NAME" "${common[@]}" "${everywhere[@]}" --command="$unpack$(
      printf ' %q' "$SHARE" "$STAGE" --config="$CONFIG" --workdir="$WORKDIR" "${OVERRIDES[@]}"
    )"
}

run git -C "$REPO" archive --format=tar.gz --output="$archive" HEAD
if [ -n "$DRY_RUN" ]; then
  create
  attempt
  [ -n "$KEEP" ] || delete
  exit
fi

# shellcheck disable=SC2329  # the trap calls it
at_end() {
  if [ -n "$KEEP" ]; then
    say "$NAME is kept and still costs money; to delete it: ${resources[*]} delete $NAME ${common[*]} --force"
  else
    say "deleting $NAME to stop its cost"
    delete || say "NOT deleted: delete it manually"
  fi
}
trap at_end EXIT

WAITING='CREATING|ACCEPTED|PROVISIONING|WAITING_FOR_RESOURCES|STATE_UNSPECIFIED'
for ((number = 1; number <= ATTEMPTS; number++)); do
  say "attempt $number of $ATTEMPTS"
  STATE="$(state)"
  [ -n "$STATE" ] || create
  wait_while "$WAITING"
  case "$STATE" in
    ACTIVE)
      status=0
      attempt || status=$?
      [ "$status" != 0 ] || exit 0
      [ "$status" != 2 ] || fail "invalid settings or input, see above; it is not tried again"
      # When a machine is preempted, the processes receive SIGTERM, save and exit with 143. The state of the request
      # changes only minutes later.
      say "the command ended with status $status; checking for a preemption"
      wait_while ACTIVE "${DREAMPRM_SETTLE_SECONDS:-300}"
      if [ "$STATE" = ACTIVE ] && [ "$status" != 143 ]; then fail "not preempted: the TPUs are still active; it is not tried again"; fi
      ;;
    FAILED) fail "the request for $SLICES x $TYPE failed; for the reason: ${resources[*]} describe $NAME ${common[*]}" ;;
    "") fail "the request no longer exists: ${resources[*]} list ${common[*]}" ;;
  esac
  if [ "$STATE" != ACTIVE ]; then # a SUSPENDED request keeps its name and never becomes active again
    delete || true
  fi
done
fail "not finished after $ATTEMPTS attempts; run the same command again to continue"
