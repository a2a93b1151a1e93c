// The library and what it tells of itself. Every operator has a file of its own, csrc/<operator>.cpp, with its schemas
// and what they mean; kernels live in csrc/cpu and csrc/cuda, one file per operator and device, and register themselves.
// setup.py compiles whatever lies there.
//
// Only LibTorch's stable ABI is used: a library built with one torch runs on every later one, and on every earlier
// one down to ADET_EXT_MIN_TORCH. It has no Python in it either, so that one build serves all Python versions.
#include "build_info.h"

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(adet_ext, m) {
  m.def("build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&adet_ext::build_info));
}
