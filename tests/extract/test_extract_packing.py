import pickle

import numpy as np
import pytest

from extract.engine import Broken
from extract.packing import Packed

DRAW = np.random.default_rng(0)
CASES = {
    "tokens of different lengths": [DRAW.integers(0, 99, size) for size in (3, 0, 7, 1)],
    "pictures": [DRAW.integers(0, 255, (4, 5, 3)).astype(np.uint8) for _ in range(3)],
    "sequences": [DRAW.normal(size=(size, 6)).astype(np.float32) for size in (2, 1, 5)],
    "none": [],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("broken", [(), (0,), (1, 3)])
def test_inputs_come_out_as_they_went_in(name, broken):
    inputs = list(CASES[name])
    for place in broken:
        inputs.insert(place, Broken(f"number {place}")) if place <= len(inputs) else None
    found = pickle.loads(pickle.dumps(Packed.of(inputs))).inputs()  # noqa: S301
    assert len(found) == len(inputs)
    for one, before in zip(found, inputs, strict=True):
        if isinstance(before, Broken):
            assert one == before
        else:
            np.testing.assert_array_equal(one, before)
            assert (one.dtype, one.shape) == (before.dtype, before.shape)


def test_a_batch_of_broken_inputs_alone_comes_through():
    assert Packed.of([Broken("a"), Broken("b", final=False)]).inputs() == [Broken("a"), Broken("b", final=False)]
