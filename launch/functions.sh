# shellcheck shell=bash
# Sourced by the scripts of this folder: help, argument checks, and parsing of `dreamprm` arguments.
set -euo pipefail

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DRY_RUN="${DRY_RUN:-}"

say() { echo "launch: $*"; }

fail() {
  echo "launch: error: $*" >&2
  exit 2
}

# show_help_if_asked FILE ARGUMENTS: prints the comment at the head of FILE if the arguments contain -h or --help.
show_help_if_asked() {
  local file="$1" argument
  shift
  for argument in "$@"; do
    if [ "$argument" = "-h" ] || [ "$argument" = "--help" ]; then
      sed -n '2,/^#SBATCH\|^[^#]\|^$/{s/^#$//p;s/^# //p}' "$file"
      exit 0
    fi
  done
}

# run COMMAND: prints the command, quoted for a shell, and executes it unless --dry-run is set.
run() {
  echo "+$(printf ' %q' "$@")"
  [ -n "$DRY_RUN" ] || "$@"
}

# require_tool NAME HINT: fails if the program is not installed; a dry run needs no tools.
require_tool() { [ -n "$DRY_RUN" ] || command -v "$1" >/dev/null || fail "$1 is not installed: $2"; }

# check_count OPTION VALUE LEAST MOST
check_count() {
  if ! [[ "$2" =~ ^[0-9]{1,6}$ ]] || [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then
    fail "$1=$2: must be a whole number from $3 to $4"
  fi
}

# check_pattern OPTION VALUE REGEX EXAMPLE
check_pattern() {
  [ -n "$2" ] || fail "$1 is missing, such as $1=$4"
  [[ "$2" =~ ^($3)$ ]] || fail "$1=$2: must look like $4"
}

# parse_dreamprm ARGUMENTS: parses [STAGE] --config=FILE [--workdir=DIR] [--config.FIELD=VALUE ...] into STAGE (default
# train), CONFIG (relative to the repository if it is inside), WORKDIR and OVERRIDES. Fails on other arguments.
parse_dreamprm() {
  local argument
  STAGE=train CONFIG="" WORKDIR="" OVERRIDES=()
  for argument in "$@"; do
    case "$argument" in
      generate | label | train | score | evaluate | report | run) STAGE="$argument" ;;
      --config=*) CONFIG="${argument#*=}" ;;
      --workdir=*) WORKDIR="${argument#*=}" ;;
      --config.distributed.*) fail "$argument: this script sets config.distributed" ;;
      --config.*=*) OVERRIDES+=("$argument") ;;
      *) fail "unknown argument $argument (see --help)" ;;
    esac
  done
  [ -n "$CONFIG" ] || fail "--config is missing, such as --config=configs/embedded.py"
  [ -f "$CONFIG" ] || CONFIG="$REPO/$CONFIG"
  [ -f "$CONFIG" ] || fail "--config: ${CONFIG#"$REPO/"}: no such file in the current folder or in $REPO"
  CONFIG="$(realpath "$CONFIG")"
  CONFIG="${CONFIG#"$REPO/"}"
}

# check_shared_workdir: fails unless WORKDIR can be a folder that all machines share.
check_shared_workdir() {
  case "$WORKDIR" in
    "") fail "--workdir is missing: an absolute path that all machines share is required" ;;
    gs://* | s3://* | http*://*)
      fail "--workdir=$WORKDIR: the stages write through the file system; mount a share (NFS, Filestore, Lustre) on all machines and pass its path"
      ;;
    /tmp/* | /dev/shm/* | /var/tmp/*) fail "--workdir=$WORKDIR: that folder is each machine's own; choose a shared folder" ;;
    /*) ;;
    *) fail "--workdir=$WORKDIR: must be an absolute path, the same on all machines" ;;
  esac
}

# require_config_in_repository: fails if CONFIG is outside the repository, since only the repository is copied.
require_config_in_repository() {
  case "$CONFIG" in /*) fail "--config=$CONFIG: must lie in $REPO, since only that folder is copied to the machines" ;; esac
}

# check_settings DEVICES: fails if settings are unknown or invalid, or do not divide over the number of devices.
check_settings() {
  local python="${DREAMPRM_VENV:-$REPO/.venv}/bin/python"
  [ -x "$python" ] || python="$(command -v python3 || true)"
  if [ -z "$python" ] || ! (cd / && "$python" -c 'import dreamprm_jax') 2>/dev/null; then
    say "the package is not installed here, so the settings are not checked (pip install --editable $REPO)"
    return
  fi
  (cd "$REPO" && JAX_PLATFORMS=cpu "$python" launch/check_settings.py --devices="$1" "$STAGE" --config="$CONFIG" \
    "${OVERRIDES[@]}") || exit 2
}

# tpu_type TYPE: sets CHIPS (jax devices) and DEFAULT_RUNTIME; fails if Cloud TPU does not offer the type.
# shellcheck disable=SC2034  # for the script that calls
tpu_type() {
  local generation="${1%-*}" size="${1##*-}"
  check_pattern --type "$1" '(v4|v5litepod|v5p|v6e)-[0-9]{1,5}' "v5p-16 (v4, v5litepod, v5p or v6e)"
  case "$generation" in
    v4 | v5p) # sizes count cores, two per chip; a chip is one jax device
      [ "$size" -ge 8 ] && [ $((size % 8)) = 0 ] || fail "--type=$1: $generation sizes are multiples of 8 cores (4 chips, one host)"
      CHIPS=$((size / 2))
      ;;
    *)
      case "$size" in
        1 | 4 | 8 | 16 | 32 | 64 | 128 | 256) CHIPS="$size" ;;
        *) fail "--type=$1: $generation comes with 1, 4, 8, 16, 32, 64, 128 or 256 chips" ;;
      esac
      ;;
  esac
  case "$generation" in
    v4) DEFAULT_RUNTIME=tpu-ubuntu2204-base ;;
    v5litepod) DEFAULT_RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p) DEFAULT_RUNTIME=v2-alpha-tpuv5 ;;
    v6e) DEFAULT_RUNTIME=v2-alpha-tpuv6e ;;
  esac
}
