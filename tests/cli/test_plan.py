"""ldm-plan on a small net: what it prints, writes and refuses; its clusters; its published yardstick."""

import json
import re
from pathlib import Path

import pytest
import torch

from ldm.cli.compose import compose
from ldm.cli.constraints import check_constraints
from ldm.cli.plan import main
from ldm.cli.train import SUPPLIED
from ldm.planning import stages
from ldm.utils.construct import check, construct

ROOT = Path(__file__).parents[2]
CLUSTERS = sorted(path.stem for path in (ROOT / "conf" / "cluster").glob("*.yaml"))
TINY = [
    "experiment=tiny",
    "first_stage.checkpoint=there.safetensors",
    "task.cache_latents=false",
    "data.batch_size=64",
]


def composed(*overrides):
    return compose("plan", ["paths.run=/nowhere", *overrides])


@pytest.fixture(scope="module", autouse=True)
def remembered():
    """A step of one net in one setting is made once."""
    known, make = {}, stages.simulate

    def remember(module, setting, image_size):
        key = (setting, image_size, module.__qualname__)
        if key not in known:
            known[key] = make(module, setting, image_size)
        return known[key]

    stages.simulate = remember
    yield
    stages.simulate = make


def rows(text):
    """Cells of the printed table by the name of the row."""
    found = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in found if len(cells) > 2}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    assert main([*TINY, f"json={path}", "cluster.nodes=2"]) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_cluster_composes_and_is_built(name):
    config = composed(f"cluster={name}")
    check(config, supplied=SUPPLIED)
    check_constraints(config)
    assert construct(config["cluster"], "cluster").room > 0
    assert len((ROOT / "conf" / "cluster" / f"{name}.yaml").read_text().splitlines()) <= 30


def test_the_plan_has_the_nets_and_a_column_for_each_way(planned):
    (stage,) = planned["stages"]
    config = composed(*TINY)
    with torch.device("meta"):
        nets = [construct(config[name], name)() for name in ("backbone", "text_encoder")]
    assert stage["parameters"] == sum(p.numel() for net in nets for p in net.parameters())
    assert [p["strategy"] for p in stage["plans"]] == [
        "DDP",
        "DDP + checkpointing",
        "FSDP",
        "FSDP + checkpointing",
    ]
    for plan in stage["plans"]:
        assert plan["micro_batch"] * plan["accumulate"] * 16 == 64
        assert plan["total"] == sum(plan["memory"].values()) < 38 * 2**30


def test_days_and_cost_follow_from_speed_and_prices(planned):
    stage, cluster = planned["stages"][0], planned["cluster"]
    plan = stage["plans"][0]
    speed = 16 * 312e12 * cluster["mfu"] / stage["flops_per_image"]
    assert plan["images_per_second"] == pytest.approx(speed)
    assert plan["days"] == pytest.approx(100 * 64 / speed / 86_400)
    assert plan["cost"] == pytest.approx(plan["days"] * 24 * 16 * cluster["price"])


def test_sharding_and_checkpointing_save_what_they_should(planned):
    plain, again, sharded, _ = planned["stages"][0]["plans"]
    for kind in ("parameters", "optimizer", "ema"):
        assert sharded["memory"][kind] == pytest.approx(plain["memory"][kind] / 8, rel=0.01), kind
    assert again["memory"]["activations"] < plain["memory"]["activations"]
    assert again["images_per_second"] < plain["images_per_second"]
    assert plain["memory"]["buffers"] == plain["memory"]["parameters"]  # DDP's buckets


def test_what_does_not_fit_is_said(capsys):
    assert main([*TINY, "cluster.memory_gib=0.004", "cluster.reserved_gib=0.0", "cluster.devices=2"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"DDP does not fit: needs \S+ MiB of 4\.1 MiB at a micro-batch of 1", text)
    assert rows(text)["largest that fits"][0] == "none"
    assert rows(text)["cost"][0] == "-"
    assert "nothing fits" in text or "fastest that fits: FSDP" in text


def test_one_device_has_nothing_to_exchange_and_both_stages_are_planned(capsys):
    assert main(["experiment=tiny", "cluster=laptop"]) == 0
    text = capsys.readouterr().out
    assert text.count("fastest that fits: DDP: trainer=cpu") == 2
    assert "FSDP" not in text
    assert rows(text)["buffers"] == ["0.00", "0.00"]
    assert "autoencoder at 16 px" in text
    assert "latent diffusion at 16 px" in text


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.batch_size=12"], "batch_size must be a multiple of 1 nodes x 8 devices, got 12"),
        (["cluster.mfu=2.0"], "cluster.mfu: must be in (0, 1], got 2.0"),
        (["cluster.devices=0"], "cluster.devices: must be at least 1, got 0"),
        (["cluster.memory_gib=-1.0"], "cluster.memory_gib: must be above 0"),
        (["cluster=nothing"], "cluster=nothing: no such option"),
        (["cluster.mfuu=0.1"], "did you mean 'cluster.mfu'"),
        (["backbone.in_channels=5"], "backbone.in_channels: must equal autoencoder.latent_channels=8, got 5"),
        (["trainer.precision=bf16-true"], "precision: must be one of"),
        (["json=README.md"], "json: README.md exists"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(overrides, says, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main([*TINY, *overrides]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_data_need_not_be_there(capsys):
    assert main([*TINY, "data=laion", "data.batch_size=64", "data.image_size=16"]) == 0
    assert "100 steps of 64 images" in capsys.readouterr().out


def test_precomputed_latents_spare_the_frozen_nets(planned, tmp_path):
    assert main([*TINY, f"json={tmp_path / 'plan.json'}", "precomputed=true"]) == 0
    ahead = json.loads((tmp_path / "plan.json").read_text())["stages"][0]
    live = planned["stages"][0]
    assert ahead["flops_per_image"] == live["flops_per_image"] - live["flops"]["frozen"]
    assert ahead["plans"][0]["memory"]["frozen"] == 0 < live["plans"][0]["memory"]["frozen"]
