// What the blur's CPU and CUDA kernels share: checks, the two directions, and the choice of a layout.
#pragma once

#include "blur.h"
#include "common.h"

namespace adet_ext {

// A map by its strides. Either columns or channels are dense.
struct BlurInput {
  Tensor tensor;
  bool channels_last;
};

inline BlurInput blur_input(const Tensor& x) {
  if (x.stride(3) == 1) {
    return {x, false};
  }
  if (x.stride(1) == 1) {
    return {x, true};
  }
  return {torch::stable::contiguous(x), false};
}

inline Tensor blur_output(const BlurInput& x, int64_t height, int64_t width) {
  const auto& t = x.tensor;
  const std::vector<int64_t> size{t.size(0), t.size(1), height, width};
  const auto format = x.channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                      : torch::headeronly::MemoryFormat::Contiguous;
  return torch::stable::empty(size, t.scalar_type(), std::nullopt, t.device(), std::nullopt, format);
}

inline void check_blur(
    const Tensor& x, const char* name, int64_t taps, int64_t stride, int64_t padding, int64_t rows, int64_t columns) {
  check_dim(x, name, 4);
  STD_TORCH_CHECK(taps >= 1 && taps <= kMaxTaps, "taps is ", taps, "; it takes 1 to 7");
  STD_TORCH_CHECK(stride == 1 || stride == 2 || stride == 4, "stride is ", stride, "; it takes 1, 2 or 4");
  STD_TORCH_CHECK(padding >= 0 && padding <= 2, "padding is ", padding, "; it takes 0, 1 or 2");
  const bool extended = rows != 0 || columns != 0;
  STD_TORCH_CHECK(
      rows >= 0 && columns >= 0 && (!extended || (stride == 1 && padding == 2)),
      "rows and columns are ",
      rows,
      " and ",
      columns,
      "; they take 0 and 0 unless stride is 1 and padding is zeros");
}

} // namespace adet_ext
