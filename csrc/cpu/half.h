// Conversions of half and bfloat16 that a compiler can vectorize: bit operations without branches.
#pragma once

#include "cpu.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstring>

namespace adet_ext {

ADET_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

ADET_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

ADET_INLINE float widen(float value) {
  return value;
}

ADET_INLINE double widen(double value) {
  return value;
}

ADET_INLINE float widen(torch::headeronly::BFloat16 value) {
  return float_of(static_cast<uint32_t>(value.x) << 16);
}

ADET_INLINE float widen(torch::headeronly::Half value) {
  const uint32_t bits = static_cast<uint32_t>(value.x) << 16;
  const uint32_t magnitude = bits + bits;
  // A multiplication shifts the exponent; a subtraction yields subnormals.
  const uint32_t normal = bits_of(float_of((magnitude >> 4) + (0xE0u << 23)) * 0x1.0p-112f);
  const uint32_t subnormal = bits_of(float_of((magnitude >> 17) | (126u << 23)) - 0.5f);
  return float_of((bits & 0x80000000u) | (magnitude < (1u << 27) ? subnormal : normal));
}

ADET_INLINE void narrow_to(float& to, float value) {
  to = value;
}

ADET_INLINE void narrow_to(double& to, double value) {
  to = value;
}

ADET_INLINE void narrow_to(torch::headeronly::BFloat16& to, float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
  to.x = static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded >> 16);
}

ADET_INLINE void narrow_to(torch::headeronly::Half& to, float value) {
  const uint32_t bits = bits_of(value);
  const float magnitude = float_of(bits & 0x7FFFFFFFu);
  const uint32_t twice = bits + bits;
  const uint32_t exponent = (twice & 0xFF000000u) < 0x71000000u ? 0x71000000u : twice & 0xFF000000u;
  const float shifted = float_of((exponent >> 1) + 0x07800000u) + magnitude * 0x1.0p+112f * 0x1.0p-110f;
  const uint32_t result = bits_of(shifted);
  const uint32_t finite = ((result >> 13) & 0x7C00u) + (result & 0x0FFFu);
  to.x = static_cast<uint16_t>(((bits & 0x80000000u) >> 16) | (twice > 0xFF000000u ? 0x7E00u : finite));
}

} // namespace adet_ext
