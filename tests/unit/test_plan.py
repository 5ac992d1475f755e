"""Options and an image to the body of the create call."""
import socket

import pytest

from cogpredict import (
    Console,
    EngineError,
    InitRefused,
    Options,
    Ports,
    Project,
    ProjectUnseen,
    Run,
    Runnable,
    UsageError,
    claim_port,
    describe_plan,
    model_label,
    parse_argv,
    parse_environment,
    parse_gpus,
    parse_volume,
    plan_container,
    read_text_file,
    run_planned,
    server_environment,
)

IMAGE = {"Id": "sha256:1", "Config": {"Cmd": ["python", "-m", "cog.server.http"], "Env": ["NO_PROXY=corp"],
                                      "Labels": {"run.cog.config": '{"build":{"gpu":true}}'}}}


DEFAULT = Options(image="m")


def make(options=DEFAULT, image=IMAGE, **how):
    runnable = Runnable(options.image, image, model_label(options.image, image), how.pop("variables", {}),
                        how.pop("project", None))
    run = Run("cog-1", "t0k", how.pop("ports", Ports(5000, 20000)))
    return plan_container(options, runnable, run, **{"environ": {}, "cwd": "/here", "podman": False, **how})


def test_the_server_is_told_where_files_go():
    plan = make()
    assert plan.body["Cmd"] == ["python", "-m", "cog.server.http", "--upload-url", "http://127.0.0.1:20000/t0k/up"]


def test_a_command_of_its_own_is_left_alone():
    image = {"Config": {**IMAGE["Config"], "Cmd": ["/start.sh"]}}
    plan = make(image=image)
    assert "Cmd" not in plan.body


