// 3x3 convolution of channels-last maps by Winograd's minimal filtering: a tile of 2 x 2 results costs 16
// multiplications for each pair of channels instead of 36. The factors of the input and of the results are multiplied
// in registers, on the way into and out of the tile, so they need no extra pass over memory.
//
// Tiles of 4 x 4 save another fifth of the time, but their rounding error is ten times larger; that of 2 x 2 is not
// above that of a direct sum.
//
// N images, C input channels, O output channels, H x W locations, m, n: sides of a tile's results and inputs.
#pragma once

#include "../dr1_conv.h"
#include "cpu.h"

#if defined(__GNUC__)
#define ADET_WINOGRAD 1

namespace adet_ext::winograd {

constexpr int m = 2, n = 4;

template <class S>
struct Problem : Dr1Maps<S> {
  int64_t N, C, O, H, W;
  const S* filters; // (n n, O / group, C, group), transformed; a group of outputs fills two registers
};

// BYTES of scalars S in a register.
template <class S, int BYTES>
struct Register {
  typedef S type __attribute__((vector_size(BYTES)));
};

template <class V, class S>
ADET_INLINE void load(V& v, const S* from) {
  __builtin_memcpy(&v, from, sizeof(V));
}

template <class V, class S>
ADET_INLINE void store(S* to, const V& v) {
  __builtin_memcpy(to, &v, sizeof(V));
}

// One direction of the transforms: input (n -> n, in place), result (n -> m), filter (3 -> n).
template <class V>
ADET_INLINE void transform_input(V* d) {
  const V d1 = d[1], d2 = d[2];
  d[0] = d[0] - d2;
  d[1] = d1 + d2;
  d[2] = d2 - d1;
  d[3] = d1 - d[3];
}

template <class V>
ADET_INLINE void transform_result(const V* u, V* y) {
  y[0] = u[0] + u[1] + u[2];
  y[1] = u[1] - u[2] - u[3];
}

template <class V, class S>
ADET_INLINE void transform_filter(const V* g, V* u, S half) {
  u[0] = g[0];
  u[1] = (g[0] + g[1] + g[2]) * half;
  u[2] = (g[0] - g[1] + g[2]) * half;
  u[3] = g[2];
}

// weight (O, C, 3, 3) with strides -> filters (n n, O / group, C, group) for the outputs of one group. turned: those of
// the adjoint, which are mirrored, and whose inputs are the outputs of the weight.
template <class S, int BYTES>
ADET_INLINE void transform_filters(
    const S* weight, const int64_t* stride, int64_t C, int64_t O, bool turned, int64_t o0, S* filters) {
  using V = typename Register<S, BYTES>::type;
  constexpr int L = BYTES / sizeof(S);
  const int64_t o_step = stride[turned ? 1 : 0], c_step = stride[turned ? 0 : 1];
  for (int64_t c = 0; c < C; ++c) {
    for (int side = 0; side < 2; ++side) {
      const S* const from = weight + (o0 + side * L) * o_step + c * c_step;
      S gathered[9][L];
      for (int o = 0; o < L; ++o) {
#pragma GCC unroll 9
        for (int k = 0; k < 9; ++k) {
          const int tap = turned ? 8 - k : k;
          gathered[k][o] = from[o * o_step + tap / 3 * stride[2] + tap % 3 * stride[3]];
        }
      }
      V columns[3][n];
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        V g[3];
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) {
          load(g[i], gathered[i * 3 + j]);
        }
        transform_filter(g, columns[j], S(0.5));
      }
      S* const to = filters + (o0 * C + c * 2 * L) + side * L;
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) {
        const V g[3] = {columns[0][i], columns[1][i], columns[2][i]};
        V u[n];
        transform_filter(g, u, S(0.5));
#pragma GCC unroll 4
        for (int j = 0; j < n; ++j) {
          store(to + (i * n + j) * O * C, u[j]);
        }
      }
    }
  }
}

