"""Authorities and certificates for tests, made by the `openssl` of this machine."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ALWAYS = ("20200101000000Z", "21200101000000Z")
EXPIRED = ("20200101000000Z", "20210101000000Z")
NOT_YET = ("21100101000000Z", "21200101000000Z")
_KEY = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
HERE = "IP:127.0.0.1,DNS:localhost"


class Authority:
    """A certificate authority in a folder; what it issues is written beside it."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", *_KEY, "-nodes", "-days", "3650", "-subj", f"/CN={name}"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def issue(self, name: str, names: str = HERE, valid: tuple[str, str] = ALWAYS) -> tuple[Path, Path]:
        """A certificate for `names` (subjectAltName) and its key (PKCS 8); returns their files."""
        certificate, key, request = (self.folder / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
        database, config = self.folder / "index.txt", self.folder / "ca.cnf"
        database.write_text("")
        config.write_text(
            "[ca]\ndefault_ca = this\n[this]\ndefault_md = sha256\npolicy = any\nx509_extensions = names\n"
            f"rand_serial = yes\nunique_subject = no\ndatabase = {database}\nnew_certs_dir = {self.folder}\n"
            f"[any]\ncommonName = supplied\n[names]\nsubjectAltName = {names}\n"
        )
        _openssl("req", "-new", "-newkey", *_KEY, "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        _openssl(
            *("ca", "-batch", "-notext", "-config", config, "-cert", self.certificate, "-keyfile", self._key),
            *("-startdate", valid[0], "-enddate", valid[1], "-in", request, "-out", certificate),
        )
        return certificate, key

    def store(self, name: str, names: str = HERE, valid: tuple[str, str] = ALWAYS) -> Path:
        """Both in one file, as a broker wants them (`ssl.keystore.type=PEM`)."""
        certificate, key = self.issue(name, names, valid)
        both = self.folder / f"{name}.store.pem"
        both.write_text(key.read_text() + certificate.read_text())
        return both


def encrypted(key: Path, password: str) -> Path:
    """The key in a file that needs a password."""
    made = key.with_suffix(".encrypted")
    _openssl("pkcs8", "-topk8", "-in", key, "-out", made, "-passout", f"pass:{password}")
    return made


def _openssl(*arguments: object) -> None:
    program = shutil.which("openssl")
    assert program, "these tests need the program openssl"
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
