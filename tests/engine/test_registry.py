"""Images and bases of a registry that asks for a token, with credentials wherever `login` may have left them."""
from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Iterator

import make_image
import pytest

from .registry import Registry

PASSWORD, IDENTITY = "k3y:nobody-may-see", "identity-nobody-may-see"
ENTRY = {"auth": base64.b64encode(f"me:{PASSWORD}".encode()).decode()}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, same_network: None) -> Iterator[Registry]:
    if make_image.Engine().is_podman():
        pytest.skip("Podman asks every registry for TLS, which this one does not speak")
    folder = tmp_path_factory.mktemp("registry")
    with Registry(folder, {f"me:{PASSWORD}", IDENTITY}) as found:
        yield found
        found.shutdown()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def private(registry: Registry, images: Callable[[str, str], str]) -> str:
    return registry.add(images("echo", "0.23.1"), "team/echo")


@pytest.fixture(autouse=True)
def forgotten(registry: Registry) -> Iterator[None]:
    """What a test pulled is not there for the next."""
    registry.asked.clear()
    yield
    engine = make_image.Engine()
    for name in {path.split("/manifests/")[0][4:] for path in registry.manifests}:
        engine.remove_image(f"{registry.place}/{name}:1")


def write(path: Path, config: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))


def add_helper(home: Path, name: str, user: str, secret: str, place: str) -> dict[str, str]:
    """A credential helper that knows one registry and nothing of others; the PATH that has it."""
    program = home / "bin" / f"docker-credential-{name}"
    program.parent.mkdir(parents=True)
    known = json.dumps({"ServerURL": place, "Username": user, "Secret": secret})
    program.write_text(f"#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {place}' ] && exec echo '{known}'\n"
                       "echo credentials not found in native keychain; exit 1\n")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def log_in(where: str, home: Path, place: str) -> dict[str, str]:
    """Leave credentials as `docker login` and `podman login` may do; what is to be in the environment."""
    docker = home / ".docker" / "config.json"
    if where == "auths":
        write(docker, {"auths": {place: ENTRY}})
    elif where == "credsStore":
        write(docker, {"auths": {place: {}}, "credsStore": "keep"})
        return add_helper(home, "keep", "me", PASSWORD, place)
    elif where == "credHelpers":
        write(docker, {"credHelpers": {place: "own", "other.example": "none"}, "credsStore": "none"})
        return add_helper(home, "own", "me", PASSWORD, place)
    elif where == "an identity token":
        write(docker, {"credsStore": "keep"})
        return add_helper(home, "keep", "<token>", IDENTITY, place)
    elif where == "Podman's auth.json":
        write(home / "run" / "containers" / "auth.json", {"auths": {f"{place}/team": ENTRY}})
        return {"XDG_RUNTIME_DIR": str(home / "run")}
    else:
        write(home / "mine.json", {"auths": {place: ENTRY}})
        return {"REGISTRY_AUTH_FILE": str(home / "mine.json")}
    return {}


@pytest.mark.parametrize("where", ["auths", "credsStore", "credHelpers", "an identity token", "Podman's auth.json",
                                   "REGISTRY_AUTH_FILE"])
def test_a_private_image_is_pulled_with_what_login_left(where: str, registry: Registry, private: str, seal: Path,
                                                        cog: Any) -> None:
    run = cog("predict", private, "--debug", **log_in(where, seal, registry.place))
    assert (run.code, run.out) == (0, "world\n"), run.err
    assert set(registry.asked) == {IDENTITY if where == "an identity token" else f"me:{PASSWORD}"}
    assert not any(secret in run.err for secret in (PASSWORD, IDENTITY, ENTRY["auth"]))


def test_a_wrong_password_gives_one_line_and_a_remedy(registry: Registry, private: str, seal: Path, cog: Any) -> None:
    entry = {"auth": base64.b64encode(b"me:wrong").decode()}
    write(seal / ".docker" / "config.json", {"auths": {registry.place: entry}})
    run = cog("predict", private)
    assert run.code == 3 and run.out == "" and registry.asked[-1] == "me:wrong"
    pulling, error, hint = run.err.splitlines()
    assert private in pulling and "incorrect username or password" in error and "wrong" not in error
    assert f"docker login {registry.place}" in hint


def test_without_credentials_login_is_named(registry: Registry, private: str, cog: Any) -> None:
    run = cog("predict", private)
    assert run.code == 3 and f"docker login {registry.place}" in run.err and "Traceback" not in run.err, run.err


def test_a_helper_that_is_not_there_is_a_warning(registry: Registry, private: str, seal: Path, cog: Any) -> None:
    write(seal / ".docker" / "config.json", {"credHelpers": {registry.place: "gone"}})
    run = cog("predict", private)
    assert run.code == 3 and "docker-credential-gone" in run.err and "pulling without credentials" in run.err


@pytest.mark.parametrize("where, basic", [("auths", False), ("credsStore", False), ("auths", True)])
def test_a_private_base_is_built_on(where: str, basic: bool, registry: Registry, seal: Path, model: Any,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "basic", basic)
    base, run = registry.add("python:3.11-slim", f"team/base-{where.lower()}-{basic:d}"), model("echo")
    code, out, err = run("predict", "--base-image", base)
    assert code == 4 and f"{base} cannot be had" in err and f"`docker login {registry.place}`" in err, err
    code, out, err = run("predict", "--base-image", base, "--debug", **log_in(where, seal, registry.place))
    assert (code, out) == (0, "world\n") and PASSWORD not in err and ENTRY["auth"] not in err, err
    assert basic or f"me:{PASSWORD}" in registry.asked


def test_a_password_is_shown_to_a_registry_without_tokens(registry: Registry, private: str, seal: Path, cog: Any,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "basic", True)
    assert cog("predict", private).code == 3
    assert cog("predict", private, **log_in("auths", seal, registry.place)).out == "world\n"
