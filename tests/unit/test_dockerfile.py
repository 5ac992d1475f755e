"""Config to Dockerfile: each step as a builder reads it, and the files and settings of the machine that go with it."""
from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest

import cogpredict as cog

CONFIG = cog.Config(python_version="3.12", predict="predict.py:Predictor")
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n"
CLEAN = "RUN rm -rf /src/.cog/build && { rmdir /src/.cog 2>/dev/null || true; }"  # what came beside the source
OTHER = CERTIFICATE.replace("YQ", "Yg")


def render(settings: cog.BuildSettings | None = None, **fields: object) -> str:
    return cog.render_dockerfile(CONFIG._replace(**fields), settings or cog.BuildSettings())  # type: ignore[arg-type]


def steps(text: str, word: str) -> list[str]:
    """The instructions of one kind."""
    return [line for line in text.splitlines() if line.startswith(word + " ")]


def test_a_plain_model_fetches_its_base_and_the_runtime() -> None:
    text = render()
    assert steps(text, "FROM") == ["FROM python:3.12-slim"]
    assert steps(text, "RUN") == ["RUN --mount=type=cache,target=/root/.cache/pip python -m pip install "
                                  "--cache-dir /root/.cache/pip cog", CLEAN]
    assert "tini" not in text and "syntax" not in text and "no-cache-dir" not in text and "uv" not in text
    assert text.endswith('CMD ["python","-m","cog.server.http"]\nCOPY . /src\n' + CLEAN + "\n")


def test_an_image_for_development_has_neither_source_nor_references() -> None:
    text = render(cog.BuildSettings(for_development=True), file_name="x.yaml")
    assert "COPY" not in text and "STUB" not in text and text.endswith('CMD ["python","-m","cog.server.http"]\n')
    assert cog.runtime_environment(CONFIG._replace(train="t.py:t", concurrency_max=2)) == {
        "COG_PREDICT_TYPE_STUB": "predict.py:Predictor", "COG_TRAIN_TYPE_STUB": "t.py:t", "COG_MAX_CONCURRENCY": "2"}


def test_a_built_image_names_the_model_and_has_cog_yaml() -> None:
    text = render(file_name="my config.yaml", train="t.py:t", concurrency_max=2)
    assert ('ENV COG_PREDICT_TYPE_STUB="predict.py:Predictor" COG_TRAIN_TYPE_STUB="t.py:t" COG_MAX_CONCURRENCY=2'
            in text.splitlines())
    assert text.endswith(f"COPY . /src\n{CLEAN} && cp '/src/my config.yaml' /src/cog.yaml\n")


def test_a_dockerfile_that_was_given_tells_its_bases_and_gets_the_variables() -> None:
    text = ("# FROM no\nARG V=1\nfrom --platform=linux/amd64 Alpine:3 as One\nFROM one\nFROM scratch AS two\n"
            "  FROM python:$V\nFROM me/base@sha256:1\nFROM Alpine:3\nFROM node AS Node\nRUN x\n\n")
    settings = cog.BuildSettings(dockerfile=text)
    assert cog.list_base_images(CONFIG, settings) == ("Alpine:3", "me/base@sha256:1", "node")
    assert render(settings) == text[:-1] + 'ENV COG_PREDICT_TYPE_STUB="predict.py:Predictor"\n'
    assert list(cog.build_files(CONFIG._replace(requirements=("a",)), settings, lambda name: b"")) == [
        ".cog/build/Dockerfile"]


@pytest.mark.parametrize(("value", "quoted"), [
    ("1.5", "1.5"), ("", '""'), ("a b", '"a b"'), ('say "x"', '"say \\"x\\""'), ("a\\b", '"a\\\\b"'),
    ("$HOME/x", '"$HOME/x"'), ("${A}", '"${A}"'), ("5$", '"5\\$"'), ("$$", '"\\$\\$"'),
    ("#no", '"#no"'), ("it's", '"it\'s"'),
])
def test_environment_values_are_quoted(value: str, quoted: str) -> None:
    assert f"ENV A={quoted}" in render(environment=(("A", value),)).splitlines()


def test_environment_stands_before_apt_and_pip() -> None:
    text = render(environment=(("A", "1"), ("B", "2")), system_packages=("ffmpeg",), requirements=("a",))
    order = [text.index(part) for part in ("ENV DEBIAN", "ENV A=1 B=2", "apt-get", "requirements.txt", "cog\n")]
    assert order == sorted(order)


