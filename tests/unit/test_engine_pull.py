"""Names of images, credentials for them, what a pull comes to, and what an engine's refusals mean."""
from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cogpredict
from cogpredict import (
    EngineError,
    PullProgress,
    UsageError,
    is_missing_gpu,
    is_missing_init,
    is_platform_mismatch,
    parse_reference,
    registry_auth,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4


# -- names


@pytest.mark.parametrize("text, parts, familiar", [
    ("python", ("docker.io", "library/python", "latest", ""), "python"),
    ("python:3.11", ("docker.io", "library/python", "3.11", ""), "python"),
    ("me/model", ("docker.io", "me/model", "latest", ""), "me/model"),
    ("docker.io/me/model:1", ("docker.io", "me/model", "1", ""), "me/model"),
    ("index.docker.io/library/python", ("docker.io", "library/python", "latest", ""), "python"),
    ("localhost/a", ("localhost", "a", "latest", ""), "localhost/a"),
    ("host:5000/a/b:tag@" + DIGEST, ("host:5000", "a/b", "tag", DIGEST), "host:5000/a/b"),
    ("a@" + DIGEST, ("docker.io", "library/a", "", DIGEST), "a"),
    ("[::1]:5000/a", ("[::1]:5000", "a", "latest", ""), "[::1]:5000/a"),
    ("r.io/a_b/c-d__e.f:V1.0_x", ("r.io", "a_b/c-d__e.f", "V1.0_x", ""), "r.io/a_b/c-d__e.f"),
    ("HOST/a", ("HOST", "a", "latest", ""), "HOST/a"),
])
def test_a_name_is_taken_apart_and_shown(text: str, parts: tuple[str, ...], familiar: str) -> None:
    found = parse_reference(text)
    assert tuple(found) == parts
    assert found.familiar() == familiar


@pytest.mark.parametrize("text", [
    "", "a:", "a:b:c", "Upper", "a/", "/a", "a//b", "a b", "a@", "a@sha256:12", "-a", "a:-t", "a?tag=1", "a\n", "ä",
    "a:" + "t" * 129, "https://a/b",
])
def test_what_is_no_name_is_said_so(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


@given(st.text())
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    try:
        found = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(f"{found.registry}/{found.repository}:{found.tag or 'x'}")[:2] == found[:2]


@pytest.mark.parametrize("line, names", [
    ("Loaded image: a:1\n", ["a:1"]), ("Loaded image ID: sha256:0\n", ["sha256:0"]), ("Loading layer", []),
    ("Loaded image: localhost/a:1,localhost/b:1", ["localhost/a:1", "localhost/b:1"]),
])
def test_a_load_names_its_images(line: str, names: list[str]) -> None:
    assert cogpredict.loaded_names(line) == names


# -- credentials


class Helper:
    """A credential helper that knows what it is given, and notes what it is asked."""

    def __init__(self, known: dict[str, dict[str, str]]) -> None:
        self.known, self.asked = known, list[tuple[str, str]]()

    def __call__(self, argv: Sequence[str], data: bytes, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
        self.asked.append((" ".join(argv), data.decode()))
        found = self.known.get(data.decode())
        return (0, json.dumps(found).encode(), b"") if found else (1, b"credentials not found in native keychain", b"")


def decoded(text: str) -> Any:
    assert not set(text) & set("+/\n"), "the engine takes the URL-safe alphabet only"
    return json.loads(base64.urlsafe_b64decode(text)) if text else None


def auth_for(image: str, folder: Path, config: dict[str, Any], run: Any = None) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    environ = {"DOCKER_CONFIG": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cogpredict, "run_program", run or Helper({}))
        return decoded(registry_auth(parse_reference(image), environ, str(folder)))


def entry(user: str = "me", password: str = "s3c:ret?~") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize("image, key, server", [
    ("me/model", "https://index.docker.io/v1/", "https://index.docker.io/v1/"),
    ("me/model", "docker.io", "https://index.docker.io/v1/"),
    ("r.example.com:5000/a", "r.example.com:5000", "r.example.com:5000"),
    ("r.example.com/a", "https://r.example.com", "r.example.com"),
    ("r.example.com/a", "https://r.example.com/v2/", "r.example.com"),
    ("r.example.com/team/a", "r.example.com/team", "r.example.com"),
])
def test_the_configuration_knows_a_registry_by_any_of_its_names(tmp_path: Path, image: str, key: str,
                                                                server: str) -> None:
    found = auth_for(image, tmp_path, {"auths": {"other.example.com": entry("you"), key: entry()}})
    assert found == {"username": "me", "password": "s3c:ret?~", "serveraddress": server}


def test_the_narrowest_entry_is_taken(tmp_path: Path) -> None:
    auths = {"r.example.com": entry("all"), "r.example.com/team": entry("team")}
    assert auth_for("r.example.com/team/a", tmp_path, {"auths": auths})["username"] == "team"
    assert auth_for("r.example.com/teams/a", tmp_path, {"auths": auths})["username"] == "all"


def test_no_other_registrys_credentials_are_sent(tmp_path: Path) -> None:
    config = {"auths": {"r.example.com": entry(), "https://index.docker.io/v1/": entry()}}
    assert auth_for("r.example.com.evil.org/a", tmp_path, config) is None
    assert auth_for("evil.org/r.example.com/a", tmp_path, config) is None
    assert auth_for("docker.io.evil.org/a", tmp_path, config) is None


def test_an_identity_token_goes_alone(tmp_path: Path) -> None:
    found = auth_for("r.example.com/a", tmp_path, {"auths": {"r.example.com": {**entry(), "identitytoken": "tok"}}})
    assert found == {"identitytoken": "tok", "serveraddress": "r.example.com"}


@pytest.mark.parametrize("broken", [{}, {"auth": ""}, {"auth": "!!"}, {"auth": "////"}, [], "x", None])
def test_an_entry_without_credentials_is_none(tmp_path: Path, broken: Any) -> None:
    assert auth_for("r.example.com/a", tmp_path, {"auths": {"r.example.com": broken}}) is None


def test_the_registrys_own_helper_is_asked_before_the_store(tmp_path: Path) -> None:
    helper = Helper({"r.example.com": {"Username": "u", "Secret": "s"}})
    config = {"credsStore": "desktop", "credHelpers": {"r.example.com": "cloud"}, "auths": {"r.example.com": {}}}
    found = auth_for("r.example.com/a", tmp_path, config, helper)
    assert found == {"username": "u", "password": "s", "serveraddress": "r.example.com"}
    assert helper.asked == [("docker-credential-cloud get", "r.example.com")]


def test_the_store_is_asked_for_docker_hub_by_its_old_name(tmp_path: Path) -> None:
    helper = Helper({"https://index.docker.io/v1/": {"Username": "<token>", "Secret": "tok"}})
    found = auth_for("me/model", tmp_path, {"credsStore": "desktop"}, helper)
    assert found == {"identitytoken": "tok", "serveraddress": "https://index.docker.io/v1/"}


def test_a_store_that_does_not_know_it_leaves_it_to_the_file(tmp_path: Path) -> None:
    config = {"credsStore": "desktop", "auths": {"r.example.com": entry()}}
    assert auth_for("r.example.com/a", tmp_path, config)["username"] == "me"


@pytest.mark.parametrize("answer, words", [
    ((1, b"", b"no keyring"), "no keyring"), ((3, b"", b""), "exit code 3"), ((0, b"not json", b""), "JSON"),
])
def test_a_helper_that_fails_is_an_error_that_names_it(tmp_path: Path, answer: Any, words: str) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        auth_for("r.example.com/a", tmp_path, {"credsStore": "x"}, lambda *_: answer)
    assert "docker-credential-x" in str(caught.value) and caught.value.hint


def test_podmans_files_are_read_and_the_explicit_one_first(tmp_path: Path) -> None:
    places = {"REGISTRY_AUTH_FILE": tmp_path / "explicit.json", "docker": tmp_path / ".docker" / "config.json",
              "run": tmp_path / "run" / "containers" / "auth.json",
              "config": tmp_path / ".config" / "containers" / "auth.json"}
    environ = {"REGISTRY_AUTH_FILE": str(places["REGISTRY_AUTH_FILE"]), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    for name, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"auths": {"r.example.com": entry(name)}}))
    for name, path in places.items():
        found = decoded(registry_auth(parse_reference("r.example.com/a"), environ, str(tmp_path)))
        assert found["username"] == name
        path.unlink()
    assert registry_auth(parse_reference("r.example.com/a"), environ, str(tmp_path)) == ""


def test_a_real_helper_is_run_in_a_session_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker-credential-mine"
    program.write_text("#!/bin/sh\nread server\n[ \"$(cut -d ' ' -f 6 /proc/$$/stat)\" = $$ ] || exit 9\n"
                       "printf '{\"Username\": \"%s\", \"Secret\": \"s\"}' \"$server\"\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = cogpredict.ask_credential_helper("mine", "r.example.com\n", os.environ)
    assert found == {"username": "r.example.com", "password": "s"}


def test_a_missing_helper_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="docker-credential-nope.*cannot be run") as caught:
        cogpredict.ask_credential_helper("nope", "r", {"PATH": str(tmp_path)})
    assert "config.json" in caught.value.hint


# -- progress


def layer(name: str, status: str, current: int = 0, total: int = 0) -> dict[str, Any]:
    return {"id": name, "status": status, "progressDetail": {"current": current, "total": total} if total else {}}


def test_a_pull_comes_to_one_status_line_and_a_line_for_each_layer() -> None:
    progress, lines = PullProgress(), list[str]()
    events = [
        {"status": "Pulling from library/x", "id": "1"}, layer("a", "Pulling fs layer"), layer("b", "Already exists"),
        layer("c", "Waiting"), layer("a", "Downloading", 1_000_000, 4_000_000), layer("c", "Downloading", 0, 6_000_000),
    ]
    for event in events:
        lines += progress.feed(event, 10.0)
    assert progress.status(12.0) == "1.0 MB of 10.0 MB, 500.0 kB/s, 1 of 3 layers"
    for event in [layer("a", "Download complete"), layer("a", "Extracting", 1, 4_000_000), layer("a", "Pull complete"),
                  layer("c", "Download complete"), {"status": "Digest: sha256:0"}]:
        lines += progress.feed(event, 13.0)
    assert lines == ["a: download complete, 4.0 MB", "c: download complete, 6.0 MB"]
    assert progress.status(14.0) == "10.0 MB of 10.0 MB, 2.5 MB/s, 3 of 3 layers"


def test_an_empty_pull_has_nothing_to_say() -> None:
    progress = PullProgress()
    assert progress.feed({"status": "Status: Image is up to date"}, 1.0) == []
    assert progress.status(2.0) == ""


@given(st.lists(st.dictionaries(st.sampled_from(["id", "status", "progressDetail"]), st.one_of(
    st.none(), st.sampled_from(["Downloading", "Pull complete"]), st.integers(),
    st.dictionaries(st.sampled_from(["current", "total"]), st.one_of(st.none(), st.text(), st.integers()))))))
def test_no_event_of_an_engine_breaks_it(events: list[dict[str, Any]]) -> None:
    progress = PullProgress()
    for event in events:
        progress.feed(event, 1.0)
        progress.status(2.0)


# -- refusals

SHIM = "OCI runtime create failed: runc create failed: unable to start container process: error during container init: "


@pytest.mark.parametrize("message", [
    'could not select device driver "" with capabilities: [[gpu]]',
    'could not select device driver "nvidia" with capabilities: [[gpu]]',
    'could not select device driver "cdi" with capabilities: []',
    "failed to discover GPU vendor from CDI: no known GPU vendor found",
    "AMD CDI spec not found",
    "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
    "setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
    "Unknown runtime specified nvidia", "unknown or invalid runtime name: nvidia",
    SHIM + "error running hook #0: exit status 1, stderr: nvidia-container-cli: initialization error: load library "
           "failed: libnvidia-ml.so.1: cannot open shared object file",
    SHIM + "error running prestart hook #0: stderr: nvidia-container-cli: initialization error: nvml error: driver not "
           "loaded",
])
def test_every_engines_way_to_say_that_there_is_no_gpu(message: str) -> None:
    error = EngineError("POST /containers/c/start", 500, message)
    assert is_missing_gpu(error) and not is_missing_init(error) and not is_platform_mismatch(error)


@pytest.mark.parametrize("message", [
    "No such image: x", "cannot set both Count and DeviceIDs on device request", "port is already allocated",
    SHIM + 'exec: "python": executable file not found in $PATH',
    "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.4, please update your driver",
])
def test_what_is_not_a_missing_gpu(message: str) -> None:
    assert not is_missing_gpu(EngineError("start", 500, message))
    assert not is_missing_init(EngineError("start", 500, message))


@pytest.mark.parametrize("message", [
    "container-init binary not found on the host: stat /usr/libexec/podman/catatonit: no such file or directory",
    'could not find "catatonit" in one of [/usr/local/libexec/podman /usr/libexec/podman]',
    'exec: "docker-init": executable file not found in $PATH',
    "fork/exec /usr/bin/docker-init: no such file or directory",
])
def test_an_engine_without_an_init_is_recognised(message: str) -> None:
    assert is_missing_init(EngineError("create", 500, message))


@pytest.mark.parametrize("message", [
    "image with reference x was found but does not match the specified platform: wanted linux/arm64, actual: linux/a",
    "no matching manifest for linux/arm64/v8 in the manifest list entries",
    "no match for platform in manifest: not found",
    'choosing an image from manifest list docker://x: no image found in manifest list for architecture "arm64"',
])
def test_an_image_for_another_platform_is_recognised(message: str) -> None:
    assert is_platform_mismatch(EngineError("create", 404, message))


@pytest.mark.parametrize("message, words", [
    ('Head "http://127.0.0.1:5005/v2/priv/base/manifests/1": no basic auth credentials', "docker login r.example.com"),
    ("unauthorized: authentication required", "docker login r.example.com"),
    ("pull access denied for x, repository does not exist or may require 'docker login'", "check the name"),
    ("manifest for x not found: manifest unknown: manifest unknown", "check the name"),
    ('Get "http://r/v2/": dial tcp 127.0.0.1:5999: connect: connection refused', "docker save"),
    ("dial tcp: lookup registry-1.docker.io on 10.0.0.1:53: no such host", "docker save"),
    ("no matching manifest for linux/arm64/v8 in the manifest list entries", "--platform"),
    ("no space left on device", ""),
])
def test_a_failed_pull_says_what_may_help(message: str, words: str) -> None:
    hint = cogpredict.pull_hint(EngineError("pull", 500, message), parse_reference("r.example.com/a"))
    assert words in hint and bool(words) == bool(hint)


def test_a_build_gets_the_proxies_of_dockers_configuration_unless_the_environment_names_one(tmp_path):
    proxies = {"httpProxy": "http://p:1", "noProxy": "here", "httpsProxy": None}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": proxies}}))
    given = {"DOCKER_CONFIG": str(tmp_path), "HTTP_PROXY": "http://mine:2"}
    assert cogpredict.with_docker_proxies(given, "/") == {**given, "no_proxy": "here", "NO_PROXY": "here"}
    (tmp_path / "config.json").write_text('{"proxies": []}')
    assert cogpredict.with_docker_proxies(given, "/") == given
