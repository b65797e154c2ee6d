from ldm.evaluation.report import read_metrics
from ldm.training.loggers.csv import CSVLog


def test_numbers_of_a_step_share_a_row(tmp_path):
    log = CSVLog(str(tmp_path))
    log.log_metrics({"a": 1.0}, step=1)
    log.log_metrics({"b": 2.0}, step=1)
    log.log_metrics({"a": 3.0}, step=2)
    log.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,a,b", "1,1.0,2.0", "2,3.0,"]


def test_a_resumed_run_continues_the_file_without_repeating_a_step(tmp_path):
    first = CSVLog(str(tmp_path))
    for step in (1, 2, 3):
        first.log_metrics({"a": float(step)}, step=step)
    first.save()
    second = CSVLog(str(tmp_path))
    for step in (2, 3, 4):
        second.log_metrics({"a": 10.0 * step}, step=step)
    second.finalize("success")
    points = read_metrics(tmp_path / "metrics.csv")["a"]
    assert points == [(1.0, 1.0), (2.0, 20.0), (3.0, 30.0), (4.0, 40.0)]
