"""A short seeded run of the fuzz of image files."""

from tests.fuzz import fuzz_images


def test_no_image_file_ends_in_a_fault():
    counts, faults = fuzz_images.run(150, seed=7)
    assert not faults, faults[0]
    # All ways must be walked for the run to say anything.
    assert len(counts) == 3 and min(counts.values()) > 10 and sum(counts.values()) == 150
