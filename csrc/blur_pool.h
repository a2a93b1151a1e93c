// blur_pool: the filter, the values beyond the border, checks, and everything around the kernels.
#pragma once

#include "common.h"

#include <limits>

namespace adet_ext {

constexpr int kMaxTaps = 7;

enum class BlurPadding : int64_t { reflect = 0, replicate = 1, zeros = 2 };

// Coefficient t of the binomial filter with this many taps; the coefficients add up to one.
ADET_HOST_DEVICE constexpr float binomial(int taps, int t) {
  float value = 1;
  for (int i = 0; i < t; ++i) {
    value = value * static_cast<float>(taps - 1 - i) / static_cast<float>(i + 1);
  }
  return value / static_cast<float>(1 << (taps - 1));
}

// One direction. Tap t of output o reads input o * stride - before + t.
template <typename Int>
struct BlurAxisOf {
  Int in, out;
  Int stride, before;
  int taps;
  BlurPadding padding;

  ADET_HOST_DEVICE Int first(Int o) const {
    return o * stride - before;
  }

  // The input that is read at position p, inside or beyond the border; -1 for a zero.
  ADET_HOST_DEVICE Int source(Int p) const {
    if (p >= 0 && p < in) {
      return p;
    }
    if (padding == BlurPadding::zeros) {
      return -1;
    }
    if (padding == BlurPadding::replicate) {
      return p < 0 ? 0 : in - 1;
    }
    const Int period = in > 1 ? 2 * in - 2 : 1;
    const Int q = ((p % period) + period) % period;
    return q < in ? q : period - q;
  }
};
using BlurAxis = BlurAxisOf<int64_t>;

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

inline void check_blur(
    const Tensor& x, const char* name, int64_t taps, int64_t stride, int64_t padding, int64_t rows, int64_t columns) {
  check_floating(x, name);
  check_shape(x, name, {'N', 'C', 'H', 'W'});
  check_range(taps, "taps", 1, kMaxTaps);
  ADET_CHECK(stride == 1 || stride == 2 || stride == 4, "stride must be 1, 2 or 4; got ", stride);
  check_range(padding, "padding", 0, 2);
  const int64_t most = stride == 1 && padding == 2 ? 4096 : 0; // a map extends only at stride 1, and with zeros
  check_range(rows, "rows", 0, most);
  check_range(columns, "columns", 0, most);
}

// Strides of a map.
struct BlurStrides {
  explicit BlurStrides(const Tensor& t)
      : image(t.stride(0)), channel(t.stride(1)), line(t.stride(2)), column(t.stride(3)) {}

  int64_t image, channel, line, column;
};

// What a kernel reads and writes. In `from`, channels or columns are dense; `to` is dense and not empty.
struct BlurCall {
  Tensor from, to;
  BlurAxis rows, columns;
  bool channels_last, backward;
};

// The operators of a device; `run` is its kernel.
template <void (*run)(const BlurCall&)>
Tensor blur(const Tensor& x, const BlurAxis& rows, const BlurAxis& columns, bool backward) {
  using torch::headeronly::MemoryFormat;
  const bool channels_last = x.stride(3) != 1 && x.stride(1) == 1;
  const Tensor from = channels_last || x.stride(3) == 1 ? x : torch::stable::contiguous(x);
  const std::vector<int64_t> size{
      x.size(0), x.size(1), backward ? rows.in : rows.out, backward ? columns.in : columns.out};
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const Tensor to = torch::stable::empty(size, x.scalar_type(), std::nullopt, x.device(), std::nullopt, format);
  if (to.numel() > 0) {
    run({from, to, rows, columns, channels_last, backward});
  }
  return to;
}

template <void (*run)(const BlurCall&)>
Tensor blur_pool(const Tensor& x, int64_t taps, int64_t stride, int64_t padding, int64_t rows, int64_t columns) {
  check_blur(x, "x", taps, stride, padding, rows, columns);
  return blur<run>(
      x, make_blur_axis(x.size(2), taps, stride, padding, rows),
      make_blur_axis(x.size(3), taps, stride, padding, columns), false);
}

template <void (*run)(const BlurCall&)>
Tensor blur_pool_backward(
    const Tensor& grad, int64_t height, int64_t width, int64_t taps, int64_t stride, int64_t padding, int64_t rows,
    int64_t columns) {
  check_blur(grad, "grad", taps, stride, padding, rows, columns);
  check_range(height, "height", 0, std::numeric_limits<int32_t>::max());
  check_range(width, "width", 0, std::numeric_limits<int32_t>::max());
  const BlurAxis vertical = make_blur_axis(height, taps, stride, padding, rows);
  const BlurAxis horizontal = make_blur_axis(width, taps, stride, padding, columns);
  check_shape(grad, "grad", {'N', 'C', vertical.out, horizontal.out});
  return blur<run>(grad, vertical, horizontal, true);
}

} // namespace adet_ext
