// Shared by all operators: names of the stable ABI, scalar types and the choice of one, checks that name the argument.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
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

// Sums of half and bfloat16 are kept in float32; float64 serves gradient checks.
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

// acc_t of the tensor's type. Boxes have this type, too.
inline ScalarType sum_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor as(const Tensor& t, ScalarType type) {
  return t.scalar_type() == type ? t : torch::stable::to(t, type);
}

// Throw the parts, joined, as a std::runtime_error, which PyTorch raises as a RuntimeError.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// The checks. adet_ext/layers/checks.py has the same ones, with the same messages, for tensors without data and for the
// references: an operator's check_... function here and its check function in Python must stay alike.
#define ADET_CHECK(CONDITION, ...)   \
  do {                               \
    if (!(CONDITION)) {              \
      ::adet_ext::fail(__VA_ARGS__); \
    }                                \
  } while (false)

inline std::string name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Half: return "float16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Bool: return "bool";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return torch::headeronly::toString(type);
  }
}

inline std::string device_of(const Tensor& t) {
  return t.is_cuda() ? "cuda:" + std::to_string(t.get_device_index()) : "cpu";
}

// A side of a shape: a number, or a letter for any number. Sides with the same letter must be equal.
struct Side {
  Side(int64_t size_) : size(size_) {}
  Side(int size_) : size(size_) {}
  Side(char letter_) : letter(letter_) {}

  int64_t size = -1;
  char letter = 0;
};

inline bool has_shape(const Tensor& t, std::initializer_list<Side> sides) {
  if (t.dim() != static_cast<int64_t>(sides.size())) {
    return false;
  }
  int64_t axis = 0;
  for (const Side& side : sides) {
    int64_t wanted = side.size, other = 0;
    for (const Side& before : sides) { // a letter: as long as the first side with this letter
      if (side.letter != 0 && before.letter == side.letter) {
        wanted = t.size(other);
        break;
      }
      ++other;
    }
    if (t.size(axis++) != wanted) {
      return false;
    }
  }
  return true;
}

inline std::string shape_of(const Tensor& t) {
  std::string text = "(";
  for (int64_t axis = 0; axis < t.dim(); ++axis) {
    text += (axis > 0 ? ", " : "") + std::to_string(t.size(axis));
  }
  return text + (t.dim() == 1 ? ",)" : ")");
}

// PyTorch passes None for a tensor as an undefined one.
inline void check_defined(const Tensor& t, const char* name) {
  ADET_CHECK(t.defined(), name, " must be a tensor; got None");
}

inline void check_shape(const Tensor& t, const char* name, std::initializer_list<Side> sides) {
  check_defined(t, name);
  if (has_shape(t, sides)) {
    return;
  }
  std::string wanted;
  for (const Side& side : sides) {
    wanted += wanted.empty() ? "(" : ", ";
    wanted += side.letter != 0 ? std::string(1, side.letter) : std::to_string(side.size);
  }
  fail(name, " must have shape ", wanted, sides.size() == 1 ? ",)" : ")", "; got ", shape_of(t));
}

inline void check_type(const Tensor& t, const char* name, ScalarType type) {
  ADET_CHECK(t.scalar_type() == type, name, " must be ", name_of(type), "; got ", name_of(t.scalar_type()));
}

inline void check_floating(const Tensor& t, const char* name) {
  check_defined(t, name);
  const ScalarType type = t.scalar_type();
  ADET_CHECK(
      type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
          type == ScalarType::BFloat16,
      name, " must be float32, float64, float16 or bfloat16; got ", name_of(type));
}

inline void check_device(const Tensor& t, const char* name, const Tensor& other) {
  ADET_CHECK(
      t.is_cuda() == other.is_cuda() && t.get_device_index() == other.get_device_index(), name, " must be on ",
      device_of(other), "; got ", device_of(t));
}

// t must have the type and the device of `other`.
inline void check_like(const Tensor& t, const char* name, const Tensor& other) {
  check_type(t, name, other.scalar_type());
  check_device(t, name, other);
}

inline void check_range(int64_t value, const char* name, int64_t low, int64_t high) {
  ADET_CHECK(value >= low && value <= high, name, " must be ", low, " to ", high, "; got ", value);
}

// NaN, infinity and what is infinite in float32 are refused.
inline void check_positive(double value, const char* name) {
  ADET_CHECK(value > 0 && value < 3e38, name, " must be a finite number above 0; got ", value);
}

// boxes (B, 4) for maps of the type and on the device of `maps`.
inline void check_boxes(const Tensor& boxes, const Tensor& maps) {
  check_shape(boxes, "boxes", {'B', 4});
  check_type(boxes, "boxes", sum_type(maps));
  check_device(boxes, "boxes", maps);
}

// A number (B,) int64 for each of the boxes.
inline void check_index(const Tensor& t, const char* name, const Tensor& boxes) {
  check_shape(t, name, {boxes.size(0)});
  check_type(t, name, ScalarType::Long);
  check_device(t, name, boxes);
}

} // namespace adet_ext

// Runs the lambda with scalar_t set to the tensor's type: float32, float64, float16 or bfloat16.
#define ADET_DISPATCH(TYPE, NAME, ...)                                            \
  THO_DISPATCH_SWITCH(                                                            \
      TYPE, NAME,                                                                 \
      THO_DISPATCH_CASE(torch::headeronly::ScalarType::Float, __VA_ARGS__)        \
          THO_DISPATCH_CASE(torch::headeronly::ScalarType::Double, __VA_ARGS__)   \
              THO_DISPATCH_CASE(torch::headeronly::ScalarType::Half, __VA_ARGS__) \
                  THO_DISPATCH_CASE(torch::headeronly::ScalarType::BFloat16, __VA_ARGS__))

// The same for a tensor in a type that sums are kept in.
#define ADET_DISPATCH_SUMS(TYPE, NAME, ...)                                \
  THO_DISPATCH_SWITCH(                                                     \
      TYPE, NAME,                                                          \
      THO_DISPATCH_CASE(torch::headeronly::ScalarType::Float, __VA_ARGS__) \
          THO_DISPATCH_CASE(torch::headeronly::ScalarType::Double, __VA_ARGS__))
