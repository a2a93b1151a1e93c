// Blending on CPUs: memory of a task, and tables of the neighbors that the points of an axis read.
//
// Masks are computed row by row. A "row" is K lines of `line` numbers each. `line` is the side of the mask, rounded up
// so that loops over it vectorize without a remainder. T is float or double.
#pragma once

#include "../blend.h"
#include "cpu.h"

#include <memory>

namespace adet_ext {

inline int64_t line_length(int64_t size) {
  return (size + 15) / 16 * 16;
}

// Memory of one task, taken piece by piece and freed at once.
class Arena {
 public:
  explicit Arena(int64_t bytes) : size_(bytes + 64), memory_(new char[static_cast<size_t>(size_)]) {
    at_ = (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64;
  }

  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(memory_.get() + at_);
    at_ += room<T>(count);
    ADET_CHECK(at_ <= size_, "blend: scratch memory of a task was counted wrongly");
    return piece;
  }

  template <typename T>
  static int64_t room(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }

 private:
  int64_t size_;
  int64_t at_ = 0;
  std::unique_ptr<char[]> memory_;
};

// The two neighbors of each of n points on a line, and their weights.
template <typename T>
struct Axis {
  int32_t *i0, *i1;
  T *w0, *w1;

  static int64_t room(int64_t n) {
    return 2 * Arena::room<int32_t>(line_length(n)) + 2 * Arena::room<T>(line_length(n));
  }

  static Axis make(Arena& arena, int64_t n) {
    const int64_t length = line_length(n);
    Axis a{arena.take<int32_t>(length), arena.take<int32_t>(length), arena.take<T>(length), arena.take<T>(length)};
    for (int64_t i = 0; i < length; ++i) { // beyond the n points: cell 0, with weight 0
      a.i0[i] = a.i1[i] = 0;
      a.w0[i] = a.w1[i] = T(0);
    }
    return a;
  }

  ADET_INLINE void crop(T low, T high, int64_t n, T scale, bool aligned, int64_t cells) const {
    for (int64_t i = 0; i < n; ++i) {
      int64_t low_cell, high_cell;
      neighbours(crop_point(low, high, i, n, scale, aligned), cells, Border::clamp, low_cell, high_cell, w0[i], w1[i]);
      i0[i] = static_cast<int32_t>(low_cell);
      i1[i] = static_cast<int32_t>(high_cell);
    }
  }

  ADET_INLINE void resize(int64_t m, int64_t n, bool nearest) const {
    for (int64_t i = 0; i < n; ++i) {
      resize_neighbours(i, m, n, nearest, i0[i], i1[i], w0[i], w1[i]);
    }
  }
};

} // namespace adet_ext
