// The exponential function on CPUs.
#pragma once

#include "cpu.h"

#include <cmath>
#include <cstring>

namespace adet_ext {

// e^x for x <= 0, within 2 units in the last place, in a form that vectorizes; NaN stays NaN. (Polynomial of Cephes.)
ADET_INLINE float exp_of_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float magic = 12582912.0f; // adding it rounds to an integer
  const float n = (x * 1.44269504f + magic) - magic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

ADET_INLINE double exp_of_negative(double x) {
  return std::exp(x);
}

} // namespace adet_ext
