#pragma once

#include <torch/headeronly/util/Half.h>

using __half = torch::headeronly::Half;

inline float __half2float(__half v) {
  return static_cast<float>(v);
}

inline __half __float2half(float v) {
  return static_cast<__half>(v);
}
