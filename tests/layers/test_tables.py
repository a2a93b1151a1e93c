"""Small tables: kept, made on the device, and of use to training and inference alike."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from adet_ext.layers import tables
from adet_ext.layers.sparse_conv import unravel_locations
from adet_ext.layers.tables import number_table

CPU = torch.device("cpu")


def test_a_table_has_the_numbers_and_is_made_once():
    table = number_table([[1, 2], [3, 4]], CPU)
    assert table.tolist() == [[1, 2], [3, 4]] and table.dtype == torch.int64
    assert number_table([(1, 2), (3, 4)], CPU) is table
    assert number_table([[1, 2], [3, 4]], CPU, torch.float32).dtype == torch.float32


def test_training_may_use_what_inference_made():
    with torch.inference_mode():
        table = number_table([[0.5, 7.25]], CPU, torch.float64)
    (torch.ones(1, 2, dtype=torch.float64, requires_grad=True) * table).sum().backward()


def test_nothing_is_kept_of_a_program_that_is_traced():
    with FakeTensorMode():
        assert isinstance(number_table([[8, 9, 10]], CPU), FakeTensor)
    assert number_table([[8, 9, 10]], CPU).tolist() == [[8, 9, 10]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_a_table_that_is_made_number_by_number_is_the_same(dtype):
    rows = [[1, 2, 3], [4, 5, 2**20 + 1]]
    made = tables._filled(rows, CPU, dtype)
    assert torch.equal(made, torch.tensor(rows, dtype=dtype)) and made.dtype == dtype
    with FakeTensorMode():
        made = number_table(rows, torch.device("cuda"), dtype)
    assert made.shape == (2, 3) and made.dtype == dtype and made.device.type == "cuda"


def test_locations_of_a_graph_with_symbolic_sizes_are_right():
    def at(x, location):
        return torch.stack(unravel_locations([x.shape, (3, 2)], location))

    compiled = torch.compile(at, backend="eager", dynamic=True, fullgraph=True)
    for height in (5, 7):
        x, location = torch.zeros(height, 4), torch.arange(height * 4 + 6)
        assert torch.equal(compiled(x, location), at(x, location))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_makes_the_numbers_without_a_wait():
    torch.cuda.set_sync_debug_mode("error")
    try:
        table = number_table([[3, 1], [4, 1 << 40]], torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert table.tolist() == [[3, 1], [4, 1 << 40]]
