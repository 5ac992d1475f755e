"""What is typed, and what becomes of it."""
import shlex

import pytest

import cogpredict
from cogpredict import Options, UsageError, parse_argv


def test_flags_stand_before_and_after_the_image():
    wanted = Options(command="predict", image="model", inputs=(("prompt", "a cat"), ("n", "2")), output="x.png")
    for line in (["predict", "-i", "prompt=a cat", "model", "-i", "n=2", "-o", "x.png"],
                 ["predict", "model", "--input=prompt=a cat", "--input", "n=2", "--output=x.png"],
                 ["predict", "-i", "prompt=a cat", "-i", "n=2", "-o", "x.png", "--", "model"]):
        assert parse_argv(line) == wanted


def test_run_is_predict():
    assert parse_argv(["run", "m"])._replace(command="predict") == parse_argv(["predict", "m"])


def test_every_flag_has_an_option_and_every_option_a_flag():
    assert set(cogpredict.FLAGS) == set(Options._fields) - {"command", "image", "words", "as_run"}


def test_run_with_a_command_is_exec():
    options = parse_argv(["run", "-e", "A=1", "echo", "hello", "world"])
    assert (options.command, options.words, options.env, options.as_run) == ("exec", ("echo", "hello", "world"),
                                                                              ("A=1",), True)
    assert not parse_argv(["exec", "echo"]).as_run
    assert parse_argv(["run", "m", "-i", "a=b"]).image == "m"


def test_flags_of_other_builds_mean_nothing():
    assert parse_argv(["build", "--x-localimage", "-t", "m", "--skip-schema-validation"]) == parse_argv(
        ["build", "-t", "m"])
    with pytest.raises(UsageError):
        parse_argv(["predict", "--x-localimage"])


@pytest.mark.parametrize("line, message, hint", [
    (["predict", "prompt=cat"], "Invalid image name 'prompt=cat'. Did you forget `-i`?", "-i prompt=cat"),
    (["predict", "m", "-i", "cat"], "Failed to parse input 'cat', expected format is 'name=value'", "-i prompt"),
    (["predict", "m", "--json", "{}", "-i", "a=b"], "Must use one of --json or --input", ""),
    (["predict", "m", "n"], "one IMAGE at most, got m, n", "--help"),
    (["predict", "m", "a=b"], "one IMAGE at most, got m, a=b", "predict m -i a=b"),
    (["predict", "m", "--setup", "3"], "unrecognized arguments", "--help"),
    (["build", "--use-cog-base-image", "--use-cuda-base-image=true"], "exclude each other", ""),
    (["predict", "m", "--gpu", "all"], "unrecognized arguments", "did you mean --gpus?"),
    (["debug", ""], "unrecognized arguments", "--help"),
    (["run", "python", "-c", "1"], "unrecognized arguments", "cog.pyz exec"),
    (["predict", "m", "--timeout", "-1"], "--timeout", "--help"),
    (["predict", "m", "--json=--"], "--json=-- has no value", "--help"),
    (["predict", "m", "--progress", "loud"], "invalid choice", "--help"),
    (["build", "--dockerfile", "D", "--use-cog-base-image=false"], "--dockerfile and --use-cog-base-image", ""),
    (["predict", "m", "--cpu", "--gpus", "all"], "exclude each other", ""),
    (["predict", "-", "--json", "-"], "stdin can be read only once, not by IMAGE - and --json -", ""),
    (["predict", "m", "-i", "a=@-", "-i", "b=@-"], "stdin can be read only once", ""),
    (["pedict", "m"], 'unknown command "pedict"', "did you mean `predict`?"),
    (["infer", "m"], 'unknown command "infer"', "did you mean `predict`?"),
    (["psuh"], 'unknown command "psuh"', "did you mean `push`? It is not there yet: use `docker push`"),
    (["gui"], 'unknown command "gui"', "use `cog playground`"),
    (["frobnicate"], 'unknown command "frobnicate"', "--help"),
    (["push", "m"], "'push' is not there yet", "docker push"),
    (["inspect", "--platform", "a/b/c/d"], "'a/b/c/d' is not a platform", "linux/amd64"),
    (["build", "--platform", "linux/"], "'linux/' is not a platform", "linux/amd64"),
    (["build", "--build-arg", "=x"], "--build-arg '=x' is not NAME=VALUE", "PROXY=abc"),
    (["build", "--build-arg", ""], "--build-arg '' is not NAME=VALUE", "PROXY=abc"),
    (["build", "--timestamp", "noon"], "invalid int value: 'noon'", "--help"),
    (["--frob", "predict"], "unknown flag --frob", "--help"),
])
def test_a_mistake_is_one_line_and_a_hint(line, message, hint):
    with pytest.raises(UsageError) as caught:
        parse_argv(line)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("argument, pair", [
    ("a=b=c", ("a", "b=c")), ("a=", ("a", "")), ('a="x y"', ("a", "x y")), ('a="', ("a", '"')), ('a=""', ("a", "")),
])
def test_split_input(argument, pair):
    assert cogpredict.split_input(argument) == pair


def test_help_is_a_word_too():
    assert cogpredict.split_command(["help", "build"]) == ("build", ["--help"])
    assert cogpredict.split_command(["help"]) == ("", ["--help"])


def test_the_list_of_commands_fits_a_terminal():
    assert max(map(len, cogpredict.usage_text().splitlines())) <= 100


@pytest.mark.parametrize("command", sorted(cogpredict.COMMAND_FLAGS))
def test_help_begins_with_examples_and_has_each_flag_in_one_group(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cogpredict.parse_argv([command, "--help"])
    out = capsys.readouterr().out
    blocks = out.split("\n\n")
    assert ended.value.code == 0 and blocks[0].startswith(f"usage: cog.pyz {command}")
    assert blocks[1].startswith("examples:\n  ") and "cog.pyz" in blocks[1]
    headings = [block.partition(":\n")[0] for block in blocks[3:]]
    assert headings == [heading for heading in cogpredict.GROUPS if heading in headings] and "what is shown" in headings
    for name in cogpredict.COMMAND_FLAGS[command][1]:
        flag = cogpredict.FLAGS[name][0].split()[-1]
        assert sum(1 for block in blocks[3:] if f" {flag}" in block) == 1, flag


@pytest.mark.parametrize("command", sorted(cogpredict.EXAMPLES))
def test_the_examples_of_the_help_are_lines_that_are_understood(command):
    for example in cogpredict.EXAMPLES[command]:
        words = shlex.split(example.split(" | ")[0].split(" > ")[0].split(" < ")[0].split("&& ")[-1])
        assert words[0] == "cog.pyz"
        assert cogpredict.parse_argv(words[1:]).command == ("predict" if command == "run" else command)
