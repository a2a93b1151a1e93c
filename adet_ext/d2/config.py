"""Configuration: the node, its defaults, and the decorator that lets constructors take a config."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.config import CfgNode, configurable, get_cfg
else:
    from .embedded.config import CfgNode, configurable, get_cfg

__all__ = ["CfgNode", "configurable", "get_cfg"]
