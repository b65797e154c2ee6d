from dataclasses import asdict

from ldm.evaluation.score import Headline, Picture, Score, Table, read_scores, write_scores


def full(title):
    return Score(
        title=title,
        values={"x": 1},
        headlines=[Headline(label="x", value=0.5, format="{:.0%}")],
        tables=[Table(head=["a"], rows=[["b"]])],
        pictures=[Picture(file="a.png", verdicts=[(True, "right")])],
    )


def test_a_score_survives_the_file(tmp_path):
    write_scores(tmp_path, {"a": full("A")})
    assert asdict(read_scores(tmp_path)["a"]) == asdict(full("A"))
    assert read_scores(tmp_path)["a"].headlines[0].text == "50%"


def test_later_scores_come_first_and_replace_those_of_their_name(tmp_path):
    write_scores(tmp_path, {"autoencoder": full("old"), "first": full("F")})
    write_scores(tmp_path, {"prompts": full("P"), "autoencoder": full("new")})
    found = read_scores(tmp_path)
    assert list(found) == ["prompts", "autoencoder", "first"]
    assert found["autoencoder"].title == "new"


def test_a_run_without_scores_has_none(tmp_path):
    assert read_scores(tmp_path) == {}