def test_a_cuda_base_gets_the_python_that_was_asked_for() -> None:
    text = render(python_version="3.10.6", gpu=True, cuda="11.8", cudnn="8", system_packages=("ffmpeg",))
    assert steps(text, "FROM") == ["FROM python:3.10-slim-bookworm AS python",
                                   "FROM nvidia/cuda:11.8.0-cudnn8-devel-ubuntu22.04"]
    assert "COPY --from=python /usr/local/ /usr/local/" in text
    assert "install -qqy ca-certificates curl git libexpat1 libpython3-stdlib wget xz-utils zlib1g ffmpeg &&" in text


@pytest.mark.parametrize(("settings", "images"), [
    (cog.BuildSettings(), ("nvidia/cuda:12.1.1-cudnn8-devel-ubuntu22.04", "python:3.12-slim-bookworm")),
    (cog.BuildSettings(use_cuda_base_image=False), ("python:3.12-slim",)),
    (cog.BuildSettings(use_cog_base_image=True), ("r8.im/cog-base:cuda12.1-python3.12-torch2.3.1",)),
    (cog.BuildSettings(base_image="corp/python"), ("corp/python",)),
    (cog.BuildSettings(base_image="corp/nvidia/cuda:11.6.2-cudnn8-runtime-ubuntu20.04"),
     ("corp/nvidia/cuda:11.6.2-cudnn8-runtime-ubuntu20.04", "python:3.12-slim-bullseye")),
])
def test_images_that_a_build_needs(settings: cog.BuildSettings, images: tuple[str, ...]) -> None:
    config = CONFIG._replace(gpu=True, cuda="12.1", cudnn="8", torch="2.3.1")
    assert cog.list_base_images(config, settings) == images


@pytest.mark.parametrize(("fields", "image"), [
    ({}, "r8.im/cog-base:python3.12"), ({"python_version": "3.12.3"}, "r8.im/cog-base:python3.12"),
    ({"cuda": "11.8"}, "r8.im/cog-base:cuda11.8-python3.12"), ({"cuda": "11.3"}, ""), ({"python_version": "3.9"}, ""),
    ({"torch": "2.3"}, "r8.im/cog-base:python3.12-torch2.3.1"), ({"torch": "1.13.1"}, "r8.im/cog-base:python3.12"),
])
def test_the_cog_base_of_a_config(fields: dict[str, str], image: str) -> None:
    assert cog.cog_base_image(CONFIG._replace(**fields)) == image


def test_a_cog_base_installs_only_what_it_lacks() -> None:
    settings = cog.BuildSettings(use_cog_base_image=True)
    assert "apt-get" not in render(settings, system_packages=("ffmpeg", "git"))
    text = render(settings, system_packages=("ffmpeg", "nano"))
    assert "install -qqy nano &&" in text and "DEBIAN_FRONTEND" not in text


def test_tools_that_build_steps_call_are_there() -> None:
    run = (cog.RunStep("curl -o /x https://h/x && chmod +x /x"), cog.RunStep("pip install wget-fake"))
    assert "install -qqy curl &&" in render(run=run)
    assert "install -qqy git &&" in render(requirements=("a @ git+https://h/a",))
    assert "install -qqy curl ffmpeg &&" in render(system_packages=("ffmpeg",))
    run = (cog.RunStep("cd /x && unzip a.zip; (cmake . && sudo make)"), cog.RunStep("pip install zip && echo zstd|xz"))
    assert "install -qqy build-essential cmake unzip xz-utils &&" in render(run=run)
    assert "build-essential cmake" not in render(cog.BuildSettings(base_image="mine"), run=run)
    cuda = render(run=run, gpu=True, cuda="12.1", cudnn="8")
    assert "zlib1g" in cuda and " unzip " in cuda


def test_an_apt_name_that_depends_on_the_distribution_is_tried_first() -> None:
    assert "install -qqy curl $(first libssl1.1 libssl3) &&" in render(system_packages=("libssl1.1",))


def test_run_steps_have_their_secrets_and_come_in_order() -> None:
    run = (cog.RunStep("pip install a", (cog.SecretMount("tok", "/run/tok"),)), cog.RunStep("[ -f /x ] || true"))
    text = render(cog.BuildSettings(pip_conf="[global]\n"), run=run)
    conf = "--mount=type=secret,id=pip.conf,target=/etc/pip.conf "
    secret = "--mount=type=secret,id=tok,target=/run/tok "
    assert steps(text, "RUN")[-3:-1] == [f"RUN {conf}{secret}pip install a", f"RUN {conf}[ -f /x ] || true"]
    assert steps(render(run=run), "RUN")[-3:-1] == [f"RUN {secret}pip install a", "RUN [ -f /x ] || true"]


