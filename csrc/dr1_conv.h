// dr1_conv: checks, and everything around the kernels. csrc/dr1_conv.cpp describes the arguments.
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
  check_shape(*t, name, {s.N, channels, s.H, s.W});
  check_like(*t, name, x);
}

// A channels-last map: channels are dense, the other sides have strides, in elements. Null stands for a map of ones.
template <class T>
struct Dr1Map {
  T* data = nullptr;
  int64_t image = 0, row = 0, column = 0;

  ADET_HOST_DEVICE T* at(int64_t i, int64_t y, int64_t x) const {
    return data + i * image + y * row + x * column;
  }
};

// result = (Conv(x * before) + bias) * after, and, if a second result is wanted, result2 = (...) * after2.
template <class T>
struct Dr1Maps {
  Dr1Map<T> x, before, after, result, after2, result2;
  const T* bias = nullptr;
};

// The checked inputs, and the results to fill in; the second can be empty.
struct Dr1Call {
  Dr1Sizes sizes;
  Tensor x;
  MaybeTensor before;
  Tensor weight;
  MaybeTensor bias;
  bool turned;
  MaybeTensor after, after2;
  Tensor first, second;

  // ready brings an input to the layout that the kernel takes; `alive` holds its copies.
  template <class T, class Ready>
  Dr1Maps<T> maps(const Ready& ready, std::vector<Tensor>& alive) const {
    auto map = [](const Tensor& t) {
      return Dr1Map<T>{static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(2), t.stride(3)};
    };
    auto input = [&](const MaybeTensor& t) { return t ? map(alive.emplace_back(ready(*t))) : Dr1Map<T>{}; };
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
    const Tensor& x, const MaybeTensor& before, const Tensor& weight, const MaybeTensor& bias, bool turned,
    const MaybeTensor& after, const MaybeTensor& after2, int64_t results) {
  check_floating(x, "x");
  check_shape(x, "x", {'N', 'C', 'H', 'W'});
  check_shape(weight, "weight", {turned ? Side(x.size(1)) : Side('O'), turned ? Side('O') : Side(x.size(1)), 3, 3});
  check_like(weight, "weight", x);
  const Dr1Sizes s{x.size(0), x.size(1), weight.size(turned ? 1 : 0), x.size(2), x.size(3)};
  check_map(before, "before", x, s, s.C);
  check_map(after, "after", x, s, s.O);
  check_map(after2, "after2", x, s, s.O);
  if (bias) {
    check_shape(*bias, "bias", {s.O});
    check_like(*bias, "bias", x);
  }
  check_range(results, "results", 1, 2);
  ADET_CHECK(
      s.C % 16 == 0 && s.O % 16 == 0 && s.C > 0, "weight must have channels by the 16 and some of the input; got ",
      shape_of(weight));
  return s;
}

// A new channels-last map of the type and device of x.
inline Tensor new_map(const Tensor& x, const Dr1Sizes& s, bool empty = false) {
  using torch::headeronly::MemoryFormat;
  const std::array<int64_t, 4> sizes{empty ? 0 : s.N, s.O, s.H, s.W};
  return torch::stable::empty(
      {sizes.data(), 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

// The operator of a device; `run` is its kernel, called if the result is not empty.
template <void (*run)(const Dr1Call&)>
std::tuple<Tensor, Tensor> dr1_conv(
    const Tensor& x, const MaybeTensor& before, const Tensor& weight, const MaybeTensor& bias, bool turned,
    const MaybeTensor& after, const MaybeTensor& after2, int64_t results) {
  const Dr1Sizes s = check_dr1(x, before, weight, bias, turned, after, after2, results);
  const Tensor first = new_map(x, s), second = new_map(x, s, results == 1);
  if (first.numel() > 0) {
    run({s, x, before, weight, bias, turned, after, after2, first, second});
  }
  return {first, second};
}

} // namespace adet_ext
