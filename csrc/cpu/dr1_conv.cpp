// dr1_conv on CPUs: the Winograd convolution with its factors, for float32 and float64, and channels by the 16.
#include "winograd.h"

#include <memory>

namespace adet_ext {
namespace {

#if defined(ADET_WINOGRAD)

using winograd::Problem;

// The functions of one instruction set: outputs of a group (two registers), and the two loops.
template <class S>
struct Kernels {
  int64_t group;
  void (*filters)(const S*, const int64_t*, int64_t, int64_t, bool, int64_t, S*);
  void (*tiles)(const Problem<S>&, int64_t, int64_t, int64_t, S*);
};

// target_clones cannot choose the width of a register, so the clones are written out. T sums of two registers each
// leave room for the filters and a factor in 32 (AVX-512) or 16 (AVX, SSE; NEON has more) registers.
#define ADET_WINOGRAD_KERNELS(NAME, TARGET, S, BYTES, T)                                                     \
  TARGET void NAME##_filters_##S(                                                                            \
      const S* weight, const int64_t* stride, int64_t C, int64_t O, bool turned, int64_t o0, S* filters) {   \
    winograd::transform_filters<S, BYTES>(weight, stride, C, O, turned, o0, filters);                        \
  }                                                                                                          \
  TARGET void NAME##_tiles_##S(const Problem<S>& p, int64_t begin, int64_t end, int64_t block, S* scratch) { \
    winograd::convolve<S, BYTES, T>(p, begin, end, block, scratch);                                          \
  }                                                                                                          \
  constexpr Kernels<S> NAME##_##S{2 * BYTES / sizeof(S), NAME##_filters_##S, NAME##_tiles_##S};

#if defined(__x86_64__)
ADET_WINOGRAD_KERNELS(avx512, __attribute__((target("arch=x86-64-v4"))), float, 64, 12)
ADET_WINOGRAD_KERNELS(avx512, __attribute__((target("arch=x86-64-v4"))), double, 64, 12)
ADET_WINOGRAD_KERNELS(avx2, __attribute__((target("arch=x86-64-v3"))), float, 32, 6)
ADET_WINOGRAD_KERNELS(avx2, __attribute__((target("arch=x86-64-v3"))), double, 32, 6)
#endif
ADET_WINOGRAD_KERNELS(plain, , float, 16, 6)
ADET_WINOGRAD_KERNELS(plain, , double, 16, 6)

#if defined(__x86_64__)
#define ADET_BEST_KERNELS(S)                                                                               \
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&             \
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");              \
  if (wide && outputs % avx512_##S.group == 0) {                                                           \
    return avx512_##S;                                                                                     \
  }                                                                                                        \
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) { \
    return avx2_##S;                                                                                       \
  }                                                                                                        \
  return plain_##S;
#else
#define ADET_BEST_KERNELS(S) return plain_##S;
#endif

template <class S>
Kernels<S> best_kernels(int64_t outputs);
template <>
Kernels<float> best_kernels<float>([[maybe_unused]] int64_t outputs) {
  ADET_BEST_KERNELS(float)
}
template <>
Kernels<double> best_kernels<double>([[maybe_unused]] int64_t outputs) {
  ADET_BEST_KERNELS(double)
}

// Memory on a cache line, not initialized.
template <class S>
struct Scratch {
  explicit Scratch(int64_t size) : data(static_cast<S*>(::operator new[](size * sizeof(S), std::align_val_t(64)))) {}
  ~Scratch() {
    ::operator delete[](data, std::align_val_t(64));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  S* const data;
};

// The tensor itself if its channels are dense, as in a channels-last map or some channels of it; else a copy.
Tensor channels_together(const Tensor& t) {
  return t.stride(1) == 1 ? t : torch::stable::contiguous(t, torch::headeronly::MemoryFormat::ChannelsLast);
}

template <class S>
void compute(const Dr1Call& call) {
  std::vector<Tensor> alive;
  const auto& [N, C, O, H, W] = call.sizes;
  Problem<S> p{call.maps<S>(channels_together, alive), N, C, O, H, W, nullptr};
  const Tensor& weight = call.weight;
  const Kernels<S> kernels = best_kernels<S>(p.O);
  const Scratch<S> filters(16 * p.C * p.O);
  const std::array<int64_t, 4> stride{weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
  const S* const from = static_cast<const S*>(weight.data_ptr());
  const int64_t groups = p.O / kernels.group, grain = 1 + 16384 / (p.C * kernels.group);
  parallel_for(0, groups, grain, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      kernels.filters(from, stride.data(), p.C, p.O, call.turned, g * kernels.group, filters.data);
    }
  });
  p.filters = filters.data;
  // 24 tiles are two or four times T; with 128 channels, they and their sums fill half a second-level cache.
  const int64_t tiles = p.N * ((p.H + 1) / 2) * ((p.W + 1) / 2), block = tiles < 24 ? (tiles + 3) / 4 * 4 : 24;
  parallel_for(0, (tiles + block - 1) / block, 4, [&](int64_t begin, int64_t end) {
    const Scratch<S> scratch(16 * block * (p.C + p.O));
    kernels.tiles(p, begin * block, end * block < tiles ? end * block : tiles, block, scratch.data);
  });
}

#endif

void run([[maybe_unused]] const Dr1Call& call) {
#if defined(ADET_WINOGRAD)
  if (call.x.scalar_type() == ScalarType::Double) {
    compute<double>(call);
  } else {
    ADET_CHECK(
        call.x.scalar_type() == ScalarType::Float, "x must be float32 or float64 on a CPU; got ",
        name_of(call.x.scalar_type()));
    compute<float>(call);
  }
#else
  fail("dr1_conv has no CPU kernel: GCC or Clang must compile it");
#endif
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("dr1_conv", TORCH_BOX(&dr1_conv<run>));
}

} // namespace adet_ext
