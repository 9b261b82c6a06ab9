"""Stands in for the commands of SLURM and Kubernetes: `fake_cluster.py COMMAND ARGUMENTS`, for fake_main.py's runs.

Its jobs are in the file jobs.json of the folder FAKE_CLUSTER, where every call is written down in the file commands.
Time passes whenever the jobs' states are asked for: all that can run do, to their end. FAKE_HOW has words that say what
is otherwise:
  held        no time passes
  interrupt   nor does it, and whoever asks for states has Ctrl-C
  mute        there is never an answer where states are asked for
  deaf        the first time states are asked for there is no answer
  short       jobs that have ended are shown no more by squeue
  unbooked    there are no accounts for sacct
  refuse      nothing can be submitted
  limit       nothing but the first job can be
  busy        nothing can be while a job is not over
  slow        the first submission is taken, and its command says so too late
  hangup      whoever submits loses his terminal then
  timeout     runs are ended by the cluster
  lose        jobs are forgotten as soon as they run
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
HOW = os.environ.get("FAKE_HOW", "").split()
JOBS = FOLDER / "jobs.json"
COUNT = FOLDER / "count"
Job = dict[str, Any]


def main(command: str, arguments: list[str]) -> None:
  if os.getpgid(0) == os.getpgid(os.getppid()):
    sys.exit("a terminal's Ctrl-C would end a submission half-way")
  with (FOLDER / "commands").open("a") as file:
    file.write(json.dumps([command, *arguments]) + "\n")
  jobs = json.loads(JOBS.read_text()) if JOBS.exists() else {}
  if command in ("sbatch", "train.sh"):
    submit(command, arguments, jobs)
  elif command == "squeue" or "get" in arguments[:2]:
    listing(command, arguments, jobs)
  elif command == "sacct":
    if "unbooked" in HOW:
      sys.exit("Slurm accounting storage is disabled")
    asked = flag(arguments, "--jobs").split(",")
    print("".join(f"{job}|{state(one)}\n" for job, one in jobs.items() if job in asked), end="")
  elif "delete" in arguments[:2]:
    job = arguments[arguments.index("jobset") + 1]
    jobs.pop(job, None)
    (FOLDER / f"{job}.log").unlink(missing_ok=True)
  elif "logs" in arguments[:2]:
    print((FOLDER / f"{flag(arguments, '--selector').rpartition('=')[2]}.log").read_text(), end="")
  JOBS.write_text(json.dumps(jobs))


def flag(arguments: list[str], name: str) -> str:
  return next((one.partition("=")[2] for one in arguments if one.startswith(f"{name}=")), "")


def submit(command: str, arguments: list[str], jobs: dict[str, Job]) -> None:
  busy = "busy" in HOW and any(one["state"] == "PENDING" for one in jobs.values())
  if "refuse" in HOW or ("limit" in HOW and jobs) or busy:
    sys.exit(f"{command}: what was asked for\nerror: no partition moon")
  number = int(COUNT.read_text()) + 1 if COUNT.exists() else 1
  COUNT.write_text(str(number))
  job = str(number) if command == "sbatch" else flag(arguments, "--name")
  if job in jobs:
    sys.exit(f"{job}: there already")
  jobs[job] = {
    "state": "PENDING",
    "name": flag(arguments, "--job-name"),
    "log": flag(arguments, "--output").replace("%%", "%").replace("%j", job) or str(FOLDER / f"{job}.log"),
    "after": flag(arguments, "--dependency").removeprefix("afterok:"),
    "arguments": arguments[arguments.index("--") + 1 :],
  }
  if "hangup" in HOW:
    os.kill(os.getppid(), signal.SIGHUP)
  if "slow" in HOW and number == 1:
    JOBS.write_text(json.dumps(jobs))
    time.sleep(60)
  print(f"{job};far" if command == "sbatch" else f"jobset {job} made")


def listing(command: str, arguments: list[str], jobs: dict[str, Job]) -> None:
  name = flag(arguments, "--name")  # asked for before a submission: no time passes
  if "mute" in HOW or ("deaf" in HOW and not name and not (FOLDER / "heard").exists()):
    (FOLDER / "heard").touch()
    sys.exit("error: no answer from the controller")
  if "interrupt" in HOW and not name:
    os.kill(os.getppid(), signal.SIGINT)
  elif "held" not in HOW and not name:
    for job in list(jobs):
      run(jobs, job)
  if command == "squeue":
    all_states = "--states=all" in arguments and "short" not in HOW
    shown = {job: one for job, one in jobs.items() if all_states or one["state"] in ("PENDING", "RUNNING")}
    shown = {job: one for job, one in shown.items() if name in ("", one["name"])}
    print("".join(f"{job}|{one['state']}\n" for job, one in shown.items()) + "999|RUNNING" * (not name))
    return
  asked = [jobset(job, one["state"]) for job, one in jobs.items() if job in arguments]
  if asked:
    print(json.dumps(asked[0] if len(asked) == 1 else {"kind": "List", "items": asked}))


def run(jobs: dict[str, Job], job: str) -> None:
  one = jobs[job]
  if one["state"] != "PENDING":
    return
  if one["after"] and jobs.get(one["after"], {}).get("state") != "COMPLETED":
    one["state"] = "CANCELLED"
    return
  if "lose" in HOW:
    del jobs[job]
    return
  program = [sys.executable, "-S", str(Path(__file__).with_name("fake_main.py")), *one["arguments"]]
  with open(one["log"], "w") as log:
    status = 1 if "timeout" in HOW else subprocess.call(program, stdout=log, stderr=log)
  one["state"] = "TIMEOUT" if "timeout" in HOW else "FAILED" if status else "COMPLETED"


def state(one: Job) -> str:
  return str(one["state"]) + " by 1000" * (one["state"] == "CANCELLED")


def jobset(name: str, state: str) -> Job:
  conditions = [{"type": "StartupPolicyCompleted", "status": "True"}]
  if state != "PENDING":
    conditions.append({"type": "Failed", "status": str(state != "COMPLETED")})
    conditions.append({"type": "Completed", "status": str(state == "COMPLETED")})
  return {"kind": "JobSet", "metadata": {"name": name}, "status": {"conditions": conditions}}


main(sys.argv[1], sys.argv[2:])
