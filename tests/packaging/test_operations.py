"""Example files for operators: redis.conf, Redis users, cron lines."""

import subprocess
import sys

from support.paths import ROOT

from aragora_q.redis.acl import ROLES

GATE_KEYS = {
    "producer": "~aragora:queue:debates:* %R~aragora:queue:{gates}:spend:*:debates "
    "%R~aragora:queue:{gates}:group:debates/* %R~aragora:queue:{gates}:history:debates",
    "worker": "~aragora:queue:debates:* ~aragora:queue:{gates}:*",
    "reaper": "~aragora:queue:debates:* ~aragora:queue:{gates}:*",
    "stats": "%R~aragora:queue:debates:* %R~aragora:queue:{gates}:*",
    "operator": "~aragora:queue:debates:* ~aragora:queue:{gates}:*",
}
"""The keys of roles that use those of the gates."""


def test_redis_accepts_the_example_file(own_server):
    """The example is a valid configuration with an append-only file and without eviction."""
    server = own_server("--include", str(ROOT / "deploy/redis/redis.conf"))
    with server.client() as client:
        assert client.config_get("append*")["appendonly"] == "yes"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_redis_accepts_the_example_users(own_server):
    """The ACL file is valid, has a user for each role, and none that can log in without a password."""
    server = own_server("--aclfile", str(ROOT / "deploy/redis/users.acl"))
    with server.client() as client:
        users = set(client.acl_users()) - {"default"}
        assert users == {f"aragora-q-{role}" for role in ROLES}
        for user in users:
            rules = client.acl_getuser(user)
            assert rules["passwords"] == []
            role = user.removeprefix("aragora-q-")
            assert rules["keys"] == GATE_KEYS.get(role, "~aragora:queue:debates:*").split()
            assert "nopass" not in rules["flags"]


def test_cron_lines_are_commands():
    """The cron file names commands and options that exist."""
    lines = (ROOT / "deploy/cron.d/aragora-q").read_text().splitlines()
    commands = [line.split("aragora-q  aragora-q ")[1] for line in lines if " aragora-q  " in line]
    assert len(commands) == 2
    for command in commands:
        name, *options = command.split()
        said = subprocess.run(
            [sys.executable, "-m", "aragora_q", name, "--help"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert all(option in said for option in options)
