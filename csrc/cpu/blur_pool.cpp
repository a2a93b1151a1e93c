// blur_pool on CPUs, row by row: input rows are summed into a buffer that stays in the L1 cache, then its columns are.
// Forward and backward are the same two sums with different tables, so both are gathers.
#include "../blur_pool.h"
#include "half.h"

#include <algorithm>

namespace adet_ext {
namespace {

// One direction as a banded matrix: output j is the sum over k < count[j] of weight[j][k] * input[start[j] + k]. The
// tables contain the border. From low to high - 1 the pattern repeats: row j + step is row j, shifted.
struct Band {
  std::vector<int64_t> start;
  std::vector<int> count;
  std::vector<float> weight; // kMaxTaps a row
  int64_t in, out;
  int64_t low, high;
  int64_t shift; // of the regular part, forward: input = output * stride + shift; backward: output = input - shift

  const float* row(int64_t j) const {
    return weight.data() + j * kMaxTaps;
  }
};

struct Entry {
  int64_t output, input;
  float weight;
};

Band make_band(std::vector<Entry> entries, int64_t in, int64_t out) {
  Band band;
  band.in = in;
  band.out = out;
  band.low = band.high = 0;
  band.shift = 0;
  band.start.assign(out, 0);
  band.count.assign(out, 0);
  band.weight.assign(out * kMaxTaps, 0.f);
  std::vector<int64_t> last(out, -1);
  for (const auto& e : entries) {
    if (last[e.output] < 0) {
      band.start[e.output] = last[e.output] = e.input;
    }
    band.start[e.output] = std::min(band.start[e.output], e.input);
    last[e.output] = std::max(last[e.output], e.input);
  }
  for (int64_t j = 0; j < out; ++j) {
    band.count[j] = last[j] < 0 ? 0 : static_cast<int>(last[j] - band.start[j] + 1);
    ADET_CHECK(band.count[j] <= kMaxTaps, "blur_pool: a row of ", band.count[j], " entries");
    if (last[j] < 0 && j > 0) {
      band.start[j] = band.start[j - 1]; // starts must ascend for the tiles
    }
  }
  for (const auto& e : entries) {
    band.weight[e.output * kMaxTaps + e.input - band.start[e.output]] += e.weight;
  }
  return band;
}

Band make_band(const BlurAxis& axis, bool backward) {
  std::vector<Entry> entries;
  entries.reserve(axis.out * axis.taps);
  for (int64_t o = 0; o < axis.out; ++o) {
    for (int t = 0; t < axis.taps; ++t) {
      const int64_t i = axis.source(axis.first(o) + t);
      if (i >= 0) {
        const float w = binomial(axis.taps, t);
        entries.push_back(backward ? Entry{i, o, w} : Entry{o, i, w});
      }
    }
  }
  const int64_t s = axis.stride, before = axis.before, taps = axis.taps;
  if (!backward) {
    Band band = make_band(std::move(entries), axis.in, axis.out);
    band.shift = -before;
    band.low = std::min((before + s - 1) / s, axis.out);
    const int64_t end = axis.in - taps + before; // o * s <= end
    band.high = end < 0 ? 0 : std::min(end / s + 1, axis.out);
    band.high = std::max(band.high, band.low);
    return band;
  }
  Band band = make_band(std::move(entries), axis.out, axis.in);
  // Columns that no border pixel maps to, whose outputs all exist; whole periods of the stride.
  band.shift = before;
  const int64_t images = axis.padding == BlurPadding::zeros ? 0 : taps;
  band.low = (std::max(images, taps - before) + s - 1) / s * s;
  band.high = std::min(axis.in - images, axis.out * s - before) / s * s;
  if (band.low >= band.high) {
    band.low = band.high = 0;
  }
  return band;
}

// to[i] = sum over k < K of weight[k] * from[k * stride + i]
template <int K, typename From, typename To>
ADET_INLINE void combine(const From* from, int64_t stride, const float* weight, To* to, int64_t n) {
  using acc = acc_t<From>;
  acc w[K > 0 ? K : 1] = {};
  for (int k = 0; k < K; ++k) {
    w[k] = static_cast<acc>(weight[k]);
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    acc sum = acc(0);
    for (int k = 0; k < K; ++k) {
      sum += w[k] * widen(from[k * stride + i]);
    }
    narrow_to(to[i], sum);
  }
}

template <typename From, typename To>
ADET_INLINE void combine(int count, const From* from, int64_t stride, const float* weight, To* to, int64_t n) {
  switch (count) {
    case 0: return combine<0>(from, stride, weight, to, n);
    case 1: return combine<1>(from, stride, weight, to, n);
    case 2: return combine<2>(from, stride, weight, to, n);
    case 3: return combine<3>(from, stride, weight, to, n);
    case 4: return combine<4>(from, stride, weight, to, n);
    case 5: return combine<5>(from, stride, weight, to, n);
    case 6: return combine<6>(from, stride, weight, to, n);
    default: return combine<7>(from, stride, weight, to, n);
  }
}

template <typename T>
struct Job {
  const T* from;
  T* to;
  int64_t channels;
  BlurStrides strides; // of the input
  int taps, stride;
  bool backward;
  Band rows, columns;
};

// Floats of a buffer: half an L1 cache of 32 KiB.
constexpr int64_t kBuffer = 4096;

// Channels-last: items are output rows of all images.
template <typename T>
ADET_INLINE void blur_channels_last(const Job<T>& job, int64_t begin, int64_t end, acc_t<T>* buffer) {
  const Band &rows = job.rows, &columns = job.columns;
  const int64_t C = job.channels;
  const int64_t tile = std::max<int64_t>(kBuffer / C, 1); // input columns
  for (int64_t item = begin; item < end; ++item) {
    const int64_t o = item % rows.out;
    const T* from = job.from + item / rows.out * job.strides.image + rows.start[o] * job.strides.line;
    T* to = job.to + item * columns.out * C;
    for (int64_t p = 0; p < columns.out;) {
      const int64_t left = columns.start[p];
      int64_t q = p, right = left;
      while (q < columns.out && (q == p || columns.start[q] + columns.count[q] - left <= tile)) {
        right = std::max(right, columns.start[q] + columns.count[q]);
        ++q;
      }
      if (job.strides.column == C) {
        combine(rows.count[o], from + left * C, job.strides.line, rows.row(o), buffer, (right - left) * C);
      } else {
        for (int64_t i = left; i < right; ++i) {
          combine(
              rows.count[o], from + i * job.strides.column, job.strides.line, rows.row(o), buffer + (i - left) * C, C);
        }
      }
      for (; p < q;) {
        int64_t run = 1; // at stride 1, neighbors with the same pattern are one long sum
        if (job.stride == 1 && p >= columns.low && p < columns.high) {
          run = std::min(columns.high, q) - p;
        }
        combine(columns.count[p], buffer + (columns.start[p] - left) * C, C, columns.row(p), to + p * C, run * C);
        p += run;
      }
    }
  }
}

// The regular part of a row, forward: to[o] = sum over t of b[t] * from[o * S + t].
template <int M, int S, typename acc, typename T>
ADET_INLINE void shrink(const acc* from, T* to, int64_t n) {
#pragma omp simd
  for (int64_t o = 0; o < n; ++o) {
    acc sum = acc(0);
    for (int t = 0; t < M; ++t) {
      sum += static_cast<acc>(binomial(M, t)) * from[o * S + t];
    }
    narrow_to(to[o], sum);
  }
}

// Backward: n periods of S columns; column q * S + r takes tap t of output q + (r + B - t) / S if that is an integer.
template <int M, int S, typename acc, typename T>
ADET_INLINE void grow(const acc* from, T* to, int64_t n) {
  constexpr int B = (M - 1) / 2;
#pragma omp simd
  for (int64_t q = 0; q < n; ++q) {
    for (int r = 0; r < S; ++r) {
      acc sum = acc(0);
      for (int t = 0; t < M; ++t) {
        const int distance = r + B - t + S * kMaxTaps;
        if (distance % S == 0) {
          sum += static_cast<acc>(binomial(M, t)) * from[q + distance / S - kMaxTaps];
        }
      }
      narrow_to(to[q * S + r], sum);
    }
  }
}

template <int M, typename acc, typename T>
ADET_INLINE void regular(const Job<T>& job, const acc* from, T* to, int64_t n) {
  if (!job.backward) {
    switch (job.stride) {
      case 1: return shrink<M, 1>(from, to, n);
      case 2: return shrink<M, 2>(from, to, n);
      default: return shrink<M, 4>(from, to, n);
    }
  }
  switch (job.stride) {
    case 1: return grow<M, 1>(from, to, n);
    case 2: return grow<M, 2>(from, to, n);
    default: return grow<M, 4>(from, to, n);
  }
}

template <typename acc, typename T>
ADET_INLINE void blur_columns(const Job<T>& job, const acc* buffer, T* to) {
  const Band& columns = job.columns;
  const int64_t low = columns.low, high = columns.high;
  for (int64_t p = 0; p < columns.out; p = p + 1 == low ? std::max(high, low) : p + 1) {
    if (p == low && high > low) {
      p = high; // low is 0
      if (p == columns.out) {
        break;
      }
    }
    acc sum = acc(0);
    for (int k = 0; k < columns.count[p]; ++k) {
      sum += static_cast<acc>(columns.row(p)[k]) * buffer[columns.start[p] + k];
    }
    narrow_to(to[p], sum);
  }
  if (high == low) {
    return;
  }
  // grow counts its outputs from half the width of the filter; an extended map starts further out.
  const int64_t S = job.stride, extra = columns.shift - (job.taps - 1) / 2;
  const acc* from = job.backward ? buffer + low / S + extra : buffer + low * S + columns.shift;
  const int64_t n = job.backward ? (high - low) / S : high - low;
  switch (job.taps) {
    case 1: return regular<1>(job, from, to + low, n);
    case 2: return regular<2>(job, from, to + low, n);
    case 3: return regular<3>(job, from, to + low, n);
    case 4: return regular<4>(job, from, to + low, n);
    case 5: return regular<5>(job, from, to + low, n);
    case 6: return regular<6>(job, from, to + low, n);
    default: return regular<7>(job, from, to + low, n);
  }
}

// Contiguous: items are output rows of all channels of all images.
template <typename T>
ADET_INLINE void blur_contiguous(const Job<T>& job, int64_t begin, int64_t end, acc_t<T>* buffer) {
  const Band &rows = job.rows, &columns = job.columns;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t o = item % rows.out, plane = item / rows.out;
    const T* from = job.from + plane / job.channels * job.strides.image + plane % job.channels * job.strides.channel +
                    rows.start[o] * job.strides.line;
    combine(rows.count[o], from, job.strides.line, rows.row(o), buffer, columns.in);
    blur_columns(job, buffer, job.to + item * columns.out);
  }
}

#define ADET_BLUR_KERNELS(T)                                                                            \
  ADET_CLONES void run_channels_last(const Job<T>& job, int64_t begin, int64_t end, acc_t<T>* buffer) { \
    blur_channels_last(job, begin, end, buffer);                                                        \
  }                                                                                                     \
  ADET_CLONES void run_contiguous(const Job<T>& job, int64_t begin, int64_t end, acc_t<T>* buffer) {    \
    blur_contiguous(job, begin, end, buffer);                                                           \
  }
ADET_BLUR_KERNELS(float)
ADET_BLUR_KERNELS(double)
ADET_BLUR_KERNELS(torch::headeronly::Half)
ADET_BLUR_KERNELS(torch::headeronly::BFloat16)

void run(const BlurCall& call) {
  const Tensor &from = call.from, &to = call.to;
  const int64_t C = from.size(1), width = from.size(3);
  const int64_t items = to.size(0) * to.size(2) * (call.channels_last ? 1 : C);
  const int64_t grain = std::max<int64_t>(16384 * items / to.numel(), 1);
  // A single output can read more of the input than a tile has.
  const int64_t room = call.channels_last ? std::max(kBuffer, kMaxTaps * C) : width;
  ADET_DISPATCH(from.scalar_type(), "blur_pool", [&] {
    const Job<scalar_t> job{
        from.const_data_ptr<scalar_t>(),
        to.mutable_data_ptr<scalar_t>(),
        C,
        BlurStrides(from),
        call.rows.taps,
        static_cast<int>(call.rows.stride),
        call.backward,
        make_band(call.rows, call.backward),
        make_band(call.columns, call.backward)};
    parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
      std::vector<acc_t<scalar_t>> buffer(room);
      if (call.channels_last) {
        run_channels_last(job, begin, end, buffer.data());
      } else {
        run_contiguous(job, begin, end, buffer.data());
      }
    });
  });
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("blur_pool", TORCH_BOX(&blur_pool<run>));
  m.impl("blur_pool_backward", TORCH_BOX(&blur_pool_backward<run>));
}

} // namespace adet_ext
