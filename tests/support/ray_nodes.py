"""A Ray cluster of several nodes on this machine, in a network of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from support.running import REPOSITORY

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
PORT = 6379
ADDRESS = f"{HEAD}:{PORT}"
# A busy machine may take so many seconds for whatever is waited for here.
PATIENCE = 300.0  # a busy machine starts a worker in a minute
_SITE = Path(__file__).parent / "cluster_site"
_KEEPER = Path(__file__).parent / "keep_network.py"


def may_make_networks() -> bool:
    """Whether this user may, and the machine has what makes them."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0


class RayNodes:
    """The nodes; commands that are run through it are in their network.

    Attributes:
      blows: a folder for what happens to workers, see cluster_site.
    """

    def __init__(self, folder: Path) -> None:
        self.blows = folder / "blows"
        self.blows.mkdir()
        self._folder = folder
        self._token = secrets.token_hex(32)
        self._keeper = subprocess.Popen(
            ["unshare", "--net", sys.executable, str(_KEEPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"up\n"
        self._network = os.readlink(f"/proc/{self._keeper.pid}/ns/net")
        # Whatever lives in it is killed in the end.
        assert self._network != os.readlink("/proc/self/ns/net")

    def start_node(self, address: str, **environment: str) -> None:
        """Starts a node with one CPU; the first one is the head."""
        arguments = [f"--address={ADDRESS}"]
        if address == HEAD:
            arguments = ["--head", f"--port={PORT}", "--include-dashboard=false"]
            # A socket's name has room for a hundred characters.
            arguments += [f"--temp-dir=/tmp/ray-{secrets.token_hex(4)}"]
        done = self.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", *arguments),
                f"--node-ip-address={address}",
                "--num-cpus=1",
                "--object-store-memory=80000000",
                "--disable-usage-stats",
            ],
            **environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(
        self, command: Sequence[str], **environment: str
    ) -> "subprocess.Popen[str]":
        """Starts a command in the network of the nodes."""
        return subprocess.Popen(
            ["nsenter", "--net", f"--target={self._keeper.pid}", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._environment(), **environment},
        )

    def run(
        self, command: Sequence[str], **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end."""
        process = self.start(command, **environment)
        try:
            stdout, stderr = process.communicate(timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def _environment(self) -> Mapping[str, str]:
        return {
            "BLOWS": str(self.blows),
            "PYTHONPATH": f"{_SITE}:{REPOSITORY}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # A node that was killed is missed after some seconds.
            "RAY_health_check_period_ms": "1000",
        }

    # -- who lives there

    def processes(self, text: str) -> list[int]:
        """The processes whose command line has the text, the keeper left out."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == self._keeper.pid:
                continue
            with contextlib.suppress(OSError):
                network = os.readlink(f"/proc/{entry}/ns/net")
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
                line = command.replace(b"\0", b" ").decode(errors="replace")
                if network == self._network and text in line:
                    found.append(int(entry))
        return found

    def close(self) -> None:
        """Ends all that lives in the network."""
        for _ in range(3):
            for pid in self.processes(""):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._keeper.kill()
        self._keeper.communicate()


@contextlib.contextmanager
def ray_nodes(folder: Path, **of_second: str) -> Iterator[RayNodes]:
    """Two nodes with one CPU each; the second may have an environment of its own."""
    nodes = RayNodes(folder)
    try:
        nodes.start_node(HEAD)
        nodes.start_node(SECOND, **of_second)
        yield nodes
    finally:
        nodes.close()


def wait_for(what: str, is_there: object, seconds: float = PATIENCE) -> None:
    """Waits until a function returns something true."""
    assert callable(is_there)
    end = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < end, f"waited {seconds} seconds for {what}"
        time.sleep(0.05)
