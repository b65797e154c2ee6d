"""What a loader process refuses is raised in the training process as it is."""

import pytest

from ldm.data.batch import OrderedData
from ldm.utils.errors import UserError


class Refusing(OrderedData):
    """Data whose third batch cannot be made."""

    def __init__(self, error, num_workers):
        super().__init__(batch_size=1, image_size=1, seed=0, num_workers=num_workers)
        self.error = error

    def batch(self, step, part=0, parts=1):
        if step == 2:
            raise self.error
        return {"step": step}


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("error", [UserError("must be whole", "data.shards"), FileNotFoundError("gone.tar")])
def test_errors_arrive_in_their_place_without_a_traceback(error, num_workers):
    loader, steps = Refusing(error, num_workers).train_dataloader(), []
    with pytest.raises(type(error)) as caught:
        steps.extend(batch["step"] for batch in loader)
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "key", None) == getattr(error, "key", None)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bug_keeps_its_traceback(num_workers):
    with pytest.raises(ZeroDivisionError) as caught:
        list(Refusing(ZeroDivisionError("a bug"), num_workers).train_dataloader())
    assert "a bug" in str(caught.value)