// One column of n inputs from row y0 on, times before, transformed. Inputs outside the map are zero.
template <class S, class V>
ADET_INLINE void take_column(const Problem<S>& p, int64_t i, int64_t y0, int64_t x, int64_t c, V* column) {
  if (x < 0 || x >= p.W) {
#pragma GCC unroll 4
    for (int y = 0; y < n; ++y) {
      column[y] = V{};
    }
    return;
  }
  if (y0 >= 0 && y0 + n <= p.H) {
    const S* from = p.x.at(i, y0, x) + c;
#pragma GCC unroll 4
    for (int y = 0; y < n; ++y) {
      load(column[y], from + y * p.x.row);
    }
    if (p.before.data) {
      from = p.before.at(i, y0, x) + c;
#pragma GCC unroll 4
      for (int y = 0; y < n; ++y) {
        V factor;
        load(factor, from + y * p.before.row);
        column[y] *= factor;
      }
    }
  } else {
#pragma GCC unroll 4
    for (int y = 0; y < n; ++y) {
      column[y] = V{};
      if (y0 + y >= 0 && y0 + y < p.H) {
        load(column[y], p.x.at(i, y0 + y, x) + c);
        if (p.before.data) {
          V factor;
          load(factor, p.before.at(i, y0 + y, x) + c);
          column[y] *= factor;
        }
      }
    }
  }
  transform_input(column);
}

// The inputs of `tiles` neighboring tiles of a row, the first from (y0, x0) on, transformed, into spread (n n, t, C).
template <class S, int BYTES>
ADET_INLINE void take_tiles(
    const Problem<S>& p, int64_t i, int64_t y0, int64_t x0, int64_t tiles, S* spread, int64_t step) {
  using V = typename Register<S, BYTES>::type;
  constexpr int L = BYTES / sizeof(S);
  for (int64_t c = 0; c < p.C; c += L) {
    V d[n][n]; // by columns; neighbors share two of them
    take_column(p, i, y0, x0, c, d[0]);
    take_column(p, i, y0, x0 + 1, c, d[1]);
    for (int64_t t = 0; t < tiles; ++t) {
#pragma GCC unroll 4
      for (int x = 2; x < n; ++x) {
        take_column(p, i, y0, x0 + t * m + x, c, d[x]);
      }
      S* const to = spread + t * p.C + c;
#pragma GCC unroll 4
      for (int y = 0; y < n; ++y) {
        V line[n];
#pragma GCC unroll 4
        for (int x = 0; x < n; ++x) {
          line[x] = d[x][y];
        }
        transform_input(line);
#pragma GCC unroll 4
        for (int x = 0; x < n; ++x) {
          store(to + (y * n + x) * step, line[x]);
        }
        d[0][y] = d[m][y];
        d[1][y] = d[m + 1][y];
      }
    }
  }
}

// The sums of a tile, transformed back, plus bias, times after, into the result.
template <class S, int BYTES>
ADET_INLINE void give_tile(const Problem<S>& p, int64_t i, int64_t y0, int64_t x0, const S* sums, int64_t step) {
  using V = typename Register<S, BYTES>::type;
  constexpr int L = BYTES / sizeof(S);
  const int64_t rows = p.H - y0, columns = p.W - x0;
  for (int64_t o = 0; o < p.O; o += L) {
    V bias{};
    if (p.bias) {
      load(bias, p.bias + o);
    }
    V half[m][n];
#pragma GCC unroll 4
    for (int x = 0; x < n; ++x) {
      V column[n], part[m];
#pragma GCC unroll 4
      for (int y = 0; y < n; ++y) {
        load(column[y], sums + (y * n + x) * step + o);
      }
      transform_result(column, part);
#pragma GCC unroll 4
      for (int y = 0; y < m; ++y) {
        half[y][x] = part[y];
      }
    }
#pragma GCC unroll 4
    for (int y = 0; y < m; ++y) {
      V part[m];
      transform_result(half[y], part);
#pragma GCC unroll 4
      for (int x = 0; x < m; ++x) {
        if (y >= rows || x >= columns) {
          continue;
        }
        const V sum = part[x] + bias;
        V factor, product = sum;
        if (p.after.data) {
          load(factor, p.after.at(i, y0 + y, x0 + x) + o);
          product = sum * factor;
        }
        store(p.result.at(i, y0 + y, x0 + x) + o, product);
        if (p.result2.data) {
          product = sum;
          if (p.after2.data) {
            load(factor, p.after2.at(i, y0 + y, x0 + x) + o);
            product = sum * factor;
          }
          store(p.result2.at(i, y0 + y, x0 + x) + o, product);
        }
      }
    }
  }
}

