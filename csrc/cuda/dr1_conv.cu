// dr1_conv on GPUs of compute capability 8.0 or later: float16, bfloat16 and float32 (as TF32), channels by the 16, and
// up to 256 bytes of input channels, for which all of these GPUs have enough shared memory.
#include "cuda.h"
#include "dr1_conv_kernel.cuh"

#include <type_traits>

namespace adet_ext {
namespace {

using dr1::Problem;

// The tensor itself if its channels are dense and aligned to 16 bytes, else a copy that is.
template <class T>
Tensor aligned(const Tensor& t) {
  constexpr int64_t count = 16 / sizeof(T);
  bool fits = t.stride(1) == 1 && reinterpret_cast<uintptr_t>(t.data_ptr()) % 16 == 0;
  for (int64_t axis : {0, 2, 3}) {
    fits = fits && (t.size(axis) == 1 || t.stride(axis) % count == 0);
  }
  if (fits) {
    return t;
  }
  const Tensor copy = torch::stable::contiguous(t, torch::headeronly::MemoryFormat::ChannelsLast);
  return reinterpret_cast<uintptr_t>(copy.data_ptr()) % 16 == 0 ? copy : torch::stable::clone(copy);
}

template <class T, bool turned>
void launch(const Problem<T>& p, int64_t images, cudaStream_t stream) {
  const int64_t bytes = dr1::shared_bytes<T, turned>(p.C);
  if (bytes > 48 * 1024) { // more than a kernel gets by default
    STD_CUDA_CHECK(
        cudaFuncSetAttribute(dr1::convolve<T, turned>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
  }
  const dim3 grid(uint32_t(images * p.down * p.across), uint32_t((p.O + dr1::kOutputs - 1) / dr1::kOutputs));
  dr1::convolve<T, turned><<<grid, dr1::kThreads, size_t(bytes), stream>>>(p);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class T>
void compute(const Dr1Call& call) {
  const Dr1Sizes& s = call.sizes;
  const int64_t down = (s.H + dr1::kRows - 1) / dr1::kRows, across = (s.W + dr1::kColumns - 1) / dr1::kColumns;
  ADET_CHECK(
      s.N * down * across < (int64_t(1) << 31) && s.H < (1 << 30) && s.W < (1 << 30),
      "x must have fewer locations on a GPU; got ", shape_of(call.x));
  std::vector<Tensor> alive;
  Problem<T> p{
      call.maps<T>(aligned<T>, alive), int(s.H), int(s.W), int(s.C), int(s.O), int(down), int(across), nullptr};
  alive.push_back(aligned<T>(torch::stable::contiguous(call.weight, torch::headeronly::MemoryFormat::ChannelsLast)));
  p.weight = static_cast<const T*>(alive.back().data_ptr());
  const auto start = call.turned ? launch<T, true> : launch<T, false>;
  start(p, s.N, current_stream(call.x));
}

void run(const Dr1Call& call) {
  const OnDeviceOf guard(call.x);
  int device = 0, major = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  ADET_CHECK(major >= 8, "the GPU must have compute capability 8.0 or later; got ", major, ".x");
  ADET_CHECK(
      call.sizes.C * int64_t(call.x.element_size()) <= 256, "x must have at most 256 bytes of channels on a GPU; got ",
      call.sizes.C, " channels");
  switch (call.x.scalar_type()) {
    case ScalarType::Half: return compute<__half>(call);
    case ScalarType::BFloat16: return compute<__nv_bfloat16>(call);
    default:
      ADET_CHECK(
          call.x.scalar_type() == ScalarType::Float, "x must be float32, float16 or bfloat16 on a GPU; got ",
          name_of(call.x.scalar_type()));
      return compute<float>(call);
  }
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("dr1_conv", TORCH_BOX(&dr1_conv<run>));
}

} // namespace adet_ext
