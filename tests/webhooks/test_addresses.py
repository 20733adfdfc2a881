"""Which addresses a message is sent to: public ones, and those that the operator allows."""

import socket

import pytest
from support.receivers import answer, resolve_to

from aragora_q.config.tables import WebhookConfig
from aragora_q.webhooks.sending import NotSent, look_up, send

PUBLIC = [
    "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1",
]  # fmt: skip

PRIVATE = [
    "0.0.0.0", "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1",
    "2001:db8::1", "2001::1", "100::1", "4000::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1",
    "2002:a00:1::1", "192.0.0.192", "168.63.129.16", "::ffff:168.63.129.16",
]  # fmt: skip


def webhook(url="https://hooks.example/x", **fields):
    return WebhookConfig(url=url, secret_file="/nowhere", **fields)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_used(monkeypatch, address):
    """Also IPv4 addresses in the forms that networks without IPv4 use."""
    resolve_to(monkeypatch, address)
    assert [target[4][0] for target in look_up(webhook())] == [str(socket_form(address))]


def socket_form(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, address))


@pytest.mark.parametrize("address", PRIVATE)
def test_other_addresses_are_refused(monkeypatch, address):
    """This host, private networks, metadata services, multicast, and IPv6 forms that lead to any of these."""
    resolve_to(monkeypatch, address)
    with pytest.raises(
        NotSent, match=" leads to .*, which is neither public nor in allow_networks"
    ):
        look_up(webhook())


@pytest.mark.parametrize("address", PRIVATE)
def test_one_of_several_is_enough_to_refuse(monkeypatch, address):
    """A name that leads to a private address, too, leads where the connection should not go."""
    for answers in (["1.1.1.1", address], [address, "1.1.1.1"]):
        resolve_to(monkeypatch, answers)
        with pytest.raises(NotSent, match="hooks.example leads to"):
            look_up(webhook())


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.0.0.0/8"), ("::ffff:10.1.2.3", "10.0.0.0/8"), ("64:ff9b::a01:203", "10.1.0.0/16"),
        ("fd00::1", "fd00::/8"), ("127.0.0.1", "127.0.0.1"),
    ],
)  # fmt: skip
def test_allowed_networks(monkeypatch, address, network):
    """What the operator allows is used; nothing else is."""
    resolve_to(monkeypatch, address)
    assert look_up(webhook(allow_networks=("192.168.0.0/16", network)))
    resolve_to(monkeypatch, [address, "192.168.1.1", "169.254.169.254"])
    with pytest.raises(NotSent, match="169.254.169.254"):
        look_up(webhook(allow_networks=("192.168.0.0/16", network)))


@pytest.mark.parametrize(
    "host",
    ["localhost", "2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "127.1", "0", "0.0.0.0",
     "[::]", "[::1]", "[::ffff:127.0.0.1]", "LOCALHOST", "localhost."],
)  # fmt: skip
def test_this_host_under_other_names(host):
    """However an address is written: what the look-up makes of it counts."""
    with pytest.raises(NotSent):
        look_up(webhook(f"https://{host}/x"))


def test_a_name_that_does_not_exist():
    """Its text says so; also a name that no look-up takes."""
    for name in ("nowhere.invalid", "a" * 70 + ".example", "a..example"):
        with pytest.raises(NotSent, match="the look-up of the name"):
            look_up(webhook(f"https://{name}/"))


def test_nothing_is_sent_to_a_refused_address(receiver, tmp_path):
    """Not even a connection is opened."""
    target = receiver()
    refused = target.webhook(tmp_path, allow_networks=())
    sent = send(refused, "1-1", b"{}")
    assert sent.result == "failed"
    assert sent.text == "refused: 127.0.0.1 is neither public nor in allow_networks"
    assert target.connections == 0


def test_a_name_that_changes_its_address_gains_nothing(receiver, tmp_path, monkeypatch):
    """It is looked up once per message, and the connection goes to the address that was checked."""
    target, victim = receiver(certificate="named"), receiver(host="127.0.0.2")
    names = resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    rebinding = target.webhook(
        tmp_path, url=f"https://hooks.example:{target.port}/", allow_networks=("127.0.0.1/32",)
    )
    assert send(rebinding, "1-1", b"{}").result == "delivered"
    assert names == ["hooks.example"]
    sent = send(rebinding, "1-2", b"{}")
    assert sent.text.startswith("refused: hooks.example leads to 127.0.0.2")
    assert (target.connections, victim.connections) == (1, 0)


def test_ipv6(receiver, tmp_path):
    """An address in the URL; Host has it in brackets."""
    try:
        target = receiver(host="::1", certificate="v6")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert send(target.webhook(tmp_path), "1-1", b"{}").result == "delivered"
    assert target.requests[0].headers["host"] == f"[::1]:{target.port}"
    sent = send(target.webhook(tmp_path, allow_networks=("127.0.0.0/8",)), "1-1", b"{}")
    assert sent.text.startswith("refused: ::1 is neither public")


def test_the_next_address_is_tried(receiver, tmp_path, monkeypatch):
    """One that refuses, and one that does not answer, have their share of the time; all reasons are shown."""
    target = receiver(certificate="named")
    url = f"https://hooks.example:{target.port}/"
    resolve_to(monkeypatch, ["127.0.0.9", "127.0.0.1"])
    assert send(target.webhook(tmp_path, url=url), "1-1", b"{}").result == "delivered"
    resolve_to(monkeypatch, ["127.0.0.9", "127.0.0.8"])
    sent = send(target.webhook(tmp_path, url=url), "1-1", b"{}")
    assert sent.text == (
        "no connection (127.0.0.9): connection refused; no connection (127.0.0.8): connection refused"
    )


def test_a_message_is_not_sent_twice_to_two_addresses(receiver, tmp_path, monkeypatch):
    """The second address is for connections only: a target that took the message and failed keeps it."""
    first = receiver(answer(500), certificate="named")
    resolve_to(monkeypatch, ["127.0.0.1", "127.0.0.1", "127.0.0.2"])
    url = f"https://hooks.example:{first.port}/"
    assert send(first.webhook(tmp_path, url=url), "1-1", b"{}").status == 500
    assert first.connections == 1


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://hooks.example/", "must begin with https://"),
        ("ftp://hooks.example/", "must begin with https://"),
        ("https:///x", "must begin with https:// and a host"),
        ("https://u:p@hooks.example/", "must not contain user"),
        ("https://u@hooks.example/", "must not contain user"),
        ("https://hooks.example/#x", "fragment"),
        ("https://hooks.example:99999/", "port"),
        ("https://hooks.example:0/", "port"),
        ("https://hooks.example:x/", "port"),
        ("https://hooks.example/a b", "ASCII"),
        ("https://hooks.example/ä", "ASCII"),
        ("https://hooks.example/\r\nX: y", "ASCII"),
        ("https://höoks.example/", "ASCII"),
        ("https://[::1/", "Invalid IPv6 URL"),
    ],
)
def test_urls_that_are_refused_when_they_are_read(url, rule):
    """In the configuration, where it is known which line is wrong."""
    with pytest.raises(ValueError, match=f"(?i){rule}") as caught:
        webhook(url)
    assert "u:p" not in str(caught.value)
