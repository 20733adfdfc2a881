"""Redis URLs: what each part means, and which rule a wrong one breaks."""

import pytest

from aragora_q.config.settings import QueueConfig
from aragora_q.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://h", "must begin with one of"),
        ("localhost:6379", "must begin with one of"),
        ("redis+sentinel://h:1,h:2", "must have the name of a Sentinel service"),
        ("redis+sentinel://h/s/x", "'x' instead of a database number"),
        ("redis+cluster://h/3", "only database 0"),
        ("redis://h:port", "invalid address: must be host:port with a port from 1 to 65535"),
        ("redis://u:hush@h/zero", "'zero' instead of a database number"),
        ("rediss://u:hush@h?ssl_cert_reqs=none", "option 'ssl_cert_reqs'"),
        ("unix://", "must have the path of a socket"),
        ("unix://host/path", "absolute path"),
        ("redis://a:1,b:2", "several hosts"),
        ("redis+cluster://a,,b", "an empty host"),
        ("redis://h:0", "port from 1 to 65535"),
        ("redis://h h", "invalid address"),
        ("redis://[::1", "IPv6 address in brackets"),
        ("redis://::1:6379", "IPv6 address in brackets"),
        ("redis://u:hush\uff20h", "percent-encode"),
        ("redis://[hush]@h]", "invalid address"),
        ("redis://h?foo", "option 'foo'"),
        ("redis://h?db=", "'' instead of a database number"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h?db=1&db=2", "more than once"),
        ("embedded:///x?y", "percent-encode it in the path (%3F)"),
        ("unix://:hu?hush@/run/x", "percent-encode the password"),
        ("redis://u:hush#1@h", "percent-encode it in the password (%23)"),
    ],
)
def test_a_wrong_url_is_refused_with_its_origin(url, rule):
    """The message names origin and rule, not the value, which may contain a password."""
    with pytest.raises(ConfigError) as error:
        QueueConfig(redis_url=url)
    assert "redis_url" in str(error.value)
    assert rule in str(error.value)
    assert "hush" not in str(error.value)


def test_every_part_of_a_url_is_used():
    """Several hosts, IPv6, escapes, Sentinel service and database."""
    from aragora_q.config.redis_url import RedisUrl

    url = "rediss+sentinel://me:p%40ss%2F@[::1]:1,host:2,other/primary/7"
    parsed = RedisUrl.parse(url)
    assert parsed.hosts == (("::1", 1), ("host", 2), ("other", 26379))
    assert (parsed.username, parsed.password) == ("me", "p@ss/")
    assert (parsed.service, parsed.database, parsed.is_tls) == ("primary", 7, True)
    assert parsed.redacted == "rediss+sentinel://[::1]:1,host:2,other:26379/primary/7"
    assert RedisUrl.parse("redis+cluster://a,b:7").hosts == (("a", 6379), ("b", 7))
    assert RedisUrl.parse("unix://:pw@/run/r.sock?db=2").path == "/run/r.sock"
    assert RedisUrl.parse("embedded://").path == ""


@pytest.mark.parametrize(
    "password", ["a\uff20x", "a\uff1ab", "a\uff0fb", "\u2100", "[x", "x]", "[x]", "ü"]
)
def test_any_sign_of_a_password_is_taken(password):
    """Brackets and full-width signs are part of the password, and never of an error or of `redacted`."""
    from aragora_q.config.redis_url import RedisUrl

    parsed = RedisUrl.parse(f"redis+sentinel://:{password}@host,[::1]:2/s")
    assert parsed.password == password
    assert parsed.hosts == (("host", 26379), ("::1", 2))
    assert password not in f"{parsed} {parsed.redacted}"
