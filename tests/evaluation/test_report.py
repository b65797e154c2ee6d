import json
import re

import torch
from PIL import Image

from ldm.evaluation.report import read_metrics, write_report
from ldm.evaluation.score import Headline, Picture, Score, Table, write_scores
from ldm.utils.image_io import make_grid, save_png


def test_report_of_an_empty_run_says_nothing_false(tmp_path):
    page = write_report(tmp_path).read_text()
    assert "Retrieval" not in page
    assert "Curves" not in page
    assert "in all" not in page
    assert "<h2>" not in page
    assert "0s" not in page


def test_report_is_self_contained_and_shows_what_is_there(tmp_path):
    summary = {
        "name": "a <b>",
        "timings": {"train": 61.0},
        "sample_command": 'ldm-sample prompt="red heart"',
    }
    score = Score(
        title="Any metric",
        headlines=[
            Headline(label="quality", value=31.5, format="{:.1f} dB"),
            Headline(label="top-1", value=0.5, format="{:.1%}"),
        ],
        tables=[Table(head=["prompt", "got"], rows=[["x", "<y>"]])],
        pictures=[Picture(file="samples/prompts.png"), Picture(file="samples/held_out.png", wide=True)],
    )
    write_scores(tmp_path, {"any": score})
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "metrics.csv").write_text("step,train/loss,loss_t/00\n1,2.0,\n2,1.0,1.0\n3,0.5,0.7\n")
    (tmp_path / "samples").mkdir()
    for name in ("prompts", "step_00000001", "held_out"):
        Image.new("RGB", (4, 4)).save(tmp_path / "samples" / f"{name}.png")
    page = write_report(tmp_path).read_text()
    assert "<h2>Any metric</h2>" in page
    assert "31.5 dB" in page
    assert "50.0%" in page
    assert "1m01s" in page
    assert "&lt;y&gt;" in page
    assert page.count("data:image/png;base64,") == 3
    assert page.count("<svg") == 2
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_a_score_without_anything_has_no_section(tmp_path):
    write_scores(tmp_path, {"empty": Score(title="Empty", values={"x": 1})})
    assert "Empty" not in write_report(tmp_path).read_text()


def test_a_run_that_diverged_has_a_report(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss,loss_t/03\n1,1.0,0.0\n2,nan,\n3,inf,nan\n4,-1,1\n")
    page = write_report(tmp_path).read_text()
    assert "<h2>" not in page or "<svg" in page


def test_a_long_table_is_folded_and_all_there(tmp_path):
    rows = [[f"c{i}", "x"] for i in range(57)]
    misses = Table(head=["caption", "got"], rows=rows, summary="the 57 misses")
    write_scores(tmp_path, {"any": Score(title="Any", tables=[misses])})
    page = write_report(tmp_path).read_text()
    assert "<summary>the 57 misses" in page
    assert all(f"<td>c{i}</td>" in page for i in range(57))


def test_verdicts_stand_below_their_images(tmp_path):
    verdicts = [(True, "right"), (False, "nearest: blue <square>")]
    picture = Picture(file="samples/held_out.png", verdicts=verdicts)
    write_scores(tmp_path, {"any": Score(title="Any", pictures=[picture])})
    (tmp_path / "samples").mkdir()
    images = make_grid(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), columns=2)
    save_png(images, tmp_path / "samples" / "held_out.png", {"prompts": "green heart\npurple square"})
    page = write_report(tmp_path).read_text()
    assert "green heart<br><b class=yes>right" in page
    assert "purple square<br><b class=no>nearest: blue &lt;square&gt;" in page


def test_the_strip_shows_first_and_last_of_many_grids(tmp_path):
    (tmp_path / "samples").mkdir()
    for step in (*range(100, 3100, 100), "final"):
        Image.new("RGB", (4, 4)).save(tmp_path / "samples" / f"step_{step}.png")
    page = write_report(tmp_path).read_text()
    steps = re.findall(r"<figcaption>step ([\d,]+)</figcaption>", page)
    assert len(steps) == 9
    assert "final" not in page


def test_validation_loss_is_drawn_beside_training_loss(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n1,2.0,\n2,1.0,1.5\n3,0.5,0.7\n")
    assert ">validation</text>" in write_report(tmp_path).read_text()


def test_metrics_are_read_by_column(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a,b\n2,,5\n1,3,\n1,4,\n")
    assert read_metrics(tmp_path / "metrics.csv") == {"a": [(1.0, 4.0)], "b": [(2.0, 5.0)]}
