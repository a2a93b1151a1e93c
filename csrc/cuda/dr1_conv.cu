// dr1_conv on CUDA, compute capability 8.0 on: float16, bfloat16 and float32 (as TF32), channels by the 16, and up to 256
// bytes of them to go in: the shared memory that this takes is there on all of these GPUs.
#include "../dr1_conv.h"
#include "cuda.h"
#include "dr1_conv_kernel.cuh"

#include <type_traits>

namespace adet_ext {
namespace {

using dr1::Map;
using dr1::Problem;

// The tensor itself where its channels lie together on 16 bytes, else a copy of which that is true.
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

template <class T>
Map<T> map_of(const Tensor& t) {
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(2), t.stride(3)};
}

// An input's map; the tensor that it lies in, perhaps a copy, goes into `alive`.
template <class T>
Map<T> input(const MaybeTensor& t, std::vector<Tensor>& alive) {
  if (!t) {
    return {};
  }
  alive.push_back(aligned<T>(*t));
  return map_of<T>(alive.back());
}

template <class T, bool turned>
void launch(const Problem<T>& p, int64_t images, cudaStream_t stream) {
  const int64_t bytes = dr1::shared_bytes<T>(p.C, turned);
  if (bytes > 48 * 1024) { // more than that has to be asked for
    STD_TORCH_CHECK(
        cudaFuncSetAttribute(dr1::convolve<T, turned>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)) ==
            cudaSuccess,
        "dr1_conv takes ",
        bytes,
        " bytes of shared memory, more than this GPU has");
  }
  const dim3 grid(uint32_t(images * p.down * p.across), uint32_t((p.O + dr1::kOutputs - 1) / dr1::kOutputs));
  dr1::convolve<T, turned><<<grid, dr1::kThreads, size_t(bytes), stream>>>(p);
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "dr1_conv: ", cudaGetErrorString(error));
}

template <class T>
void compute(
    const Dr1Sizes& s,
    const Tensor& x,
    const MaybeTensor& before,
    const Tensor& weight,
    const MaybeTensor& bias,
    bool turned,
    const MaybeTensor& after,
    const MaybeTensor& after2,
    const Tensor& first,
    const Tensor* second) {
  std::vector<Tensor> alive;
  Problem<T> p{};
  p.H = int(s.H);
  p.W = int(s.W);
  p.C = int(s.C);
  p.O = int(s.O);
  p.down = (p.H + dr1::kRows - 1) / dr1::kRows;
  p.across = (p.W + dr1::kColumns - 1) / dr1::kColumns;
  p.x = input<T>(x, alive);
  p.before = input<T>(before, alive);
  p.after = input<T>(after, alive);
  p.after2 = input<T>(after2, alive);
  p.result = map_of<T>(first);
  if (second) {
    p.result2 = map_of<T>(*second);
  }
  if (bias) {
    alive.push_back(torch::stable::contiguous(*bias));
    p.bias = static_cast<const T*>(alive.back().data_ptr());
  }
  alive.push_back(aligned<T>(torch::stable::contiguous(weight, torch::headeronly::MemoryFormat::ChannelsLast)));
  p.weight = static_cast<const T*>(alive.back().data_ptr());
  const cudaStream_t stream = current_stream(x);
  if (turned) {
    launch<T, true>(p, s.N, stream);
  } else {
    launch<T, false>(p, s.N, stream);
  }
}

std::tuple<Tensor, Tensor> dr1_conv(
    const Tensor& x,
    const MaybeTensor& before,
    const Tensor& weight,
    const MaybeTensor& bias,
    bool turned,
    const MaybeTensor& after,
    const MaybeTensor& after2,
    int64_t results) {
  const Dr1Sizes s = check_dr1(x, before, weight, bias, turned, after, after2, results);
  STD_TORCH_CHECK(
      s.C % 16 == 0 && s.O % 16 == 0 && s.C > 0 && s.C * int64_t(x.element_size()) <= 256,
      "weight connects ",
      s.C,
      " channels with ",
      s.O,
      "; on CUDA both are multiples of 16, and the former take at most 256 bytes");
  const int64_t blocks = s.N * ((s.H + dr1::kRows - 1) / dr1::kRows) * ((s.W + dr1::kColumns - 1) / dr1::kColumns);
  STD_TORCH_CHECK(
      blocks < (int64_t(1) << 31) && s.H < (1 << 30) && s.W < (1 << 30), "x is too large: ", s.locations(), " locations");
  const OnDeviceOf guard(x);
  const Tensor first = new_map(x, s), second = new_map(x, s, results == 1);
  if (s.locations() == 0 || s.O == 0) {
    return {first, second};
  }
  const Tensor* const other = results == 2 ? &second : nullptr;
  switch (x.scalar_type()) {
    case ScalarType::Half:
      compute<__half>(s, x, before, weight, bias, turned, after, after2, first, other);
      break;
    case ScalarType::BFloat16:
      compute<__nv_bfloat16>(s, x, before, weight, bias, turned, after, after2, first, other);
      break;
    default:
      check_type(x, "x", ScalarType::Float);
      compute<float>(s, x, before, weight, bias, turned, after, after2, first, other);
  }
  return {first, second};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("dr1_conv", TORCH_BOX(&dr1_conv));
}

} // namespace adet_ext
