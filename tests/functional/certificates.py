"""Certificate authorities and certificates for tests, made by the openssl program."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
VALID = ("20200101000000Z", "20991231235959Z")
EXPIRED = ("20200101000000Z", "20210101000000Z")
NOT_YET = ("20980101000000Z", "20991231235959Z")
CONFIG = """
[ca]
default_ca = authority
[authority]
database = {folder}/index.txt
new_certs_dir = {folder}
default_md = sha256
rand_serial = yes
unique_subject = no
policy = policy
[policy]
commonName = supplied
"""


def openssl(*arguments) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Certificate:
    pem: Path  # the certificate
    key: Path  # mode 0600

    def server(self) -> tuple:
        """Options of tpviewd."""
        return "--tls-cert", self.pem, "--tls-key", self.key

    client = server  # and, of the same names, of tpview


class Authority:
    def __init__(self, folder: Path, *, above: "Authority | None" = None):
        folder.mkdir()
        self.folder, self.pem, self._key = folder, folder / "ca.pem", folder / "ca.key"
        (folder / "index.txt").touch()
        (folder / "ca.cnf").write_text(CONFIG.format(folder=folder))
        if above:
            made = above.issue("middle", constraints="critical,CA:TRUE")
            made.pem.rename(self.pem)
            made.key.rename(self._key)
        else:
            openssl("req", "-x509", *NEW_KEY, "-keyout", self._key, "-out", self.pem, "-subj", "/CN=authority", "-days", 3650)

    def issue(self, name: str, *extensions: str, period: tuple[str, str] = VALID, constraints: str = "CA:FALSE") -> Certificate:
        """A certificate with these X.509 extensions, such as "subjectAltName=DNS:localhost"."""
        made = Certificate(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, more = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        more.write_text("\n".join((f"basicConstraints={constraints}", *extensions)))
        openssl("req", *NEW_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}")
        openssl("ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-cert", self.pem, "-keyfile", self._key,
                "-in", request, "-out", made.pem, "-extfile", more, "-startdate", period[0], "-enddate", period[1])
        made.key.chmod(0o600)
        return made
