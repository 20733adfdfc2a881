"""Certificates made with openssl for one test run, for the TLS servers of `topologies.py`."""

import subprocess
from pathlib import Path

from support.servers import Unavailable


class Certificates:
    """A certificate authority, a server and a client certificate signed by it, and an untrusted authority."""

    def __init__(self, directory):
        self.directory = Path(directory)
        for authority in ("ca", "untrusted"):
            self._openssl(
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", "2", "-subj", f"/CN={authority}", "-keyout", self[f"{authority}.key"],
                "-out", self[f"{authority}.crt"],
            )  # fmt: skip
        self.sign("server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.sign("client", "subjectAltName=DNS:client")

    def sign(self, name, extensions, days=2):
        """Make the certificate `name`, signed by the authority; a negative number of days: it has expired."""
        Path(self[f"{name}.ext"]).write_text(f"{extensions}\n")
        self._openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={name}", "-keyout", self[f"{name}.key"], "-out", self[f"{name}.csr"],
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", self[f"{name}.csr"], "-CA", self["ca.crt"], "-CAkey",
            self["ca.key"], "-CAcreateserial", "-days", str(days), "-extfile", self[f"{name}.ext"],
            "-out", self[f"{name}.crt"],
        )  # fmt: skip

    def __getitem__(self, name):
        return str(self.directory / name)

    def _openssl(self, *args):
        try:
            subprocess.run(["openssl", *args], check=True, capture_output=True)
        except FileNotFoundError:
            raise Unavailable("no openssl: apt-get install openssl") from None

    @property
    def settings(self):
        """The queue settings that name these files."""
        return {
            "redis_tls_ca_file": self["ca.crt"],
            "redis_tls_cert_file": self["client.crt"],
            "redis_tls_key_file": self["client.key"],
        }
