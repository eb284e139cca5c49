"""Says, as one JSON object, everything of poold on the host it runs on; sent there as text."""

import hashlib
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

agent_dir, run_dir = Path(sys.argv[1]), Path(sys.argv[2])


def said(*argv):
    """Return what a program says; a host may lack it."""
    try:
        return subprocess.run(argv, check=False, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return ""


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.is_dir() else []


def commands():
    """Return the command line of each live process by its program's name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = (process / "comm").read_text().strip()
            if ") Z " in (process / "stat").read_text():
                continue
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found.append((program, line))
    return found


def running_actions():
    """Name the actions whose record somebody holds: an agent is at them."""
    locked = {line.split()[5].split(":")[2] for line in Path("/proc/locks").read_text().splitlines()
              if "FLOCK" in line and "->" not in line}  # fmt: skip
    folder = run_dir / "actions"
    records = folder.glob("*.json") if folder.is_dir() else ()
    return [record.stem for record in records if inode(record) in locked]


def inode(path):
    try:
        return str(path.stat().st_ino)
    except FileNotFoundError:
        return ""


def generation(folder):
    """Verify one folder of generations as a restore would, and byte by byte."""
    try:
        text = (folder / "manifest.json").read_bytes()
        manifest = json.loads(text)
    except (OSError, ValueError):
        return {"manifest": False, "staged": (folder / "staged.json").exists()}
    was_staged = (folder / "staged.json").exists()
    whole = manifest["archive_sha256"] == digest(folder / "archive.tar")
    return {
        "manifest": hashlib.sha256(text).hexdigest() == folder.name,
        "pool": manifest["pool"],
        "machine": manifest["machine"],
        "staged": was_staged and (folder / "staged.json").exists(),  # before and after reading
        "archive": whole,
    }


def digest(path):
    """Return a file's digest; "" for one that is not there, or not any more."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
    except FileNotFoundError:
        return ""
    return found.hexdigest()


def readable_by_others():
    """Return what is open to others; of scratch the folders: podman chooses its files' modes."""
    found = []
    for path in [agent_dir, *agent_dir.rglob("*")] if agent_dir.is_dir() else []:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # things go on meanwhile
            continue
        is_scratch = agent_dir / "work" in path.parents and stat.S_ISREG(mode)
        if mode & 0o077 and not stat.S_ISLNK(mode) and not is_scratch:
            found.append(str(path))
    return found


def box(folder):
    """Return what engine `oci` made and podman does not know, as a container and as a slot."""
    try:
        told = json.loads((folder / "box.json").read_text())
    except (OSError, ValueError):
        return None
    owner, _, born = told["owner"].partition(":")
    ports = [port["host_port"] for port in told["published"]]
    slot = {"id": folder.name, "ports": ports, "kept": status(owner)[19:20] == [born]}
    pid, conmon = number(folder / "pidfile"), number(folder / "conmon.pid")
    container = {
        "name": told["name"],
        "id": folder.name,
        "running": bool(pid and conmon and status(pid)[1:2] == [str(conmon)]),
        "state": f"box of {pid} under {conmon}",
        "started_at": told["started_at"],
        "fleet": told["labels"].get("io.poold.fleet", ""),
        "frozen": is_frozen(pid),
    }
    return container, slot


def is_frozen(pid):
    """Say whether the control group of a process is frozen."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        (group,) = (line[3:] for line in groups if line.startswith("0::"))
        return Path(f"/sys/fs/cgroup{group}/cgroup.freeze").read_text() == "1\n"
    except (OSError, ValueError):
        return False


def number(path):
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def status(pid):
    """Return the kernel's line about a process after its name; [] for one that has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if words[0] == "Z" else words


def strange(root, ids):
    """Return what is in engine `oci`'s folder, mounted or a control group, and of no box."""
    links = [link for link in (root / "names").glob("*") if str(link.readlink()) not in ids]
    groups = (*Path("/sys/fs/cgroup/machine.slice").glob("poold-*.scope"),
              *Path("/sys/fs/cgroup/poold").glob("*/"))  # fmt: skip
    return [
        *(str(each) for each in (root / "containers").glob("*") if each.name not in ids),
        *(str(each) for each in (root / "stages").glob("*.part")),
        *(str(each) for each in (root / "images").glob("*.part")),
        *(f"{link} without a box" for link in links),
        *(path for path in mounts
          if path.startswith(f"{root}/") and not ids & set(Path(path).parts)),
        *(str(each) for each in groups if not ids & set(re.findall("[0-9a-f]{64}", each.name))),
        *(f"/run/netns/{name}" for name in namespaces
          if name.startswith("poold-") and not any(name[6:] == each[:16] for each in ids)),
    ]  # fmt: skip


def record(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


containers = [
    {
        "name": each["Names"][0],
        "id": each["Id"],
        "running": each["State"] in ("running", "paused"),  # a spare is paused
        "state": each["State"],
        "started_at": each.get("StartedAt", 0),
        "fleet": (each.get("Labels") or {}).get("io.poold.fleet", ""),
        "frozen": each["State"] == "paused",
    }
    for each in json.loads(said("podman", "ps", "--all", "--format", "json") or "[]")
]
listening = said("ss", "--no-header", "--listening", "--tcp", "--numeric").splitlines()
runc = json.loads(said("runc", "list", "--format", "json") or "null") or []
# crun takes what it restored for stopped: its own list does not do
crun = [path.parent.name for path in Path("/run/crun").glob("*/status")
        if status(record(path).get("pid", 0))]  # fmt: skip
mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
namespaces = [path.name for path in Path("/run/netns").glob("*")]
storages = (Path("/var/lib/containers"), Path("/var/lib/containers/storage"))
roots = [storage / "poold" for storage in storages if (storage / "poold").is_dir()]
boxes = [each for root in roots for each in map(box, (root / "containers").glob("*")) if each]
left = [what for root in roots for what in strange(root, {slot["id"] for _, slot in boxes})]
programs = commands()
folders = agent_dir / "generations"
print(
    json.dumps(
        {
            "engine": shutil.which("podman") is not None,
            "boot_id": Path("/proc/1/stat").read_text().split()[21],
            "actions": running_actions(),
            "containers": [*containers, *(each for each, _ in boxes if each["name"])],
            "slots": [slot for each, slot in boxes if not each["name"]],
            "conmons": sum(program == "conmon" for program, _ in programs),
            "runc": [*(each["id"] for each in runc if each["status"] != "stopped"), *crun],
            "listening": sorted({int(line.split()[3].rpartition(":")[2]) for line in listening}),
            "forwarded": sorted(
                {int(port) for port in re.findall(r"tcp dport (\d+) dnat",
                                                  said("nft", "list", "ruleset"))}
            ),
            "namespaces": namespaces,
            "mounts": [path for path in mounts if path.endswith(("/merged", "/rootfs"))],
            "work": files(agent_dir / "work"),
            "images": files(agent_dir / "images"),
            "parts": [
                *(name for name in files(agent_dir) if ".part" in name or "/." in name), *left,
            ],
            "records": {p.stem: record(p) for p in (agent_dir / "replicas").glob("*.json")},
            "generations": {
                path.name: generation(path) for path in sorted(folders.glob("*")) if path.is_dir()
            },
            "readable_by_others": [
                *readable_by_others(),
                *(str(root) for root in roots if root.stat().st_mode & 0o077),
            ],
            "argv": [line for _, line in programs],
        }
    )
)  # fmt: skip
