"""What the local services keep in the state folder for themselves: folders, secrets and the password."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

from airtight.errors import TerminalError
from airtight.home import Home

USER = "admin"
"""Whom a person logs in as in Airflow's UI."""
SPARK_TOKEN = "spark_token"
"""File beside the other secrets with what the Spark server wants to hear: who may use it runs code as its owner."""
_JWT_KEY_BYTES = 64
"""HS512, with which Airflow signs, wants a key as long as its digest."""


def password_file(home: Home) -> Path:
    """Airflow's users and their passwords, JSON, owner only."""
    return home.run / "airflow-passwords.json"


def password(home: Home) -> str:
    """The password of `USER`.

    Raises:
      TerminalError: The services have never been started.
    """
    if not password_file(home).is_file():
        raise TerminalError(
            "There is no password yet.",
            expected=f"{password_file(home)}, as the first start writes it",
            received="no such file",
            remedy="Start the services first: make start.",
        )
    return str(json.loads(password_file(home).read_text(encoding="utf-8"))[USER])


def prepare(home: Home) -> None:
    """Makes the folders and, once, the secrets; what holds a secret or a socket is the owner's alone."""
    for folder in (home.path, home.logs, home.path / "models", airflow_home(home)):
        folder.mkdir(parents=True, exist_ok=True)
    home.run.mkdir(mode=0o700, exist_ok=True)
    home.run.chmod(0o700)
    for name in ("fernet_key", "secret_key", SPARK_TOKEN):
        write_secret(home.run / name, _url_safe_key())
    write_secret(home.run / "jwt_secret", secrets.token_urlsafe(_JWT_KEY_BYTES))
    write_secret(password_file(home), json.dumps({USER: secrets.token_urlsafe(12)}) + "\n")


def renew_short_keys(home: Home) -> None:
    """Replaces a key that is too short for its algorithm, as earlier versions made it; all sessions of the UI end.

    Only while no service runs: Airflow's parts read the key when they start, and must agree about it.
    """
    key = home.run / "jwt_secret"
    if key.is_file() and len(key.read_bytes()) < _JWT_KEY_BYTES:
        key.unlink()
        prepare(home)


def airflow_home(home: Home) -> Path:
    """Airflow's own folder."""
    return home.path / "airflow"


def _url_safe_key() -> str:
    """32 random bytes in URL-safe base64: the form that Fernet asks for, and good for the others."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner can read; one that is there stays as it is."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
