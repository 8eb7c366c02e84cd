"""A throw-away PostgreSQL: its own folder, its own port, gone at the end."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import uuid
from pathlib import Path

from benchmarks.ports import free_port

PASSWORD = f"p@ss:w/rd-{secrets.token_hex(8)}"
"""Holds what an address must quote, and can be looked for in what is printed."""
_PATIENCE_S = 60.0


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, the newest where there are several; None where it is not installed."""
    executable = shutil.which("initdb")
    folders = [
        *glob.glob("/usr/lib/postgresql/*/bin"),
        *([str(Path(executable).resolve().parent)] if executable else []),
    ]
    whole = [Path(f) for f in folders if Path(f, "initdb").is_file() and Path(f, "postgres").is_file()]
    return max(whole, key=lambda f: int(f.parent.name) if f.parent.name.isdigit() else 0, default=None)


class Cluster:
    """A cluster that listens on 127.0.0.1 only; it may be stopped and started as often as a test likes."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="airtight-postgresql-"))
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._folder / "log"
        password = self._folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        # PostgreSQL does not run as root.
        self._user = _somebody() if os.geteuid() == 0 else None
        if self._user:
            for path in (self._folder, password):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        self._do("initdb", "-U", "airtight", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8")
        self.port = free_port()

    def address(self) -> str:
        """Names a database that nobody has used; ML Metadata creates it."""
        return self._address(f"metadata_{uuid.uuid4().hex[:12]}")

    def new_database(self) -> str:
        """Makes an empty database and gives its address."""
        name = f"database_{uuid.uuid4().hex[:12]}"
        command = [self._programs / "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "airtight", name]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **self._as_user())
        assert done.returncode == 0, done.stdout + done.stderr
        return self._address(name)

    def _address(self, database: str) -> str:
        password = urllib.parse.quote(PASSWORD, safe="")
        return f"postgresql://airtight:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        if self._process is not None:
            return
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as_user(),
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._ready():
            assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops it at once, as a machine that is rebooted does: connections are cut, what was committed stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_PATIENCE_S)
            self._process = None

    def remove(self) -> None:
        """Stops it and removes its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ready(self) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return False
        ready_at = 7
        return len(lines) > ready_at and lines[ready_at].strip() == "ready"

    def _do(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, "-D", self._data, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_user())
        assert done.returncode == 0, done.stdout + done.stderr

    def _as_user(self) -> dict:
        whoever = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}
        return {"cwd": self._folder, **whoever}


def _somebody() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("There is no user but root to run PostgreSQL as.")
