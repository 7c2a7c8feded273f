# shellcheck shell=bash disable=SC2034,SC2154 # variables shared with common.sh and the scripts
# What locking and restoring an NVIDIA GPU's clocks share. Sourced after common.sh.

need_nvidia() {
  if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L </dev/null >/dev/null 2>&1; then
    fail "$NO_SUCH_CONTROL" "no NVIDIA GPU: nvidia-smi is missing or finds no driver"
  fi
  state_file=$state_dir/nvidia.clocks
}

# query FIELDS GPU...: one line per GPU, fields with commas between
query() {
  local fields=$1
  shift
  nvidia-smi --query-gpu="$fields" --format=csv,noheader,nounits "$@" </dev/null 2>&1
}

# persistence GPU: Enabled, Disabled or what else nvidia-smi says
persistence() { query persistence_mode -i "$1" || true; }

# change GPU OPTION...: sets answer. 0: done; 1: refused, see answer; 2: the GPU has no such control.
# Its exit status alone won't do: what is not supported is a warning to nvidia-smi.
change() {
  local gpu=$1 status=0
  shift
  if $dry_run; then
    run nvidia-smi -i "$gpu" "$@"
    return
  fi
  answer=$(run nvidia-smi -i "$gpu" "$@") || status=$?
  case $answer in
    *[Nn]'ot supported'* | *[Nn]'ot Supported'*) return 2 ;;
  esac
  [ "$status" -eq 0 ]
}

# refused WHAT: says why change failed, and ends
refused() {
  case $answer in
    *[Pp]ermission*) not_permitted "$1" ;;
    *) fail "$FAILED" "nvidia-smi could not $1; it says: ${answer%%$'\n'*}" ;;
  esac
}
