"""Tables and verdicts of plans."""

import pytest
from rich.console import Console

from ldm.planning.estimate import Cluster, Plan, Strategy
from ldm.planning.report import table, verdicts

CLUSTER = Cluster(devices=2, nodes=1, memory_gib=8.0, reserved_gib=0.0, peak_tflops=1.0, mfu=0.5, price=1.0)


def planned(speed=10.0, largest=4, sharded=False, checkpointing=False, days=2.0):
    return Plan(
        strategy=Strategy(sharded=sharded, checkpointing=checkpointing),
        largest=largest,
        micro_batch=2,
        accumulate=3,
        memory={"parameters": 2**30, "activations": 2**29},
        images_per_second=speed,
        days=days,
        cost=96.0,
    )


def text_of(*plans):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(plans))
    return captured.get()


def test_the_table_has_memory_in_gib_and_a_dash_where_nothing_fits():
    text = text_of(planned(), planned(largest=0))
    assert "GiB on a device" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["total"] == ["1.50", "1.50"]
    assert rows["cost"] == ["$96", "-"]
    assert rows["time"] == ["2.0", "days", "-"]


def test_the_fastest_that_fits_is_given_as_overrides():
    lines = verdicts(CLUSTER, [planned(), planned(speed=20.0, sharded=True, checkpointing=True)])
    assert lines == [
        "fastest that fits: FSDP + checkpointing: trainer=fsdp trainer.devices=2 trainer.num_nodes=1 "
        "trainer.accumulate_grad_batches=3 task.activation_checkpointing=true"
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_plans_that_do_not_fit_are_listed(count):
    lines = verdicts(CLUSTER, [planned(largest=0)] * count)
    assert len(lines) == count + 1
    assert lines[0].startswith("DDP does not fit: needs 1.50 GiB of 8.00 GiB")
    assert lines[-1] == "nothing fits"
