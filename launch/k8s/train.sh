#!/usr/bin/env bash
# Trains on Kubernetes as a JobSet, one pod per node; needs kubectl here and the JobSet controller in the cluster.
#   bash launch/k8s/train.sh --name=faces --image=REGISTRY/fer_jax:1 --nodes=2 --gpus=8 -- --config=configs/hsic.py
#   --name=NAME            name of all objects; at most 40 lower-case letters, digits and dashes
#   --image=IMAGE          image built from launch/k8s/Dockerfile
#   --nodes=N              number of pods (default 1)
#   --gpus=G               number of GPUs of each pod (default 0: one CPU device)
#   --cpus=C --memory=M    CPUs and memory that each pod requests (default 4 and 16Gi)
#   --storage=SIZE         size of the volume for data and runs, to which all pods write (default 100Gi)
#   --storage-class=CLASS  storage class of that volume; must support ReadWriteMany (default: that of the cluster)
#   --claim=CLAIM          existing volume claim to use instead of creating one
#   --namespace=NAMESPACE  namespace of all objects (default: that of kubectl)
#   --restarts=N           maximum number of restarts of the JobSet (default 20)
#   --dry-run              print the manifests, and exit
# The default --workdir of fer_jax.main is /storage/workdir/NAME. See docs/clusters.md.
set -euo pipefail

name="" image="" nodes=1 gpus=0 cpus=4 memory=16Gi storage=100Gi storage_class="" claim="" namespace="" restarts=20
dry_run=""

fail() { # STATUS MESSAGE
  echo "error: $2" >&2
  exit "$1"
}

expect() { # FLAG VALUE PATTERN WHAT
  [[ "$2" =~ ^($3)$ ]] || fail 2 "--$1=$2: expected $4"
}

read_flags() { # ARGUMENT...
  while [[ $# -gt 0 && "$1" != -- ]]; do
    case "$1" in
      --name=*) name="${1#*=}" ;;
      --image=*) image="${1#*=}" ;;
      --nodes=*) nodes="${1#*=}" ;;
      --gpus=*) gpus="${1#*=}" ;;
      --cpus=*) cpus="${1#*=}" ;;
      --memory=*) memory="${1#*=}" ;;
      --storage=*) storage="${1#*=}" ;;
      --storage-class=*) storage_class="${1#*=}" ;;
      --claim=*) claim="${1#*=}" ;;
      --namespace=*) namespace="${1#*=}" ;;
      --restarts=*) restarts="${1#*=}" ;;
      --dry-run) dry_run=1 ;;
      *) fail 2 "$1: unknown flag; expected --name=NAME --image=IMAGE [--nodes=N] [--gpus=G] [--dry-run] ... -- flags of fer_jax.main" ;;
    esac
    shift
  done
  check_flags
  [[ $# -gt 1 ]] || fail 2 "no flags after --: expected the flags of fer_jax.main, such as -- --config=configs/hsic.py:demo"
  shift
  read_main_flags "$@"
}

check_flags() {
  local label='[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?' size='[1-9][0-9]*([KMGTP]i?)?'
  # The names that Kubernetes derives, such as NAME-trainer-0-15-x2k4q, have at most 63 characters.
  expect name "$name" '[a-z]([-a-z0-9]{0,38}[a-z0-9])?' "at most 40 lower-case letters, digits and dashes, starting with a letter, such as --name=faces"
  expect image "$image" '[^[:space:][:cntrl:]"\]+' "the image's name, such as --image=registry.example/fer_jax:1 (built from launch/k8s/Dockerfile)"
  expect nodes "$nodes" '[1-9][0-9]{0,3}' "a number of at least 1, such as --nodes=2"
  expect gpus "$gpus" '0|[1-9][0-9]?' "a number, such as --gpus=8, or 0 to train on the CPU"
  expect cpus "$cpus" '[1-9][0-9]{0,3}' "a number of at least 1, such as --cpus=4"
  expect memory "$memory" "$size" "a size, such as --memory=16Gi"
  expect storage "$storage" "$size" "a size, such as --storage=100Gi"
  expect restarts "$restarts" '0|[1-9][0-9]{0,5}' "a number, such as --restarts=20"
  [[ -z "$storage_class" ]] || expect storage-class "$storage_class" "$label(\\.$label)*" "the name of a storage class"
  [[ -z "$claim" ]] || expect claim "$claim" "$label(\\.$label)*" "the name of a persistent volume claim"
  [[ -z "$namespace" ]] || expect namespace "$namespace" "$label" "the name of a namespace"
}

read_main_flags() { # FLAG...
  local flag workdir="--workdir=/storage/workdir/$name"
  for flag in "$@"; do
    case "$flag" in
      --processes* | --process=* | --process | --coordinator*)
        fail 2 "$flag: set by this script; give --nodes=N before --" ;;
      --workdir | --workdir=*) workdir="" ;;
    esac
    [[ "$flag" != *[[:cntrl:]]* ]] || fail 2 "a flag of fer_jax.main contains a line break or another control character; remove it"
  done
  main_flags=("$@")
  [[ -z "$workdir" ]] || main_flags+=("$workdir")
  if ((nodes > 1)); then main_flags+=(--processes=auto); fi
}

