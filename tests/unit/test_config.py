"""cog.yaml to Config: what is accepted, what is refused and in which words, what the table makes of it."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cogpredict as cog


def reader(files: dict[str, str]) -> Callable[[str], str]:
    def read(name: str) -> str:
        if name not in files:
            raise FileNotFoundError(name)
        return files[name]

    return read


def parse(text: str, **files: str) -> cog.Config:
    return cog.parse_config(text, "cog.yaml", reader({name.replace("_", "."): value for name, value in files.items()}))


def complete(text: str, **files: str) -> cog.Config:
    return cog.complete_config(parse(text, **files))


def faults(text: str, **files: str) -> list[str]:
    with pytest.raises(cog.ConfigError) as caught:
        parse(text, **files)
    return str(caught.value).splitlines()


def gpu(*packages: str, python: str = "3.11", more: str = "") -> cog.Config:
    lines = "".join(f"    - '{package}'\n" for package in packages)
    listed = f"  python_packages:\n{lines}" if lines else ""
    return complete(f"build:\n  gpu: true\n  python_version: '{python}'\n{more}{listed}")


# reading


def test_scalars_keep_their_text() -> None:
    config = parse("build:\n  python_version: 3.10\n  cuda: 11.80\n  sdk_version: 0.20\n")
    assert (config.python_version, config.cuda, config.sdk_version) == ("3.10", "11.8", "0.20")


@pytest.mark.parametrize("word", ["true", "yes", "on", "True", "'true'"])
def test_gpu_takes_every_word_for_true(word: str) -> None:
    assert parse(f"build: {{python_version: '3.12', gpu: {word}}}").gpu


@pytest.mark.parametrize("word", ["false", "no", "off", "", "~", "null"])
def test_gpu_takes_every_word_for_false(word: str) -> None:
    assert not parse(f"build: {{python_version: '3.12', gpu: {word}}}").gpu


@pytest.mark.parametrize("text", ["", "# nothing\n", "build:\n", "---\n", "\ufeffbuild: null\n"])
def test_an_empty_config_is_one(text: str) -> None:
    config = complete(text)
    assert (config.python_version, config.requirements, config.warnings) == ("3.13", (), ())


def test_all_faults_come_at_once_in_the_order_of_their_lines() -> None:
    found = faults("build:\n  gpu: maybe\n  python_version: '3.6'\n  run: x\nimage: a\nmodel: b:1\npredict: p\n")
    assert [fault.split(":")[1] for fault in found] == ["2", "3", "4", "6", "6", "7"]


@pytest.mark.parametrize(("text", "line", "words"), [
    ("build:\n  python_version: '3.6'\n", 2, "minimum supported Python version is 3.7; write python_version: \"3.12\""),
    ("build:\n  python_version: '3'\n", 2, "must include major and minor version"),
    ("build:\n  python_version: 3.x\n", 2, "invalid version number"),
    ("build:\n  python_version: [3.9]\n", 2, "build.python_version is a list; it takes one text"),
    ("build: 3\n", 1, 'build is the text "3"; it takes keys'),
    ("- build\n", 1, "the file is a list"),
    ("build:\n  gpu: 1\n", 2, "it takes true or false"),
    ("build:\n  cuda: eleven\n", 2, "it takes one of 11.0, "),
    ("build:\n  cuda: 12.1\n  cudnn: 9\n", 3, "compatible CuDNN versions for CUDA 12.1 are: 8"),
    ("build:\n  python_requirements: r.txt\n", 2, 'requirements file "r.txt" does not exist'),
    ("build:\n  python_packages: torch\n", 2, "it takes a list, one `- item` a line"),
    ("build:\n  python_packages:\n    - torch: 2.0\n", 3, "a mapping with the keys torch"),
    ("build:\n  run:\n    - |\n      a\n      b\n", 3, "it takes one command an item"),
    ("build:\n  run:\n    - mounts: []\n", 3, "has no command"),
    ("build:\n  run:\n    - {command: a, mounts: [{type: bind, id: x, target: /x}]}\n", 3, "each takes type: secret"),
    ("build:\n  sdk_version: 0.7.1\n", 2, "below the minimum required version 0.8.0"),
    ("build:\n  sdk_version: newest\n", 2, "it takes a version"),
    ("build:\n  system_packages: [ffmpeg, '$(x)']\n", 2, 'build.system_packages has "$(x)"'),
    ("predict: a.py:A\nrun: a.py:B\n", 2, "only one of run or predict can be set"),
    ("run: a:b\n", 1, "it must be in the form 'run.py:Runner'"),
    ("predict: a\n", 1, "it must be in the form 'predict.py:Predictor'"),
    ("run: python predict.py\n", 1, "it must be in the form 'run.py:Runner'"),
    ("train: a.py:B.py:C\n", 1, "it must be in the form 'train.py:Trainer'"),
    ("predict: {file: a.py}\n", 1,
     'predict is a mapping with the keys file; write it as predict: "predict.py:Predictor"'),
    ("predict: ../a.py:A\n", 1, "lies outside the project"),
    ("predict: /srv/a.py:A\n", 1, "it takes a path inside the folder of cog.yaml"),
    ("predict: /src/../a.py:A\n", 1, "it takes a path inside the folder of cog.yaml"),
    ("image: a\nmodel: b\n", 2, "only one of them can be set"),
    ("model: host:5000/a:1\n", 1, "it must be a bare repository"),
    ("concurrency: {default_target: 1}\n", 1, "concurrency has no max"),
    ("concurrency:\n  max: 0\n", 2, "it takes a number, 1 or more"),
    ("concurrency: many\n", 1, "it takes a number, 1 or more"),
    ("environment:\n  - A\n", 2, "is not in the KEY=VALUE format"),
    ("environment:\n  - 1A=2\n", 2, "is not in the KEY=VALUE format"),
    ("environment:\n  - A=1\n  - A=2\n", 3, "environment variable A is already defined"),
    ("environment:\n  - CUDA_HOME=/x\n", 2, "reserved for internal use"),
    ("environment:\n  - PATH=/x\n", 2, "reserved for internal use"),
    ("observability:\n  traces: {}\n", 2, "observability.traces has no enabled; write enabled: true"),
    ("observability:\n  traces:\n    enabled: true\n    sampler: never\n", 4, "it takes one of always_on, always_off"),
    ("observability:\n  traces:\n    enabled: true\n    sampler: traceidratio\n    sampler_arg: 1.1\n", 5,
     'sampler_arg is "1.1"; traceidratio takes a number from 0 to 1'),
    ("observability:\n  traces: {enabled: true, sampler: traceidratio, sampler_arg: 0.5.0}\n", 2,
     'sampler_arg is "0.5.0"'),
    ("observability:\n  traces:\n    enabled: true\n    sampler_arg: 0.5\n", 4, "only ratio samplers take it"),
    ("observability:\n  traces:\n    enabled: true\n    trace_header: a b\n", 4, "the name of an HTTP header"),
    ("observability:\n  config: requirements.txt\n", 2, "it takes a .py file inside the project"),
    ("observability:\n  config: gone.py\n  traces: {enabled: true}\n", 2,
     'observability.config "gone.py" cannot be read'),
    ("weights:\n  - a\n", 2, "`cog weights` does it today"),
    ("image: a\nimage: b\n", 2, 'the key "image" stands here and in line 1'),
    ("build:\n\tgpu: true\n", 2, "indented with a tab: use spaces"),
    ("build:\n  gpu: true\n   cuda: 11.8\n", 3, "an indentation unlike the line above"),
    ("build:\n  python_packages:\n    - a\n    b\n  gpu: true\n", 4, "without its dash? write `- b`"),
    ("a: 1\n---\nb: 2\n", 2, "one document"),
    ("image: [\n", 2, "check the quotes, brackets"),
    ("image: a\x01b\n", 1, "a character that YAML does not allow"),
])
def test_a_fault_names_line_finding_and_remedy(text: str, line: int, words: str) -> None:
    found = faults(text)
    assert found[0].startswith(f"cog.yaml:{line}: ") and any(words in fault for fault in found), found


def test_a_tab_between_words_is_a_space() -> None:
    config = parse("build:\n  gpu:\ttrue\t# yes\n  system_packages:\n    -\tffmpeg\t\n")
    assert config.gpu and config.system_packages == ("ffmpeg",)


def test_deep_nesting_is_a_fault() -> None:
    assert "nested too deeply" in faults("[" * 5000)[0]


def test_an_unknown_key_warns_with_the_nearest_one() -> None:
    config = parse("build:\n  python_verison: '3.11'\n  fast: true\n  image: x\ngpu: true\n")
    assert config.warnings == (
        'cog.yaml:2: unknown key "python_verison" in build is ignored; did you mean "python_version"?',
        'cog.yaml:3: unknown key "fast" in build is ignored',
        'cog.yaml:4: unknown key "image" in build is ignored; it belongs at the left margin',
        'cog.yaml:5: unknown key "gpu" is ignored; it belongs under "build:"',
    )


def test_run_and_pre_install_are_steps_in_that_order() -> None:
    config = parse("build:\n  pre_install: [c]\n  run:\n    - a \\\n      b\n    - command: d\n      mounts:\n"
                   "        - {type: secret, id: tok, target: /run/tok}\n")
    secret = cog.SecretMount("tok", "/run/tok")
    assert config.run == (cog.RunStep("a b"), cog.RunStep("d", (secret,)), cog.RunStep("c"))


def test_a_continued_command_stays_one_step() -> None:
    assert parse("build:\n  run:\n    - |\n      a \\\n        b\n").run == (cog.RunStep("a \\\n  b"),)


def test_old_forms_of_the_wild() -> None:
    config = parse("predict: predict.py\ntrain: train.py:train\nimage: r8.im/a/b\nconcurrency: 32\n")
    assert (config.predict, config.train, config.image) == ("predict.py:", "train.py:train", "r8.im/a/b")
    assert config.concurrency_max == 32


def test_a_reference_by_the_path_in_the_image_is_one_of_the_project() -> None:
    config = parse("predict: /src/a/b.py:C\n")
    assert config.predict == "a/b.py:C" and "predict is taken as a/b.py:C" in config.warnings[0]


def test_concurrency_on_an_old_python_runs_one_at_a_time() -> None:
    config = parse("build: {python_version: '3.10'}\nconcurrency: {max: 8}\n")
    assert config.concurrency_max == 1 and "requires Python 3.11" in config.warnings[0]


def test_merge_keys_and_anchors() -> None:
    config = parse("x: &x {gpu: true}\nbuild:\n  <<: *x\n  python_version: '3.12'\n")
    assert config.gpu and config.python_version == "3.12"


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200) | st.text("abuild:- \n\t{}[]&*!|>'\"#%@,", max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        complete(text)
    except cog.ConfigError as error:
        assert str(error).startswith("cog.yaml:")


# finding


def test_the_config_of_a_parent_is_found(tmp_path: Path) -> None:
    (tmp_path / "cog.yaml").write_text("predict: a.py:A\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert cog.find_config(str(tmp_path / "a" / "b"), "cog.yaml") == str(tmp_path / "cog.yaml")
    config = cog.read_config(str(tmp_path / "cog.yaml"))
    assert (config.project, config.file_name) == (str(tmp_path), "cog.yaml")


def test_a_named_file_makes_its_folder_the_project(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.yaml").write_text("build: {python_version: '3.12', python_requirements: r.txt}\n")
    (tmp_path / "sub" / "r.txt").write_text("a==1\n")
    for name in ("sub/x.yaml", str(tmp_path / "sub" / "x.yaml")):
        config = cog.read_config(cog.find_config(str(tmp_path), name))
        assert (config.project, config.file_name, config.requirements) == (str(tmp_path / "sub"), "x.yaml", ("a==1",))


def test_no_config_anywhere(tmp_path: Path) -> None:
    with pytest.raises(cog.ConfigError, match=r"none.yaml not found in .* \(or in any parent directories\)"):
        cog.find_config(str(tmp_path), "none.yaml")


def test_a_cog_yml_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "cog.yml").write_text("predict: p.py:P\n")
    with pytest.raises(cog.ConfigError, match="cog.yaml not found") as caught:
        cog.find_config(str(tmp_path), "cog.yaml")
    assert caught.value.hint == "this folder has a cog.yml: rename it to cog.yaml, or name it with -f cog.yml"


def test_requirements_as_windows_writes_them(tmp_path: Path) -> None:
    (tmp_path / "cog.yaml").write_bytes(b"build:\r\n  python_version: '3.12'\r\n  python_requirements: r.txt\r\n")
    for data in ("a==1\r\nb\r\n".encode("utf-16"), "\ufeffa==1\r\nb\r\n".encode()):
        (tmp_path / "r.txt").write_bytes(data)
        assert cog.read_config(str(tmp_path / "cog.yaml")).requirements == ("a==1", "b")


def test_a_config_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "cog.yaml").write_bytes(b"\xff\x00")
    with pytest.raises(cog.ConfigError, match="cannot be read"):
        cog.read_config(str(tmp_path / "cog.yaml"))


# requirement lines


@pytest.mark.parametrize("line", [
    "ruamel.yaml==0.17", "pyannote.audio==3.1.1", "a==1 ; python_version == '3.10'", "a[x,y]>=1,<2",
    "a==1 --hash=sha256:00", "git+https://h/r.git@main#subdirectory=x", "a @ https://h/a.whl",
    "a @ git+https://h/r ; x=='1'",
    "https://h/a-1.whl", "a~=1.2", "a", "a===1", "a!=1",
])
def test_a_line_is_kept(line: str) -> None:
    assert parse(f"build:\n  python_version: '3.12'\n  python_packages: [\"{line}\"]\n").requirements == (line,)


def test_comments_and_blank_lines_go_continuations_join() -> None:
    text = "a==1  # one\n\n# no\nb==2 \\\n  --hash=sha256:1 \\\n  --hash=sha256:2\nc@git+https://h/r#egg=c\n-e .\n"
    assert parse("build: {python_requirements: r.txt}", r_txt=text).requirements == (
        "a==1", "b==2 --hash=sha256:1 --hash=sha256:2", "c @ git+https://h/r#egg=c")


def test_index_options_come_first_in_their_order() -> None:
    text = "a==1 --extra-index-url=https://b\n-f https://c\nd -i https://e --pre\n--extra-index-url https://b\n-i https://g"
    assert complete("build: {python_requirements: r.txt}", r_txt=text).requirements == (
        "--extra-index-url https://b", "--find-links https://c", "--extra-index-url https://e", "--pre",
        "--index-url https://g", "a==1", "d")


def test_included_files_are_read_in_their_place() -> None:
    files = {"r.txt": "a\n-r sub/s.txt\nd\n", "sub/s.txt": "b\n--requirement=../t.txt\n./w.whl", "t.txt": "c"}
    config = cog.parse_config("build: {python_requirements: r.txt}", "cog.yaml", reader(files))
    assert config.requirements == ("a", "b", "c", "./sub/w.whl", "d") and config.artifacts == ("sub/w.whl",)


@pytest.mark.parametrize("line", ["./a.whl", "a @ ./a.whl", "a @ file:a.whl", "a @ file://a.whl", "file:./a.whl"])
def test_a_file_in_the_project_may_be_written_as_a_url_or_behind_its_name(line: str) -> None:
    config = parse("build: {python_requirements: r.txt}", r_txt=line)
    assert config.requirements == ("./a.whl",) and config.artifacts == ("a.whl",)


@pytest.mark.parametrize(("text", "line", "words"), [
    ("a=1\n", 1, "such as a==1"), ("a\n\n???\n", 3, "cannot be read"), ("-r x.txt\n", 1, '"x.txt" does not exist'),
    ("-r r.txt\n", 1, "includes itself"), ("-c c.txt\n", 1, "names a local file"), ("./folder\n", 1, "is a folder"),
    ("-e ./x\n", 1, "is a folder"), ("../a.whl\n", 1, "outside the project"),
    ("file:///a.whl\n", 1, "outside the project"), ("a[x] @ ./a.whl\n", 1, "more beside it"),
    ("./a.whl --hash=sha256:1\n", 1, "more beside it"), ("-f ./wheels\n", 1, "names a local file"),
])
def test_a_faulty_line_is_named(text: str, line: int, words: str) -> None:
    found = faults("build: {python_requirements: r.txt}", r_txt=text)
    assert found[0].startswith(f"r.txt:{line}: ") and words in found[0]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=80) | st.text("a1.=<>~!;[]()@#- '\"/:\\", max_size=30))
def test_no_requirement_line_raises_anything_else(line: str) -> None:
    try:
        complete("build: {python_requirements: r.txt}", r_txt=line)
    except cog.ConfigError as error:
        assert "r.txt:" in str(error)


@pytest.mark.parametrize("line", ["cog", "cog==0.9.5", "coglet>=0.1", "cog @ https://h/cog.whl",
                                  "git+https://h/cog.git#egg=cog"])
def test_cog_itself_is_left_out_with_a_warning(line: str) -> None:
    config = complete(f"build: {{python_version: '3.12', python_packages: ['a', '{line}']}}")
    assert config.requirements == ("a",) and "build.sdk_version" in config.warnings[0]


# completion by the table


@pytest.mark.parametrize(("version", "cuda"), [
    ("1.11.0", "11.3"), ("1.12.1", "11.6"), ("1.13.1", "11.7"), ("2.0.1", "11.8"), ("2.3.1", "12.1"), ("2.5.1", "12.4"),
    ("2.7.1", "12.8"), ("2.9.1", "13.0"), ("1.7.1", "11.0"), ("1.10.0", "11.3"),
])
def test_torch_brings_its_cuda(version: str, cuda: str) -> None:
    config = gpu(f"torch=={version}", python="3.9" if version < "1.11" else "3.10")
    assert (config.cuda, config.torch) == (cuda, version)
    index = f"--extra-index-url https://download.pytorch.org/whl/cu{cuda.replace('.', '')}/"
    assert config.requirements == (index, f"torch=={version}")


@pytest.mark.parametrize(("lines", "more", "expected"), [
    (("torch==2.3",), "", ("12.1", "cu121", "torch==2.3.1")),
    (("torch==2.7.0+cu118",), "  cuda: '12.8'\n", ("12.8", "cu128", "torch==2.7.0")),
    (("torch==2.7.0+cu118",), "", ("11.8", "cu118", "torch==2.7.0")),
    (("torch>=2.0",), "", ("11.8", "cu118", "torch>=2.0")),
    (("torch>=2.0,!=2.0.1",), "", ("11.8", "cu118", "torch>=2.0,!=2.0.1")),
    (("torch>=2.0.1",), "  cuda: '12.2'\n", ("12.2", "cu121", "torch>=2.0.1")),
    (("torch==2.1.0",), "  cuda: '12.0'\n", ("12.0", "cu118", "torch==2.1.0")),
    (("torch==2.0.1",), "  cuda: '11.7'\n", ("11.7", "", "torch==2.0.1")),
    (("torch == 2.0.1",), "  cuda: ''\n", ("11.8", "cu118", "torch==2.0.1")),
])
def test_torch_and_cuda_agree(lines: tuple[str, ...], more: str, expected: tuple[str, str, str]) -> None:
    config = gpu(*lines, more=more)
    cuda, build, line = expected
    index = (f"--extra-index-url https://download.pytorch.org/whl/{build}/",) if build else ()
    assert config.cuda == cuda and config.requirements == (*index, line)


@pytest.mark.parametrize(("lines", "more", "held"), [
    (("torch>=2.0",), "", ["torch<=2.7.1", "numpy<2"]),
    (("torch>=2.0.1",), "  cuda: '12.2'\n", ["torch<=2.5.1", "numpy<2"]),
    (("torch>=2.4", "numpy"), "", ["torch<=2.6.0"]),
    (("torch>=2.0,<2.2",), "", ["torch<=2.1.2", "numpy<2"]),
    (("torch>=2.0 --extra-index-url https://x",), "", []),
])
def test_an_open_torch_goes_as_far_as_its_cuda(lines: tuple[str, ...], more: str, held: list[str]) -> None:
    config = gpu(*lines, more=more)
    assert cog.list_constraints(config) == held
    newest = held[0].partition("<=")[2] if held else ""
    assert [text.endswith(f" it is {newest} at most") for text in config.warnings] == [True] * bool(held)


@pytest.mark.parametrize(("lines", "python", "cuda", "limit"), [
    (("torch>=2",), "3.11", "11.8", "2.7.1"), (("torch>=2.0.0,<3.0",), "3.12", "11.8", "2.7.1"),
    (("torch>=2.1.1", "torchvision>=0.15.2", "torchaudio>=2.1.2"), "3.11", "12.1", "2.5.1"),
    (("torch>=1.13",), "3.13", "11.7", "2.7.1"), (("torch>=1.8.1,<1.12",), "3.9", "11.1", "1.11.0"),
    (("torch>=1.6",), "3.12", "13.0", "2.11.0"),
    (("torch>=2.1", "torchvision==0.18.0"), "3.11", "12.1", "2.3.0"), (("torch<=2.4.0",), "3.10", "12.4", "2.4.0"),
])
def test_the_first_version_of_an_open_torch_tells_the_cuda(lines, python, cuda, limit) -> None:
    config = gpu(*lines, python=python)
    assert (config.cuda, config.torch_limit) == (cuda, limit)


@pytest.mark.parametrize("lines", [
    ("--extra-index-url https://download.pytorch.org/whl/cu121", "torch"),
    ("torch --index-url https://download.pytorch.org/whl/cu121/",),
])
def test_an_index_of_torchs_tells_the_cuda_of_a_torch_without_a_version(lines: tuple[str, ...]) -> None:
    config = gpu(*lines)
    assert (config.cuda, config.torch) == ("12.1", "2.5.1") and "torch==2.5.1" in config.requirements
    assert gpu(*lines, more="  cuda: '11.8'\n").torch == "2.7.1"


def test_unpinned_torch_is_the_newest_with_a_warning() -> None:
    config = gpu("torch", python="3.12")
    assert (config.torch, config.cuda, config.cudnn) == ("2.11.0", "13.0", "9")
    assert config.warnings == ("torch has no version; the newest that fits is taken: torch==2.11.0 for CUDA 13.0",)


@pytest.mark.parametrize(("python", "more", "torch"), [
    ("3.8", "", "2.4.1"), ("3.9", "", "2.8.0"), ("3.11", "  cuda: '11.8'\n", "2.7.1"),
    ("3.11", "  cuda: '12.1'\n", "2.5.1"),
])
def test_unpinned_torch_fits_python_and_cuda(python: str, more: str, torch: str) -> None:
    assert gpu("torch", python=python, more=more).torch == torch


def test_unpinned_torch_follows_a_pinned_torchvision() -> None:
    config = gpu("torch", "torchvision==0.15.2")
    assert config.torch == "2.0.1" and "torchvision==0.15.2" in config.requirements


def test_an_unknown_torch_takes_the_cuda_of_the_nearest() -> None:
    config = gpu("torch==1.4.0", "torchvision==0.5.0", python="3.8")
    assert config.cuda == "11.0" and config.requirements == ("torch==1.4.0", "torchvision==0.5.0")
    assert "torch 1.4.0 is not in the table" in config.warnings[0]
    warning = gpu("torch>=2.0.0,<2.2", python="3.13").warnings[0]
    assert warning.startswith("torch 2.0.0 is not in the table of CUDA versions for Python 3.13; CUDA 11.8 is taken")


def test_a_cuda_that_torch_lacks_is_said() -> None:
    config = gpu("torch==2.5.1", more="  cuda: '11.0'\n")
    assert config.requirements == ("torch==2.5.1",)
    assert config.warnings == ("torch 2.5.1 is not known for CUDA 11.0; it is built for 11.8, 12.1, 12.4",)


def test_a_python_that_torch_lacks_is_said() -> None:
    assert "wheels for Python 3.8 to 3.11; python_version is 3.12" in gpu("torch==2.0.1", python="3.12").warnings[0]


@pytest.mark.parametrize(("line", "cuda", "cudnn"), [
    ("tensorflow==2.12.0", "11.8", "8"), ("tensorflow[and-cuda]==2.16.1", "12.3", "9"),
    ("tensorflow==2.8", "11.2", "8"),
    ("tensorflow==2.17.0", "12.3", "9"), ("tensorflow==2.12.1", "11.8", "8"), ("tensorflow==2.99.0", "12.5", "9"),
])
def test_tensorflow_brings_cuda_and_cudnn(line: str, cuda: str, cudnn: str) -> None:
    config = gpu(line, "torch==2.0.1", python="3.10")
    assert (config.cuda, config.cudnn) == (cuda, cudnn) and line in config.requirements


def test_a_set_cuda_outranks_tensorflow() -> None:
    config = gpu("tensorflow==2.12.0", more="  cuda: '11.2'\n")
    assert (config.cuda, config.warnings) == ("11.2", ("tensorflow 2.12.0 is built for CUDA 11.8; cuda is 11.2",))
    assert gpu("tensorflow==2.2.0", more="  cuda: '11.3'\n").warnings == ()


def test_without_torch_or_tensorflow_cuda_is_the_default() -> None:
    assert (gpu("numpy").cuda, gpu("numpy").cudnn, gpu(more="  cuda: '12.4'\n").cudnn) == ("11.8", "8", "9")


NEAREST = [("11.5.1", "11.5.2"), ("12.7", "12.6"), ("14.0", "13.2")]


@pytest.mark.parametrize(("cuda", "taken"), NEAREST)
def test_an_unlisted_cuda_becomes_the_nearest_with_a_warning(cuda: str, taken: str) -> None:
    config = gpu(more=f"  cuda: '{cuda}'\n")
    assert config.cuda == taken
    assert f"no base image for CUDA {cuda}; the nearest one is taken: {taken}" in config.warnings[0]


@pytest.mark.parametrize(("lines", "expected"), [
    (("torch==2.0.1", "torchvision==0.15.2"), ("cpu", "torch==2.0.1", "torchvision==0.15.2")),
    (("torch==2.0.1+cpu",), ("cpu", "torch==2.0.1")),
    (("torchvision==0.13.1",), ("cpu", "torchvision==0.13.1+cpu")),
    (("torch==2.3",), ("torch==2.3",)), (("torch>=2.0",), ("torch>=2.0",)), (("torch",), ("torch",)),
    (("torchaudio==2.0.2",), ("torchaudio==2.0.2",)),
])
def test_on_a_cpu_only_exact_pins_change(lines: tuple[str, ...], expected: tuple[str, ...]) -> None:
    packages = ", ".join(f"'{line}'" for line in lines)
    config = complete(f"build: {{python_version: '3.11', python_packages: [{packages}]}}")
    index = ("--extra-index-url https://download.pytorch.org/whl/cpu/",) if expected[0] == "cpu" else ()
    assert config.requirements == (*index, *(line for line in expected if line != "cpu"))


@pytest.mark.parametrize("line", ["torch==2.0.1 ; sys_platform == 'darwin'", "torch==2.0.1 --hash=sha256:1",
                                  "torch @ https://h/torch.whl"])
def test_lines_that_must_not_change(line: str) -> None:
    assert complete(f"build: {{python_version: '3.11', python_packages: [\"{line}\"]}}").requirements == (line,)


def test_a_nightly_is_no_release() -> None:
    config = gpu("torch==2.1.0.dev20230801+cu121 --extra-index-url https://h/nightly/cu121")
    assert config.requirements == ("--extra-index-url https://h/nightly/cu121", "torch==2.1.0.dev20230801+cu121")


def test_a_line_with_its_own_index_is_kept() -> None:
    config = gpu("torch==2.1.0+x --extra-index-url=https://h/x/", "torchvision==0.16.0 --extra-index-url https://h/x")
    assert config.requirements == ("--extra-index-url https://h/x/", "torch==2.1.0+x", "torchvision==0.16.0")


def test_a_missing_python_version_suits_the_pinned_torch() -> None:
    config = complete("build: {gpu: true, python_packages: ['torch==2.0.1']}")
    assert config.python_version == "3.11" and "no python_version; Python 3.11 is taken" in config.warnings[0]


def test_gone_apt_names_get_their_successors() -> None:
    config = complete("build: {python_version: '3.11', system_packages: [libgl1-mesa-glx, libgl1, ffmpeg, libssl1.1]}")
    assert config.system_packages == ("libgl1", "ffmpeg", "libssl1.1")
    assert config.warnings == (
        "system package libgl1-mesa-glx is gone from newer distributions; libgl1 takes its place",
        "system package libssl1.1 is gone from newer distributions; where it is, libssl3 takes its place",
    )


TORCHES = st.sampled_from(["torch", "torch==2.3", "torch==2.0.1+cu118", "torch>=1.9,<2", "torch==9", "cog",
                           "tensorflow", "torchvision==0.15.2", "tensorflow==2.12.1", "./a.whl"])


@settings(max_examples=40, deadline=None)
@given(st.lists(TORCHES, max_size=4), st.booleans(), st.sampled_from(["", "11.6", "12.1", "9.0", "13.0"]),
       st.sampled_from(["3.7", "3.10", "3.13.1", ""]))
def test_completing_twice_is_completing_once(lines: list[str], gpu: bool, cuda: str, python: str) -> None:
    text = f"build:\n  gpu: {gpu}\n  cuda: '{cuda}'\n  python_version: '{python}'\n  python_packages: {lines!r}\n"
    once = complete(text)
    assert cog.complete_config(once)._replace(warnings=()) == once._replace(warnings=())
    if gpu:
        assert cog.find_cuda_image(once.cuda, once.cudnn).cudnn == once.cudnn


def test_the_label_has_the_completed_config_without_empty_fields() -> None:
    config = complete("build: {python_version: '3.11', gpu: true, run: [a]}\nrun: r.py:R\nenvironment: [B=2, A=1]\n")
    assert cog.config_json(config) == {
        "build": {"gpu": True, "python_version": "3.11", "run": [{"command": "a"}], "cuda": "11.8", "cudnn": "8"},
        "predict": "r.py:R", "environment": ["B=2", "A=1"],
    }


def test_the_source_alone_says_that_it_needs_pyyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml.error", None)
    with pytest.raises(cog.CogError, match="needs PyYAML") as caught:
        cog.compose_yaml("a: b", "cog.yaml")
    assert "pip install PyYAML" in caught.value.hint
