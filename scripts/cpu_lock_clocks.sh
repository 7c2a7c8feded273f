#!/usr/bin/env bash
# Lock the CPUs' clocks for measuring: turbo off, governor performance, minimum = maximum, each read back.
set -euo pipefail
script=$0
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
. "$(dirname "$0")/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cpu.sh
. "$(dirname "$0")/lib/cpu.sh"

usage() {
  cat <<HELP
Usage: $script [OPTION...]
Lock the clocks of the CPUs: turbo off, governor performance, lowest = highest frequency (the base frequency where
the kernel tells it). What they were is kept for cpu_restore_clocks.sh.

HELP
  common_usage
}

# state: "path value" of all that may change
state() {
  local path cpu name
  for path in "${boosts[@]}"; do say "$path $(value_of "$path")"; done
  for cpu in "${cpus[@]}"; do
    for name in scaling_governor scaling_max_freq scaling_min_freq; do
      [ ! -e "$sysroot$cpu/$name" ] || say "$cpu/$name $(value_of "$cpu/$name")"
    done
  done
}

# off_value FILE: what switches turbo off there
off_value() {
  case $1 in
    */no_turbo) say 1 ;;
    *) say 0 ;;
  esac
}

# lock_cpu FOLDER
lock_cpu() {
  local frequency
  if [[ " $(value_of "$1/scaling_available_governors") " == *' performance '* ]]; then
    set_value "$1/scaling_governor" performance || true
  fi
  frequency=$(value_of "$1/base_frequency")
  frequency=${frequency:-$(value_of "$1/cpuinfo_max_freq")}
  [ -n "$frequency" ] || return 0
  set_value "$1/scaling_max_freq" "$frequency" || true
  # The kernel may have taken another step; a minimum above it would be refused.
  $dry_run || frequency=$(value_of "$1/scaling_max_freq")
  set_value "$1/scaling_min_freq" "$frequency" || true
}

# off_lock: what does not read back as locked; nothing where all does
off_lock() {
  local path cpu low high governor
  for path in "${boosts[@]}"; do
    [ "$(value_of "$path")" = "$(off_value "$path")" ] || say "turbo is on ($path)"
  done
  for cpu in "${cpus[@]}"; do
    low=$(value_of "$cpu/scaling_min_freq") high=$(value_of "$cpu/scaling_max_freq")
    governor=$(value_of "$cpu/scaling_governor")
    if [ "$low" != "$high" ] || [ "$governor" != performance ]; then
      cpu=${cpu%/cpufreq}
      say "${cpu##*/} has governor $governor, min $low, max $high kHz"
    fi
  done
}

parse_options "$@"
need_cpufreq
need_cpu_permission
need_state_dir

if [ -e "$state_file" ]; then
  say "Locked before, or a lock was cut short: the first state is kept in $state_file"
else
  remember "$state_file" "$(state)"
fi
for boost in "${boosts[@]}"; do
  set_value "$boost" "$(off_value "$boost")" || true
done
for cpu in "${cpus[@]}"; do lock_cpu "$cpu"; done
if $dry_run; then exit; fi

off=$(off_lock)
[ -z "$off" ] || fail "$NOT_AS_ASKED" "set, but it does not read back: ${off//$'\n'/, }; undo with cpu_restore_clocks.sh"
say "Locked: ${#cpus[@]} CPUs at $(value_of "${cpus[0]}/scaling_max_freq") kHz, turbo off; undo with cpu_restore_clocks.sh"
