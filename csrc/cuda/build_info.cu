#include "../build_info.h"

#include <cuda_runtime.h>

namespace adet_ext {

namespace {

// Compiled for the same GPUs as all kernels.
__global__ void probe() {}

} // namespace

bool cuda_runs_on(int64_t device) {
  int current = 0;
  cudaFuncAttributes attributes;
  bool runs = cudaGetDevice(&current) == cudaSuccess && cudaSetDevice(static_cast<int>(device)) == cudaSuccess;
  if (runs) {
    runs = cudaFuncGetAttributes(&attributes, probe) == cudaSuccess;
    cudaSetDevice(current);
  }
  cudaGetLastError(); // clears the error that a device without code for it leaves
  return runs;
}

std::string cuda_build_info() {
  std::string text = "cuda=" + std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  text += "; cuda_archs=";
#if defined(__CUDA_ARCH_LIST__)
  // nvcc defines the list as 800,900 for 8.0 and 9.0.
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
