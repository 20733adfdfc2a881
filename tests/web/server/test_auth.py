"""Who sent a request: comparison of tokens, limits, proxies, and the file of tokens."""

import hmac
import os
import stat
import subprocess
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from support import processes

from aragora_q.errors import ConfigError
from aragora_q.web import tokens
from aragora_q.web.auth import LOGIN_SECONDS, Auth, LoginLimiter, LoginLink, Proxies, Sessions
from aragora_q.web.pages.forms import local_path
from aragora_q.web.roles import Role
from aragora_q.web.tokens import Grant, TokenFile, find_grant, new_token, token_digest, token_line


def test_a_comparison_looks_at_every_token(monkeypatch):
    """The number of comparisons is that of the tokens, wherever the right one is, or if it is none of them."""
    made = [new_token() for _ in range(5)]
    grants = [Grant(f"n{n}", Role.VIEWER, token_digest(token)) for n, token in enumerate(made)]
    calls = []
    compare = hmac.compare_digest
    monkeypatch.setattr(
        tokens.hmac, "compare_digest", lambda a, b: calls.append((a, b)) or compare(a, b)
    )
    for token, name in [(made[0], "n0"), (made[4], "n4"), ("aq_wrong", None), ("\udc80", None)]:
        calls.clear()
        found = find_grant(grants, token_digest(token))
        assert (found.name if found else None, len(calls)) == (name, 5)


def test_tokens_are_random_and_long():
    """A token is aq_ and 256 random bits."""
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert {len(token) for token in made} == {46}


def test_wrong_tokens_are_limited_by_address_only():
    """Ten wrong tokens, then one in six seconds, for an IPv4 address or an IPv6 /64; no other is affected."""
    now = [0.0]
    limiter = LoginLimiter(lambda: now[0])
    assert [limiter.wrong("192.0.2.1") for _ in range(10)] == [0.0] * 10
    assert limiter.wrong("192.0.2.1") == pytest.approx(6)
    assert limiter.wrong("192.0.2.2") == 0
    now[0] += 6
    assert limiter.wrong("192.0.2.1") == 0
    assert limiter.wrong("192.0.2.1") == pytest.approx(6)
    for n in range(10):
        limiter.wrong(f"2001:db8::{n}")
    assert limiter.wrong("2001:db8::ffff") > 0
    assert limiter.wrong("2001:db8:1::1") == 0
    for n in range(3 * limiter.MAX_ADDRESSES):
        limiter.wrong(f"n{n}")
    assert len(limiter._full_at) == limiter.MAX_ADDRESSES


def test_a_link_ends_after_an_hour_and_an_empty_code_is_wrong():
    """A code works once, for an hour; before one is made, and after it is used, no code works."""
    now = [0.0]
    link = LoginLink(lambda: now[0])
    assert not link.use("")
    code = link.make()
    now[0] = 3601
    assert not link.use(code)
    code = link.make()
    assert not link.use("é")
    assert [link.use(code), link.use(code), link.use("")] == [True, False, False]


def test_no_clock_brings_a_login_back(monkeypatch):
    """A login ends after 12 hours, and one that was logged out stays so, also if the machine's clock is set."""
    now = [1000.0]
    sessions = Sessions(clock=lambda: now[0])
    kept, ended = sessions.start("ann"), sessions.start("bob")
    sessions.end(ended)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert sessions.read(kept).name == "ann"
    now[0] += LOGIN_SECONDS + 1
    sessions.end(sessions.start("eve"))  # forgets those that have ended by themselves
    assert sessions.read(ended) is None
    assert sessions.read(kept) is None


def test_cookies_of_another_process_are_refused():
    """The key is that of the process: a cookie of another one is forged."""
    cookie = Sessions().start("ann")
    assert Sessions().read(cookie) is None


def test_a_token_in_two_lines_has_one_role(tmp_path):
    """With the token itself and with a cookie of it, a request is of the same actor."""
    file, token = tmp_path / "tokens", new_token()
    lines = [token_line(f"n-{role}", role, token) for role in (Role.VIEWER, Role.OPERATOR)]
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    auth = Auth(TokenFile(file), Proxies([], {}), highest=Role.OPERATOR, port=80, is_loopback=False)
    scope = {"client": ("192.0.2.1", 5), "scheme": "http"}
    grant = auth.grant_of(token)
    cookie = auth.sessions.start(grant.name, grant.digest)
    with_token = auth.identify(scope, headers(("Authorization", f"Bearer {token}")))
    with_cookie = auth.identify(scope, headers(("Cookie", f"{auth.cookie}={cookie}")))
    assert with_token.actor == with_cookie.actor


