"""Ranks above 0 share the run directory and keep the terminal quiet."""

import logging
import sys
from argparse import Namespace

import pytest

from ldm.cli.ranks import quieten_other_ranks, rank_overrides

SHOWS = {"hydra_help": False, "cfg": None, "info": None, "shell_completion": False}


@pytest.fixture
def rank(monkeypatch):
    def set_to(rank):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 4), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))

    return set_to


def test_other_ranks_write_a_log_of_their_own_and_no_config(rank):
    rank(0)
    assert rank_overrides(Namespace(**SHOWS), "train") == []
    rank(3)
    overrides = ["hydra.output_subdir=null", "hydra.job.name=train_rank_3"]
    assert rank_overrides(Namespace(**SHOWS), "train") == overrides
    assert rank_overrides(Namespace(**SHOWS | {"cfg": "job"}), "train") == []


@pytest.mark.parametrize(("number", "level"), [(0, logging.INFO), (1, logging.WARNING)])
def test_the_console_of_other_ranks_shows_warnings_only(rank, number, level):
    rank(number)
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        quieten_other_ranks()
    finally:
        logging.getLogger().removeHandler(handler)
    assert handler.level == level
