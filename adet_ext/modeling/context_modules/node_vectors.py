"""Vectors and graph of the named nodes of symbolic reasoning: learned, hashed from the names, or from text files."""

import json
import zlib

import torch

from ...d2.data import MetadataCatalog
from ...d2.utils import PathManager
from ...errors import UserError, one_line

__all__ = ["hashed_vector", "node_names", "node_vectors", "prior_graph", "read_vectors"]

_KEY = "MODEL.CONTEXT.SGR"


def node_vectors(cfg) -> tuple[list[str], torch.Tensor]:
    """Return the nodes' names and their vectors (K, D), as ``cfg.MODEL.CONTEXT.SGR.VECTORS`` says.

    "learned" gives ``MODEL.CONTEXT.NODES`` random vectors of ``SGR.DIM`` numbers, without names unless ``SGR.NAMES``
    gives them; "hashed" makes vectors of ``SGR.DIM`` numbers from the names' letters; else it is a text file of
    vectors, see :func:`read_vectors`.
    """
    context, options = cfg.MODEL.CONTEXT, cfg.MODEL.CONTEXT.SGR
    if options.VECTORS == "learned":
        names = list(options.NAMES)
        count = len(names) or context.NODES
        return names, torch.randn(count, options.DIM) * options.DIM**-0.5
    names = node_names(cfg)
    if options.VECTORS == "hashed":
        return names, torch.stack([hashed_vector(name, options.DIM) for name in names])
    return names, read_vectors(options.VECTORS, names)


def node_names(cfg) -> list[str]:
    """Return ``SGR.NAMES``, or the classes of the first training set, things and then stuff.

    Raises:
        UserError: neither gives a name.
    """
    if cfg.MODEL.CONTEXT.SGR.NAMES:
        return list(cfg.MODEL.CONTEXT.SGR.NAMES)
    names: list[str] = []
    for data_set in cfg.DATASETS.TRAIN[:1]:
        metadata = MetadataCatalog.get(data_set)
        for kind in ("thing_classes", "stuff_classes"):
            names += [name for name in metadata.get(kind, ()) if name not in names]
    if not names:
        raise UserError(
            f"{_KEY}.NAMES must name the nodes, because the first of DATASETS.TRAIN ({list(cfg.DATASETS.TRAIN)}) has "
            f"no classes; or set {_KEY}.VECTORS learned"
        )
    return names


def hashed_vector(name: str, size: int) -> torch.Tensor:
    """Return a unit vector of the name's groups of three letters, so that names that share some are similar.

    Every group adds 1 or -1 at a place, both given by its CRC-32; the same name gives the same vector everywhere.
    """
    vector = torch.zeros(size)
    for word in name.lower().replace("-", " ").replace("_", " ").split():
        marked = f"<{word}>"
        for first in range(len(marked) - 2):
            code = zlib.crc32(marked[first : first + 3].encode())
            vector[(code >> 1) % size] += 1 - 2 * (code & 1)
    return torch.nn.functional.normalize(vector, dim=0)


def read_vectors(path: str, names: list[str]) -> torch.Tensor:
    """Return (K, D), a vector for every name, from a text file of word vectors.

    The format is GloVe's and fastText's: a word and its numbers on each line, between spaces; a first line of two whole
    numbers is skipped. A name of several words takes the mean of its words' vectors. The file is read line by line.

    Raises:
        UserError: the file cannot be read, a line is broken, or no word of a name is in the file.
    """
    words = {name: name.lower().replace("-", " ").replace("_", " ").split() for name in names}
    wanted = {word for parts in words.values() for word in parts}
    found: dict[str, torch.Tensor] = {}
    try:
        with PathManager.open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                word, *numbers = line.rstrip().split(" ")
                if word.lower() not in wanted or word.lower() in found or (number == 1 and len(numbers) == 1):
                    continue
                found[word.lower()] = torch.tensor([float(value) for value in numbers])
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{_KEY}.VECTORS: cannot read {path}: {one_line(error)}") from error
    except ValueError as error:
        raise UserError(f"{_KEY}.VECTORS: {path}, line {number}: {word} is not followed by numbers") from error
    if len({len(vector) for vector in found.values()}) > 1:
        sizes = {word: len(vector) for word, vector in found.items()}
        raise UserError(f"{_KEY}.VECTORS: {path}: the vectors differ in length, {sizes}; a line of the file is cut")
    unknown = [name for name, parts in words.items() if not any(part in found for part in parts)]
    if unknown:
        raise UserError(
            f"{_KEY}.VECTORS: {path} has no vector for {', '.join(unknown)}; name the nodes by other words in "
            f"{_KEY}.NAMES, or set {_KEY}.VECTORS hashed"
        )
    return torch.stack(
        [torch.stack([found[part] for part in words[name] if part in found]).mean(dim=0) for name in names]
    )


def prior_graph(path: str, names: list[str]) -> torch.Tensor | None:
    """Return the prior graph G (K, K), symmetric, from a JSON file of edges; None where no file is named.

    The file holds ``[[name, name], [name, name, weight], ...]``; an edge without a weight has weight 1.

    Raises:
        UserError: the file cannot be read, an edge is not one, or names a node that is not there.
    """
    if not path:
        return None
    try:
        with PathManager.open(path, encoding="utf-8") as file:
            edges = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{_KEY}.GRAPH: cannot read {path}: {one_line(error)}") from error
    graph = torch.zeros(len(names), len(names))
    for edge in edges if isinstance(edges, list) else [edges]:
        weight = edge[2] if isinstance(edge, list) and len(edge) == 3 else 1
        if not (isinstance(edge, list) and len(edge) in (2, 3) and isinstance(weight, (int, float)) and weight >= 0):
            raise UserError(
                f"{_KEY}.GRAPH: {path} must hold a list of edges, [name, name] or [name, name, weight of 0 or more]; "
                f"got {str(edge)[:80]}"
            )
        unknown = [name for name in edge[:2] if name not in names]
        if unknown:
            raise UserError(
                f"{_KEY}.GRAPH: {path} names {unknown[0]!r}, which is no node; the nodes are {', '.join(names)[:200]}"
            )
        first, second = (names.index(name) for name in edge[:2])
        graph[first, second] = graph[second, first] = weight
    return graph
