"""--url: what is an address, a proxy and a flag that goes with it; the body that holds files."""
from __future__ import annotations

import base64
import io
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogpredict import (
    FLAGS,
    WITH_URL,
    InlineBody,
    InputError,
    LocalFile,
    UsageError,
    find_proxy,
    parse_argv,
    parse_endpoint,
    read_token,
    render_body,
    split_url,
)


@pytest.mark.parametrize(("text", "shown"), [
    ("http://gpu1:8393", "http://gpu1:8393"), ("http://gpu1:80/", "http://gpu1"), ("HTTPS://Gpu1/a//", "https://gpu1/a"),
    ("https://[fe80::1]:99/x y".replace(" ", "%20"), "https://[fe80::1]:99/x%20y"),
    ("http://bücher.example/é", "http://xn--bcher-kva.example/%C3%A9"),
])
def test_an_address(text, shown):
    assert str(parse_endpoint(text)) == shown


@pytest.mark.parametrize("text", [
    "", "gpu1", "gpu1:8393", "ftp://gpu1", "http://", "http:///x", "http://gpu1:x", "http://gpu1:99999", "http://[::1",
    "http://gpu1?a=b", "http://gpu1/#a", "http://gpu1 x", "http://gpu1/\r\nX: y", "http://" + 70 * "a" + ".example",
    "-", "http://a..b",
])
def test_no_address(text):
    with pytest.raises(UsageError, match="is not the address of a model"):
        parse_endpoint(text)


def test_a_password_in_an_address_is_not_repeated():
    for text in ("http://me:secret@gpu1", "http://secret@gpu1:x", "ftp://me:secret@[::1"):
        with pytest.raises(UsageError) as caught:
            parse_endpoint(text)
        assert "secret" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_usage_error(text):
    try:
        endpoint = parse_endpoint("http://" + text)
    except UsageError:
        return
    assert parse_endpoint(str(endpoint)) == endpoint
    assert str(endpoint).isascii() and " " not in str(endpoint)


PROXY = {"http_proxy": "http://proxy:3128"}


@pytest.mark.parametrize(("url", "environ", "proxy"), [
    ("http://gpu1", PROXY, "http://proxy:3128"), ("http://gpu1", {}, ""), ("https://gpu1", PROXY, ""),
    ("http://gpu1", {"HTTP_PROXY": "proxy"}, "http://proxy"), ("https://gpu1", {"ALL_PROXY": "http://p:1/"}, "http://p:1"),
    ("http://gpu1", {**PROXY, "HTTP_PROXY": "http://other"}, "http://proxy:3128"),
    ("http://localhost:8393", PROXY, ""), ("http://127.0.0.1", PROXY, ""), ("http://[::1]:1", PROXY, ""),
    ("http://gpu1", {**PROXY, "no_proxy": "a,gpu1"}, ""), ("http://x.corp", {**PROXY, "NO_PROXY": ".corp"}, ""),
    ("http://gpu1", {**PROXY, "no_proxy": "*"}, ""), ("http://xcorp", {**PROXY, "no_proxy": "corp"}, "http://proxy:3128"),
    ("http://gpu1:81", {**PROXY, "no_proxy": "gpu1:80"}, "http://proxy:3128"),
])
def test_the_proxy_by_the_environment(url, environ, proxy):
    found = find_proxy(parse_endpoint(url), environ)
    assert (str(found[0]) if found else "") == proxy


@pytest.mark.parametrize("token", ["", "  ", "a b", "a\nb", "ä"])
def test_no_token(token):
    with pytest.raises(UsageError) as caught:
        read_token("T", {"T": token})
    assert not token.strip() or token not in str(caught.value)
    assert read_token("T", {"T": " r8_x\n"}) == "r8_x"


@pytest.mark.parametrize("name", [name for name in FLAGS if name not in WITH_URL])
def test_what_cannot_go_with_a_url(name):
    flags, _, kind, _ = FLAGS[name]
    value = kind[0] if isinstance(kind, tuple) else {"flag": "", "size": "6g"}.get(kind, "1")
    flag = flags.split()[-1]
    for command in ("predict", "inspect"):
        words = [command, "--url", "http://x", f"{flag}={value}" if value else flag]
        with pytest.raises(UsageError, match=f"^({flag} cannot go with --url|unrecognized arguments|argument )"):
            parse_argv(words)


def test_what_goes_with_a_url():
    options = parse_argv(["predict", "--url", "http://x", "--token-env", "T", "-i", "a=b", "-o", "c", "--timeout", "1",
                          "--setup-timeout", "2", "-q", "--dry-run", "--use-replicate-token"])
    assert (options.url, options.token_env, options.inputs) == ("http://x", "T", (("a", "b"),))
    for words in (["predict", "me/model", "--url", "http://x"], ["predict", "--token-env", "T"],
                  ["train", "--url", "http://x"], ["inspect", "me/model", "--url", "http://x"]):
        with pytest.raises(UsageError):
            parse_argv(words)


def local_file(data: bytes, size: int | None = None) -> LocalFile:
    return LocalFile("a.bin", "a.bin", len(data) if size is None else size, "x/y", lambda: io.BytesIO(data))


@given(st.lists(st.one_of(st.text(), st.binary(max_size=200))))
def test_a_body_with_files(values):
    body = render_body({"input": {"a": [local_file(v) if isinstance(v, bytes) else v for v in values]}, "id": "x"})
    whole = b"".join(body.chunks())
    assert body.length == len(whole) and b"".join(body.chunks()) == whole
    urls: list[Any] = [f"data:x/y;base64,{base64.b64encode(v).decode()}" if isinstance(v, bytes) else v for v in values]
    assert json.loads(whole) == {"input": {"a": urls}, "id": "x"}


def test_a_body_whose_file_grows_or_shrinks_meanwhile():
    body = render_body({"a": local_file(os.urandom(100_000), 70_000)})
    assert len(b"".join(body.chunks())) == body.length
    body = InlineBody((b"{", local_file(b"abc", 4)))
    with pytest.raises(InputError, match="a.bin got shorter"):
        list(body.chunks())


def test_the_url_of_an_output():
    endpoint, query = split_url("https://bucket.example/a b.png?sig=x%2Fy&t=é")
    assert (str(endpoint), query) == ("https://bucket.example/a%20b.png", "?sig=x%2Fy&t=%C3%A9")
