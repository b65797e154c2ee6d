import subprocess

import ldm
from ldm.utils.machine import machine, revision


def test_machine_and_revision_are_plain_facts():
    facts = machine()
    assert facts["cores"] >= 1
    assert revision()["ldm_version"] == ldm.__version__


def test_without_git_the_revision_is_empty(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert revision()["git_revision"] == ""
