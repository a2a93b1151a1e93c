// What all operators share: names of the stable ABI, scalar types and the choice of one, checks that name the argument.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

#if defined(__CUDACC__)
#define ADET_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define ADET_HOST_DEVICE inline __attribute__((always_inline))
#else
#define ADET_HOST_DEVICE inline
#endif

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

// acc_t of the tensor's type. Boxes come in it, too.
inline ScalarType sum_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor as(const Tensor& t, ScalarType type) {
  return t.scalar_type() == type ? t : torch::stable::to(t, type);
}

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

// boxes (D, 4) for maps of the type and on the device of `maps`.
inline void check_boxes(const Tensor& boxes, const Tensor& maps) {
  check_dim(boxes, "boxes", 2);
  check_size(boxes, "boxes", 1, 4);
  check_type(boxes, "boxes", sum_type(maps));
  check_same_device(boxes, "boxes", maps);
}

// A number (D,) int64 for each of the boxes.
inline void check_index(const Tensor& t, const char* name, const Tensor& boxes) {
  check_dim(t, name, 1);
  check_size(t, name, 0, boxes.size(0));
  check_type(t, name, ScalarType::Long);
  check_same_device(t, name, boxes);
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

// The same for a tensor in a type that sums are kept in.
#define ADET_DISPATCH_SUMS(TYPE, NAME, ...)                                \
  THO_DISPATCH_SWITCH(                                                     \
      TYPE,                                                                \
      NAME,                                                                \
      THO_DISPATCH_CASE(torch::headeronly::ScalarType::Float, __VA_ARGS__) \
      THO_DISPATCH_CASE(torch::headeronly::ScalarType::Double, __VA_ARGS__))
