"""The script that speaks to a JVM without jcmd asks as HotSpot expects, and minds the answer."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "config" / "jcmd.pl"


@pytest.mark.parametrize(("answer", "status"), [(b"0\ndone\n", 0), (b"-1\nUnknown\n", 1)])
def test_each_command_is_asked_and_a_refusal_is_a_failure(tmp_path, answer, status):
    """Version, "jcmd", the command, two empty arguments; what is not answered by 0 failed."""
    if shutil.which("perl") is None and os.environ.get("CI") != "true":  # there it has to be tried
        pytest.skip("there is no perl here")
    door, heard = tmp_path / "door", []
    script = _SCRIPT.read_text().replace("/tmp/.java_pid1", str(door))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(door))
        listener.listen()
        listener.settimeout(20)

        def be_a_jvm() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(1000))
                connection.sendall(answer)

        jvm = threading.Thread(target=be_a_jvm)
        jvm.start()
        done = subprocess.run(
            ["perl", "-e", script, "GC.run"], capture_output=True, timeout=20, check=False
        )
        jvm.join()
    assert heard == [b"1\0jcmd\0GC.run\0\0\0"]
    assert bool(done.returncode) == bool(status), done.stderr
