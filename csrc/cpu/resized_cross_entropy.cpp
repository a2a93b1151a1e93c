// resized_cross_entropy on CPUs. Classes are innermost, so that the logits of a pixel are a weighted sum of two
// vectors, after the two rows of its neighbors have been blended. The softmax of a pixel serves for the loss and the
// gradient.
#include "../resized_cross_entropy.h"
#include "cpu.h"
#include "exponential.h"

#include <algorithm>

namespace adet_ext {
namespace {

// Rows of logits of a task, which has all pixels whose first neighbor is in them.
constexpr int64_t kRows = 4;
// The classes of a place are rounded up to a multiple of this.
constexpr int64_t kLanes = 16;
// Pixels between two logarithms: the product of so many sums of 2^31 exponentials is finite in double.
constexpr int64_t kSums = 16;

// Where an exponential counts as zero: smaller ones would make subnormal gradients, which take a hundred times as long.
constexpr int kSmallest = -80;

template <typename T>
std::vector<PixelNeighbors<T>> neighbors_of(int64_t in, int64_t out) {
  std::vector<PixelNeighbors<T>> found;
  found.reserve(static_cast<size_t>(out));
  for (int64_t i = 0; i < out; ++i) {
    found.emplace_back(i, in, out);
  }
  return found;
}

// A call, in tasks of kRows rows of logits of an image.
template <typename T>
struct Job : CrossEntropyCall<T> {
  using CrossEntropyCall<T>::CrossEntropyCall;
  using CrossEntropyCall<T>::sizes;

  T* beyond = nullptr;      // (N, blocks, W, line): the gradient of a task at the first row of the next one
  double* sums = nullptr;   // of each task
  int64_t* wrong = nullptr; // a wrong label of each task, or `ignored`
  std::vector<PixelNeighbors<T>> rows = neighbors_of<T>(sizes.in[0], sizes.out[0]);
  std::vector<PixelNeighbors<T>> columns = neighbors_of<T>(sizes.in[1], sizes.out[1]);

  ADET_INLINE int64_t blocks() const { // of an image
    return (sizes.in[0] + kRows - 1) / kRows;
  }
  ADET_INLINE int64_t line() const { // of the classes of a place
    return (sizes.classes + kLanes - 1) / kLanes * kLanes;
  }
  ADET_INLINE int64_t width() const { // of a row of logits
    return sizes.in[1] * line();
  }
  ADET_INLINE int64_t room() const { // of a task, in numbers
    return (2 * kRows + 4) * width() + line();
  }
};

// Lays rows of an image from `first` to `last` with classes innermost.
template <typename T>
ADET_INLINE void lay_rows(const Job<T>& job, int64_t image, int64_t first, int64_t last, T* to) {
  const int64_t line = job.line();
  for (int64_t y = first; y < last; ++y, to += job.width()) {
    const T* row = job.logits + image * job.read.image + y * job.read.row;
    for (int64_t k = 0; k < job.sizes.classes; ++k) {
      for (int64_t x = 0; x < job.sizes.in[1]; ++x) {
        to[x * line + k] = row[k * job.read.channel + x * job.read.column];
      }
    }
    for (int64_t x = 0; x < job.sizes.in[1]; ++x) {
      for (int64_t k = job.sizes.classes; k < line; ++k) { // finite: infinity times a weight of 0 would be NaN
        to[x * line + k] = std::numeric_limits<T>::lowest() / 4;
      }
    }
  }
}

// The sum of the logarithms of numbers, which takes a logarithm once in kSums numbers.
class SumOfLogarithms {
 public:
  ADET_INLINE void add(double number) {
    product_ *= number;
    if (++count_ % kSums == 0) {
      sum_ += std::log(product_);
      product_ = 1;
    }
  }
  ADET_INLINE double sum() const {
    return sum_ + std::log(product_);
  }

