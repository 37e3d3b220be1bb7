#!/usr/bin/env bash
# Simulates a cluster on this machine: several processes work on one run, each with its own simulated CPU devices;
# process 0 is the coordinator.
#
#   bash launch/local_multiprocess.sh [--processes=2] [--devices=2] [--port=PORT] [STAGE] --config=FILE [--workdir=DIR]
#     [--config.FIELD=VALUE ...]
#   bash launch/local_multiprocess.sh --processes=2 --devices=4 run --config=configs/embedded.py --workdir=runs/processes
#
# STAGE is train by default. SIGTERM and Ctrl-C are sent to all processes, which save the same step and exit with status
# 143. Run it again to continue, also with other numbers. --dry-run only prints the commands.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
show_help_if_asked "${BASH_SOURCE[0]}" "$@"

PROCESSES=2 DEVICES=2 PORT="" rest=()
for argument in "$@"; do
  case "$argument" in
    --processes=*) PROCESSES="${argument#*=}" ;;
    --devices=*) DEVICES="${argument#*=}" ;;
    --port=*) PORT="${argument#*=}" ;;
    --dry-run) DRY_RUN=1 ;;
    *) rest+=("$argument") ;;
  esac
done
check_count --processes "$PROCESSES" 1 64
check_count --devices "$DEVICES" 1 64
[ -z "$PORT" ] || check_count --port "$PORT" 1024 65535
parse_dreamprm "${rest[@]}"
check_settings "$((PROCESSES * DEVICES))"
[ -n "$DRY_RUN" ] || setup_venv ""
PORT="${PORT:-$((20000 + RANDOM % 10000))}"

export JAX_PLATFORMS=cpu
[ -n "$DRY_RUN" ] || set_device_flags cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
cd "$REPO"

# start PROCESS: starts a process; lines of processes other than 0 are prefixed with their number.
start() {
  local -a command=("$VENV/bin/dreamprm" "$STAGE" --config="$CONFIG")
  [ -z "$WORKDIR" ] || command+=(--workdir="$WORKDIR")
  command+=("${OVERRIDES[@]}" --config.distributed.mode=explicit)
  command+=(--config.distributed.coordinator_address="127.0.0.1:$PORT")
  command+=(--config.distributed.num_processes="$PROCESSES" --config.distributed.process_id="$1")
  echo "+ XLA_FLAGS=--xla_force_host_platform_device_count=$DEVICES$(printf ' %q' "${command[@]}")"
  [ -z "$DRY_RUN" ] || return 0
  if [ "$1" = 0 ]; then
    "${command[@]}" &
  else
    "${command[@]}" > >(
      trap '' INT TERM
      exec sed -u "s/^/[process $1] /"
    ) 2>&1 &
  fi
  running["$!"]="$1"
}

declare -A running=() # process ids
stop_all() { kill -TERM "${!running[@]}" 2>/dev/null || true; }
trap stop_all TERM INT
for ((process = 0; process < PROCESSES; process++)); do start "$process"; done

# The exit status is that of the first failure, or 143 (stopped and saved) if there is none. When a process fails, the
# others would wait for it for minutes, so they are stopped.
status=0
while [ "${#running[@]}" -gt 0 ]; do
  ended="" code=0
  wait -n -p ended "${!running[@]}" || code=$?
  [ -n "$ended" ] || continue # interrupted by a signal, which the trap has forwarded
  unset "running[$ended]"
  if [ "$code" != 0 ] && { [ "$status" = 0 ] || [ "$status" = 143 ]; }; then status="$code"; fi
  if [ "$code" != 0 ] && [ "$code" != 143 ] && [ "${#running[@]}" -gt 0 ]; then
    say "a process ended with status $code; the others are stopped"
    sleep 5 # they may be about to report the cause
    stop_all
  fi
done
exit "$status"