def test_pip_settings_are_a_secret_of_every_step_that_may_call_pip() -> None:
    text = render(cog.BuildSettings(pip_conf="[global]\nindex-url = https://u:p@h/\n"), requirements=("a",))
    assert text.count("--mount=type=secret,id=pip.conf,target=/etc/pip.conf python -m pip install") == 2
    assert "u:p" not in text and "secret" not in render(requirements=("a",))


@pytest.mark.parametrize(("version", "words"), [
    ("", ("cog",)), ("0.16.12", ("cog==0.16.12",)), ("prerelease", ("--pre", "cog")),
    ("0.17.0a1", ("--pre", "cog==0.17.0a1")), ("0.18.0", ("cog==0.18.0", "coglet==0.18.0")),
])
def test_the_runtime_of_a_config(version: str, words: tuple[str, ...]) -> None:
    assert cog.runtime_requirements(CONFIG._replace(sdk_version=version), cog.BuildSettings()) == words


# files


def test_the_files_that_the_dockerfile_copies() -> None:
    config = CONFIG._replace(requirements=("a==1", "./w/b.whl"), artifacts=("w/b.whl",))
    settings = cog.BuildSettings(ca_certificates=(CERTIFICATE, OTHER), runtime=("cog-1.whl",),
                                 wheels=(("cog-1.whl", b"w"),))
    files = cog.build_files(config, settings, {"w/b.whl": b"b"}.__getitem__)
    assert files.pop(".cog/build/Dockerfile") == cog.render_dockerfile(config, settings).encode()
    assert files == {
        ".cog/build/requirements.txt": b"a==1\n/tmp/cog/artifacts/b.whl\n", ".cog/build/artifacts/b.whl": b"b",
        ".cog/build/certificates/cog-ca-cert.crt": CERTIFICATE.encode(),
        ".cog/build/certificates/cog-ca-cert-2.crt": OTHER.encode(), ".cog/build/runtime/cog-1.whl": b"w",
    }
    text = cog.render_dockerfile(config, settings)
    for name in ("requirements.txt", "artifacts/", "certificates/", "runtime/"):
        assert f"COPY .cog/build/{name} " in text
    assert "pip install --cache-dir /root/.cache/pip /tmp/cog/runtime/cog-1.whl" in text


