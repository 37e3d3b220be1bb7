# shellcheck shell=bash
# Sourced by the scripts that run the package on this machine. Creates its virtual environment, and sets options of jax
# and XLA for speed and robustness: caching, scheduling and timeouts of collectives. No option changes results.
# Overrides: DREAMPRM_PYTHON (interpreter, 3.11 or newer), DREAMPRM_VENV (folder, default .venv in the repository),
# DREAMPRM_JAX (jax requirement to install, such as "jax[cuda12]"; default: for the devices of this machine),
# DREAMPRM_INSTALL=no (use an existing environment and install nothing), and every variable that is set here.
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

# detect_device: cpu, gpu or tpu; JAX_PLATFORMS takes precedence.
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

# setup_venv EXTRAS: installs the package (editable) with these extras, unless it is installed from the same setup.py.
setup_venv() {
  local extras="$1" python stamp
  local -a device=()
  if [ "${DREAMPRM_INSTALL:-}" = no ]; then
    [ -x "$VENV/bin/dreamprm" ] || fail "DREAMPRM_INSTALL=no, but $VENV/bin/dreamprm does not exist"
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
    echo "launch: creating a virtual environment in $VENV ($("$python" --version))"
    "$python" -m venv "$VENV"
  fi
  if [ "$(cat "$VENV/.installed$extras" 2>/dev/null)" != "$stamp" ]; then
    echo "launch: installing dreamprm_jax$extras${device[*]:+ and ${device[*]}} with dependencies (once; a few minutes)"
    "$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --editable "$REPO$extras" "${device[@]}"
    echo "$stamp" >"$VENV/.installed$extras"
  else
    echo "launch: using $VENV"
  fi
}

# The compilation cache is kept between runs, so that a requeued or resumed run starts within seconds instead of compiling
# for minutes. Only process 0 writes it (on CPU, every process), so on clusters it should be a shared folder. On GPUs jax
# also stores XLA's autotuning results there, so a resumed run uses the same kernels.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamprm_jax/xla}"

# Flags of each kind of device, see set_device_flags.
# CPU: simulated devices are threads, more of them than cores. By default XLA ends the process if one reaches a collective
# 40 seconds late, which happens on a busy machine; instead, warn after one minute and end after ten.
CPU_FLAGS=(
  --xla_cpu_collective_call_warn_stuck_timeout_seconds=60
  --xla_cpu_collective_call_terminate_timeout_seconds=600
)
# GPU: overlap the all-gather of the next layer's parameters (fsdp) with the computation of this layer.
GPU_FLAGS=(--xla_gpu_enable_latency_hiding_scheduler=true)
# TPU: overlap all-gathers and reductions with computation. For the 7B full fine-tuning on v5p 2x2x2 (libtpu's cost model,
# docs/device_figures.md) the flags for all-reduce, multiple steps and async collectives, with scattered gradients, reduce
# the time that a step waits for collectives from 0.27 s to 0.09 s, and the step from 1.54 s to 1.36 s.
TPU_FLAGS=(
  --xla_tpu_enable_async_collective_fusion=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true
  --xla_tpu_enable_async_collective_fusion_multiple_steps=true
  --xla_tpu_overlap_compute_collective_tc=true
  --xla_enable_async_all_gather=true
  --xla_enable_async_all_reduce=true
  # All-gather a layer's parameters instead of splitting products along the contracted axis: from 3.49 s to 2.52 s per
  # step, measured with an earlier attention implementation.
  --xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000
)

# set_device_flags [cpu|gpu|tpu]: prepends the device's flags to XLA_FLAGS or LIBTPU_INIT_ARGS; your own flags come last
# and take precedence. Flags that the installed library does not support are omitted with a message, because XLA ends the
# process if it finds an unknown flag.
set_device_flags() {
  local packages
  packages="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
  case "${1:-$(detect_device)}" in
    gpu)
      # jax allocates three quarters of the memory by default. This process owns the GPU, and large models need more; the
      # remaining memory is for the CUDA context and NCCL.
      export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
      add_flags XLA_FLAGS "$packages/jaxlib" "${GPU_FLAGS[@]}"
      ;;
    tpu) add_flags LIBTPU_INIT_ARGS "$packages/libtpu" "${TPU_FLAGS[@]}" ;;
    *) add_flags XLA_FLAGS "$packages/jaxlib" "${CPU_FLAGS[@]}" ;;
  esac
}

# add_flags VARIABLE FOLDER FLAG...
add_flags() {
  local variable="$1" folder="$2" flag name known="" supported
  shift 2
  supported="$(grep -haoE 'xla_[a-z_]+' "$folder"/*.so 2>/dev/null | sort -u || true)"
  for flag in "$@"; do
    name="${flag#--}"
    if grep -qx "${name%%=*}" <<<"$supported"; then
      known+="$flag "
    else
      say "omitted $flag: not supported by the library in $folder"
    fi
  done
  known+="${!variable:-}"
  export "$variable=${known% }"
  say "$variable=${!variable}"
}
