"""The package's config keys, and loading of YAML files with them."""

from .keys import add_adet_config, add_missing
from .load import add_project_keys, find_config, get_cfg, load_config, project_keys
from .search_keys import add_search_keys

__all__ = [
    "add_adet_config",
    "add_missing",
    "add_project_keys",
    "add_search_keys",
    "find_config",
    "get_cfg",
    "load_config",
    "project_keys",
]
