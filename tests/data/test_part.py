"""A part of a data set has its metadata, and panoptic annotations of its images alone."""

import json

from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.data.part import register_part
from adet_ext.data.shapes import register_shapes


def test_a_part_has_its_images_and_their_panoptic_annotations(forget):
    whole, part = "test_part_whole", "test_part_two"
    forget(whole)
    forget(part)
    register_shapes(whole, num_images=4, size=32, seed=2, panoptic=True)
    records = DatasetCatalog.get(whole)[1:3]
    register_part(part, whole, records, panoptic=True)
    assert [x["image_id"] for x in DatasetCatalog.get(part)] == [x["image_id"] for x in records]
    mine, source = (MetadataCatalog.get(name) for name in (part, whole))
    assert mine.stuff_classes == source.stuff_classes and mine.panoptic_root == source.panoptic_root
    with open(mine.panoptic_json) as file:
        found = json.load(file)
    assert [x["image_id"] for x in found["annotations"]] == [x["image_id"] for x in records]
    assert [x["id"] for x in found["images"]] == [x["image_id"] for x in records]
    assert found["categories"]


def test_a_set_without_panoptic_annotations_has_parts_too(forget):
    forget("test_part_plain")
    register_part("test_part_plain", "shapes_val", DatasetCatalog.get("shapes_val")[:2])
    assert len(DatasetCatalog.get("test_part_plain")) == 2
    assert MetadataCatalog.get("test_part_plain").thing_classes == MetadataCatalog.get("shapes_val").thing_classes
