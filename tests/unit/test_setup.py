"""What is said of a model whose server ends before it is ready."""
import pytest

from cogpredict import Console, Host, Loop, SetupFailed, wait_for_setup


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
