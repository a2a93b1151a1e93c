"""What a model launches on a GPU in inference: levels share launches where they can, and images share tables."""

import pytest

from .host_waits import serve_fake_gpus
from .launches import launches


@pytest.mark.parametrize("blur", [False, True])
def test_levels_share_launches_and_images_share_tables(build, blur, monkeypatch):
    serve_fake_gpus(monkeypatch)
    options = ("MODEL.META_ARCHITECTURE", "SmalMask", "MODEL.SMALMASK.NUM_CONVS", 1)
    backbone = ("MODEL.BACKBONE.NAME", "build_fcos_blur_resnet_fpn_backbone") if blur else ()
    first, counts = launches(build(*options, *backbone), (96, 128))
    assert first >= sum(counts.values()) + (150 if blur else 50)
    assert counts["full"] == 0  # of tables
    # A layer each of the towers for classes, boxes and masks; the distances; three kinds of scores.
    assert counts["group_norm_relu"] == 3 and counts["_foreach_clamp_min_"] == 1 and counts["sigmoid"] <= 4
