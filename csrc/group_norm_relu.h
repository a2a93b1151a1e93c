// group_norm_relu: checks, and everything around the kernel. csrc/group_norm_relu.cpp describes the arguments.
#pragma once

#include "common.h"

#include <torch/headeronly/core/MemoryFormat.h>

#include <string>

namespace adet_ext {

constexpr int64_t kMaxMaps = 16; // no pyramid has more, and their description fits into the parameters of a kernel

// The checked inputs, dense and channels-last, and the results to fill in.
struct NormCall {
  std::vector<Tensor> maps, results;
  Tensor weight, bias;
  int64_t images, channels, groups;
  double eps;
};

inline void check_norm(
    const std::vector<Tensor>& maps, const Tensor& weight, const Tensor& bias, int64_t groups, double eps) {
  check_range(static_cast<int64_t>(maps.size()), "the number of maps", 1, kMaxMaps);
  for (size_t l = 0; l < maps.size(); ++l) {
    const std::string name = "maps[" + std::to_string(l) + "]";
    check_floating(maps[l], name.c_str());
    if (l == 0) {
      check_shape(maps[l], name.c_str(), {'N', 'C', 'H', 'W'});
    } else {
      check_shape(maps[l], name.c_str(), {maps[0].size(0), maps[0].size(1), 'H', 'W'});
      check_like(maps[l], name.c_str(), maps[0]);
    }
  }
  const int64_t channels = maps[0].size(1);
  check_shape(weight, "weight", {channels});
  check_like(weight, "weight", maps[0]);
  check_shape(bias, "bias", {channels});
  check_like(bias, "bias", maps[0]);
  check_range(groups, "groups", 1, channels);
  ADET_CHECK(channels % groups == 0, "groups must divide the ", channels, " channels; got ", groups);
  check_positive(eps, "eps");
}

// The operator of a device; `run` is its kernel, called if there is something to normalize.
template <void (*run)(const NormCall&)>
std::vector<Tensor> group_norm_relu(
    const std::vector<Tensor>& maps, const Tensor& weight, const Tensor& bias, int64_t groups, double eps) {
  using torch::headeronly::MemoryFormat;
  check_norm(maps, weight, bias, groups, eps);
  NormCall call{
      {},     {}, torch::stable::contiguous(weight), torch::stable::contiguous(bias), maps[0].size(0), maps[0].size(1),
      groups, eps};
  int64_t numbers = 0;
  for (const Tensor& x : maps) {
    numbers += x.numel();
    call.maps.push_back(torch::stable::contiguous(x, MemoryFormat::ChannelsLast));
    const std::vector<int64_t> sizes{x.size(0), x.size(1), x.size(2), x.size(3)};
    call.results.push_back(
        torch::stable::empty(
            {sizes.data(), 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt, MemoryFormat::ChannelsLast));
  }
  if (numbers > 0) {
    run(call);
  }
  return call.results;
}

} // namespace adet_ext