# Prints the metadata of an object.
metadata() {
  echo "metadata:"
  echo "  name: \"$name\""
  [[ -z "$namespace" ]] || echo "  namespace: \"$namespace\""
  echo "  labels: {app.kubernetes.io/name: fer-jax, app.kubernetes.io/instance: \"$name\"}"
}

# Prints the account of the pods, with the permissions that JAX needs to find the coordinator, the number of pods and
# the index of a pod.
print_account() {
  cat <<YAML
apiVersion: v1
kind: ServiceAccount
$(metadata)
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
$(metadata)
rules:
- {apiGroups: [""], resources: [pods, services], verbs: [get, list]}
- {apiGroups: [batch], resources: [jobs], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
$(metadata)
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: "$name"}
subjects:
- {kind: ServiceAccount, name: "$name"${namespace:+, namespace: '$namespace'}}
---
YAML
}

print_claim() {
  [[ -z "$claim" ]] || return 0
  cat <<YAML
apiVersion: v1
kind: PersistentVolumeClaim
$(metadata)
spec:
  accessModes: [ReadWriteMany]
  resources: {requests: {storage: "$storage"}}
YAML
  [[ -z "$storage_class" ]] || echo "  storageClassName: \"$storage_class\""
  echo "---"
}

# Prints words as a YAML list. Kubernetes expands $(NAME) as a variable, so dollar signs are written as $$.
print_arguments() { # WORD...
  local word
  for word in "$@"; do
    word="${word//\\/\\\\}"
    word="${word//\"/\\\"}"
    echo "              - \"${word//\$/\$\$}\""
  done
}

# Prints the JobSet. Its controller creates the headless service, which is named by `subdomain`. JAX looks up the
# coordinator at NAME-trainer-0-0.NAME before any pod is ready, which publishNotReadyAddresses permits.
print_jobset() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
$(metadata)
spec:
  network: {enableDNSHostnames: true, subdomain: "$name", publishNotReadyAddresses: true}
  failurePolicy: # if a pod is lost or stopped, all pods restart from the last checkpoint
    maxRestarts: $restarts
    restartStrategy: BlockingRecreate # never two sets of pods in the folder of a run
    rules: # no restart after exit status 2 (wrong use), which the Job's podFailurePolicy below detects
    - {name: wrongUse, action: FailJobSet, onJobFailureReasons: [PodFailurePolicy]}
  replicatedJobs:
  - name: trainer
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        completions: $nodes
        parallelism: $nodes
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: trainer, operator: In, values: [2]}
        template:
          spec:
            restartPolicy: Never
            serviceAccountName: "$name"
            terminationGracePeriodSeconds: 60
            shareProcessNamespace: true # as PID 1 of its namespace, Python would ignore SIGTERM while it starts
$(if ((gpus > 0)); then echo "            tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]"; fi)
            containers:
            - name: trainer
              image: "$image"
              command: [python, -m, fer_jax.main]
              args:
$(print_arguments "${main_flags[@]}")
              env:
              - {name: PYTHONUNBUFFERED, value: "1"}
              - {name: TFDS_DATA_DIR, value: /storage/data}
$(if ((gpus == 0)); then echo "              - {name: JAX_PLATFORMS, value: cpu}"; fi)
              resources:
                requests: {cpu: "$cpus", memory: "$memory"}
$(if ((gpus > 0)); then echo "                limits: {nvidia.com/gpu: \"$gpus\"}"; fi)
              securityContext: {allowPrivilegeEscalation: false}
              volumeMounts:
              - {name: storage, mountPath: /storage}
              - {name: shm, mountPath: /dev/shm}
            volumes:
            - {name: storage, persistentVolumeClaim: {claimName: "${claim:-$name}"}}
            - {name: shm, emptyDir: {medium: Memory, sizeLimit: 8Gi}} # NCCL's buffers; 64 MB otherwise
YAML
}

print_all() {
  { print_account && print_claim && print_jobset; } | sed '/^$/d'
}

read_flags "$@"
if [[ -n "$dry_run" ]]; then
  print_all
  exit 0
fi
kubectl=(kubectl ${namespace:+"--namespace=$namespace"})
type -P kubectl >/dev/null || fail 2 "found no kubectl: install it, or pipe the output of --dry-run into kubectl apply -f - on another machine"
there="$("${kubectl[@]}" get jobset "$name" --ignore-not-found --output=name)" ||
  fail 1 "the cluster did not respond, or has no JobSet controller (see kubectl's message above)"
[[ -z "$there" ]] || fail 2 "$there exists already: delete it with ${kubectl[*]} delete jobset --cascade=foreground $name, which keeps its volume, and run the same command again"
print_all | "${kubectl[@]}" apply -f - || fail 1 "not all objects could be created (see kubectl's message above)"
echo "To follow the log: ${kubectl[*]} logs --follow --selector=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
