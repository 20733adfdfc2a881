"""Settings of the console: what is refused, with which words."""

import pytest

from aragora_q.config.settings import QueueConfig
from aragora_q.errors import ConfigError


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"LISTEN": "here"}, "web_listen = 'here' (environment ARAGORA_QUEUE_WEB_LISTEN): must be HOST:PORT"),
        ({"LISTEN": "::1:80"}, "must be HOST:PORT or [IPV6]:PORT"),
        ({"HOSTS": "ok, http://x"}, "'http://x' is not a host: no scheme, no port, no wildcard"),
        ({"HOSTS": "x:80"}, "'x:80' is not a host"),
        ({"HOSTS": "*"}, "'*' is not a host"),
        ({"HOSTS": ","}, "'' is not a host"),
        ({"PROXIES": "proxy"}, "environment ARAGORA_QUEUE_WEB_PROXIES): 'proxy' is not an IP"),
        ({"PROXIES": "10.0.0.1/8"}, "'10.0.0.1/8' is not an IP address, nor a network"),
        ({"PROXIES": "::/0"}, "'::/0' is every address"),
        ({"PROXY_ROLES": "ann=operator"}, "web_proxy_roles is set without web_proxies"),
        ({"PROXY_ROLES": "ann", "PROXIES": "::1"}, "must be NAME=ROLE, separated by commas"),
        ({"PROXY_ROLES": "=viewer", "PROXIES": "::1"}, "must be NAME=ROLE, separated by commas"),
        ({"PROXY_ROLES": "ann=root", "PROXIES": "::1"}, "must be 'viewer', 'producer' or 'operator'"),
        ({"OPERATOR_REDIS_URL": "http://u:secret@h"}, "web_operator_redis_url (environment"),
        ({"OPERATOR_REDIS_URL": "embedded://"}, "must not be embedded://"),
        ({"OPERATOR_REDIS_URL_FILE": "/none"}, "cannot read /none (environment ARAGORA_QUEUE_WEB_OPERATOR_"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(monkeypatch, variables, line):
    """The error names setting, value, rule and origin, and no part of a URL."""
    for name, value in variables.items():
        monkeypatch.setenv(f"ARAGORA_QUEUE_WEB_{name}", value)
    with pytest.raises(ConfigError) as caught:
        QueueConfig()
    assert line in str(caught.value)
    assert "secret" not in str(caught.value)


def test_texts_of_variables_become_lists_and_tables(monkeypatch, tmp_path):
    """Hosts, proxies and roles are separated by commas; the URL of a role may come from a file."""
    (tmp_path / "url").write_text("redis://operator:pw@h\n")
    monkeypatch.setenv("ARAGORA_QUEUE_WEB_OPERATOR_REDIS_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("ARAGORA_QUEUE_WEB_HOSTS", "console.example, 192.0.2.1,::1")
    monkeypatch.setenv("ARAGORA_QUEUE_WEB_PROXIES", "10.0.0.0/8, ::1")
    monkeypatch.setenv("ARAGORA_QUEUE_WEB_PROXY_ROLES", "cn=a=viewer, *=producer")
    config = QueueConfig()
    assert config.web_operator_redis_url.get_secret_value() == "redis://operator:pw@h"
    assert config.web_hosts == ("console.example", "192.0.2.1", "::1")
    assert config.web_proxies == ("10.0.0.0/8", "::1")
    assert config.web_proxy_roles == {"cn=a": "viewer", "*": "producer"}
