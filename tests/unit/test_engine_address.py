"""Where an engine is looked for, in which order, and what is said when there is none."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import cogpredict
from cogpredict import Address, EngineAbsent, EngineUnreachable, UsageError, find_address, parse_address

HOME = "/home/me"


def find(flag: str = "", environ: dict[str, str] | None = None, sockets: tuple[str, ...] = (), home: str = HOME) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cogpredict, "is_socket", lambda path: path in sockets)
        return find_address(flag, environ or {}, home)


def make_context(folder: Path, name: str, endpoint: dict[str, Any], certificates: bool = False) -> None:
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / digest
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": endpoint}}))
    if certificates:
        tls = folder / "contexts" / "tls" / digest / "docker"
        tls.mkdir(parents=True)
        for file in ("ca.pem", "cert.pem", "key.pem"):
            (tls / file).touch()


SOCKETS = ("/var/run/docker.sock", "/run/user/7/docker.sock", f"{HOME}/.docker/run/docker.sock",
           "/run/user/7/podman/podman.sock", "/run/podman/podman.sock")


def test_the_usual_sockets_are_tried_in_their_order() -> None:
    for first in range(len(SOCKETS)):
        found = find(environ={"XDG_RUNTIME_DIR": "/run/user/7"}, sockets=SOCKETS[first:])
        assert found == Address("unix", path=SOCKETS[first])


def test_the_flag_outranks_the_environment_then_come_the_context_and_the_sockets(tmp_path: Path) -> None:
    make_context(tmp_path, "there", {"Host": "tcp://context:1"})
    environ = {"DOCKER_HOST": "tcp://variable:2", "DOCKER_CONTEXT": "there", "DOCKER_CONFIG": str(tmp_path)}
    assert find("tcp://flag:3", environ, SOCKETS).host == "flag"
    assert find("", environ, SOCKETS).host == "variable"
    del environ["DOCKER_HOST"]
    assert find("", environ, SOCKETS).host == "context"
    environ["DOCKER_CONTEXT"] = "default"
    assert find("", environ, SOCKETS).path == "/var/run/docker.sock"


def test_nothing_named_and_nothing_there_lists_what_was_tried() -> None:
    with pytest.raises(EngineAbsent) as caught:
        find(environ={"XDG_RUNTIME_DIR": "/run/user/7", "PATH": ""})
    for path in SOCKETS:
        assert f"{path}: not there" in str(caught.value)
    assert "install" in caught.value.hint and "--engine none" in caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("program, words", [("dockerd", "systemctl start docker"), ("podman", "podman.socket")])
def test_what_is_installed_is_to_be_started(tmp_path: Path, program: str, words: str) -> None:
    (tmp_path / program).write_text("#!/bin/sh\n")
    (tmp_path / program).chmod(0o755)
    with pytest.raises(EngineAbsent) as caught:
        find(environ={"PATH": str(tmp_path)})
    assert words in caught.value.hint


def test_no_engine_can_be_asked_for() -> None:
    with pytest.raises(EngineAbsent, match="--engine none"):
        find("none", {"DOCKER_HOST": "tcp://x"}, SOCKETS)


def test_what_is_no_address_is_a_mistake_and_no_absent_engine() -> None:
    for text in ("npipe:////./pipe/docker", "docker", "unix://relative", "tcp://", "ssh://", "tcp://h:99999",
                 "ssh://-oProxyCommand=x", "ssh://-x@host"):
        with pytest.raises(UsageError) as caught:
            find("", {"DOCKER_HOST": text})
        assert "HOST" in caught.value.hint


def test_the_current_context_comes_from_dockers_configuration(tmp_path: Path) -> None:
    folder = tmp_path / ".docker"
    make_context(folder, "gpu box", {"Host": "ssh://me@gpu1:22"})
    (folder / "config.json").write_text('{"currentContext": "gpu box"}')
    assert find(home=str(tmp_path)) == Address("ssh", "gpu1", 22, "/var/run/docker.sock", user="me")


@pytest.mark.parametrize("skip", [False, True])
def test_a_context_brings_its_certificates(tmp_path: Path, skip: bool) -> None:
    make_context(tmp_path, "x", {"Host": "tcp://h:2376", "SkipTLSVerify": skip}, certificates=True)
    found = find(environ={"DOCKER_CONTEXT": "x", "DOCKER_CONFIG": str(tmp_path)})
    assert (found.scheme, found.verify) == ("tls", not skip)
    assert [Path(path).name for path in (found.ca, found.cert, found.key)] == ["ca.pem", "cert.pem", "key.pem"]


def test_a_context_without_certificates_is_plain(tmp_path: Path) -> None:
    make_context(tmp_path, "x", {"Host": "tcp://h:2375"})
    assert find(environ={"DOCKER_CONTEXT": "x", "DOCKER_CONFIG": str(tmp_path)}) == Address("tcp", "h", 2375)


def test_a_context_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable, match="'nope'") as caught:
        find(environ={"DOCKER_CONTEXT": "nope", "DOCKER_CONFIG": str(tmp_path)}, sockets=SOCKETS)
    assert not isinstance(caught.value, EngineAbsent) and "docker context ls" in caught.value.hint


def test_a_configuration_of_another_user_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    assert cogpredict.read_json_file("config.json") == {}


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff"])
def test_a_configuration_that_is_not_json_is_said_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="config.json"):
        find(environ={"DOCKER_CONFIG": str(tmp_path)}, sockets=SOCKETS)


@pytest.mark.parametrize("environ, scheme, verify", [
    ({}, "tcp", True), ({"DOCKER_TLS_VERIFY": "1"}, "tls", True), ({"DOCKER_TLS_VERIFY": ""}, "tcp", True),
    ({"DOCKER_CERT_PATH": "/c"}, "tls", True), ({"DOCKER_TLS": "1"}, "tls", False),
    ({"DOCKER_TLS": "1", "DOCKER_TLS_VERIFY": "1"}, "tls", True),
])
def test_tls_as_dockers_variables_say(environ: dict[str, str], scheme: str, verify: bool) -> None:
    found = find("", {**environ, "DOCKER_HOST": "tcp://h"})
    assert (found.scheme, found.verify, found.port) == (scheme, verify, 2376 if scheme == "tls" else 2375)


def test_certificates_are_looked_for_beside_dockers_configuration(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    found = find("", {"DOCKER_HOST": "tcp://h", "DOCKER_TLS_VERIFY": "1", "DOCKER_CONFIG": str(tmp_path)})
    assert (found.ca, found.cert) == (str(tmp_path / "ca.pem"), "")


@pytest.mark.parametrize("text", ["unix:///run/x.sock", "tcp://h:1", "tcp://[fe80::1]:1", "ssh://h:22", "ssh://me@h"])
def test_an_address_is_shown_as_it_was_given(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("number, member, words", [
    (99, False, "usermod -aG docker"), (99, True, "newgrp docker"), (0, False, "`sudo` may open")])
def test_a_denied_socket_names_the_group_or_the_new_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int,
                                                          member: bool, words: str) -> None:
    import grp
    import os
    import pwd

    user = pwd.getpwuid(os.getuid()).pw_name
    group = grp.struct_group(("docker", "x", number, [user] if member else []))
    monkeypatch.setattr(grp, "getgrgid", lambda _: group)
    assert words in cogpredict.who_may_open(str(tmp_path))


@pytest.mark.parametrize("offered, used", [("1.41", "1.41"), ("1.44", "1.44"), ("1.99", "1.51"), ("2.0", "1.51")])
def test_the_api_version_is_the_lower_of_both_sides(offered: str, used: str) -> None:
    assert cogpredict.negotiate_version(offered, Address("unix"), False) == used


@pytest.mark.parametrize("offered", ["", "1", "x.y", "1.40"])
def test_an_engine_too_old_or_none_is_unreachable(offered: str) -> None:
    with pytest.raises(EngineUnreachable):
        cogpredict.negotiate_version(offered, Address("unix"), False)


def test_an_older_podman_is_taken() -> None:
    assert cogpredict.negotiate_version("1.40", Address("unix"), True) == "1.40"
