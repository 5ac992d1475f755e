"""What is said of a model whose server ends before it is ready, and what is awaited of one that is to stop."""
import pytest

from cogpredict import Console, Host, Loop, Request, SetupFailed, cancel_prediction, wait_for_setup


class Ended(Host):
    """A model that has ended by itself."""

    gone, lost = True, False

    def ended(self):
        return "the container ended with exit code 1"


@pytest.mark.parametrize(("log", "hint"), [
    (b"    import numpy\nModuleNotFoundError: No module named 'numpy'\nit stops\n", "under python_requirements"),
    (b"ast.py, line 9, in extract_class_sources\nAttributeError: id\n", "class NAME(BasePredictor)"),
    (b"exec /usr/bin/python: exec format error\n", "--platform"), (b"out of luck\n", ""),
])
def test_what_helps_a_server_that_crashed(log, hint):
    host = Ended(Loop(), Console({}))
    host.log_tail += log
    with pytest.raises(SetupFailed) as caught:
        wait_for_setup(host, 0, host._console)
    last = log.decode().splitlines()[-1]
    assert str(caught.value) == f"setup failed: the container ended with exit code 1; last log line: {last}"
    assert hint in caught.value.hint and bool(hint) == bool(caught.value.hint)


class Cancelled(Host):
    """A model that ends its prediction as soon as it is asked to."""

    def __init__(self):
        super().__init__(Loop(), Console({}))
        self.calls = []

    def open(self, method, path):
        self.calls.append(f"{method} {path}")

    def wait(self, until, deadline=None):
        return until()

    def drain(self):
        self.calls.append("drain")


def test_what_a_cancelled_prediction_printed_at_last_is_waited_for():
    host = Cancelled()
    cancel_prediction(host, Request("cog1", "/predictions", {}, ""), lambda: bool(host.calls))
    assert host.calls == ["POST /predictions/cog1/cancel", "drain"]
