"""A PostgreSQL server of a test's own, from Debian's package or whatever else is installed."""

import os
import shutil
import socket
import subprocess
from pathlib import Path


def find_programs():
    """The folder of PostgreSQL's programs, ``None`` where it is not installed."""
    on_path = shutil.which("pg_ctl")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return Path(on_path).parent if on_path else debian[-1].parent if debian else None


class Server:
    """A server with a password, which can be stopped and started again."""

    password = "pa55-w0rd/of@tests"

    def __init__(self, folder):
        self._programs = find_programs()
        self._data = folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        folder.mkdir()
        secret = folder / "password"
        secret.write_text(self.password)
        # As root it refuses to run.
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(folder, "postgres")
            shutil.chown(secret, "postgres")
            for parent in [folder, *folder.parents]:
                if parent.stat().st_uid == 0 and parent != Path("/tmp"):
                    parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-D", self._data, "-U", "tester", "-A", "scram-sha-256", f"--pwfile={secret}", "-N")
        self.start()

    @property
    def url(self):
        return f"postgresql://tester:pa55-w0rd%2Fof%40tests@127.0.0.1:{self._port}/postgres"

    def start(self):
        settings = f"-p {self._port} -c fsync=off -c unix_socket_directories=''"
        self._run("pg_ctl", "-D", self._data, "-o", settings, "-w", "-l", self._data / "log", "start")

    def stop(self):
        """End every connection at once."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def _run(self, program, *arguments):
        command = [*self._user, self._programs / program, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=120)
