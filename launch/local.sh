#!/usr/bin/env bash
# Trains over several processes on this machine, each with its own devices; what is needed is installed first.
#   bash launch/local.sh --processes=2 --devices=2 -- --config=configs/hsic.py:demo [flags of fer_jax.main]
#   --processes=N   how many processes; one just runs fer_jax.main
#   --devices=D     devices of each process (default 1): GPUs where nvidia-smi works, otherwise CPU devices;
#                   with JAX_PLATFORMS=cpu in the environment CPU devices in any case
#   --port=P        where the processes meet (default: a free port)
#   --dry-run       prints the commands, one a line, and ends
# Ctrl-C or SIGTERM: all save their state and end, with status 130 or 143, and the same command goes on; a second one
# ends them at once. Where a process fails, the others have FER_JAX_PATIENCE seconds (60) to end by themselves, and the
# status is that of the one that failed first. PYTHON and FER_JAX_VENV: see environment.sh.
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
      *) fail 2 "$1: unknown; expected --processes=N [--devices=D] [--port=P] [--dry-run] -- flags of fer_jax.main" ;;
    esac
    shift
  done
  is_count "$processes" || fail 2 "--processes=$processes: expected a number from 1, such as --processes=2"
  is_count "$devices" || fail 2 "--devices=$devices: expected a number from 1, such as --devices=2"
  [[ -z "$port" ]] || { is_count "$port" && ((port < 65536)); } || fail 2 "--port=$port: expected a number from 1 to 65535"
  [[ "$patience" =~ ^(0|[1-9][0-9]{0,4})$ ]] || fail 2 "FER_JAX_PATIENCE=$patience: expected seconds, such as 60"
  [[ $# -gt 1 ]] || fail 2 "nothing to train: give the flags of fer_jax.main after --, such as -- --config=configs/hsic.py:demo"
  shift
  main_flags=("$@")
  for flag in "$@"; do
    case "$flag" in
      --processes* | --process=* | --process | --coordinator*)
        fail 2 "$flag: this script sets it; give --processes=N before --" ;;
    esac
  done
}

# Prints how many GPUs a process that is started here would see; 0 where there are to be CPU devices.
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

# Prints a port of this machine that nobody listens at, below those that systems hand out by themselves.
free_port() {
  local candidate
  while candidate=$((20000 + RANDOM % 12000)); (: <>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; do :; done
  echo "$candidate"
}

# Sets `command` to how a process is started: variables, the program, its flags. One process joins itself, too: its
# CPU devices then talk through gloo like those of several, which makes the same sums to the bit.
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

prefix() { # PROCESS
  local line
  while IFS= read -r line || [[ -n "$line" ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

# Starts the processes and the readers of what they say, each in a group of its own: Ctrl-C in a terminal reaches this
# script alone, which passes it on.
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

ask() {
  local process
  for process in "${!pids[@]}"; do kill -TERM "${pids[process]}" 2>/dev/null || true; done
}

# Ends all at once, with the workers that read data for them: those are no business of `ask`'s, a process that saves
# its state still has need of them.
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

# Takes the status of each process that has ended; notes the first failure and when it was.
collect() {
  local process code
  for process in "${!pids[@]}"; do
    kill -0 "${pids[process]}" 2>/dev/null && continue
    code=0
    wait "${pids[process]}" 2>/dev/null || code=$?
    kill -KILL -- "-${pids[process]}" 2>/dev/null || true # what it may have left behind
    unset "pids[process]"
    ((code != 0)) || continue
    [[ -n "$stopped" ]] || echo "process $process ended with status $code" >&3
    if ((status == 0)); then status=$code failed_at=$SECONDS; fi
  done
}

# Ends those that are still there when their time is over: asks first, then kills.
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
  fail 2 "--processes=$processes --devices=$devices needs $((processes * devices)) GPUs, and there are $gpus: ask for fewer, or set JAX_PLATFORMS=cpu"
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
  sleep 0.2 || true # a Ctrl-C ends it too
done 3>&2 2>/dev/null # bash has its own words for a process that was killed
wait # for what the readers still have to pass on
# They were told by SIGTERM whatever came here.
if [[ -n "$stopped" ]] && ((status == 143)); then status=$((128 + stopped)); fi
exit "$status"
