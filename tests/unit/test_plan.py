"""Options and an image to the body of the create call."""
import json

import pytest

from cogpredict import (
    Options,
    Ports,
    UsageError,
    model_label,
    parse_environment,
    parse_gpus,
    parse_volume,
    plan_container,
    render_plan,
    server_environment,
)

IMAGE = {"Id": "sha256:1", "Config": {"Cmd": ["python", "-m", "cog.server.http"], "Env": ["NO_PROXY=corp"],
                                      "Labels": {"run.cog.config": '{"build":{"gpu":true}}'}}}


DEFAULT = Options(image="m")


def make(options=DEFAULT, image=IMAGE, **how):
    given = {"name": "cog-1", "token": "t0k", "ports": Ports(5000, 20000), "variables": {}, "environ": {},
             "cwd": "/here", "podman": False, **how}
    return plan_container(options, image, model_label(image["Config"]), **given)


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


def test_an_image_without_the_label_is_no_cog_model():
    with pytest.raises(UsageError, match="image is not a Cog model"):
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


@pytest.mark.parametrize("text", ["some", "count=x", "color=red", "2,device=0", '"device=0', "-1"])
def test_gpus_that_nobody_takes(text):
    with pytest.raises(UsageError, match="invalid GPU specification"):
        parse_gpus(text, cdi=False)


def test_variables_come_from_files_flags_and_the_environment():
    options = Options(env_file=("f",), env=("B=2", "C", "D", "E=a=b "))
    made = parse_environment(options, {"C": "3"}, lambda path: "# no\n A=1\nB=0\n\n")
    assert made == {"A": "1", "B": "2", "C": "3", "E": "a=b "}
    with pytest.raises(UsageError):
        parse_environment(Options(env=("=x",)), {}, str)


def test_no_proxy_stands_between_the_model_and_itself():
    made = server_environment({"no_proxy": "a"}, {"NO_PROXY": "localhost"}, {"RUST_LOG": "info"}, 81, debug=True)
    assert made == {"LOG_FORMAT": "console", "COG_LOG_LEVEL": "debug", "COG_MAX_CONCURRENCY": "1", "RUST_LOG": "info",
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
    shown = render_plan(plan, "unix:///e", {"TOKEN": "s3cret"}, {"n": 1})
    assert "s3cret" not in shown and "t0k" not in shown
    document = json.loads(shown)
    assert document["input"] == {"n": 1} and "TOKEN=***" in document["container"]["Env"]
