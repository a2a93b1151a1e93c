// What all operators share: names of the stable ABI, checks that name the argument, and the choice of a scalar type.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

namespace adet_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums of half and bfloat16 are kept in float32; float64 is there for gradient checks.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using acc_t = typename Accumulate<T>::type;

inline void check_dim(const Tensor& t, const char* name, int64_t dim) {
  STD_TORCH_CHECK(t.dim() == dim, name, " has ", t.dim(), " dimensions; it takes ", dim);
}

inline void check_size(const Tensor& t, const char* name, int64_t axis, int64_t size) {
  STD_TORCH_CHECK(
      t.size(axis) == size, name, " has size ", t.size(axis), " on dimension ", axis, "; it takes ", size);
}

inline void check_type(const Tensor& t, const char* name, ScalarType type) {
  STD_TORCH_CHECK(
      t.scalar_type() == type,
      name,
      " is ",
      torch::headeronly::toString(t.scalar_type()),
      "; it takes ",
      torch::headeronly::toString(type));
}

inline void check_same_device(const Tensor& t, const char* name, const Tensor& other) {
  STD_TORCH_CHECK(
      t.is_cuda() == other.is_cuda() && t.get_device_index() == other.get_device_index(),
      name,
      " lies on another device than the first tensor");
}

} // namespace adet_ext

// Runs the lambda with scalar_t set to the tensor's type: float32, float64, float16 or bfloat16.
#define ADET_DISPATCH(TYPE, NAME, ...)                                        \
  THO_DISPATCH_SWITCH(                                                        \
      TYPE,                                                                   \
      NAME,                                                                   \
      THO_DISPATCH_CASE(torch::headeronly::ScalarType::Float, __VA_ARGS__)    \
      THO_DISPATCH_CASE(torch::headeronly::ScalarType::Double, __VA_ARGS__)   \
      THO_DISPATCH_CASE(torch::headeronly::ScalarType::Half, __VA_ARGS__)     \
      THO_DISPATCH_CASE(torch::headeronly::ScalarType::BFloat16, __VA_ARGS__))