def test_a_missing_artifact_is_named() -> None:
    def read(name: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", name)

    with pytest.raises(cog.ConfigError, match="requirement ./b.whl cannot be read: No such file"):
        cog.build_files(CONFIG._replace(requirements=("./b.whl",), artifacts=("b.whl",)), cog.BuildSettings(), read)


def test_what_is_no_file_of_the_project_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for path in (tmp_path / "key", project / "a"):
        path.write_text("secret")
    os.mkfifo(project / "pipe")
    for name, target in (("out", "../key"), ("in", "a")):
        (project / name).symlink_to(target)
    assert b"".join(cog.find_own(str(project), "in").pieces()) == b"secret"
    for name in ("out", "pipe"):
        with pytest.raises(OSError, match="no file inside the project"):
            cog.find_own(str(project), name)

    def refuse(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)  # root may read all
    with pytest.raises(cog.ConfigError, match="requirement ./in cannot be read: Permission denied"):
        cog.build_files(CONFIG._replace(requirements=("./in",), artifacts=("in",)), cog.BuildSettings(),
                        lambda name: cog.find_own(str(project), name))


def test_two_artifacts_of_one_name_are_refused() -> None:
    with pytest.raises(cog.ConfigError, match="two files called a.whl"):
        cog.build_files(CONFIG._replace(artifacts=("x/a.whl", "y/a.whl")), cog.BuildSettings(), lambda name: b"")


# this machine


def read_settings(environ: dict[str, str], cwd: Path, config: cog.Config = CONFIG) -> cog.BuildSettings:
    return cog.read_build_settings(config, {"HOME": str(cwd / "home"), **environ}, str(cwd))


def test_nothing_said_changes_nothing(tmp_path: Path) -> None:
    assert read_settings({}, tmp_path) == cog.BuildSettings()


def test_wheels_of_cog_from_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    machines = ("linux_x86_64", "linux_aarch64")
    for name in ("cog-1-py3-none-any.whl", *(f"coglet-1-cp310-abi3-{machine}.whl" for machine in machines)):
        (tmp_path / "dist" / name).write_bytes(name.encode())
    settings = read_settings({"COG_SDK_WHEEL": "dist", "COGLET_WHEEL": "dist"}, tmp_path)
    assert settings.runtime == ("coglet-1-cp310-abi3-linux_x86_64.whl", "cog-1-py3-none-any.whl")
    assert settings.wheels[1] == ("cog-1-py3-none-any.whl", b"cog-1-py3-none-any.whl")
    alone = read_settings({"COGLET_WHEEL": "dist/coglet-1-cp310-abi3-linux_aarch64.whl"}, tmp_path)
    assert alone.runtime == ("coglet-1-cp310-abi3-linux_aarch64.whl", "cog")


@pytest.mark.parametrize(("environ", "words"), [
    ({"COG_SDK_WHEEL": "pypi"}, ("cog",)), ({"COG_SDK_WHEEL": "pypi:0.18.0"}, ("cog==0.18.0", "coglet==0.18.0")),
    ({"COG_SDK_WHEEL": "pypi:0.18.0", "COGLET_WHEEL": "pypi:0.19.0"}, ("coglet==0.19.0", "cog==0.18.0")),
    ({"COGLET_WHEEL": "pypi"}, ("coglet", "cog")),
])
def test_the_runtime_may_be_named_by_its_version(environ: dict[str, str], words: tuple[str, ...],
                                                 tmp_path: Path) -> None:
    assert read_settings(environ, tmp_path).runtime == words


@pytest.mark.parametrize(("value", "words"), [
    ("pypi", ("cog",)), ("pypi:0.16.0", ("cog==0.16.0",)), ("https://h/cog-1.whl", ("https://h/cog-1.whl",)),
])
def test_the_sdk_wheel_variable_outranks_the_config(value: str, words: tuple[str, ...], tmp_path: Path) -> None:
    settings = read_settings({"COG_SDK_WHEEL": value}, tmp_path, CONFIG._replace(sdk_version="0.20.0"))
    assert cog.runtime_requirements(CONFIG._replace(sdk_version="0.20.0"), settings) == words


@pytest.mark.parametrize(("names", "words"), [
    (None, "path not found: "), ([], "no wheel of cog"),
    (["cog-1-py3-none-any.whl", "cog-2-py3-none-any.whl"], "several wheels"),
    (["cog-1-cp310-abi3-linux_riscv64.whl"], "no wheel for the platform"),
])
def test_a_wheel_that_is_not_there(names: list[str] | None, words: str, tmp_path: Path) -> None:
    if names is not None:
        (tmp_path / "dist").mkdir()
        for name in names:
            (tmp_path / "dist" / name).touch()
    with pytest.raises(cog.UsageError, match=f"COG_SDK_WHEEL: {words}"):
        read_settings({"COG_SDK_WHEEL": "dist"}, tmp_path)


@pytest.mark.parametrize("variable", ["COG_SDK_WHEEL", "COGLET_WHEEL"])
def test_a_wheels_url_with_a_password_is_refused(variable, tmp_path):
    with pytest.raises(cog.UsageError, match=f"{variable}: the password in this URL would stay in the image's history"):
        read_settings({variable: "https://me:secret@example.com/cog-1-py3-none-any.whl"}, tmp_path)


def test_certificates_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "a.crt").write_text("# a\n" + CERTIFICATE)
    (tmp_path / "ca" / "b.pem").write_text(OTHER + CERTIFICATE)
    (tmp_path / "ca" / "c.txt").write_text("no")
    forms = {"ca": (CERTIFICATE, OTHER), "ca/b.pem": (OTHER, CERTIFICATE), CERTIFICATE: (CERTIFICATE,),
             base64.b64encode(CERTIFICATE.encode()).decode(): (CERTIFICATE,)}
    for value, found in forms.items():
        assert read_settings({"COG_CA_CERT": value}, tmp_path).ca_certificates == found


@pytest.mark.parametrize("value", ["nowhere.pem", "%%%", "YWJj", "-----BEGIN CERTIFICATE-----"])
def test_what_is_no_certificate_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(cog.UsageError, match="COG_CA_CERT holds no certificate"):
        read_settings({"COG_CA_CERT": value}, tmp_path)


def test_authorities_that_a_base_has_only_in_its_bundle_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, tool = tmp_path / "bundle.crt", tmp_path / "update-ca-certificates"
    bundle.write_text("own\\n\n")
    tool.write_text(f"#!/bin/sh\necho made anew > {bundle}\n")
    tool.chmod(0o755)
    step = steps(render(cog.BuildSettings(ca_certificates=(CERTIFICATE,))), "RUN")[0]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    subprocess.run(["sh", "-ec", step[4:].replace(cog.CERTIFICATE_BUNDLE, str(bundle))], check=True)
    assert bundle.read_text() == "made anew\nown\\n\n"


