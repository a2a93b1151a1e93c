// dr1_conv on the CPU: the Winograd convolution with its factors, for float32 and float64 and channels by the 16.
#include "../dr1_conv.h"
#include "winograd.h"

#include <memory>

namespace adet_ext {
namespace {

#if defined(ADET_WINOGRAD)

using winograd::Map;
using winograd::Problem;

// What one instruction set does: outputs of a group (two registers), and the two loops.
template <class S>
struct Kernels {
  int64_t group;
  void (*filters)(const S*, const int64_t*, int64_t, int64_t, bool, int64_t, S*);
  void (*tiles)(const Problem<S>&, int64_t, int64_t, int64_t, S*);
};

// target_clones cannot choose the width of a register, hence the clones by hand. T sums of two registers each leave
// room for the filters and a factor among 32 (AVX-512) or 16 (AVX, SSE; NEON has more) registers.
#define ADET_WINOGRAD_KERNELS(NAME, TARGET, S, BYTES, T)                                                              \
  TARGET void NAME##_filters_##S(                                                                                     \
      const S* weight, const int64_t* stride, int64_t C, int64_t O, bool turned, int64_t o0, S* filters) {            \
    winograd::transform_filters<S, BYTES>(weight, stride, C, O, turned, o0, filters);                                 \
  }                                                                                                                   \
  TARGET void NAME##_tiles_##S(const Problem<S>& p, int64_t begin, int64_t end, int64_t block, S* scratch) {          \
    winograd::convolve<S, BYTES, T>(p, begin, end, block, scratch);                                                   \
  }                                                                                                                   \
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
#define ADET_BEST_KERNELS(S)                                                                             \
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&           \
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");                          \
  if (wide && outputs % avx512_##S.group == 0) {                                                         \
    return avx512_##S;                                                                                   \
  }                                                                                                      \
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) { \
    return avx2_##S;                                                                                     \
  }                                                                                                      \
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

template <class S>
Map<S> map_of(const Tensor& t) {
  return {static_cast<S*>(t.data_ptr()), t.stride(0), t.stride(2), t.stride(3)};
}

// An input's map; the tensor that it lies in, perhaps a copy, goes into `alive`.
template <class S>
Map<S> input(const MaybeTensor& t, std::vector<Tensor>& alive) {
  if (!t) {
    return {};
  }
  alive.push_back(channels_together(*t));
  return map_of<S>(alive.back());
}

// Memory on a cache line, not initialised.
template <class S>
struct Scratch {
  explicit Scratch(int64_t size)
      : data(static_cast<S*>(::operator new[](size * sizeof(S), std::align_val_t(64)))) {}
  ~Scratch() {
    ::operator delete[](data, std::align_val_t(64));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  S* const data;
};

template <class S>
void run(Problem<S> p, const Tensor& weight, bool turned) {
  const Kernels<S> kernels = best_kernels<S>(p.O);
  const Scratch<S> filters(16 * p.C * p.O);
  const std::array<int64_t, 4> stride{weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
  const S* const from = static_cast<const S*>(weight.data_ptr());
  const int64_t groups = p.O / kernels.group, grain = 1 + 16384 / (p.C * kernels.group);
  parallel_for(0, groups, grain, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      kernels.filters(from, stride.data(), p.C, p.O, turned, g * kernels.group, filters.data);
    }
  });
  p.filters = filters.data;
  // 24 tiles are two or four times T; with 128 channels they and their sums fill half a second-level cache.
  const int64_t tiles = p.N * ((p.H + 1) / 2) * ((p.W + 1) / 2), block = tiles < 24 ? (tiles + 3) / 4 * 4 : 24;
  parallel_for(0, (tiles + block - 1) / block, 4, [&](int64_t begin, int64_t end) {
    const Scratch<S> scratch(16 * block * (p.C + p.O));
    kernels.tiles(p, begin * block, end * block < tiles ? end * block : tiles, block, scratch.data);
  });
}

template <class S>
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
  Problem<S> p{s.N, s.C, s.O, s.H, s.W};
  p.x = input<S>(x, alive);
  p.before = input<S>(before, alive);
  p.after = input<S>(after, alive);
  p.after2 = input<S>(after2, alive);
  p.result = map_of<S>(first);
  if (second) {
    p.result2 = map_of<S>(*second);
  }
  if (bias) {
    alive.push_back(torch::stable::contiguous(*bias));
    p.bias = static_cast<const S*>(alive.back().data_ptr());
  }
  run<S>(p, weight, turned);
}

#endif

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
#if defined(ADET_WINOGRAD)
  STD_TORCH_CHECK(
      s.C % 16 == 0 && s.O % 16 == 0, "weight is ", s.O, " x ", s.C, "; on the CPU both are multiples of 16");
  const Tensor first = new_map(x, s), second = new_map(x, s, results == 1);
  if (s.locations() > 0 && s.O > 0) {
    const Tensor* const other = results == 2 ? &second : nullptr;
    if (x.scalar_type() == ScalarType::Double) {
      compute<double>(s, x, before, weight, bias, turned, after, after2, first, other);
    } else {
      check_type(x, "x", ScalarType::Float);
      compute<float>(s, x, before, weight, bias, turned, after, after2, first, other);
    }
  }
  return {first, second};
#else
  STD_TORCH_CHECK(false, "dr1_conv has no CPU kernel from this compiler");
#endif
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("dr1_conv", TORCH_BOX(&dr1_conv));
}

} // namespace adet_ext
