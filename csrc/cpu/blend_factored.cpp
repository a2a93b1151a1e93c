// blend_factored on CPUs: DR1Mask's factored attention. Its vector attention is the case of one base, whose factors are
// ones.
#include "../blend_factored.h"

#include "blend_attention.h"
#include "blend_instance.h"
#include "blend_project.h"
#include "blend_share.h"

namespace adet_ext {
namespace {

template <typename T>
struct FactoredArgs {
  const T *bases, *t, *sigma, *u, *v, *boxes, *grad; // all contiguous; grad is null in the forward pass
  const int64_t* image;
  T *out, *grad_t, *along_x, *along_y; // null if not wanted
  int64_t channels, height, width, num, rank, size, line;
  T scale;
  bool aligned;
  Weighting weighting;
};

template <typename T>
struct FactoredTask {
  FactoredTask(const FactoredArgs<T>& a, int64_t band_low, int64_t band_rows, bool to_bases, bool to_factors)
      : arena(
            2 * Axis<T>::room(a.size) + Scratch<T>::room(a.num, a.line) + Arena::room<T>(a.num * a.width) +
            (to_bases ? Arena::room<T>(a.channels * band_rows * a.width) : 0)),
        low(band_low),
        rows(band_rows),
        factors(to_factors) {
    x = Axis<T>::make(arena, a.size);
    y = Axis<T>::make(arena, a.size);
    scratch = Scratch<T>::make(arena, a.num, a.line);
    wide = arena.template take<T>(a.num * a.width);
    band = to_bases ? arena.template take<T>(a.channels * band_rows * a.width) : nullptr;
    if (to_bases) {
      std::fill(band, band + a.channels * band_rows * a.width, T(0));
    }
  }

  Arena arena;
  Axis<T> x, y;
  Scratch<T> scratch;
  T *wide, *band;
  int64_t low, rows;
  bool factors;
};

template <typename T>
ADET_INLINE void run_instances(
    const FactoredArgs<T>& a, FactoredTask<T>& task, const int64_t* order, int64_t begin, int64_t end) {
  const Combine rule = combine_rule(a.weighting, a.num);
  const int64_t pixels = a.size * a.size, factors = a.num * a.rank * a.size;
  for (int64_t at = begin; at < end; ++at) {
    const int64_t d = order == nullptr ? at : order[at];
    const T* box = a.boxes + d * 4;
    task.x.crop(box[0], box[2], a.size, a.scale, a.aligned, a.width);
    task.y.crop(box[1], box[3], a.size, a.scale, a.aligned, a.height);
    T* grad_t = task.factors ? a.grad_t + d * a.num * a.channels : nullptr;
    Projected<T> rows{
        a.bases + a.image[d] * a.channels * a.height * a.width,
        a.t + d * a.num * a.channels,
        a.num,
        a.channels,
        a.height,
        a.width,
        a.size,
        a.line,
        task.x,
        0,
        0,
        task.wide,
        task.band,
        task.low,
        task.rows,
        grad_t};
    rows.find_columns();
    const FactoredAttention<T> attention{
        a.sigma + d * a.num * a.rank,
        a.u,
        a.v,
        a.num,
        a.rank,
        a.size,
        a.line,
        task.factors ? a.along_x + d * factors : nullptr,
        task.factors ? a.along_y + d * factors : nullptr};
    if (a.grad == nullptr) {
      blend_instance(rows, attention, task.y, rule, a.num, a.size, a.line, task.scratch, a.out + d * pixels);
      continue;
    }
    if (task.factors) {
      std::fill(grad_t, grad_t + a.num * a.channels, T(0));
    }
    blend_instance_backward(
        rows, attention, task.y, rule, a.num, a.size, a.line, task.low, task.low + task.rows, true, task.factors,
        task.scratch, a.grad + d * pixels);
  }
}

ADET_CLONES void run(
    const FactoredArgs<float>& a, FactoredTask<float>& t, const int64_t* order, int64_t begin, int64_t end) {
  run_instances(a, t, order, begin, end);
}
ADET_CLONES void run(
    const FactoredArgs<double>& a, FactoredTask<double>& t, const int64_t* order, int64_t begin, int64_t end) {
  run_instances(a, t, order, begin, end);
}

template <typename T>
FactoredArgs<T> make_args(const FactoredCall& call) {
  const Tensor &bases = call.bases, &u = call.u;
  FactoredArgs<T> a{};
  a.bases = bases.const_data_ptr<T>(), a.t = call.t.const_data_ptr<T>(), a.sigma = call.sigma.const_data_ptr<T>();
  a.u = u.const_data_ptr<T>(), a.v = call.v.const_data_ptr<T>(), a.boxes = call.boxes.const_data_ptr<T>();
  a.image = call.image.const_data_ptr<int64_t>();
  a.channels = bases.size(1), a.height = bases.size(2), a.width = bases.size(3);
  a.num = u.size(0), a.rank = u.size(1), a.size = u.size(2), a.line = line_length(a.size);
  a.scale = static_cast<T>(call.scale), a.aligned = call.aligned, a.weighting = call.weighting;
  check_images(a.image, call.boxes.size(0), bases.size(0));
  return a;
}

struct Cpu {
  static Tensor ready(const Tensor& t) {
    return as(t, sum_type(t));
  }

  static Tensor ready_bases(const Tensor& t) {
    return torch::stable::contiguous(ready(t));
  }

  static void forward(const FactoredCall& call, Tensor& out) {
    ADET_DISPATCH_SUMS(out.scalar_type(), "blend_factored", [&] {
      auto a = make_args<scalar_t>(call);
      a.out = out.mutable_data_ptr<scalar_t>();
      share_forward<FactoredTask<scalar_t>>(a, out.size(0));
    });
  }

  static void backward(
      const FactoredCall& call, const Tensor& grad, Tensor* grad_bases, const FactorGrads* factors,
      bool /* deterministic: always the case */) {
    ADET_DISPATCH_SUMS(grad.scalar_type(), "blend_factored_backward", [&] {
      auto a = make_args<scalar_t>(call);
      a.grad = grad.const_data_ptr<scalar_t>();
      if (factors != nullptr) {
        a.grad_t = factors->t->mutable_data_ptr<scalar_t>();
        a.along_x = factors->along_x->mutable_data_ptr<scalar_t>();
        a.along_y = factors->along_y->mutable_data_ptr<scalar_t>();
      }
      share_backward<FactoredTask<scalar_t>>(a, grad.size(0), call.bases.size(0), grad_bases, factors != nullptr);
    });
  }
};

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("blend_factored", TORCH_BOX(&adet_ext::blend_factored<adet_ext::Cpu>));
  m.impl("blend_factored_backward", TORCH_BOX(&adet_ext::blend_factored_backward<adet_ext::Cpu>));
}
