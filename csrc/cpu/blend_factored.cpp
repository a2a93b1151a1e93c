// Blend on CPUs: DR1Mask's factored attention, and its vector attention as that with one base and factors of ones.
#include "blend_attention.h"
#include "blend_instance.h"
#include "blend_project.h"
#include "blend_share.h"

#include <tuple>

namespace adet_ext {
namespace {

template <typename T>
struct FactoredArgs {
  const T *bases, *t, *sigma, *u, *v, *boxes, *grad; // contiguous all; grad in the backward pass alone
  const int64_t* image;
  T *out, *grad_t, *along_x, *along_y; // null where no gradient is wanted
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
        a.num, a.channels, a.height, a.width, a.size, a.line,
        task.x, 0, 0, task.wide, task.band, task.low, task.rows, grad_t};
    rows.find_columns();
    const FactoredAttention<T> attention{
        a.sigma + d * a.num * a.rank, a.u, a.v, a.num, a.rank, a.size, a.line,
        task.factors ? a.along_x + d * factors : nullptr, task.factors ? a.along_y + d * factors : nullptr};
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

ADET_CLONES void run(const FactoredArgs<float>& a, FactoredTask<float>& t, const int64_t* order, int64_t begin, int64_t end) {
  run_instances(a, t, order, begin, end);
}
ADET_CLONES void run(const FactoredArgs<double>& a, FactoredTask<double>& t, const int64_t* order, int64_t begin, int64_t end) {
  run_instances(a, t, order, begin, end);
}

// The inputs, checked, in the type they are computed in, contiguous.
struct FactoredInputs {
  FactoredInputs(
      const Tensor& bases_, const Tensor& t_, const Tensor& sigma_, const Tensor& u_, const Tensor& v_, const Tensor& boxes_, const Tensor& image_)
      : bases((check_factored(bases_, t_, sigma_, u_, v_, boxes_, image_), dense(bases_))),
        t(dense(t_)),
        sigma(dense(sigma_)),
        u(dense(u_)),
        v(dense(v_)),
        boxes(torch::stable::contiguous(boxes_)),
        image(torch::stable::contiguous(image_)) {}

  template <typename T>
  FactoredArgs<T> args(double scale, bool aligned, Weighting weighting) const {
    FactoredArgs<T> a{};
    a.bases = bases.const_data_ptr<T>(), a.t = t.const_data_ptr<T>(), a.sigma = sigma.const_data_ptr<T>();
    a.u = u.const_data_ptr<T>(), a.v = v.const_data_ptr<T>(), a.boxes = boxes.const_data_ptr<T>();
    a.image = image.const_data_ptr<int64_t>();
    a.channels = bases.size(1), a.height = bases.size(2), a.width = bases.size(3);
    a.num = u.size(0), a.rank = u.size(1), a.size = u.size(2), a.line = line_length(a.size);
    a.scale = static_cast<T>(scale), a.aligned = aligned, a.weighting = weighting;
    check_images(a.image, boxes.size(0), bases.size(0));
    return a;
  }

  Tensor bases, t, sigma, u, v, boxes, image;
};

template <typename T>
void forward(FactoredArgs<T> a, Tensor& out) {
  if (out.numel() == 0) {
    return;
  }
  a.out = out.mutable_data_ptr<T>();
  parallel_for(0, out.size(0), 1, [&](int64_t begin, int64_t end) {
    FactoredTask<T> task(a, 0, 0, false, false);
    run(a, task, nullptr, begin, end);
  });
}

template <typename T>
void backward(
    FactoredArgs<T> a, int64_t images, const Tensor& grad, Tensor& grad_bases, Tensor& grad_t, Tensor& along_x, Tensor& along_y, bool to_bases, bool to_factors) {
  const int64_t count = grad.size(0);
  a.grad = grad.const_data_ptr<T>();
  a.grad_t = grad_t.mutable_data_ptr<T>(), a.along_x = along_x.mutable_data_ptr<T>();
  a.along_y = along_y.mutable_data_ptr<T>();
  to_bases = to_bases && grad_bases.numel() > 0;
  const bool at_once = to_bases && to_factors && whole_images(images);
  if (to_factors && !at_once) {
    parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      FactoredTask<T> task(a, 0, a.height, false, true);
      run(a, task, nullptr, begin, end);
    });
  }
  if (to_bases) {
    T* to = grad_bases.mutable_data_ptr<T>();
    for_bands(a.image, count, images, a.height, [&](int64_t n, int64_t low, int64_t high, const int64_t* order, int64_t some) {
      FactoredTask<T> task(a, low, high - low, true, at_once);
      run(a, task, order, 0, some);
      write_band(task.band, low, high - low, to + n * grad_bases.stride(0), grad_bases);
    });
  }
}

} // namespace

Tensor blend_factored_cpu(
    const Tensor& bases, const Tensor& t, const Tensor& sigma, const Tensor& u, const Tensor& v, const Tensor& boxes, const Tensor& image, double scale, bool aligned, int64_t weighting) {
  const Weighting rule = check_weighting(weighting);
  const FactoredInputs in(bases, t, sigma, u, v, boxes, image);
  Tensor out = torch::stable::new_empty(in.bases, {boxes.size(0), u.size(2), u.size(2)});
  if (computed_in(bases) == ScalarType::Double) {
    forward(in.args<double>(scale, aligned, rule), out);
  } else {
    forward(in.args<float>(scale, aligned, rule), out);
  }
  return as(out, bases.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> blend_factored_backward_cpu(
    const Tensor& grad,
    const Tensor& bases,
    const Tensor& t,
    const Tensor& sigma,
    const Tensor& u,
    const Tensor& v,
    const Tensor& boxes,
    const Tensor& image,
    double scale,
    bool aligned,
    int64_t weighting,
    bool need_bases,
    bool need_factors,
    bool /* deterministic: it is always */) {
  const Weighting rule = check_weighting(weighting);
  const FactoredInputs in(bases, t, sigma, u, v, boxes, image);
  check_mask_grad(grad, bases, boxes, u.size(2));
  const Tensor g = dense(grad), none = torch::stable::new_empty(in.bases, {0});
  Tensor grad_bases = need_bases ? torch::stable::empty_like(in.bases) : none;
  Tensor grad_t = need_factors ? torch::stable::empty_like(in.t) : torch::stable::new_empty(in.t, {0});
  auto share = [&] {
    return need_factors ? torch::stable::new_empty(in.u, {boxes.size(0), u.size(0), u.size(1), u.size(2)})
                        : torch::stable::new_empty(in.u, {0});
  };
  Tensor along_x = share(), along_y = share();
  if (computed_in(bases) == ScalarType::Double) {
    backward(in.args<double>(scale, aligned, rule), bases.size(0), g, grad_bases, grad_t, along_x, along_y, need_bases, need_factors);
  } else {
    backward(in.args<float>(scale, aligned, rule), bases.size(0), g, grad_bases, grad_t, along_x, along_y, need_bases, need_factors);
  }
  return {as(grad_bases, bases.scalar_type()), as(grad_t, bases.scalar_type()), along_x, along_y};
}

} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("blend_factored", TORCH_BOX(&adet_ext::blend_factored_cpu));
  m.impl("blend_factored_backward", TORCH_BOX(&adet_ext::blend_factored_backward_cpu));
}