def test_the_label_asks_for_a_gpu_and_flags_overrule_it():
    assert make().gpus_by_label and make().body["HostConfig"]["DeviceRequests"]
    assert make(Options(image="m", cpu=True)).body["HostConfig"]["DeviceRequests"] == []
    explicit = make(Options(image="m", gpus="2"))
    assert not explicit.gpus_by_label and explicit.body["HostConfig"]["DeviceRequests"][0]["Count"] == 2
    assert make(podman=True).body["HostConfig"]["DeviceRequests"] == [
        {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]


@pytest.mark.parametrize("text", ["{", "[]", 100_000 * "["])
def test_a_label_that_cannot_be_read_says_nothing(text):
    assert model_label("me/model", {"Config": {"Labels": {"run.cog.config": text}}}) == {}


def test_an_image_without_the_label_is_no_cog_model():
    with pytest.raises(UsageError, match=f"image {DEFAULT.image}: image is not a Cog model"):
        make(image={"Config": {"Labels": None}})


@pytest.mark.parametrize("text, request_", [
    ("all", {"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}),
    ("2", {"Driver": "", "Count": 2, "Capabilities": [["gpu"]]}),
    ("count=2,driver=nvidia", {"Driver": "nvidia", "Count": 2, "Capabilities": [["gpu"]]}),
    ("device=0,1", {"Driver": "", "DeviceIDs": ["0", "1"], "Capabilities": [["gpu"]]}),
    ('"device=0,1"', {"Driver": "", "DeviceIDs": ["0", "1"], "Capabilities": [["gpu"]]}),
    ('"capabilities=compute,utility",count=all',
     {"Driver": "", "Count": -1, "Capabilities": [["gpu", "compute", "utility"]]}),
    ("nvidia.com/gpu=0", {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}),
    ("device=nvidia.com/gpu=all", {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}),
])
def test_gpus_as_docker_takes_them(text, request_):
    assert parse_gpus(text, cdi=False) == [request_]


@pytest.mark.parametrize("text", ["some", "count=x", "color=red", "2,device=0", '"device=0', "-1", "\u00b2", "9" * 9,
                                  "device=", "device"])
def test_gpus_that_nobody_takes(text):
    with pytest.raises(UsageError, match="invalid GPU specification"):
        parse_gpus(text, cdi=False)


def test_variables_come_from_files_flags_and_the_environment():
    options = Options(env_file=("f",), env=("B=2", "C", "D", "E=a=b "))
    made = parse_environment(options, {"C": "3"}, lambda path: "# no\n A=1\nB=0\n\n")
    assert made == {"A": "1", "B": "2", "C": "3", "E": "a=b "}
    with pytest.raises(UsageError):
        parse_environment(Options(env=("=x",)), {}, str)


def test_a_file_of_variables_may_come_from_windows(tmp_path):
    (tmp_path / "env").write_bytes(b"\xef\xbb\xbfA=1\r\nB=2\r\n")
    made = parse_environment(Options(env_file=("env",)), {}, lambda path: read_text_file(str(tmp_path / path), "-"))
    assert made == {"A": "1", "B": "2"}


def test_no_proxy_stands_between_the_model_and_itself():
    made = server_environment({"no_proxy": "a"}, {"NO_PROXY": "localhost"}, {"RUST_LOG": "info"}, 81, debug=True)
    assert made == {"LOG_FORMAT": "console", "COG_LOG_LEVEL": "debug", "COG_MAX_CONCURRENCY": "1",
                    "RUST_LOG": "info,coglet::orchestrator[{filename}]=debug",
                    "NO_PROXY": "localhost,127.0.0.1", "no_proxy": "a,127.0.0.1,localhost", "PORT": "81"}


@pytest.mark.parametrize("text, bind", [
    ("data:/data", "data:/data"), ("/a:/b:ro", "/a:/b:ro"), ("./a:/b", "/here/a:/b")])
def test_volumes(text, bind):
    assert parse_volume(text, "/here") == bind


@pytest.mark.parametrize("text", ["/a", "/a:b", ":/b", ""])
def test_volumes_that_nobody_takes(text):
    with pytest.raises(UsageError):
        parse_volume(text, "/here")


def test_a_dry_run_shows_no_secret():
    plan = make(Options(image="m"), variables={"TOKEN": "s3cret"})
    shown = describe_plan(plan, "unix:///e", {"TOKEN": "s3cret"})
    assert "s3cret" not in str(shown) and "t0k" not in str(shown)
    assert shown["engine"] == "unix:///e" and "TOKEN=***" in shown["container"]["Env"]


SERVE = parse_argv(["serve", "m"])


def test_a_served_model_is_published_where_it_is_asked_to_be():
    plan = make(parse_argv(["serve", "m", "-p", "9000", "--host", "::1"]))
    host = plan.body["HostConfig"]
    assert plan.body["ExposedPorts"] == {"5000/tcp": {}}
    assert host["PortBindings"] == {"5000/tcp": [{"HostIp": "::1", "HostPort": "9000"}]}
    assert host["ExtraHosts"] == ["host.docker.internal:host-gateway"] and host["AutoRemove"]
    assert make(SERVE).body["HostConfig"]["PortBindings"]["5000/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8393"}]


def test_a_served_model_runs_and_logs_as_it_does_by_itself():
    names = {entry.partition("=")[0] for entry in make(SERVE).body["Env"]}
    assert not names & {"COG_MAX_CONCURRENCY", "COG_LOG_LEVEL", "RUST_LOG"} and "PORT=5000" in make(SERVE).body["Env"]
    assert "COG_LOG_LEVEL=debug" in make(SERVE._replace(debug=True)).body["Env"]
    project = Project("/here", {"COG_MAX_CONCURRENCY": "4"}, b"", {}, False)
    env = make(SERVE, project=project).body["Env"]
    assert "COG_MAX_CONCURRENCY=4" in env


def test_a_served_model_uploads_where_its_user_says():
    server = ["python", "-m", "cog.server.http", "--await-explicit-shutdown", "true"]
    assert make(SERVE).body["Cmd"] == server
    options = parse_argv(["serve", "m", "--upload-url", "http://up/"])
    assert make(options).body["Cmd"] == [*server, "--upload-url", "http://up/"]
    own = {"Config": {**IMAGE["Config"], "Cmd": ["/start.sh"]}}
    assert "Cmd" not in make(SERVE, image=own).body
    with pytest.raises(UsageError, match="not Cog's server"):
        make(options, image=own)


@pytest.mark.parametrize("words, said", [
    (["-p", "65536"], "'65536' is not a port"), (["-p", "8080:5000"], "is not a port"), (["-p", "-1"], "is not a port"),
    (["-p", ""], "is not a port"), (["--host", "example.com"], "'example.com' is not an IP address"),
    (["--host", ""], "is not an IP address"), (["--upload-url", "ftp://x"], "is not an http or https URL"),
    (["--upload-url", "http://"], "is not an http or https URL"), (["--upload-url", "http://[x"], "is not an http"),
    (["--network", "none"], "has no port that could be published"), (["--network", "container:x"], "has no port"),
    (["--network", "host"], "has no port"), (["-i", "a=b"], "unrecognized arguments"),
    (["--cpu", "--gpus", "1"], "exclude"),
])
def test_serving_in_a_way_that_cannot_be(words, said):
    with pytest.raises(UsageError, match=said):
        parse_argv(["serve", "m", *words])


def test_only_serving_has_no_limit_for_setup_of_its_own():
    assert (SERVE.setup_timeout, parse_argv(["predict", "m"]).setup_timeout) == (0, 300)
    assert parse_argv(["serve", "--setup-timeout", "7"]).setup_timeout == 7


def test_a_port_is_claimed_before_anything_else_is_done():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(UsageError, match=f"port {port} is taken at {host}"):
                claim_port(host, port)
    assert claim_port("127.0.0.1", port) == port and claim_port("127.0.0.1", 0) > 0
    with pytest.raises(UsageError, match="cannot be opened at 192.0.2.1"):
        claim_port("192.0.2.1", 8393)


@pytest.mark.parametrize("unseen", [
    ProjectUnseen("the engine does not see it"),
    EngineError("create", 400, 'invalid mount config for type "bind": bind source path does not exist: /home/me/echo'),
    EngineError("create", 400, 'invalid mount config for type "bind": stat /home/me/echo: permission denied'),
])
def test_an_engine_that_neither_sees_the_project_nor_may_run_its_init_gets_a_plan_for_that(unseen):
    project = Project("/home/me/echo", {}, b"", {"cog.yaml": b""}, False)
    tried = []

    def run(plan):
        tried.append(plan)
        if not plan.project.copied:
            raise unseen
        if plan.body["HostConfig"].get("Init"):
            raise InitRefused("it may not run")
        return 7

    assert run_planned(lambda: make(project=project), run, Console({})) == 7
    last = tried[2].body["HostConfig"]
    assert len(tried) == 3 and not last["Mounts"] and "Init" not in last
