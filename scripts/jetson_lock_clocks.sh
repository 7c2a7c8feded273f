#!/usr/bin/env bash
# Lock a Jetson's clocks for measuring: a power mode by its name, then jetson_clocks, each read back.
set -euo pipefail
script=$0
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname "$0")/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib/jetson.sh
. "$(dirname "$0")/lib/jetson.sh"

mode=

usage() {
  cat <<HELP
Usage: $script [--mode NAME|current] [OPTION...]
Lock the clocks of a Jetson. What they were is kept for jetson_restore_clocks.sh.

  --mode NAME       power mode: a name of /etc/nvpmodel.conf (with or without MODE_, any case), or 'current'
                    (default: MAXN_SUPER or MAXN, else the mode with the most watts, then the most cores)
HELP
  common_usage
}

own_option() {
  [ "$1" = --mode ] || return 1
  [ -n "$2" ] || fail "$WRONG_USE" "--mode needs the name of a power mode, or current"
  mode=$2
}

# best_mode: MAXN_SUPER, MAXN, else the most watts, then the most cores
best_mode() {
  local name best='' rank best_rank=-1 watts cores
  for name in "${mode_names[@]}"; do
    watts=0 cores=0
    if [[ $name =~ ([0-9]+)W ]]; then watts=${BASH_REMATCH[1]}; fi
    if [[ $name =~ ([0-9]+)CORE ]]; then cores=${BASH_REMATCH[1]}; fi
    case $name in
      MAXN_SUPER) rank=2000000 ;;
      MAXN) rank=1000000 ;;
      *_ALL) rank=$((10#$watts * 100 + 99)) ;;
      *) rank=$((10#$watts * 100 + 10#$cores)) ;;
    esac
    if [ "$rank" -gt "$best_rank" ]; then best=$name best_rank=$rank; fi
  done
  say "$best"
}

# named_mode TEXT: the mode of that name; MODE_ and case don't matter
named_mode() {
  local asked=${1^^} name
  for name in "${mode_names[@]}"; do
    if [ "${name^^}" = "$asked" ] || [ "${name#MODE_}" = "${asked#MODE_}" ]; then
      say "$name"
      return
    fi
  done
  fail "$WRONG_USE" "no power mode '$1' on this board; give one of: ${mode_names[*]}, or current"
}

# store FILE: jetson_clocks asks before it overwrites, so always to a fresh file. Leaves its last words in answer.
store() {
  if $dry_run; then
    run jetson_clocks --store "$1"
    return
  fi
  rm -f "$1.new"
  answer=$(run jetson_clocks --store "$1.new") || true
  [ -s "$1.new" ] || return 1
  keep "$1"
}

# off_lock: what does not read back as locked; nothing where all does
off_lock() {
  local low high now cpu
  # The clocks of the GPU are exact.
  low=$(value_of "$gpu/min_freq") high=$(value_of "$gpu/max_freq") now=$(value_of "$gpu/cur_freq")
  if [ "$low" != "$high" ] || [ "$now" != "$high" ]; then
    say "GPU at $now Hz (min $low, max $high)"
  fi
  for cpu in $(folders '/sys/devices/system/cpu/cpu[0-9]*/cpufreq'); do
    low=$(value_of "$cpu/scaling_min_freq") high=$(value_of "$cpu/scaling_max_freq")
    now=$(value_of "$cpu/cpuinfo_cur_freq")
    [ -n "$high" ] || continue
    # It is measured by counters, so it is near the clock, not equal to it; scaling_cur_freq may only repeat the wish.
    if [ "$low" != "$high" ] || [ "$((${now:-$high} * 100))" -lt "$((high * 95))" ]; then
      cpu=${cpu%/cpufreq}
      say "${cpu##*/} at ${now:-unknown} kHz (min $low, max $high)"
    fi
  done
}

parse_options "$@"
need_jetson
read_modes
case $mode in
  '') wanted=$(best_mode) ;;
  current) wanted= ;;
  *) wanted=$(named_mode "$mode") ;;
esac
need_jetson_permission
now=$(current_mode)
wanted=${wanted:-$now}
need_state_dir

if [ -e "$mode_file" ]; then
  fresh=false
  old=$(<"$mode_file")
  say "Locked before, or a lock was cut short: the first state ($old) is kept in $state_dir"
else
  fresh=true
  old=$now
  $dry_run || rm -f "$before_file" "$in_mode_file" # without the mode they are of no known lock
  remember "$mode_file" "$old"
fi
if [ ! -e "$before_file" ] && ! store "$before_file"; then
  if $fresh; then forget "$mode_file"; fi
  case $answer in
    *root*) not_permitted "run jetson_clocks" ;;
    *) fail "$FAILED" "jetson_clocks stored nothing, so nothing is changed; it says: ${answer##*$'\n'}" ;;
  esac
fi

if [ "$wanted" != "$now" ]; then
  if ! set_mode "$wanted"; then
    # Another failure may have left half of the mode's settings.
    reboot_declined || mode_not_set "$wanted" "undo with jetson_restore_clocks.sh"
    if $fresh; then forget "$before_file" "$mode_file"; fi
    mode_not_set "$wanted" "nothing is changed"
  fi
  $dry_run || rm -f "$in_mode_file" # it is of another mode
fi
if [ "$wanted" != "$old" ] && [ ! -e "$in_mode_file" ] && ! store "$in_mode_file"; then
  fail "$FAILED" "jetson_clocks stored nothing; undo with jetson_restore_clocks.sh; it says: ${answer##*$'\n'}"
fi
answer=$(run jetson_clocks) || true # what counts is what reads back
if $dry_run; then
  say "$answer"
  exit
fi

for _ in 1 2 3 4 5; do # clocks take a moment
  off=$(off_lock)
  [ -n "$off" ] || break
  sleep 0.2
done
[ -z "$off" ] || fail "$NOT_AS_ASKED" "locked, but not all clocks follow: ${off//$'\n'/, }; undo with jetson_restore_clocks.sh"
say "Locked: power mode $wanted, GPU at $(value_of "$gpu/cur_freq") Hz; undo with jetson_restore_clocks.sh"
