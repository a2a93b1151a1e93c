// What the CPU and the CUDA kernels of dr1_conv share; csrc/dr1_conv.cpp says what its arguments are.
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

// A channels-last map: channels lie together, the rest has strides (in elements). Null: a map of ones.
template <class T>
struct Dr1Map {
  T* data = nullptr;
  int64_t image = 0, row = 0, column = 0;

  ADET_HOST_DEVICE T* at(int64_t i, int64_t y, int64_t x) const {
    return data + i * image + y * row + x * column;
  }
};

// result = (Conv(x * before) + bias) * after, and, where there is a second one, result2 = (...) * after2.
template <class T>
struct Dr1Maps {
  Dr1Map<T> x, before, after, result, after2, result2;
  const T* bias = nullptr;
};

// Inputs, checked, and the results to be filled in, of which the second can be empty.
struct Dr1Call {
  Dr1Sizes sizes;
  Tensor x;
  MaybeTensor before;
  Tensor weight;
  MaybeTensor bias;
  bool turned;
  MaybeTensor after, after2;
  Tensor first, second;

  // ready makes an input such as the kernel takes it; what it copies goes into `alive`.
  template <class T, class Ready>
  Dr1Maps<T> maps(const Ready& ready, std::vector<Tensor>& alive) const {
    auto map = [](const Tensor& t) {
      return Dr1Map<T>{static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(2), t.stride(3)};
    };
    auto input = [&](const MaybeTensor& t) {
      return t ? map(alive.emplace_back(ready(*t))) : Dr1Map<T>{};
    };
    Dr1Maps<T> m{input(x), input(before), input(after), map(first), input(after2)};
    if (second.size(0) > 0) {
      m.result2 = map(second);
    }
    if (bias) {
      m.bias = static_cast<const T*>(alive.emplace_back(torch::stable::contiguous(*bias)).data_ptr());
    }
    return m;
  }
};

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
  STD_TORCH_CHECK(
      s.C % 16 == 0 && s.O % 16 == 0 && s.C > 0,
      "weight connects ",
      s.C,
      " channels with ",
      s.O,
      "; both are multiples of 16, the former not zero");
  return s;
}

// A new channels-last map of the type and device of x.
inline Tensor new_map(const Tensor& x, const Dr1Sizes& s, bool empty = false) {
  using torch::headeronly::MemoryFormat;
  const std::array<int64_t, 4> sizes{empty ? 0 : s.N, s.O, s.H, s.W};
  return torch::stable::empty(
      {sizes.data(), 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

// The operator of a device, whose kernel is run. Results without numbers need none.
template <void (*run)(const Dr1Call&)>
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
  const Tensor first = new_map(x, s), second = new_map(x, s, results == 1);
  if (first.numel() > 0) {
    run({s, x, before, weight, bias, turned, after, after2, first, second});
  }
  return {first, second};
}

} // namespace adet_ext
