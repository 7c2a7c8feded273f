# shellcheck shell=bash disable=SC2034,SC2154 # variables shared with common.sh and the scripts
# What locking and restoring the CPUs' clocks share. Sourced after common.sh.

# need_cpufreq: fills boosts (files that switch turbo) and cpus (folders), as absolute paths
need_cpufreq() {
  local file cpu
  boosts=()
  for file in intel_pstate/no_turbo cpufreq/boost; do
    [ ! -e "$sysroot/sys/devices/system/cpu/$file" ] || boosts+=("/sys/devices/system/cpu/$file")
  done
  cpus=()
  for cpu in $(folders '/sys/devices/system/cpu/cpu[0-9]*/cpufreq'); do
    cpus+=("$cpu")
    [ ! -e "$sysroot$cpu/boost" ] || boosts+=("$cpu/boost")
  done
  if [ ${#cpus[@]} -eq 0 ]; then
    fail "$NO_SUCH_CONTROL" "no CPU has a cpufreq folder: this machine (a virtual one?) does not let its clocks be set"
  fi
  state_file=$state_dir/cpu.clocks
}

need_cpu_permission() {
  $dry_run || [ -w "$sysroot${cpus[0]}/scaling_governor" ] || not_permitted "set the clocks"
}

# differing FILE: the lines "path value" of FILE that don't read back so
differing() {
  local path value
  while read -r path value; do
    [ ! -e "$sysroot$path" ] || [ "$(value_of "$path")" = "$value" ] || say "$path $value"
  done <"$1"
}
