#include "../build_info.h"

#include <cuda_runtime_api.h>

namespace adet_ext {

std::string cuda_build_info() {
  std::string text = "cuda=" + std::to_string(CUDART_VERSION / 1000) + "." +
      std::to_string(CUDART_VERSION % 1000 / 10);
  text += "; cuda_archs=";
#if defined(__CUDA_ARCH_LIST__)
  // nvcc defines the list as 800,900: ten times the number that users know, and a dot short of it.
  const int archs[] = {__CUDA_ARCH_LIST__};
  bool first = true;
  for (int arch : archs) {
    text += (first ? "" : ",") + std::to_string(arch / 100) + "." + std::to_string(arch % 100 / 10);
    first = false;
  }
#else
  text += "unknown";
#endif
  return text;
}

} // namespace adet_ext
