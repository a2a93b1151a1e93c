"""Context modules: the sources' formulas, counts and costs, and their place in a semantic branch."""

import json
import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from adet_ext import get_cfg
from adet_ext.errors import UserError
from adet_ext.modeling.context_modules import CONTEXT_MODULE_REGISTRY, ContextSemSegFPNHead, build_context_module
from adet_ext.modeling.context_modules.node_vectors import hashed_vector, prior_graph, read_vectors

NAMES = ("DoubleAttention", "GloRe", "SymbolicReasoning", "GraphConvUnit")


def make(name, channels=12, seed=0, **keys):
    """Build a module whose parameters are all random, norms and last layers included."""
    cfg = get_cfg()
    context = cfg.MODEL.CONTEXT
    context.NAME, context.NODES, context.CHANNELS, context.SGR.DIM = name, 5, 7, 6
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.CONTEXT.{key.replace('__', '.')}", value])
    module = build_context_module(cfg, channels)
    torch.manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module.eval()


def features(channels=12, height=6, width=9):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def each_place(x):
    """Yield, image by image, the list of the places' vectors."""
    for image in x:
        yield [image[:, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])]


def as_map(places, like):
    return torch.stack(places, dim=1).reshape(-1, *like.shape[1:])


def conv(layer, vector):
    weight = layer.weight.flatten(1)
    return weight @ vector + (0 if layer.bias is None else layer.bias)


def test_double_attention_gathers_descriptors_and_distributes_them():
    module, x = make("DoubleAttention"), features()
    for image, out in zip(each_place(x), module(x)):
        phi, theta, rho = zip(*(conv(module.project, v).split([7, 5, 5]) for v in image))
        gather = torch.stack(theta).softmax(dim=0)  # over the places
        descriptors = [sum(gather[i, k] * phi[i] for i in range(len(image))) for k in range(5)]
        places = []
        for v, r in zip(image, rho):
            share = r.softmax(dim=0)  # over the descriptors
            places.append(v + conv(module.extend, sum(share[k] * descriptors[k] for k in range(5))))
        torch.testing.assert_close(out, as_map(places, out), atol=1e-5, rtol=1e-5)


def test_glore_reasons_over_projected_nodes():
    module, x = make("GloRe"), features()
    mix, state_mix = module.mix_nodes.weight[:, :, 0], module.mix_state.weight[:, :, 0]
    scale = module.norm.weight / math.sqrt(1 + 1e-4)
    for image, out in zip(each_place(x), module(x)):
        state, project = zip(*(conv(module.project, v).split([10, 5]) for v in image))
        nodes = [sum(p[k] * s for s, p in zip(state, project)) / len(image) for k in range(5)]
        mixed = [sum(mix[k, j] * nodes[j] for j in range(5)) + module.mix_nodes.bias[k] for k in range(5)]
        nodes = [state_mix @ F.relu(a + b) for a, b in zip(nodes, mixed)]
        places = [
            v + scale * conv(module.extend, sum(p[k] * nodes[k] for k in range(5))) + module.norm.bias
            for v, p in zip(image, project)
        ]
        torch.testing.assert_close(out, as_map(places, out), atol=1e-5, rtol=1e-5)