def test_certificates_are_trusted_before_anything_is_fetched() -> None:
    text = render(cog.BuildSettings(ca_certificates=(CERTIFICATE,)), system_packages=("ffmpeg",))
    assert text.index("update-ca-certificates") < text.index("apt-get")
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        assert f'{name}="/etc/ssl/certs/ca-certificates.crt"' in text


@pytest.mark.parametrize(("environ", "conf"), [
    ({"PIP_INDEX_URL": "https://u:p@h/s"}, "[global]\nindex-url = https://u:p@h/s\n"),
    ({"UV_INDEX_URL": "https://h/s"}, "[global]\nindex-url = https://h/s\n"),
    ({"UV_INDEX_URL": "https://h/u", "PIP_INDEX_URL": "https://h/p"}, "[global]\nindex-url = https://h/p\n"),
    ({"PIP_FIND_LINKS": "/opt/wheels https://h/w"}, "[global]\nfind-links = https://h/w\n"),
    ({"PIP_FIND_LINKS": "/opt/wheels", "PIP_DEFAULT_TIMEOUT": "9", "PIP_CERT": "/x"}, ""),
    ({"PIP_TRUSTED_HOST": "h", "PIP_TIMEOUT": "9"}, "[global]\ntimeout = 9\ntrusted-host = h\n"),
    ({"UV_DEFAULT_INDEX": "own=https://h/s?a=b"}, "[global]\nindex-url = https://h/s?a=b\n"),
    ({"UV_INDEX": "a=https://h/a https://h/b", "UV_INDEX_A_PASSWORD": "p"},
     "[global]\nextra-index-url = https://:p@h/a https://h/b\n"),
    ({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/opt https://h/w"}, "[global]\nfind-links = https://h/w\nno-index = 1\n"),
    ({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/opt"}, ""),
])
def test_pip_settings_of_the_environment(environ: dict[str, str], conf: str, tmp_path: Path) -> None:
    assert read_settings(environ, tmp_path).pip_conf == conf


def test_pip_settings_of_files_yield_to_those_nearer(tmp_path: Path) -> None:
    user, named = tmp_path / "home" / ".config" / "pip" / "pip.conf", tmp_path / "pip.conf"
    user.parent.mkdir(parents=True)
    user.write_text("[global]\nindex-url = https://user\ncert = /x\nextra_index_url = https://a\n  https://b\n")
    named.write_text("[install]\nindex-url = https://named/%s\n")
    conf = read_settings({"PIP_CONFIG_FILE": str(named)}, tmp_path).pip_conf
    assert conf == "[global]\nextra-index-url = https://a https://b\nindex-url = https://named/%s\n"
    assert read_settings({"PIP_CONFIG_FILE": os.devnull}, tmp_path).pip_conf == ""


def test_a_broken_pip_conf_is_left_to_pip(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("nonsense\n")
    assert read_settings({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}, tmp_path).pip_conf == ""


def test_weights_are_copied_before_the_rest() -> None:
    copies = steps(render(cog.BuildSettings(weights=frozenset({"a.bin"}))), "COPY")
    assert copies == ["COPY .cog/weights/ /src/", "COPY .cog/project/ /src/"]


def test_a_torch_from_before_numpy_2_keeps_pip_below_it() -> None:
    config = CONFIG._replace(requirements=("torch==2.2.2", "numpy"))
    files = cog.build_files(config, cog.BuildSettings(), lambda name: b"")
    assert files[f"{cog.BUILD_FOLDER}/requirements.txt"] == b"-c constraints.txt\ntorch==2.2.2\nnumpy\n"
    assert files[f"{cog.BUILD_FOLDER}/constraints.txt"] == b"numpy<2\n"
    for lines in (("torch==2.3.0", "numpy"), ("torch==2.2.2", "numpy==2.1.0"), ("torch==2.2.2", "numpy==1.23.5"),
                  ("numpy",), ("torch>=2.0", "numpy", "torchaudio"), ("torch==2.*", "torchaudio")):
        config = CONFIG._replace(torch="2.0", requirements=lines)
        files = cog.build_files(config, cog.BuildSettings(), lambda name: b"")
        assert f"{cog.BUILD_FOLDER}/constraints.txt" not in files
