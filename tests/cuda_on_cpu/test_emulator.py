"""The emulator finds the faults that it is made for, and passes a kernel without one."""

import pytest

from .emulation import emulator, why_not

FAULTS = {
    "race_in_a_block": "a race with a (write|read): a thread (reads|writes) 4 bytes of shared memory",
    "race_of_writes": "a race with a write: a thread writes 4 bytes of a tensor",
    "race_of_blocks": "a race with a write: a thread reads 4 bytes of a tensor",
    "race_with_an_atomic": "a race with a write",
    "left_before_a_barrier": r"not all threads come to the barrier .*: thread \(5, 0, 0\)",
    "two_barriers": "threads of a block wait at different barriers",
    "a_barrier_and_an_exchange": "the threads of a block wait for one another",
    "mask_without_the_lane": "the mask of the exchange at .* does not name the lane that calls it",
    "mask_with_ended_lanes": "names lanes that are not there or have ended",
    "lane_outside_the_mask": "reads a lane that its mask does not name",
    "two_masks": "different masks|does not name the lane|lanes that are not there",
    "read_past_a_tensor": "out of bounds: a thread reads 4 bytes",
    "write_past_shared": "out of bounds: a thread writes 4 bytes",
    "write_past_dynamic": "out of bounds: a thread writes 4 bytes",
    "read_of_what_was_not_written": "shared memory that was never written: a thread reads 4 bytes",
    "misaligned_pack": "a misaligned or null address",
    "memory_of_another_thread": "local memory of another thread",
    "overflow": "an overflow of a product",
    "much_static": "a block needs more shared memory than it gets: 53248 bytes static",
    "much_dynamic": "invalid configuration",
    "more_than_a_gpu_has": "invalid argument",
    "more_threads_than_bounds": "invalid configuration",
    "more_threads_than_registers": "invalid configuration",
    "high_grid": "invalid configuration",
    "empty_grid": "invalid configuration",
    "other_stream": "kernel nothing is not launched on the current stream",
    "no_guard": "kernel nothing is launched without a guard",
}


@pytest.fixture(scope="module")
def machine():
    if why_not():
        pytest.skip(f"no emulated kernels: {why_not()}")
    return emulator()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name, machine):
    assert machine.fault(name)[0] != ""
    with pytest.raises(RuntimeError, match=FAULTS[name]):
        raise RuntimeError(machine.fault(name)[0])


def test_a_kernel_without_a_fault_passes_and_computes(machine):
    message, to = machine.fault("good")
    assert message == "" and to[0] == sum(range(128))


def test_a_launch_that_nobody_checks_is_known(machine):
    assert machine.fault("no_check")[0] == ""
    assert machine.unchecked() == "nothing" and machine.unchecked() is None


def test_the_order_of_atomics_changes_with_the_seed(machine):
    numbers = [37.0 ** (i // 32) / 3 for i in range(128)]  # four sums of different sizes
    sums = set()
    for seed in range(8):
        machine.seed(seed)
        sums.add(machine.fault("good", numbers)[1][0])
    machine.seed(0)
    assert len(sums) > 1 and all(s == pytest.approx(sum(numbers), rel=1e-6) for s in sums)


def test_a_fault_has_the_line_of_its_source(machine):
    message = machine.fault("read_past_a_tensor")[0]
    assert "faults.cu:" in message and "thread (63, 0, 0)" in message, message
