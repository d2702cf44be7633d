"""What every test shares."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils import backend_registration

from toydiffusion.cli import main

torch.set_num_threads(1)

# Before autograd first runs: it counts the devices once.
if hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    import pretend_gpu  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=1, help="how often tests/test_faults.py kills")


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Return a function that runs a command in the folder and returns exit code, output and errors."""
    monkeypatch.chdir(folder)

    def run(command: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return main(command.split()), *capsys.readouterr()

    return run


@pytest.fixture
def press_ctrl_c(monkeypatch):
    """Return a context in which Ctrl-C comes at the end of a function's call of some number."""

    @contextmanager
    def press(owner: object, name: str, *, after: int) -> Iterator[None]:
        function, calls = getattr(owner, name), []

        def call(*args: object) -> object:
            answer = function(*args)
            calls.append(1)
            if len(calls) == after:
                signal.raise_signal(signal.SIGINT)
            return answer

        # A shell that starts the tests in the background has them ignore Ctrl-C.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, call)
                with pytest.raises(KeyboardInterrupt):
                    yield
        finally:
            signal.signal(signal.SIGINT, handler)

    return press


@pytest.fixture
def refused(folder, run):
    """Return a function: the command gets one line that has the words, exit code 2, and changes no file."""

    def refused(command: str, words: list[str]) -> None:
        before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        code, out, err = run(command)
        assert (code, out) == (2, ""), err
        assert err.startswith("toydiffusion: error: ")
        assert err.count("\n") == 1
        assert [word for word in words if word not in err] == [], err
        assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before

    return refused
