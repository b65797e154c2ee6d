"""The helpers of the tests: the warm Python is a Python, and the lean checks of annotations check."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jaxtyping
import pytest
import tiers
import torch
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the ordinary Python")
REPORT = """
import json, os, sys, threading
said = sys.stdin.read()
print(json.dumps([sys.argv, sys.path[0], os.getcwd(), os.environ.get("GIVEN"), said, __name__]))
print("words", file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.parametrize("how", ["-c", "-m", "file"])
def test_a_warm_process_is_that_of_a_new_interpreter(how, warm_python, tmp_path):
    (tmp_path / "report.py").write_text(REPORT)
    words = {"-c": ["-c", REPORT], "-m": ["-m", "report"], "file": ["./report.py"]}[how]
    seen = []
    for python in (sys.executable, warm_python):
        done = subprocess.run(
            [python, "-W", "ignore", *words, "a", "b c"],
            cwd=tmp_path,
            env={"GIVEN": "value", "PATH": "/usr/bin:/bin"},
            input="typed",
            capture_output=True,
            text=True,
        )
        seen.append((done.returncode, done.stdout, done.stderr))
    assert seen[0] == seen[1]
    assert seen[1][0] == 3


def test_it_has_imported_lightning_and_draws_its_own_numbers(warm_python):
    if warm_python == sys.executable:
        pytest.skip("here it is the ordinary Python")
    draws = "random.random(), numpy.random.rand(), float(torch.rand(()))"
    code = f"import sys; print('lightning' in sys.modules); import random, numpy, torch; print({draws})"
    runs = [subprocess.run([warm_python, "-c", code], capture_output=True, text=True) for _ in range(2)]
    (warm, first), (_, second) = (run.stdout.splitlines() for run in runs)
    assert warm == "True"
    assert not set(first.split()) & set(second.split())


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_to_the_client_ends_the_process(number, warm_python):
    code = "import time; print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([warm_python, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "1\n"
        client.send_signal(number)
        client.wait(timeout=20)
        assert client.stdout.read() == ""  # its end: the process no longer holds the pipe
    assert client.returncode == -number


def test_an_error_is_a_traceback_and_status_1(warm_python):
    done = subprocess.run([warm_python, "-c", "1 / 0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ZeroDivisionError: division by zero")


def checked(text):
    """The function `f` of a source text as the import hook decorates it."""
    names = {"Float": Float, "Tensor": Tensor, "Callable": object}
    exec(textwrap.dedent(text), names)
    return jaxtyping.jaxtyped(names["f"], typechecker=beartype)


X, Y = torch.zeros(2, 3), torch.zeros(2, 4)
SAME = """
def f(x: Float[Tensor, "b n"], y: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    return x
"""
RESULT = """
def f(x: Float[Tensor, "b n"]) -> Float[Tensor, "n b"]:
    return x
"""
NESTED = """
def f(x: tuple[Float[Tensor, "b n"], Float[Tensor, "b n"] | None]) -> None:
    pass
"""
PLAIN = """
def f(x: int, y: str = "a") -> int:
    return y if y == "b" else x
"""


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (SAME, [(X, X), (Y, Y)], [(X, Y), (X, 1), (X.long(), X.long()), (X[0], X[0])]),
        (RESULT, [(torch.zeros(3, 3),)], [(X,)]),
        (NESTED, [((X, X),), ((X, None),)], [((X, Y),), (X,), ((None, X),)]),
        (PLAIN, [(1,), (1, "c")], [("1",), (1, 2), (1, "b")]),
    ],
)
def test_lean_checks_refuse_what_those_of_jaxtyping_refuse(text, good, bad):
    f = checked(text)
    for arguments in good:
        f(*arguments)
    for arguments in bad:
        with pytest.raises(Exception, match=r"violat|annotat|type|hint"):
            f(*arguments)


def test_annotations_of_the_package_are_checked():
    from ldm.utils.size import size

    with pytest.raises(Exception, match="violates type hint"):
        size("many")


def test_files_that_begin_first_exist(request):
    (conftest,) = (
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "LONGEST_FIRST", None) is not None
    )
    folder = Path(__file__).parent
    assert [name for name in conftest.LONGEST_FIRST if not (folder / name).is_file()] == []


def test_long_tests_are_names_that_exist():
    named = [(file, name) for file, names in tiers.LONG.items() for name in names]
    named += [tuple(name.split("::")) for name in tiers.ONE_IN]
    for file, name in named:
        assert f"\ndef {name.partition('[')[0]}" in (Path(__file__).parent / file).read_text(), name