// sums (T, 2L of O) = spread (T, C) times filters (C, 2L): T x 2 registers of sums.
template <int T, class S, int BYTES>
ADET_INLINE void multiply(const S* spread, const S* filters, S* sums, int64_t C, int64_t O) {
  using V = typename Register<S, BYTES>::type;
  constexpr int L = BYTES / sizeof(S);
  V sum[T][2];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    sum[t][0] = sum[t][1] = V{};
  }
  for (int64_t c = 0; c < C; ++c) {
    V f0, f1;
    load(f0, filters + c * 2 * L);
    load(f1, filters + c * 2 * L + L);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const S s = spread[t * C + c];
      sum[t][0] += s * f0;
      sum[t][1] += s * f1;
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    store(sums + t * O, sum[t][0]);
    store(sums + t * O + L, sum[t][1]);
  }
}

// Prefetches `rows` x m locations of a map from (y, x) on, a cache line of 64 bytes at a time.
template <class S>
ADET_INLINE void prefetch(
    const Problem<S>& p, const Dr1Map<S>& map, int64_t i, int64_t y, int64_t x, int64_t rows, int64_t channels) {
  if (!map.data) {
    return;
  }
  for (int64_t row = y; row < y + rows && row < p.H; ++row) {
    for (int64_t column = x; column < x + m && column < p.W; ++column) {
      const S* const from = map.at(i, row, column);
      for (int64_t c = 0; c < channels; c += 64 / sizeof(S)) {
        __builtin_prefetch(from + c);
      }
    }
  }
}

// Tiles [begin, end) of all images, in blocks of up to `block`, a multiple of 4, with scratch for 16 block (C + O)
// values. T: tiles at once in the multiplication, 12 or 6, as many as registers allow.
template <class S, int BYTES, int T>
ADET_INLINE void convolve(const Problem<S>& p, int64_t begin, int64_t end, int64_t block, S* scratch) {
  constexpr int L = BYTES / sizeof(S);
  const int64_t down = (p.H + m - 1) / m, across = (p.W + m - 1) / m;
  const int64_t spread_step = block * p.C, sums_step = block * p.O;
  S* const spread = scratch;
  S* const sums = scratch + n * n * spread_step;
  for (int64_t first = begin; first < end; first += block) {
    const int64_t count = end - first < block ? end - first : block;
    for (int64_t t = 0; t < count;) {
      const int64_t tile = first + t, row = tile / across, column = tile % across;
      const int64_t run = across - column < count - t ? across - column : count - t;
      take_tiles<S, BYTES>(p, row / down, row % down * m - 1, column * m - 1, run, spread + t * p.C, spread_step);
      t += run;
    }
    for (int k = 0; k < n * n; ++k) {
      // The multiplications leave memory idle. So prefetch what the next steps read: the factors of these results, and
      // the lower rows of the tiles of the next block.
      for (int64_t t = k * block / (n * n); t < (k + 1) * block / (n * n); ++t) {
        int64_t tile = first + t, row = tile / across;
        if (tile < end) {
          prefetch(p, p.after, row / down, row % down * m, tile % across * m, m, p.O);
          prefetch(p, p.after2, row / down, row % down * m, tile % across * m, m, p.O);
        }
        tile += block;
        row = tile / across;
        if (tile < end) {
          prefetch(p, p.x, row / down, row % down * m + 1, tile % across * m + 1, m, p.C);
          prefetch(p, p.before, row / down, row % down * m + 1, tile % across * m + 1, m, p.C);
        }
      }
      for (int64_t o = 0; o < p.O; o += 2 * L) {
        const S* const filters = p.filters + (k * p.O + o) * p.C;
        const S* const from = spread + k * spread_step;
        S* const to = sums + k * sums_step + o;
        int64_t t = 0;
        for (; t + T <= count; t += T) {
          multiply<T, S, BYTES>(from + t * p.C, filters, to + t * p.O, p.C, p.O);
        }
        for (; t < count; t += T / 3) { // may reach into the unused part of the block, not beyond
          multiply<T / 3, S, BYTES>(from + t * p.C, filters, to + t * p.O, p.C, p.O);
        }
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      const int64_t tile = first + t, row = tile / across;
      give_tile<S, BYTES>(p, row / down, row % down * m, tile % across * m, sums + t * p.O, sums_step);
    }
  }
}

} // namespace adet_ext::winograd

#endif
