// The checks of dr1_conv that all devices share; csrc/dr1_conv.cpp says what its arguments are.
#pragma once

#include "common.h"

#include <torch/headeronly/core/MemoryFormat.h>

#include <array>
#include <optional>
#include <tuple>

namespace adet_ext {

using MaybeTensor = std::optional<Tensor>;

// Sizes of a call: N images, C channels in, O channels out, H x W locations.
struct Dr1Sizes {
  int64_t N, C, O, H, W;

  int64_t locations() const {
    return N * H * W;
  }
};

inline void check_map(const MaybeTensor& t, const char* name, const Tensor& x, const Dr1Sizes& s, int64_t channels) {
  if (!t) {
    return;
  }
  check_dim(*t, name, 4);
  check_type(*t, name, x.scalar_type());
  check_same_device(*t, name, x);
  const std::array<int64_t, 4> sizes{s.N, channels, s.H, s.W};
  for (int64_t axis = 0; axis < 4; ++axis) {
    check_size(*t, name, axis, sizes[axis]);
  }
}

inline Dr1Sizes check_dr1(
    const Tensor& x,
    const MaybeTensor& before,
    const Tensor& weight,
    const MaybeTensor& bias,
    bool turned,
    const MaybeTensor& after,
    const MaybeTensor& after2,
    int64_t results) {
  check_dim(x, "x", 4);
  check_dim(weight, "weight", 4);
  check_type(weight, "weight", x.scalar_type());
  check_same_device(weight, "weight", x);
  check_size(weight, "weight", 2, 3);
  check_size(weight, "weight", 3, 3);
  check_size(x, "x", 1, weight.size(turned ? 0 : 1));
  const Dr1Sizes s{x.size(0), x.size(1), weight.size(turned ? 1 : 0), x.size(2), x.size(3)};
  check_map(before, "before", x, s, s.C);
  check_map(after, "after", x, s, s.O);
  check_map(after2, "after2", x, s, s.O);
  if (bias) {
    check_dim(*bias, "bias", 1);
    check_type(*bias, "bias", x.scalar_type());
    check_same_device(*bias, "bias", x);
    check_size(*bias, "bias", 0, s.O);
  }
  STD_TORCH_CHECK(results == 1 || results == 2, "results is ", results, "; it takes 1 or 2");
  return s;
}

// A new channels-last map of the type and device of x.
inline Tensor new_map(const Tensor& x, const Dr1Sizes& s, bool empty = false) {
  using torch::headeronly::MemoryFormat;
  const std::array<int64_t, 4> sizes{empty ? 0 : s.N, s.O, s.H, s.W};
  return torch::stable::empty(
      {sizes.data(), 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

// The tensor itself where its channels lie together, as in a channels-last map or a part of its channels; else a copy.
inline Tensor channels_together(const Tensor& t) {
  return t.stride(1) == 1 ? t : torch::stable::contiguous(t, torch::headeronly::MemoryFormat::ChannelsLast);
}

} // namespace adet_ext
