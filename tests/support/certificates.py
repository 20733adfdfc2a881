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
_IDENTIFIERS = {"subjectKeyIdentifier": "hash", "authorityKeyIdentifier": "keyid"}


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

    def make(self, name, extensions, days=2):
        """Make a key and its certificate, signed by the authority; it has expired if `days` is 0."""
        by = ["-CA", self["ca.crt"], "-CAkey", self["ca.key"]]
        extensions = {**_LEAF, **extensions}
        if days:
            self._make(name, extensions, *by)
        else:
            self._make_expired(name, {**extensions, **_IDENTIFIERS}, *by)

    def _make(self, name, extensions, *by):
        added = [part for each in extensions.items() for part in ("-addext", "=".join(each))]
        self._openssl(
            "req", "-x509", *_NEW_KEY, *by, "-days", "2", "-subj", f"/CN={name}", *added,
            "-keyout", self[f"{name}.key"], "-out", self[f"{name}.crt"],
        )  # fmt: skip

    def _make_expired(self, name, extensions, *by):
        """Not with `req -x509`: newer versions of it refuse such a time."""
        key, request, conf = (self[f"{name}.{end}"] for end in ("key", "csr", "conf"))
        Path(conf).write_text("".join(f"{each} = {extensions[each]}\n" for each in extensions))
        self._openssl(
            "req", "-new", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request
        )
        self._openssl(
            "x509", "-req", "-in", request, *by, "-CAcreateserial", "-days", "-1",
            "-extfile", conf, "-out", self[f"{name}.crt"],
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
