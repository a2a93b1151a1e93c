"""The package's config keys, and loading of YAML files with them."""

from .keys import add_adet_config
from .load import find_config, get_cfg, load_config

__all__ = ["add_adet_config", "find_config", "get_cfg", "load_config"]