def headers(*pairs):
    return Headers(raw=[(name.lower().encode(), value.encode("latin-1")) for name, value in pairs])


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        (["6.6.6.6, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        (["6.6.6.6", "203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
        ([""], "10.0.0.1"),
        ([], "10.0.0.1"),
        (["<script>"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_is_no_listed_proxy(chain, client):
    """What a client puts in front of X-Forwarded-For does not count."""
    proxies = Proxies(["10.0.0.0/8"], {})
    assert (
        proxies.client("10.0.0.1", headers(*(("X-Forwarded-For", each) for each in chain)))
        == client
    )


@pytest.mark.parametrize(
    ("pairs", "name", "role"),
    [
        ([("X-Forwarded-User", "ann")], "ann", "operator"),
        ([("X-Forwarded-User", "bob"), ("X-Forwarded-Groups", "x,devs , ops")], "bob", "operator"),
        ([("X-Forwarded-User", "bob"), ("X-Forwarded-Groups", "devs")], "bob", "producer"),
        ([("X-Forwarded-User", "bob"), ("X-Forwarded-Groups", "ann,@ops")], "bob", "viewer"),
        ([("X-Forwarded-User", "@ops")], "@ops", "viewer"),
        ([("X-Forwarded-User", "ops")], "ops", "viewer"),
        ([("X-Forwarded-User", "*")], "*", "viewer"),
        ([("X-Forwarded-User", "a\tb\x1b")], "a?b?", "viewer"),
        ([("X-Forwarded-User", "J\xc3\xb6rg")], "Jörg", "viewer"),
    ],
)
def test_proxies_name_user_and_groups(pairs, name, role):
    """The highest role of user and groups counts, `*` only where there is no other; names are printable.

    No group has the role of a user of its name, nor a user that of a group.
    """
    proxies = Proxies(
        ["10.0.0.1"], {"ann": "operator", "@ops": "operator", "@devs": "producer", "*": "viewer"}
    )
    actor = proxies.actor(headers(*pairs), "192.0.2.1")
    assert (actor.name, actor.role, actor.by) == (name, role, f"{name} from 192.0.2.1")


def test_ambiguous_users_are_not_believed():
    """A user header that appears twice names no user."""
    proxies = Proxies(["10.0.0.1"], {"*": "operator"})
    twice = [("X-Forwarded-User", "ann"), ("X-Forwarded-User", "eve")]
    assert proxies.actor(headers(*twice), "") is None
    assert proxies.actor(headers(("X-Forwarded-User", " ")), "") is None
    assert not proxies.includes("10.0.0.2")
    assert not proxies.includes("")


def test_a_file_that_others_may_change_is_refused(tmp_path, monkeypatch):
    """A file that others may write is refused, and one that they may read, unless it is root's."""
    file = tmp_path / "tokens"
    file.write_text(token_line("ann", Role.VIEWER, "t") + "\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for uid, mode, words in [
        (1000, 0o600, ""), (1000, 0o400, ""), (0, 0o444, ""), (0, 0o640, ""),
        (1000, 0o640, "mode 0640: other users may read it; chmod 600"),
        (1000, 0o604, "may read it"), (1001, 0o600, "belongs to user 1001"),
        (0, 0o620, "its group may write it"), (1000, 0o602, "other users may write it"),
    ]:  # fmt: skip
        os.chown(file, uid, -1)
        file.chmod(mode)
        if words:
            with pytest.raises(ConfigError, match=words):
                TokenFile(file).check()
        else:
            TokenFile(file).check()


def test_a_file_that_becomes_something_else_is_named_once(tmp_path, caplog):
    """A directory or a pipe in place of the file ends its tokens, holds up no request, and is logged once."""
    path = tmp_path / "tokens"
    path.write_text(token_line("ann", Role.VIEWER, "t") + "\n")
    path.chmod(0o600)
    file = TokenFile(path)
    file.check()
    for make in (Path.mkdir, os.mkfifo):
        path.rename(tmp_path / "kept") if path.is_file() else path.rmdir()
        make(path)
        path.chmod(0o600)
        caplog.clear()
        assert [list(file.grants()) for _ in range(3)] == [[], [], []]
        assert len(caplog.records) == 1
    path.unlink()
    (tmp_path / "kept").rename(path)
    assert [grant.name for grant in file.grants()] == ["ann"]


def test_the_command_appends_a_line_and_prints_the_token_once(tmp_path):
    """The file is private, has a line for each token, and none of them; the token is all of standard output."""
    file = tmp_path / "new" / "tokens"
    made = [
        processes.run_command("token", "ann", "--role", role, "--file", file)
        for role in ("operator", "viewer")
    ]
    printed = [result.stdout for result in made]
    assert all(len(text.splitlines()) == 1 for text in printed)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = file.read_text().splitlines()
    assert lines == [
        token_line("ann", role, text.strip())
        for role, text in zip(("operator", "viewer"), printed, strict=True)
    ]
    assert not any(text.strip() in file.read_text() for text in printed)
    file.write_text(file.read_text().rstrip("\n"))
    variables = {"ARAGORA_QUEUE_WEB_TOKENS_FILE": str(file)}
    assert processes.run_command("token", "bob", **variables).returncode == 0
    assert [line.split()[:2] for line in file.read_text().splitlines()][2] == ["bob", "viewer"]


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (("a b", "--file", "f"), 2, "NAME: 'a b' must be 1 to 48 letters"),
        (("a\nb", "--file", "f"), 2, "NAME: "),
        (("ann",), 78, "no file of tokens is named"),
        (("ann", "--file", "/proc/none/f"), 78, "cannot write /proc/none/f: "),
        (("ann", "--role", "root", "--file", "f"), 2, "--role: "),
    ],
)
def test_wrong_arguments_of_the_command_are_named(args, code, line, tmp_path):
    """A wrong name, role or file is one line; no token is printed."""
    result = subprocess.run(
        processes.cli("token", *args),
        env=processes.env(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, line in result.stderr) == (code, "", True), (
        result.stderr
    )


def test_only_paths_are_local():
    """A path is local, whatever is in its query; anything with a host is not."""
    for path in ("/", "/jobs?x=//y", "/jobs/a%2Fb", "/a:b", "/é"):
        assert local_path(path) == path
    for path in ("", "jobs", "//x", "http://x/", "/\\x", "/ x", "/\n"):
        assert local_path(path) == "/"