def test_graph_unit_projects_by_scaled_distances():
    module, x = make("GraphConvUnit"), features()
    anchor, sigma = module.graph.anchor, module.graph.log_scale.exp()
    scale = module.norm.weight / math.sqrt(1 + module.norm.eps)
    for image, out in zip(each_place(x), module(x)):
        share = []
        for v in image:
            distances = torch.stack([-(((v - anchor[k]) / sigma[k]) ** 2).sum() / 2 for k in range(5)])
            share.append(distances.softmax(dim=0))
        vertices = []
        for k in range(5):
            mean = sum(q[k] * (v - anchor[k]) / sigma[k] for q, v in zip(share, image)) / sum(q[k] for q in share)
            vertices.append(mean / mean.norm())
        z = torch.stack(vertices, dim=1)  # (C, K)
        nodes = F.relu(z.t() @ z @ z.t() @ module.weight.weight.t())
        places = [v + scale * conv(module.extend, q @ nodes) + module.norm.bias for v, q in zip(image, share)]
        torch.testing.assert_close(out, as_map(places, out), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("score", ["linear", "relu"])
@pytest.mark.parametrize("vectors", ["learned", "hashed"])
def test_symbolic_reasoning_votes_reasons_and_maps_back(score, vectors):
    names = ["road", "car", "racecar"]
    module, x = make("SymbolicReasoning", SGR__SCORE=score, SGR__VECTORS=vectors, SGR__NAMES=names), features()
    known = module.vectors
    graph = torch.eye(3)
    for i in range(3):
        for j in range(3):
            if i != j:
                graph[i, j] = max(0, F.cosine_similarity(known[i], known[j], dim=0))
    degree = graph.sum(dim=1)
    graph = torch.stack(
        [torch.stack([graph[i, j] / (degree[i] * degree[j]).sqrt() for j in range(3)]) for i in range(3)]
    )
    for image, out in zip(each_place(x), module(x)):
        votes = [conv(module.vote, v).softmax(dim=0) for v in image]
        nodes = [F.relu(sum(a[n] * conv(module.to_nodes, v) for a, v in zip(votes, image))) for n in range(3)]
        joined = torch.stack([torch.cat([h, e]) for h, e in zip(nodes, known)])
        nodes = F.relu(graph @ joined @ module.reason.weight.t())
        scores = torch.stack(
            [(module.score_node.weight @ nodes.t())[0] + conv(module.score_pixel, v) for v in image]
        )  # (HW, K)
        mapping = (F.relu(scores) if score == "relu" else scores).softmax(dim=0)
        mapping = mapping / mapping.sum(dim=1, keepdim=True)
        places = [v + F.relu(m @ (nodes @ module.to_pixels.weight.t())) for v, m in zip(image, mapping)]
        torch.testing.assert_close(out, as_map(places, out), atol=1e-5, rtol=1e-5)


def test_the_published_score_of_symbolic_reasoning_maps_every_node_alike():
    module, x = make("SymbolicReasoning"), features()
    nodes = torch.rand(2, 5, 7)
    torch.testing.assert_close(module.mapping(x, nodes), torch.full((2, 5, 54), 0.2))
    assert make("SymbolicReasoning", SGR__SCORE="relu").mapping(x, nodes).std() > 0.01


@pytest.mark.parametrize(
    "name, channels, keys, count",
    [
        ("DoubleAttention", 512, {"CHANNELS": 128, "NODES": 128}, 263_040),
        ("GloRe", 512, {"NODES": 64}, 185_600),
        ("GloRe", 2048, {"NODES": 256}, 2_954_240),
    ],
)
def test_parameters_are_the_papers(name, channels, keys, count):
    assert sum(p.numel() for p in make(name, channels, **keys).parameters()) == count


class Largest(TorchDispatchMode):
    """Remember the number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *(t.numel() for t in tensors)])
        return result


@pytest.mark.parametrize("name", NAMES)
def test_time_and_memory_grow_linearly_with_the_places(name):
    module = make(name, 32, NODES=16, CHANNELS=32, SGR__SCORE="relu")
    flops, elements = [], []
    for width in (16, 32, 64):
        with torch.no_grad(), FlopCounterMode(display=False) as counter, Largest() as largest:
            module(torch.randn(1, 32, 16, width))
        flops.append(counter.get_total_flops())
        elements.append(largest.elements)
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0]) > 0
    assert elements[2] <= 3 * 32 * 16 * 64 and elements[2] < (16 * 64) ** 2 / 8


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained_and_autocast_stays_close(name):
    module, x = make(name), features().requires_grad_()
    out = module(x)
    (out * torch.randn_like(out)).sum().backward()
    still = [key for key, p in module.named_parameters() if p.grad is None]
    assert still == [] and torch.isfinite(x.grad).all() and out.shape == x.shape
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(x)
    assert (half.float() - out).abs().max() < 0.05 * out.abs().max()


@pytest.mark.parametrize("name", ["DoubleAttention", "GloRe", "GraphConvUnit"])
def test_a_new_module_is_the_identity(name):
    cfg = get_cfg()
    cfg.MODEL.CONTEXT.NAME, cfg.MODEL.CONTEXT.UNITS = name, 2
    x = features()
    torch.testing.assert_close(build_context_module(cfg, 12).eval()(x), x)


def test_no_name_is_no_module_and_wrong_keys_are_named():
    cfg = get_cfg()
    assert isinstance(build_context_module(cfg, 12), torch.nn.Identity)
    assert sorted(NAMES) == sorted(name for name, _ in CONTEXT_MODULE_REGISTRY)
    cfg.MODEL.CONTEXT.NAME = "NonLocal"
    with pytest.raises(ValueError, match="MODEL.CONTEXT.NAME must be DoubleAttention, GloRe, .*; got 'NonLocal'"):
        build_context_module(cfg, 12)
    with pytest.raises(ValueError, match="MODEL.CONTEXT.NODES must be 1 or more; got 0"):
        make("GloRe", NODES=0)
    with pytest.raises(ValueError, match="MODEL.CONTEXT.SGR.SCORE must be linear or relu; got 'x'"):
        make("SymbolicReasoning", SGR__SCORE="x")


def test_hashed_vectors_are_the_same_everywhere_and_alike_for_like_names():
    light, sign, sky = (hashed_vector(name, 300) for name in ("traffic light", "Traffic-sign", "sky"))
    assert light @ sign > 0.4 > light @ sky
    assert hashed_vector("sky", 8).nonzero().flatten().tolist() == [1, 3, 7]


def test_word_vectors_are_read_and_their_faults_named(tmp_path):
    path = tmp_path / "words.vec"
    path.write_text("3 2\nroad 1 0\ntraffic 0 2\nlight 4 0\nnoise 9 9\n")
    torch.testing.assert_close(read_vectors(str(path), ["Road", "traffic_light"]), torch.tensor([[1.0, 0], [2, 1]]))
    with pytest.raises(UserError, match=r"words.vec has no vector for sky; name the nodes by other words"):
        read_vectors(str(path), ["road", "sky"])
    path.write_text("road 1 0\nsky 1\n")
    with pytest.raises(UserError, match="the vectors differ in length, .*a line of the file is cut"):
        read_vectors(str(path), ["road", "sky"])
    path.write_text("road one two\n")
    with pytest.raises(UserError, match="words.vec, line 1: road is not followed by numbers"):
        read_vectors(str(path), ["road"])
    with pytest.raises(UserError, match="cannot read .*absent"):
        read_vectors(str(tmp_path / "absent"), ["road"])
    with pytest.raises(UserError, match="MODEL.CONTEXT.SGR.NAMES must name the nodes"):
        make("SymbolicReasoning", SGR__VECTORS="hashed", SGR__NAMES=[])


def test_prior_graphs_are_symmetric_and_their_faults_named(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps([["road", "car"], ["car", "sky", 0.5]]))
    graph = prior_graph(str(path), ["road", "car", "sky"])
    assert graph.tolist() == [[0, 1, 0], [1, 0, 0.5], [0, 0.5, 0]]
    with pytest.raises(UserError, match="graph.json names 'sky', which is no node; the nodes are road, car"):
        prior_graph(str(path), ["road", "car"])
    path.write_text(json.dumps([["road"]]))
    with pytest.raises(UserError, match="graph.json must hold a list of edges"):
        prior_graph(str(path), ["road"])
    path.write_text("[")
    with pytest.raises(UserError, match="cannot read"):
        prior_graph(str(path), ["road"])


def test_panoptic_blendmask_takes_a_context_module_by_its_config(build, batch):
    for x in batch:
        x["sem_seg"] = torch.ones_like(x["basis_sem"])
    keys = [
        *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True),
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
    ]
    plain = build(*keys)
    model = build(*keys, "MODEL.SEM_SEG_HEAD.NAME", "ContextSemSegFPNHead", "MODEL.CONTEXT.NAME", "GloRe")
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == [] and missing and all(".context." in key for key in missing)
    assert any(isinstance(module, ContextSemSegFPNHead) for module in model.modules())
    torch.testing.assert_close(model(batch)["loss_sem_seg"], plain(batch)["loss_sem_seg"])  # identity at the start
