"""Stand-in for the commands of SLURM and Kubernetes: `fake_cluster.py COMMAND ARGUMENTS`, for the runs of fake_main.py.

Jobs are stored in the file jobs.json of the folder FAKE_CLUSTER, and every call is appended to its file `commands`.
Whenever the states of jobs are queried, all jobs that can run do so, to their end. FAKE_CONDITIONS contains words that
change this:
  held        No job runs.
  interrupt   No job runs, and a query of states sends SIGINT to the caller.
  mute        Queries of states are never answered.
  deaf        The first query of states is not answered.
  short       squeue no longer lists jobs that have ended.
  unbooked    sacct has no accounting.
  refuse      All submissions are rejected.
  limit       All submissions but the first are rejected.
  busy        Submissions are rejected while a job is queued.
  slow        The first submission is accepted, but its command returns too late.
  hangup      A submission sends SIGHUP to the caller.
  timeout     The cluster ends all runs.
  lose        Jobs disappear as soon as they run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FAKE_CLUSTER"])
CONDITIONS = os.environ.get("FAKE_CONDITIONS", "").split()
JOBS = FOLDER / "jobs.json"
COUNT = FOLDER / "count"
Job = dict[str, Any]


def main(command: str, arguments: list[str]) -> None:
  if os.getpgid(0) == os.getpgid(os.getppid()):
    sys.exit("a terminal's Ctrl-C would interrupt a submission")
  with (FOLDER / "commands").open("a") as file:
    file.write(json.dumps([command, *arguments]) + "\n")
  jobs = json.loads(JOBS.read_text()) if JOBS.exists() else {}
  if command in ("sbatch", "train.sh"):
    submit(command, arguments, jobs)
  elif command == "squeue" or "get" in arguments[:2]:
    list_states(command, arguments, jobs)
  elif command == "sacct":
    if "unbooked" in CONDITIONS:
      sys.exit("Slurm accounting storage is disabled")
    wanted = flag(arguments, "--jobs").split(",")
    print("".join(f"{name}|{accounted_state(job)}\n" for name, job in jobs.items() if name in wanted), end="")
  elif "delete" in arguments[:2]:
    name = arguments[arguments.index("jobset") + 1]
    jobs.pop(name, None)
    (FOLDER / f"{name}.log").unlink(missing_ok=True)
  elif "logs" in arguments[:2]:
    print((FOLDER / f"{flag(arguments, '--selector').rpartition('=')[2]}.log").read_text(), end="")
  JOBS.write_text(json.dumps(jobs))


def flag(arguments: list[str], name: str) -> str:
  return next((word.partition("=")[2] for word in arguments if word.startswith(f"{name}=")), "")


def submit(command: str, arguments: list[str], jobs: dict[str, Job]) -> None:
  busy = "busy" in CONDITIONS and any(job["state"] == "PENDING" for job in jobs.values())
  if "refuse" in CONDITIONS or ("limit" in CONDITIONS and jobs) or busy:
    sys.exit(f"{command}: an explanation\nerror: no partition moon")
  number = int(COUNT.read_text()) + 1 if COUNT.exists() else 1
  COUNT.write_text(str(number))
  name = str(number) if command == "sbatch" else flag(arguments, "--name")
  if name in jobs:
    sys.exit(f"{name}: exists already")
  jobs[name] = {
    "state": "PENDING",
    "name": flag(arguments, "--job-name"),
    "log": flag(arguments, "--output").replace("%%", "%").replace("%j", name) or str(FOLDER / f"{name}.log"),
    "after": flag(arguments, "--dependency").removeprefix("afterok:"),
    "arguments": arguments[arguments.index("--") + 1 :],
  }
  if "hangup" in CONDITIONS:
    os.kill(os.getppid(), signal.SIGHUP)
  if "slow" in CONDITIONS and number == 1:
    JOBS.write_text(json.dumps(jobs))
    time.sleep(60)
  print(f"{name};far" if command == "sbatch" else f"jobset {name} created")


def list_states(command: str, arguments: list[str], jobs: dict[str, Job]) -> None:
  name = flag(arguments, "--name")  # given before a submission, when no job runs
  if "mute" in CONDITIONS or ("deaf" in CONDITIONS and not name and not (FOLDER / "queried").exists()):
    (FOLDER / "queried").touch()
    sys.exit("error: no answer from the controller")
  if "interrupt" in CONDITIONS and not name:
    os.kill(os.getppid(), signal.SIGINT)
  elif "held" not in CONDITIONS and not name:
    for job in list(jobs):
      run(jobs, job)
  if command == "squeue":
    all_states = "--states=all" in arguments and "short" not in CONDITIONS
    shown = {key: job for key, job in jobs.items() if all_states or job["state"] in ("PENDING", "RUNNING")}
    shown = {key: job for key, job in shown.items() if name in ("", job["name"])}
    print("".join(f"{key}|{job['state']}\n" for key, job in shown.items()) + "999|RUNNING" * (not name))
    return
  found = [jobset(key, job["state"]) for key, job in jobs.items() if key in arguments]
  if found:
    print(json.dumps(found[0] if len(found) == 1 else {"kind": "List", "items": found}))


def run(jobs: dict[str, Job], name: str) -> None:
  job = jobs[name]
  if job["state"] != "PENDING":
    return
  if job["after"] and jobs.get(job["after"], {}).get("state") != "COMPLETED":
    job["state"] = "CANCELLED"
    return
  if "lose" in CONDITIONS:
    del jobs[name]
    return
  program = [sys.executable, "-S", str(Path(__file__).with_name("fake_main.py")), *job["arguments"]]
  with open(job["log"], "w") as log:
    status = 1 if "timeout" in CONDITIONS else subprocess.call(program, stdout=log, stderr=log)
  job["state"] = "TIMEOUT" if "timeout" in CONDITIONS else "FAILED" if status else "COMPLETED"


def accounted_state(job: Job) -> str:
  return str(job["state"]) + " by 1000" * (job["state"] == "CANCELLED")


def jobset(name: str, state: str) -> Job:
  conditions = [{"type": "StartupPolicyCompleted", "status": "True"}]
  if state != "PENDING":
    conditions.append({"type": "Failed", "status": str(state != "COMPLETED")})
    conditions.append({"type": "Completed", "status": str(state == "COMPLETED")})
  return {"kind": "JobSet", "metadata": {"name": name}, "status": {"conditions": conditions}}


main(sys.argv[1], sys.argv[2:])
