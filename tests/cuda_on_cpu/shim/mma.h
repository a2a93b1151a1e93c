// Matrix products of a warp. All lanes must take part; lane 0 does the work. A fragment is defined only as a whole, so
// lane 0's copy has all of it.
#pragma once

#include <cuda_runtime.h>

#include <array>

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

namespace precision {
struct tf32 {};
} // namespace precision

template <class T>
struct Stored {
  using type = T;
};
template <>
struct Stored<precision::tf32> {
  using type = float;
};

// cvt.rna.tf32.f32: ten bits of mantissa, halves away from zero.
inline float __float_to_tf32(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if ((bits & 0x7f800000u) != 0x7f800000u) {
    bits += 0x1000u;
  }
  bits &= ~0x1fffu;
  std::memcpy(&v, &bits, 4);
  return v;
}

template <class Use, int m, int n, int k, class T, class Layout = void>
struct fragment {
  static_assert(n == 16 && m == 16 && k == (std::is_same_v<T, precision::tf32> ? 8 : k), "a shape of these types");
  static constexpr int rows = std::is_same_v<Use, matrix_b> ? k : m;
  static constexpr int columns = std::is_same_v<Use, matrix_a> ? k : n;
  typename Stored<T>::type at[rows][columns];
};

// Every lane must call it, from the same place.
#define EMULATED_WARP ::emulator::warp_barrier(0xffffffffu, __FILE__, __LINE__)

inline void check_matrix(const void* p, unsigned ldm, size_t size) {
  if (reinterpret_cast<uintptr_t>(p) % 32 != 0) {
    ::emulator::stop("a matrix of a warp must be aligned to 32 bytes");
  }
  if (ldm * size % 16 != 0) {
    ::emulator::stop("rows of a warp's matrix must be a multiple of 16 bytes apart");
  }
}

// In the variant that counts, the warp's request counts and not the accesses of lane 0.
#if defined(EMULATOR_COUNTS)
#define EMULATED_REQUEST EMULATED_PLAIN
#else
#define EMULATED_REQUEST
#endif

inline void count_matrix(const void* p, int rows, int columns, unsigned ldm, size_t size) {
#if defined(EMULATOR_COUNTS)
  ::emulator::count_matrix(p, rows, static_cast<size_t>(columns) * size, ldm * size);
#else
  (void)p, (void)rows, (void)columns, (void)ldm, (void)size;
#endif
}

template <class Use, int m, int n, int k, class T, class Layout>
EMULATED_REQUEST void load_matrix_sync(
    fragment<Use, m, n, k, T, Layout>& f, const typename Stored<T>::type* p, unsigned ldm) {
  check_matrix(p, ldm, sizeof(*p));
  EMULATED_WARP;
  if (::emulator::lane() == 0) {
    const bool straight = std::is_same_v<Layout, row_major>;
    count_matrix(p, straight ? f.rows : f.columns, straight ? f.columns : f.rows, ldm, sizeof(*p));
    for (int i = 0; i < f.rows; ++i) {
      for (int j = 0; j < f.columns; ++j) {
        f.at[i][j] = std::is_same_v<Layout, row_major> ? p[i * ldm + j] : p[j * ldm + i];
      }
    }
  }
  EMULATED_WARP;
}

template <class Use, int m, int n, int k, class T, class Layout>
void fill_fragment(fragment<Use, m, n, k, T, Layout>& f, T v) {
  for (auto& row : f.at) {
    for (auto& x : row) {
      x = v;
    }
  }
}

// Not instrumented: it only touches fragments.
template <int m, int n, int k, class T, class La, class Lb>
EMULATED_PLAIN void mma_sync(
    fragment<accumulator, m, n, k, float>& d, const fragment<matrix_a, m, n, k, T, La>& a,
    const fragment<matrix_b, m, n, k, T, Lb>& b, const fragment<accumulator, m, n, k, float>& c) {
  EMULATED_WARP;
  if (::emulator::lane() != 0) {
    return;
  }
  for (int i = 0; i < m; ++i) {
    float row[n];
    for (int j = 0; j < n; ++j) {
      row[j] = c.at[i][j];
    }
    for (int l = 0; l < k; ++l) {
      const float x = static_cast<float>(a.at[i][l]);
      for (int j = 0; j < n; ++j) {
        row[j] += x * static_cast<float>(b.at[l][j]);
      }
    }
    for (int j = 0; j < n; ++j) {
      d.at[i][j] = row[j];
    }
  }
}

template <int m, int n, int k>
EMULATED_REQUEST void store_matrix_sync(
    float* p, const fragment<accumulator, m, n, k, float>& f, unsigned ldm, layout_t) {
  check_matrix(p, ldm, sizeof(float));
  EMULATED_WARP;
  if (::emulator::lane() == 0) {
    count_matrix(p, m, n, ldm, sizeof(float));
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < n; ++j) {
        p[i * ldm + j] = f.at[i][j];
      }
    }
  }
  EMULATED_WARP;
}

} // namespace nvcuda::wmma
