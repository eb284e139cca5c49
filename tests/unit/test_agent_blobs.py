"""Files that travel, below the agent's folder and nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import poold
from poold.agent import blobs
from poold.agent.blobs import Receiver
from poold.agent.messages import BlobFacts
from poold.errors import Permanent, Refused, Temporary

DATA = bytes(range(256)) * 40
PATH = "generations/g/archive.tar"
SIZE = len(DATA)
SHA256 = hashlib.sha256(DATA).hexdigest()
AGENT = [sys.executable, "-m", "poold.agent"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(poold.__file__).parents[1])}


@pytest.fixture
def receive(tmp_path):
    """Open receivers and close them all at the end."""
    opened = []

    def open_one(path=PATH, *, size=SIZE, sha256=SHA256, offset=0, root=tmp_path):
        opened.append(
            Receiver(root, path, size=size, sha256=sha256, offset=offset, lock_wait_seconds=0)
        )
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def read(root, path=PATH, offset=0) -> bytes:
    return b"".join(blobs.read(root, path, offset))


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def test_a_file_is_whole_or_absent(receive, tmp_path):
    """Under its own name a file appears only when it is complete and verified."""
    receiver = receive()
    receiver.write(DATA[:100])
    assert blobs.stat(tmp_path, PATH) == BlobFacts(complete=False, part_bytes=100)
    receiver.write(DATA[100:])
    assert not (tmp_path / PATH).exists()
    receiver.finish()
    assert blobs.stat(tmp_path, PATH) == BlobFacts(complete=True, bytes=len(DATA))
    assert read(tmp_path) == DATA
    assert names(tmp_path / "generations/g") == ["archive.tar"]


def test_files_and_folders_are_private(receive, tmp_path):
    """A checkpoint is memory: nobody else can read it."""
    receiver = receive()
    receiver.write(DATA)
    receiver.finish()
    modes = [(tmp_path / p).stat().st_mode & 0o777 for p in ("generations", "generations/g", PATH)]
    assert modes == [0o700, 0o700, 0o600]


def test_what_is_not_there_is_said_so(tmp_path):
    """Neither a file nor a part: nothing has arrived."""
    assert blobs.stat(tmp_path, PATH) == BlobFacts(complete=False)
    with pytest.raises(Permanent) as caught:
        read(tmp_path)
    assert caught.value.code == "blob.absent"


def test_a_part_is_resumed_and_the_whole_is_verified(receive, tmp_path):
    """Bytes beyond the offset are dropped, those before it count for the digest."""
    first = receive()
    first.write(DATA[:5000])
    first.close()
    second = receive(offset=4000)
    second.write(DATA[4000:])
    second.finish()
    assert read(tmp_path) == DATA


def test_a_gap_is_refused(receive):
    """Resuming beyond what has arrived would leave a hole."""
    with pytest.raises(Refused) as caught:
        receive(offset=10)
    assert caught.value.code == "blob.bad-offset"


@pytest.mark.parametrize("offset", [-1, len(DATA) + 1])
def test_an_offset_outside_is_refused(receive, offset):
    """The offset lies within the file."""
    with pytest.raises(Refused, match="cannot receive"):
        receive(offset=offset)


def test_a_truncated_file_stays_a_part(receive, tmp_path):
    """Too few bytes: the part is kept to be resumed."""
    receiver = receive()
    receiver.write(DATA[:-1])
    with pytest.raises(Temporary) as caught:
        receiver.finish()
    assert caught.value.code == "blob.cut"
    assert blobs.stat(tmp_path, PATH).part_bytes == len(DATA) - 1


def test_a_damaged_file_is_deleted(receive, tmp_path):
    """A flipped byte is found by the digest, and nothing stays."""
    receiver = receive()
    receiver.write(b"x" + DATA[1:])
    with pytest.raises(Permanent) as caught:
        receiver.finish()
    assert caught.value.code == "blob.damaged"
    assert names(tmp_path / "generations/g") == []


def test_more_bytes_than_announced_are_damage(receive, tmp_path):
    """A file longer than it was said to be is not accepted."""
    with pytest.raises(Permanent) as caught:
        receive().write(DATA + b"x")
    assert caught.value.code == "blob.damaged"
    assert names(tmp_path / "generations/g") == []


def test_two_receivers_of_one_file_do_not_mix(receive):
    """The second is told to come back, and can once the first has let go."""
    first = receive()
    with pytest.raises(Temporary) as caught:
        receive()
    assert caught.value.code == "blob.busy"
    first.close()
    receive()


def test_a_waiting_receiver_does_not_touch_the_finished_file(receive, tmp_path):
    """The part that was waited for has become the file: the next part is a new one."""
    first = receive()
    first.write(DATA)
    first.finish()
    second = receive()  # while the first still has its lock, on what is the file now
    second.write(DATA[:10])
    assert read(tmp_path) == DATA


@pytest.mark.parametrize(
    "path",
    ["", "x", "images", "images/", "/images/x", "../images/x", "images/../x", "images/./x",
     "images//x", "other/x", "images/x.part", "images/a\0b"],
)  # fmt: skip
def test_a_path_that_could_lead_elsewhere_is_refused(tmp_path, receive, path):
    """Only plain names below the two folders."""
    for attempt in (lambda: blobs.stat(tmp_path, path), lambda: read(tmp_path, path),
                    lambda: receive(path)):  # fmt: skip
        with pytest.raises(Refused) as caught:
            attempt()
        assert caught.value.code == "blob.bad-path"


@pytest.mark.parametrize("link", ["images", "images/sub", "images/sub/x", "images/sub/x.part"])
def test_no_link_leads_out(tmp_path, receive, link):
    """A symbolic link anywhere in the path is not followed, for reading or writing."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    secret = outside / "secret"
    secret.write_bytes(b"secret")
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(secret if "x" in link else outside)
    reads = link.endswith("x")
    with pytest.raises(Refused) as caught:
        read(root, "images/sub/x") if reads else receive("images/sub/x", root=root)
    assert caught.value.code == "blob.bad-path"
    assert secret.read_bytes() == b"secret"
    assert names(outside / "sub") == []


