# shellcheck shell=bash
# Sourced by the scripts that run the package on this machine: its virtual environment, made once, and the settings of
# jax and XLA that make a run faster or sturdier. None changes a result: they say what is kept, when a collective starts
# and how long one may take, never how a number is computed.
# Overrides: DREAMPRM_PYTHON (interpreter, 3.11 or newer), DREAMPRM_VENV (folder, default .venv in the repository),
# DREAMPRM_JAX (what pip installs beside the package, such as "jax[cuda12]"; default: by the devices of this machine),
# DREAMPRM_INSTALL=no (the environment is kept by somebody else: nothing is installed), and every variable that is set
# here.
source "$(dirname "${BASH_SOURCE[0]}")/functions.sh"

VENV="${DREAMPRM_VENV:-$REPO/.venv}"

find_python() {
  local candidate
  for candidate in ${DREAMPRM_PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  echo "launch: no Python 3.11 or newer found; install one, or set DREAMPRM_PYTHON to it" >&2
  return 1
}

# detect_device: cpu, gpu or tpu; JAX_PLATFORMS, where it is set, decides.
detect_device() {
  case "${JAX_PLATFORMS:-}" in
    cpu) echo cpu ;;
    cuda | gpu) echo gpu ;;
    tpu) echo tpu ;;
    *)
      if [ -e /dev/nvidiactl ]; then
        echo gpu
      elif compgen -G "/dev/accel*" >/dev/null || compgen -G "/dev/vfio/[0-9]*" >/dev/null; then
        echo tpu
      else
        echo cpu
      fi
      ;;
  esac
}

# setup_venv EXTRAS: installs the package (editable) with these extras, unless setup.py is what was installed before.
setup_venv() {
  local extras="$1" python stamp
  local -a device=()
  if [ "${DREAMPRM_INSTALL:-}" = no ]; then
    [ -x "$VENV/bin/dreamprm" ] || fail "DREAMPRM_INSTALL=no, and there is no $VENV/bin/dreamprm"
    return
  fi
  case "${DREAMPRM_JAX:-$(detect_device)}" in
    cpu) ;;
    gpu) device=("jax[cuda12]") ;;
    tpu) device=("jax[tpu]") ;;
    *) device=("$DREAMPRM_JAX") ;;
  esac
  stamp="$extras $(cksum "$REPO/setup.py" | cut -d' ' -f1,2)${device[*]:+ ${device[*]}}"
  if [ ! -x "$VENV/bin/python" ]; then
    python="$(find_python)"
    echo "launch: making a virtual environment in $VENV ($("$python" --version))"
    "$python" -m venv "$VENV"
  fi
  if [ "$(cat "$VENV/.installed$extras" 2>/dev/null)" != "$stamp" ]; then
    echo "launch: installing dreamprm_jax$extras${device[*]:+ and ${device[*]}} and what it needs (once; a few minutes)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$REPO$extras" "${device[@]}"
    echo "$stamp" >"$VENV/.installed$extras"
  else
    echo "launch: using $VENV"
  fi
}

# Compiled programs are kept between runs, so that a requeued or resumed run computes within seconds instead of compiling
# for minutes. Of several processes the first writes them (on CPU each): on clusters name a folder that all see. On GPUs
# jax keeps XLA's choice of kernels (autotuning) there too: a run that goes on uses the kernels that it began with.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamprm_jax/xla}"

# What each kind of device is given: see set_device_flags.
# CPU: the fake devices of one machine meet in collectives as threads, more of them than there are cores. XLA ends the
# process where one comes 40 seconds late, which happens on a busy machine; warn after a minute, give up after ten.
CPU_FLAGS=(
  --xla_cpu_collective_call_warn_stuck_timeout_seconds=60
  --xla_cpu_collective_call_terminate_timeout_seconds=600
)
# GPU: start the gather of the next layer's parameters (fsdp) while this layer computes.
GPU_FLAGS=(--xla_gpu_enable_latency_hiding_scheduler=true)
# TPU: the same, as libtpu names it.
TPU_FLAGS=(
  --xla_tpu_enable_async_collective_fusion=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true
  --xla_tpu_enable_async_collective_fusion_multiple_steps=true
  --xla_tpu_overlap_compute_collective_tc=true
  --xla_enable_async_all_gather=true
  --xla_enable_async_all_reduce=true
  # Whole gathers of a layer's parameters instead of products split along the contracted axis.
  --xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000
)

# set_device_flags [cpu|gpu|tpu]: puts the device's flags in front of XLA_FLAGS or LIBTPU_INIT_ARGS (of two equal ones
# the last counts: yours). A flag that the installed library does not hold is left out and named, as XLA ends a process
# that sets one it does not know.
set_device_flags() {
  local packages
  packages="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
  case "${1:-$(detect_device)}" in
    gpu)
      # jax takes three quarters of the memory by default; the process has the GPU for itself, and a model that fits
      # tightly needs the rest. What is left is for the CUDA context and NCCL.
      export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
      add_flags XLA_FLAGS "$packages/jaxlib" "${GPU_FLAGS[@]}"
      ;;
    tpu) add_flags LIBTPU_INIT_ARGS "$packages/libtpu" "${TPU_FLAGS[@]}" ;;
    *) add_flags XLA_FLAGS "$packages/jaxlib" "${CPU_FLAGS[@]}" ;;
  esac
}

# add_flags VARIABLE FOLDER FLAG...
add_flags() {
  local variable="$1" folder="$2" flag name known="" held
  shift 2
  held="$(grep -haoE 'xla_[a-z_]+' "$folder"/*.so 2>/dev/null | sort -u || true)"
  for flag in "$@"; do
    name="${flag#--}"
    if grep -qx "${name%%=*}" <<<"$held"; then
      known+="$flag "
    else
      say "left out $flag: the library in $folder does not know it"
    fi
  done
  known+="${!variable:-}"
  export "$variable=${known% }"
  say "$variable=${!variable}"
}
