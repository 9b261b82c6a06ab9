#!/usr/bin/env bash
# Trains with several processes on this machine, each with its own devices; missing packages are installed first.
#   bash launch/local.sh --processes=2 --devices=2 -- --config=configs/hsic.py:demo [flags of fer_jax.main]
#   --processes=N   number of processes; with one process the script only runs fer_jax.main
#   --devices=D     number of devices of each process (default 1): GPUs if nvidia-smi works, otherwise CPU devices;
#                   always CPU devices with JAX_PLATFORMS=cpu in the environment
#   --port=P        port of the coordinator, process 0 (default: a free port)
#   --dry-run       print the commands, one per line, and exit
# On Ctrl-C or SIGTERM all processes save their state and end with status 130 or 143; the same command resumes. A second
# signal kills them. If a process fails, the others have FER_JAX_PATIENCE seconds (60) to end, and the exit status is
# that of the first failed process. PYTHON and FER_JAX_VENV: see environment.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

processes="" devices=1 port="" dry_run=""
patience="${FER_JAX_PATIENCE:-60}"

is_count() { # WORD
  [[ "$1" =~ ^[1-9][0-9]{0,4}$ ]]
}

read_flags() { # ARGUMENT...
  while [[ $# -gt 0 && "$1" != -- ]]; do
    case "$1" in
      --processes=*) processes="${1#*=}" ;;
      --devices=*) devices="${1#*=}" ;;
      --port=*) port="${1#*=}" ;;
      --dry-run) dry_run=1 ;;
      *) fail 2 "$1: unknown flag; expected --processes=N [--devices=D] [--port=P] [--dry-run] -- flags of fer_jax.main" ;;
    esac
    shift
  done
  is_count "$processes" || fail 2 "--processes=$processes: expected a number of at least 1, such as --processes=2"
  is_count "$devices" || fail 2 "--devices=$devices: expected a number of at least 1, such as --devices=2"
  [[ -z "$port" ]] || { is_count "$port" && ((port < 65536)); } || fail 2 "--port=$port: expected a number from 1 to 65535"
  [[ "$patience" =~ ^(0|[1-9][0-9]{0,4})$ ]] || fail 2 "FER_JAX_PATIENCE=$patience: expected seconds, such as 60"
  [[ $# -gt 1 ]] || fail 2 "no flags after --: expected the flags of fer_jax.main, such as -- --config=configs/hsic.py:demo"
  shift
  main_flags=("$@")
  for flag in "$@"; do
    case "$flag" in
      --processes* | --process=* | --process | --coordinator*)
        fail 2 "$flag: set by this script; give --processes=N before --" ;;
    esac
  done
}

# Prints the number of GPUs that are visible to processes started here; 0 to use CPU devices.
count_gpus() {
  local listed
  if [[ "${JAX_PLATFORMS:-}" != cpu ]] && listed="$(nvidia-smi -L 2>/dev/null </dev/null)"; then
    if [[ -n "${CUDA_VISIBLE_DEVICES+set}" ]]; then
      listed="${CUDA_VISIBLE_DEVICES:+GPU ${CUDA_VISIBLE_DEVICES//,/$'\n'GPU }}"
    fi
    grep -c '^GPU ' <<<"$listed" || true
  else
    echo 0
  fi
}

