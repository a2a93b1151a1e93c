// How this library was built, as "key=value; key=value" for adet_ext/layers/extension.py.
#pragma once

#include <cstdint>
#include <string>

namespace adet_ext {

std::string build_info();

// Defined in csrc/cuda, so only in a library built with CUDA: "cuda=VERSION; cuda_archs=LIST", and whether the kernels
// were compiled for a device, or for one whose code it can run.
std::string cuda_build_info();
bool cuda_runs_on(int64_t device);

} // namespace adet_ext
