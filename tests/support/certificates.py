"""Certificates made with openssl for one test run, for the TLS servers of `topologies.py`."""

import subprocess
from pathlib import Path

from support.servers import Unavailable

_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

_AUTHORITY = {"basicConstraints": "critical,CA:true", "keyUsage": "critical,keyCertSign,cRLSign"}
_LEAF = {
    "basicConstraints": "critical,CA:false",
    "keyUsage": "critical,digitalSignature",
    "extendedKeyUsage": "serverAuth,clientAuth",
}

_PAST = """
[ca]
default_ca = authority
[authority]
certificate = ca.crt
private_key = ca.key
database = ca.index
serial = ca.serial
new_certs_dir = .
default_md = sha256
policy = names
copy_extensions = copyall
[names]
commonName = supplied
"""


class Certificates:
    """An authority, a server's and a client's certificate signed by it, an untrusted authority.

    They pass the strict verification of Python 3.13, and each extension is there for it. openssl adds
    the identifiers of the keys.
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        for authority in ("ca", "untrusted"):
            self._make(authority, _AUTHORITY)
        self.make("server", {"subjectAltName": "IP:127.0.0.1,DNS:localhost"})
        self.make("client", {"subjectAltName": "DNS:client"})

    def make(self, name, extensions):
        """Make a key and its certificate, signed by the authority."""
        self._make(name, {**_LEAF, **extensions}, "-CA", self["ca.crt"], "-CAkey", self["ca.key"])

    def expire(self, name):
        """Replace a certificate by one that ended in 2020. Only `openssl ca` takes such dates."""
        for file, text in (("ca.cnf", _PAST), ("ca.index", ""), ("ca.serial", "01")):
            (self.directory / file).write_text(text)
        key, request, certificate = (self[f"{name}.{kind}"] for kind in ("key", "csr", "crt"))
        copying = ["-copy_extensions", "copyall", "-in", certificate]
        self._openssl("x509", "-x509toreq", *copying, "-signkey", key, "-out", request)
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
        signing = ["-batch", "-notext", "-config", "ca.cnf", "-in", request]
        self._openssl("ca", *signing, *dates, "-out", certificate)

    def _make(self, name, extensions, *by):
        added = [part for each in extensions.items() for part in ("-addext", "=".join(each))]
        self._openssl(
            "req", "-x509", *_NEW_KEY, *by, "-days", "2", "-subj", f"/CN={name}", *added,
            "-keyout", self[f"{name}.key"], "-out", self[f"{name}.crt"],
        )  # fmt: skip

    def __getitem__(self, name):
        return str(self.directory / name)

    def _openssl(self, *args):
        try:
            subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=self.directory)
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