# Prints a free port of this machine, below the range of ephemeral ports.
free_port() {
  local candidate
  while candidate=$((20000 + RANDOM % 12000)); (: <>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; do :; done
  echo "$candidate"
}

# Sets `command` to the command line of a process: environment variables, program, flags. A single process initializes
# the distributed runtime as well. Its CPU devices then communicate through gloo like those of several processes, which
# makes sums bitwise identical.
set_command() { # PROCESS
  local ids="" i
  for ((i = $1 * devices; i < ($1 + 1) * devices; i++)); do ids+="${ids:+,}$i"; done
  if ((gpus == 0)); then
    command=("JAX_NUM_CPU_DEVICES=$devices" "JAX_PLATFORMS=cpu")
  else
    command=("JAX_LOCAL_DEVICE_IDS=$ids")
  fi
  command+=("$venv/bin/python" -m fer_jax.main "${main_flags[@]}")
  command+=("--processes=$processes" "--process=$1" "--coordinator=127.0.0.1:$port")
}

print_commands() {
  local process
  for ((process = 0; process < processes; process++)); do
    set_command "$process"
    printf 'cd %q &&' "$root"
    printf ' %q' env "${command[@]}"
    printf '\n'
  done
}

# Prefixes each line of stdin with the number of the process.
prefix() { # PROCESS
  local line
  while IFS= read -r line || [[ -n "$line" ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

# Starts the processes and the readers of their output, each in its own process group. Ctrl-C in a terminal therefore
# reaches only this script, which forwards it.
start() {
  local process
  pipes="$(mktemp -d)"
  trap 'rm -rf -- "$pipes"' EXIT
  set -m
  for ((process = 0; process < processes; process++)); do
    set_command "$process"
    if ((process == 0)); then
      env "${command[@]}" </dev/null &
      pids[process]=$!
    else
      mkfifo "$pipes/$process.out" "$pipes/$process.err"
      prefix "$process" <"$pipes/$process.out" &
      prefix "$process" <"$pipes/$process.err" >&2 &
      env "${command[@]}" </dev/null >"$pipes/$process.out" 2>"$pipes/$process.err" &
      pids[process]=$!
    fi
  done
  set +m
}

# Requests all processes to save their state and end.
ask() {
  local process
  for process in "${!pids[@]}"; do kill -TERM "${pids[process]}" 2>/dev/null || true; done
}

# Kills all processes and their data loading workers. `ask` does not signal the workers, because a process that saves
# its state still needs them.
kill_all() {
  local process
  for process in "${!pids[@]}"; do kill -KILL -- "-${pids[process]}" 2>/dev/null || true; done
}

# shellcheck disable=SC2329 # called by the traps
stop() { # SIGNAL-NUMBER
  if [[ -z "$stopped" ]]; then
    stopped="$1"
    ask
  else
    kill_all
  fi
}

# Collects the status of each process that has ended; records the first failure and its time.
collect() {
  local process code
  for process in "${!pids[@]}"; do
    kill -0 "${pids[process]}" 2>/dev/null && continue
    code=0
    wait "${pids[process]}" 2>/dev/null || code=$?
    kill -KILL -- "-${pids[process]}" 2>/dev/null || true # its remaining child processes
    unset "pids[process]"
    ((code != 0)) || continue
    [[ -n "$stopped" ]] || echo "process $process ended with status $code" >&3
    if ((status == 0)); then status=$code failed_at=$SECONDS; fi
  done
}

# After a failure: requests the remaining processes to end after FER_JAX_PATIENCE seconds, and kills them 10 s later.
urge() {
  ((status != 0)) || return 0
  local waited=$((SECONDS - failed_at))
  if ((waited >= patience + 10)); then
    kill_all
  elif ((waited >= patience)) && [[ -z "$urged" ]]; then
    urged=1
    ask
  fi
}

read_flags "$@"
gpus="$(count_gpus)"
if ((gpus > 0 && processes * devices > gpus)); then
  fail 2 "--processes=$processes --devices=$devices needs $((processes * devices)) GPUs, and there are $gpus: give lower numbers, or set JAX_PLATFORMS=cpu"
fi
[[ -n "$port" ]] || port="$(free_port)"
if [[ -n "$dry_run" ]]; then
  print_commands
  exit 0
fi
prepare_environment
cd -- "$root"
if ((processes == 1)); then
  set_command 0
  exec env "${command[@]}"
fi

pids=() status=0 failed_at=0 stopped="" urged="" early=""
# Signals that arrive before all processes are started are handled afterwards.
trap 'early=2' INT
trap 'early=15' TERM HUP
start
trap 'stop 2' INT
trap 'stop 15' TERM HUP
[[ -z "$early" ]] || stop "$early"
while
  collect
  ((${#pids[@]} > 0))
do
  urge
  sleep 0.2 || true # Ctrl-C ends sleep, too
done 3>&2 2>/dev/null # hides bash's own messages about killed processes
wait # until the readers have forwarded all output
# The processes were stopped by SIGTERM whichever signal this script received.
if [[ -n "$stopped" ]] && ((status == 143)); then status=$((128 + stopped)); fi
exit "$status"
