import json

from ldm.training import summary
from ldm.training.summary import Summary


def test_facts_are_on_the_disk_at_once_and_kept_by_a_resumed_run(tmp_path):
    path = tmp_path / "summary.json"
    Summary(path, "first").add(autoencoder={"psnr": 30.0}, steps=1)
    again = Summary(path, "second")
    again.add(steps=2)
    facts = json.loads(path.read_text())
    assert facts["name"] == "first"
    assert facts["autoencoder"] == {"psnr": 30.0}
    assert facts["steps"] == 2


def test_seconds_of_a_stage_add_up(tmp_path, monkeypatch):
    clock = iter([0.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr(summary.time, "perf_counter", lambda: next(clock))
    kept = Summary(tmp_path / "summary.json", "name")
    for _ in range(2):
        with kept.timed("stage"):
            pass
    assert json.loads((tmp_path / "summary.json").read_text())["timings"] == {"stage": 3.5}


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "is_main", lambda: False)
    Summary(tmp_path / "summary.json", "name").add(a=1)
    assert not (tmp_path / "summary.json").exists()