 private:
  double sum_ = 0, product_ = 1;
  int64_t count_ = 0;
};

// Compares the row of logits `blended` with a row of labels. The loss is added to `logarithms` and `rest`, which share
// it; its gradient to `grad`, of the size of `blended`, unless it is null.
template <typename T>
ADET_INLINE void pixels_of_row(
    const Job<T>& job, const int64_t* labels, const T* blended, T* exponentials, T* grad, SumOfLogarithms& logarithms,
    double& rest, int64_t& wrong) {
  const int64_t line = job.line(), classes = job.sizes.classes;
  const PixelNeighbors<T>* columns = job.columns.data();
  for (int64_t x = 0; x < job.sizes.out[1]; ++x) {
    const int64_t label = labels[x];
    if (label == job.ignored) {
      continue;
    }
    if (label < 0 || label >= classes) {
      wrong = label;
      continue;
    }
    const PixelNeighbors<T> n = columns[x];
    const T *low = blended + n.low * line, *high = blended + n.high * line;
    T top = std::numeric_limits<T>::lowest();
#pragma omp simd reduction(max : top)
    for (int64_t k = 0; k < line; ++k) {
      const T z = n.low_weight * low[k] + n.high_weight * high[k];
      exponentials[k] = z;
      top = z > top ? z : top;
    }
    rest += static_cast<double>(top) - static_cast<double>(exponentials[label]);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < line; ++k) {
      const T z = exponentials[k] - top;
      const T e = z < kSmallest ? T(0) : exp_of_negative(z);
      exponentials[k] = e;
      sum += e;
    }
    logarithms.add(static_cast<double>(sum));
    if (grad == nullptr) {
      continue;
    }
    // One neighbor after the other: at a border they are the same place.
    const T weights[2] = {n.low_weight, n.high_weight};
    T* to[2] = {grad + n.low * line, grad + n.high * line};
    for (int side = 0; side < 2; ++side) {
      const T share = weights[side] / sum;
      T* place = to[side];
      // Not place[label] -= ... behind the loop: the next pixel would wait until its vector can be read again.
#pragma omp simd
      for (int32_t k = 0; k < static_cast<int32_t>(line); ++k) {
        place[k] += share * (exponentials[k] - (k == static_cast<int32_t>(label) ? sum : T(0)));
      }
    }
  }
}

template <typename T>
ADET_INLINE void write_gradient(const Job<T>& job, int64_t image, int64_t first, int64_t last, const T* from) {
  const int64_t line = job.line();
  for (int64_t y = first; y < last; ++y, from += job.width()) {
    T* row = job.grad + image * job.written.image + y * job.written.row;
    for (int64_t k = 0; k < job.sizes.classes; ++k) {
      for (int64_t x = 0; x < job.sizes.in[1]; ++x) {
        row[k * job.written.channel + x * job.written.column] = from[x * line + k];
      }
    }
  }
}

template <typename T>
ADET_INLINE void run_task(const Job<T>& job, int64_t task, int64_t begin, int64_t end, T* room) {
  const int64_t image = task / job.blocks(), first = task % job.blocks() * kRows, width = job.width();
  const int64_t last = std::min(first + kRows, job.sizes.in[0]), read = std::min(last + 1, job.sizes.in[0]);
  T *maps = room, *grads = maps + (kRows + 1) * width, *blended = grads + (kRows + 1) * width;
  T *grad_row = blended + width, *exponentials = grad_row + width;
  lay_rows(job, image, first, read, maps);
  std::fill_n(grads, (kRows + 1) * width, T(0));
  SumOfLogarithms logarithms;
  double rest = 0;
  for (int64_t y = begin; y < end; ++y) {
    const PixelNeighbors<T> n = job.rows[static_cast<size_t>(y)];
    const T *low = maps + (n.low - first) * width, *high = maps + (n.high - first) * width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      blended[i] = n.low_weight * low[i] + n.high_weight * high[i];
      grad_row[i] = 0;
    }
    const int64_t* labels = job.labels + image * job.sizes.pixels() + y * job.sizes.out[1];
    pixels_of_row(
        job, labels, blended, exponentials, job.grad == nullptr ? nullptr : grad_row, logarithms, rest,
        job.wrong[task]);
    if (job.grad != nullptr) {
      T* to_low = grads + (n.low - first) * width;
      T* to_high = grads + (n.high - first) * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        to_low[i] += n.low_weight * grad_row[i];
      }
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        to_high[i] += n.high_weight * grad_row[i];
      }
    }
  }
  job.sums[task] = logarithms.sum() + rest;
  if (job.grad != nullptr) {
    write_gradient(job, image, first, last, grads);
    std::copy_n(grads + kRows * width, width, job.beyond + task * width);
  }
}

