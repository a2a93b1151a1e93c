// For CUDA kernels: the stream and the device to launch on, and 128-bit accesses.
#pragma once

#include "../common.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime.h>

namespace adet_ext {

// PyTorch's current stream of the tensor's device.
inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// While this object exists, launches go to the device of the tensor.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& t) : guard_(t.get_device_index()) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

// N values of a type, read and written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T value[N];
};

} // namespace adet_ext
