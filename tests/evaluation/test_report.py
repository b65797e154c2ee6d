import json
import re

from PIL import Image

from ldm.evaluation.report import read_metrics, write_report


def test_report_of_an_empty_run_says_nothing_false(tmp_path):
    page = write_report(tmp_path).read_text()
    assert "Retrieval" not in page
    assert "Curves" not in page


def test_report_is_self_contained_and_shows_what_is_there(tmp_path):
    summary = {
        "name": "a <b>",
        "timings": {"train": 61.0},
        "autoencoder": {"psnr": 31.5},
        "retrieval": {
            "top1": 0.5,
            "top5": 1.0,
            "n": 2,
            "references": 9,
            "misses": [{"caption": "x", "got": "<y>"}],
        },
        "held_out": [{"caption": "purple square", "nearest": "purple square", "correct": True}],
        "sample_command": 'ldm-sample prompt="red heart"',
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "metrics.csv").write_text("step,train/loss,loss_t/00\n1,2.0,\n2,1.0,1.0\n3,0.5,0.7\n")
    (tmp_path / "samples").mkdir()
    for name in ("prompts", "step_00000001", "held_out"):
        Image.new("RGB", (4, 4)).save(tmp_path / "samples" / f"{name}.png")
    page = write_report(tmp_path).read_text()
    assert "31.5 dB" in page
    assert "50.0%" in page
    assert "1m01s" in page
    assert "&lt;y&gt;" in page
    assert page.count("data:image/png;base64,") == 3
    assert page.count("<svg") == 2
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_metrics_are_read_by_column(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a,b\n2,,5\n1,3,\n1,4,\n")
    assert read_metrics(tmp_path / "metrics.csv") == {"a": [(1.0, 4.0)], "b": [(2.0, 5.0)]}