// Adds what the task before this one has for its first row.
template <typename T>
ADET_INLINE void add_beyond(const Job<T>& job, int64_t task) {
  const int64_t image = task / job.blocks(), block = task % job.blocks(), line = job.line();
  if (block == 0) {
    return;
  }
  const T* from = job.beyond + (task - 1) * job.width();
  for (int64_t k = 0; k < job.sizes.classes; ++k) {
    T* to = job.grad + image * job.written.image + k * job.written.channel + block * kRows * job.written.row;
    for (int64_t x = 0; x < job.sizes.in[1]; ++x) {
      to[x * job.written.column] += from[x * line + k];
    }
  }
}

// Plain functions, so that each is compiled for several instruction sets.
ADET_CLONES void run_block(const Job<float>& job, int64_t task, int64_t begin, int64_t end, float* room) {
  run_task(job, task, begin, end, room);
}

ADET_CLONES void run_block(const Job<double>& job, int64_t task, int64_t begin, int64_t end, double* room) {
  run_task(job, task, begin, end, room);
}

// The first of the pixels whose first neighbor is not before `row`.
template <typename T>
int64_t first_pixel(const Job<T>& job, int64_t row) {
  const auto before = [](const PixelNeighbors<T>& n, int64_t wanted) { return n.low < wanted; };
  return std::lower_bound(job.rows.begin(), job.rows.end(), row, before) - job.rows.begin();
}

struct Cpu {
  static void run(
      const ResizedSizes& s, const Tensor& logits, const Tensor& labels, int64_t ignored, Tensor& total, Tensor& by) {
    ADET_DISPATCH_SUMS(logits.scalar_type(), "resized_cross_entropy", [&] {
      using T = scalar_t;
      Job<T> job(s, logits, labels, ignored, by);
      const bool gradient = job.grad != nullptr;
      const int64_t tasks = s.images * job.blocks();
      std::vector<double> sums(static_cast<size_t>(tasks));
      std::vector<int64_t> wrong(static_cast<size_t>(tasks), ignored);
      std::vector<T> beyond(static_cast<size_t>(gradient ? tasks * job.width() : 0));
      job.sums = sums.data(), job.wrong = wrong.data(), job.beyond = beyond.data();
      parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
        std::vector<T> room(static_cast<size_t>(job.room()));
        for (int64_t task = first; task < last; ++task) {
          const int64_t row = task % job.blocks() * kRows;
          run_block(job, task, first_pixel(job, row), first_pixel(job, row + kRows), room.data());
        }
      });
      for (const int64_t label : wrong) {
        ADET_CHECK(
            label == ignored, "labels must be 0 to ", s.classes - 1, ", or ", ignored, " to be ignored; got ", label);
      }
      if (gradient) {
        parallel_for(0, tasks, kRows, [&](int64_t first, int64_t last) {
          for (int64_t task = first; task < last; ++task) {
            add_beyond(job, task);
          }
        });
      }
      double sum = 0; // in the order of the tasks: the number of threads does not change it
      for (const double part : sums) {
        sum += part;
      }
      *total.mutable_data_ptr<T>() = static_cast<T>(sum);
    });
  }
};

} // namespace

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("resized_cross_entropy", TORCH_BOX(&resized_cross_entropy<Cpu>));
}

} // namespace adet_ext
