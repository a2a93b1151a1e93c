// The library and its build information. csrc/<operator>.cpp has the schemas of an operator and describes its
// arguments; csrc/<operator>.h has its checks. Kernels are in csrc/cpu and csrc/cuda, one file per operator and device,
// and register themselves. setup.py compiles all sources in these folders.
//
// Only LibTorch's stable ABI is used: a library built with one torch runs on all torch versions from ADET_EXT_MIN_TORCH
// on. It does not use Python, so one build serves all Python versions.
#include "build_info.h"

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(adet_ext, m) {
  m.def("build_info() -> str");
#if defined(ADET_EXT_WITH_CUDA)
  // Whether the library has kernels that run on this CUDA device.
  m.def("runs_on(int device) -> bool");
#endif
}

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&adet_ext::build_info));
#if defined(ADET_EXT_WITH_CUDA)
  m.impl("runs_on", TORCH_BOX(&adet_ext::cuda_runs_on));
#endif
}
