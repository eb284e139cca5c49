"""Says, as one JSON object, what poold has on the host it runs on; tests send it there as text."""

import json
import os
import subprocess
import sys
from pathlib import Path

agent_dir, run_dir = Path(sys.argv[1]), Path(sys.argv[2])


def said(*argv):
    return subprocess.run(argv, check=False, capture_output=True, text=True).stdout


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.is_dir() else []


def processes(word, *, ended=False):
    """Count programs of that name; one that ended and is not waited for yet is gone."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = (process / "comm").read_text().strip()
            is_gone = ") Z " in (process / "stat").read_text()
        except OSError:
            continue
        found += program == word and is_gone == ended
    return found


def running_actions():
    """Name the actions whose record somebody holds: an agent is at them."""
    locked = {line.split()[5].split(":")[2] for line in Path("/proc/locks").read_text().splitlines()
              if "FLOCK" in line and "->" not in line}  # fmt: skip
    folder = run_dir / "actions"
    records = folder.glob("*.json") if folder.is_dir() else ()
    return [record.stem for record in records if str(record.stat().st_ino) in locked]


containers = [
    {
        "name": each["Names"][0],
        "id": each["Id"],
        "state": each["State"],
        "fleet": (each.get("Labels") or {}).get("io.poold.fleet", ""),
    }
    for each in json.loads(said("podman", "ps", "--all", "--format", "json") or "[]")
]
listening = said("ss", "--no-header", "--listening", "--tcp", "--numeric").splitlines()
runc = json.loads(said("runc", "list", "--format", "json") or "null") or []
print(
    json.dumps(
        {
            "actions": running_actions(),
            "containers": containers,
            "conmons": processes("conmon"),
            "runc": [each["id"] for each in runc],
            "ports": sorted({int(line.split()[3].rpartition(":")[2]) for line in listening}),
            "work": files(agent_dir / "work"),
            "images": files(agent_dir / "images"),
            "replicas": [Path(name).stem for name in files(agent_dir / "replicas")],
            "generations": files(agent_dir / "generations"),
            "pid": os.getpid(),
        }
    )
)