def test_a_full_disk_keeps_the_part(tmp_path):
    """What fits stays and is resumed; the problem is temporary."""
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        if os.environ.get("CI"):
            pytest.fail("a small tmpfs cannot be mounted")
        pytest.skip("mounting a small tmpfs needs root")
    try:
        receiver = Receiver(full, PATH, size=1_000_000, sha256=SHA256, offset=0)
        with pytest.raises(Temporary) as caught:
            receiver.write(DATA * 10)
        receiver.close()
        assert caught.value.code == "host.disk-full"
        assert blobs.stat(full, PATH).part_bytes > len(DATA)
    finally:
        subprocess.run(["umount", str(full)], check=True)


def run_agent(tmp_path, *arguments, data=b""):
    command, path, *rest = arguments
    return subprocess.run(
        [*AGENT, command, "--dir", str(tmp_path), path, *rest],
        input=data, capture_output=True, env=ENVIRONMENT, timeout=60, check=False,
    )  # fmt: skip


def test_the_programs_receive_and_send_a_file(tmp_path):
    """`receive` says done, `send` gives the file from an offset."""
    sizes = ["--size", str(len(DATA)), "--sha256", SHA256]
    received = run_agent(tmp_path, "receive", PATH, *sizes, data=DATA)
    assert (received.returncode, json.loads(received.stdout)) == (0, {"done": True})
    sent = run_agent(tmp_path, "send", PATH, "--offset", "1000")
    assert (sent.returncode, sent.stdout, sent.stderr) == (0, DATA[1000:], b"")


def test_a_receiver_whose_sender_vanished_yields_to_the_next(tmp_path):
    """A silent receiver lets go of the part as soon as another one wants it."""
    sizes = ["--size", str(len(DATA)), "--sha256", SHA256]
    silent = subprocess.Popen(
        [*AGENT, "receive", "--dir", str(tmp_path), PATH, *sizes],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    with silent:
        silent.stdin.write(DATA[:100])
        silent.stdin.flush()
        while blobs.stat(tmp_path, PATH).part_bytes < 100:
            assert silent.poll() is None
        received = run_agent(tmp_path, "receive", PATH, *sizes, data=DATA)
        assert received.returncode == 0
        assert silent.wait(30) == 1
        assert json.loads(silent.stdout.read())["problem"]["code"] == "blob.cut"
    assert read(tmp_path) == DATA


def test_the_programs_tell_their_problems(tmp_path):
    """A cut receive and a send of nothing exit with 1 and say why in JSON."""
    sizes = ["--size", str(len(DATA)), "--sha256", SHA256]
    received = run_agent(tmp_path, "receive", PATH, *sizes, data=DATA[:10])
    sent = run_agent(tmp_path, "send", "images/none")
    assert (received.returncode, sent.returncode) == (1, 1)
    assert json.loads(received.stdout)["problem"]["code"] == "blob.cut"
    assert json.loads(sent.stderr)["problem"]["code"] == "blob.absent"
    assert blobs.stat(tmp_path, PATH).part_bytes == 10
