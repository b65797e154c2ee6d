"""A loss term of one's own is one .py and one .yaml in a folder given by --config-dir."""

import csv

import pytest

from ldm.cli import train

TERM = '''
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Adds a constant to the loss of each sample."""

    value: float

    def __call__(self, step):
        return step.t * 0 + self.value
'''
SHORT = ["experiment=tiny", "threads=1", "trainer.max_steps=2", "first_stage.max_steps=1"]
SHORT += ["trainer.log_every_n_steps=1", "evaluation=null", "sampling.num_inference_steps=1"]


def losses(run):
    with open(run / "metrics.csv") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_terms_of_a_folder_are_added_to_the_loss(tmp_path, monkeypatch):
    """The first step's loss differs by the constants; of several terms, all are added."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine" / "loss_terms"
    folder.mkdir(parents=True)
    (tmp_path / "mine" / "constant.py").write_text(TERM)
    for name, value in (("one", 1.0), ("two", 2.0)):
        (folder / f"{name}.yaml").write_text(f"{name}:\n  _target_: constant.Constant\n  value: {value}\n")
    assert train.main([*SHORT, f"hydra.run.dir={tmp_path}/plain"]) == 0
    terms = ["--config-dir=mine", "loss_terms=[one,two]"]
    assert train.main([*SHORT, *terms, f"hydra.run.dir={tmp_path}/terms"]) == 0
    plain, added = losses(tmp_path / "plain"), losses(tmp_path / "terms")
    assert added[0] == pytest.approx(plain[0] + 3.0, abs=1e-5)
