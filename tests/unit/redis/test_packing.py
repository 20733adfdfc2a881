"""Commands are sent as redis-py would send them, also where their beginning was packed before."""

import pytest
from redis.connection import Connection

from aragora_q.redis.pool import Head, _packed

COMMANDS = [
    ("PING",),
    ("SET", "key", b"\xff\r\n\x00"),
    ("XINFO GROUPS", "stream"),
    ("ZADD", "key", 1.5, "é"),
    ("EVALSHA", "sha", 2, "a", "b", 0, -1, ""),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_is_packed_as_by_redis_py(command):
    """Words of its name, texts, bytes and numbers."""
    assert _packed([command]) == b"".join(Connection().pack_command(*command))


@pytest.mark.parametrize("size", range(1, 8))
def test_a_head_changes_nothing_of_what_is_sent(size):
    """However many operands it has, and if it begins several commands."""
    command = COMMANDS[-1]
    head = Head.of(*command[:size])
    assert _packed([(head, *command[size:])] * 2) == 2 * _packed([command])
