"""Fixtures for tests of webhooks: certificates, receivers."""

import pytest
from support.certificates import Certificates
from support.receivers import Receiver
from support.servers import Unavailable


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    try:
        certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    except Unavailable as reason:
        pytest.skip(str(reason))
    certificates.make("v6", {"subjectAltName": "IP:::1,DNS:localhost"})
    certificates.make("other", {"subjectAltName": "DNS:other.example"})
    certificates.make("named", {"subjectAltName": "DNS:hooks.example"})
    certificates.make("expired", {"subjectAltName": "IP:127.0.0.1"}, days=0)
    return certificates


@pytest.fixture
def receiver(certificates):
    """Starts receivers: `receiver(behave, **options)`, see `support.receivers`."""
    started = []

    def start(behave=None, **options):
        started.append(Receiver(certificates, behave, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()
