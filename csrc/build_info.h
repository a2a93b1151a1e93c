// How this library was built, as "key=value; key=value"; adet_ext/layers/extension.py reads it.
#pragma once

#include <string>

namespace adet_ext {

std::string build_info();

// "cuda=VERSION; cuda_archs=LIST". Defined in csrc/cuda, so only in a library built with CUDA.
std::string cuda_build_info();

} // namespace adet_ext
