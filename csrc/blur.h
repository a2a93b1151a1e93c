// The blur's geometry, for all devices and both directions: the filter, and what lies beyond the border.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ADET_BLUR_FN __host__ __device__ __forceinline__
#else
#define ADET_BLUR_FN inline
#endif

namespace adet_ext {

constexpr int kMaxTaps = 7;

enum class BlurPadding : int64_t { reflect = 0, replicate = 1, zeros = 2 };

// Coefficient t of the binomial filter with so many taps; they add up to one.
ADET_BLUR_FN constexpr float binomial(int taps, int t) {
  float value = 1;
  for (int i = 0; i < t; ++i) {
    value = value * static_cast<float>(taps - 1 - i) / static_cast<float>(i + 1);
  }
  return value / static_cast<float>(1 << (taps - 1));
}

// One direction. Tap t of output o lies on input o * stride - before + t.
struct BlurAxis {
  int64_t in, out;
  int64_t stride, before;
  int taps;
  BlurPadding padding;

  ADET_BLUR_FN int64_t first(int64_t o) const {
    return o * stride - before;
  }

  // The input that stands at position p, inside or beyond the border; -1 for a zero.
  ADET_BLUR_FN int64_t source(int64_t p) const {
    if (p >= 0 && p < in) {
      return p;
    }
    if (padding == BlurPadding::zeros) {
      return -1;
    }
    if (padding == BlurPadding::replicate) {
      return p < 0 ? 0 : in - 1;
    }
    const int64_t period = in > 1 ? 2 * in - 2 : 1;
    const int64_t q = ((p % period) + period) % period;
    return q < in ? q : period - q;
  }
};

inline BlurAxis make_blur_axis(int64_t in, int64_t taps, int64_t stride, int64_t padding, int64_t extend) {
  BlurAxis axis;
  axis.in = in;
  axis.out = (in + 2 * extend + stride - 1) / stride;
  axis.stride = stride;
  axis.before = (taps - 1) / 2 + extend;
  axis.taps = static_cast<int>(taps);
  axis.padding = static_cast<BlurPadding>(padding);
  return axis;
}

} // namespace adet_ext
