#!/usr/bin/env bash
# Lock an NVIDIA GPU's clocks for measuring: persistence mode, SM clock, memory clock where the GPU can.
set -euo pipefail
script=$0
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname "$0")/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib/nvidia.sh
. "$(dirname "$0")/lib/nvidia.sh"

gpu_clock=max
which=()

usage() {
  cat <<HELP
Usage: $script [--gpu ID] [--gpu-clock MHZ|max] [OPTION...]
Lock the clocks of NVIDIA GPUs. The persistence mode they had is kept for nvidia_restore_clocks.sh; a lock on clocks that
was there before can't be read, so restoring removes it.

  --gpu ID          index or UUID (default: all)
  --gpu-clock MHZ   SM clock (default: max, the highest of the GPU)
HELP
  common_usage
}

own_option() {
  case $1 in
    --gpu) which=(-i "$2") ;;
    --gpu-clock)
      [[ $2 == max || $2 =~ ^[1-9][0-9]*$ ]] || fail "$WRONG_USE" "--gpu-clock '$2' is neither a clock in MHz nor max"
      gpu_clock=$2
      ;;
    *) return 1 ;;
  esac
}

# clock_for UUID MAX
clock_for() {
  if [ "$gpu_clock" = max ]; then
    say "$2"
  elif [ "$gpu_clock" -gt "$2" ]; then
    fail "$WRONG_USE" "--gpu-clock $gpu_clock is above the highest SM clock of $1; give $2 or less"
  else
    say "$gpu_clock"
  fi
}

# undo_if_fresh UUID: after a refusal, so that nothing is left changed
undo_if_fresh() {
  local refusal=$answer
  if $fresh; then
    [ "$(persistence "$1")" = "${persistence_of[$1]}" ] || change "$1" -pm 0 || true
    [ ${#locked[@]} -gt 0 ] || forget "$state_file"
  fi
  answer=$refusal
}

# lock UUID SM_MHZ MEMORY_MHZ
lock() {
  local status=0
  if [ "${persistence_of[$1]}" = Disabled ]; then
    change "$1" -pm 1 || status=$?
    if [ "$status" -eq 1 ]; then undo_if_fresh "$1" && refused "set persistence mode of $1"; fi
  fi
  status=0
  change "$1" -lgc "$2,$2" || status=$?
  case $status in
    1) undo_if_fresh "$1" && refused "lock the SM clock of $1" ;;
    2) undo_if_fresh "$1" && fail "$NO_SUCH_CONTROL" "$1 can't lock its SM clock (older than Volta?)" ;;
  esac
  locked+=("$1")
  status=0
  change "$1" -lmc "$3,$3" || status=$?
  case $status in
    1) say "$1: the memory clock was not locked: ${answer%%$'\n'*}" ;;
    2) say "$1 can't lock its memory clock (older than Ampere?): left as it is" ;;
  esac
}

# report UUID SM_MHZ
report() {
  local now step_mhz=30 # a GPU takes the nearest clock it supports
  now=$(query clocks.sm -i "$1")
  [[ ! $now =~ ^[0-9]+$ ]] || [ "$now" -le $(($2 + step_mhz)) ] ||
    fail "$NOT_AS_ASKED" "$1 accepted $2 MHz and runs at $now MHz; undo with nvidia_restore_clocks.sh"
  say "Locked: $1 accepted $2 MHz and reads $now MHz under the load of the moment"
}

parse_options "$@"
need_nvidia
answer=$(query uuid,persistence_mode,clocks.max.sm,clocks.max.memory "${which[@]}") ||
  fail "$WRONG_USE" "nvidia-smi can't tell of GPU '${which[*]:1}': ${answer%%$'\n'*}; see nvidia-smi -L"
declare -A persistence_of sm_mhz memory_mhz
uuids=() locked=()
while IFS=', ' read -r uuid mode sm_max memory_max; do
  [[ $sm_max =~ ^[0-9]+$ ]] ||
    fail "$NO_SUCH_CONTROL" "$uuid does not tell its highest SM clock; on a Jetson use jetson_lock_clocks.sh"
  sm_mhz[$uuid]=$(clock_for "$uuid" "$sm_max")
  persistence_of[$uuid]=$mode memory_mhz[$uuid]=$memory_max
  uuids+=("$uuid")
done <<<"$answer"
need_state_dir

# A GPU that is in the state already keeps its line: it is how the GPU was before the first lock.
kept='' fresh=true
if [ -e "$state_file" ]; then
  fresh=false
  kept=$(<"$state_file")
  say "Locked before, or a lock was cut short: the first state is kept in $state_file"
fi
text=$kept
for uuid in "${uuids[@]}"; do
  [[ $'\n'$kept == *$'\n'"$uuid "* ]] || text+=${text:+$'\n'}"$uuid ${persistence_of[$uuid]}"
done
[ "$text" = "$kept" ] || remember "$state_file" "$text"

for uuid in "${uuids[@]}"; do lock "$uuid" "${sm_mhz[$uuid]}" "${memory_mhz[$uuid]}"; done
if $dry_run; then exit; fi
for uuid in "${uuids[@]}"; do report "$uuid" "${sm_mhz[$uuid]}"; done
say "A clock that is accepted is not yet kept under load: pomt-edge clocks lock verifies that. Undo with nvidia_restore_clocks.sh"
