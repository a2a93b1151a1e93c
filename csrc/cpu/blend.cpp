// Blend on CPUs: BlendMask's blender and its special cases.
#include "blend_attention.h"
#include "blend_instance.h"
#include "blend_share.h"

#include <tuple>

namespace adet_ext {
namespace {

template <typename T>
struct BlendArgs {
  const T *bases, *attentions, *boxes, *grad; // attentions and grad contiguous; grad in the backward pass alone
  const int64_t* image;
  T *out, *grad_attentions; // null where no gradient is wanted
  int64_t num, height, width, side, size, line;
  int64_t stride_n, stride_k, stride_y, stride_x;
  T scale;
  bool aligned, nearest;
  Weighting weighting;

  // Lines of a row: the assembler's row has one.
  int64_t lines() const {
    return weighting == Weighting::one_hot ? 1 : num;
  }
};

// What a task needs beside its arguments: tables and scratch.
template <typename T>
struct BlendTask {
  BlendTask(const BlendArgs<T>& a, int64_t band_low, int64_t band_rows, bool to_bases, bool to_attentions)
      : arena(room(a, band_rows, to_bases)) {
    x = Axis<T>::make(arena, a.size);
    y = Axis<T>::make(arena, a.size);
    resize = Axis<T>::make(arena, a.size);
    resize.resize(a.side, a.size, a.nearest);
    part = arena.template take<int32_t>(a.line);
    for (int64_t i = 0; i < a.line; ++i) {
      float unused0, unused1;
      int at, same;
      resize_neighbours(std::min(i, a.size - 1), a.side, a.size, true, at, same, unused0, unused1);
      part[i] = at;
    }
    scratch = Scratch<T>::make(arena, a.lines(), a.line);
    const int64_t maps = a.weighting == Weighting::one_hot ? 0 : a.side * a.num * a.line;
    wide = arena.template take<T>(maps);
    grad_wide = to_attentions ? arena.template take<T>(maps) : nullptr;
    ready = arena.template take<bool>(a.side);
    low = band_low;
    rows = band_rows;
    band = to_bases ? arena.template take<T>(a.num * band_rows * a.width) : nullptr;
    if (to_bases) {
      std::fill(band, band + a.num * band_rows * a.width, T(0));
    }
  }

  static int64_t room(const BlendArgs<T>& a, int64_t band_rows, bool to_bases) {
    const int64_t maps = a.weighting == Weighting::one_hot ? 0 : a.side * a.num * a.line;
    return 3 * Axis<T>::room(a.size) + Arena::room<int32_t>(a.line) + Scratch<T>::room(a.lines(), a.line) +
        2 * Arena::room<T>(maps) + Arena::room<bool>(a.side) +
        (to_bases ? Arena::room<T>(a.num * band_rows * a.width) : 0);
  }

  Arena arena;
  Axis<T> x, y, resize;
  int32_t* part;
  Scratch<T> scratch;
  T *wide, *grad_wide, *band;
  bool* ready;
  int64_t low, rows;
};

template <typename T, typename Rows, typename Weights>
ADET_INLINE void run_instance(const BlendArgs<T>& a, BlendTask<T>& t, int64_t d, const Rows& rows, const Weights& weights) {
  const Combine rule = combine_rule(a.weighting, a.num);
  if (a.grad == nullptr) {
    blend_instance(rows, weights, t.y, rule, a.lines(), a.size, a.line, t.scratch, a.out + d * a.size * a.size);
  } else {
    blend_instance_backward(
        rows,
        weights,
        t.y,
        rule,
        a.lines(),
        a.size,
        a.line,
        t.low,
        t.low + t.rows,
        t.band != nullptr,
        t.grad_wide != nullptr,
        t.scratch,
        a.grad + d * a.size * a.size);
  }
}

template <typename T>
ADET_INLINE void run_instances(const BlendArgs<T>& a, BlendTask<T>& t, const int64_t* order, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; ++at) {
    const int64_t d = order == nullptr ? at : order[at];
    const T* box = a.boxes + d * 4;
    t.x.crop(box[0], box[2], a.size, a.scale, a.aligned, a.width);
    t.y.crop(box[1], box[3], a.size, a.scale, a.aligned, a.height);
    const Planes<T> planes{
        a.bases + a.image[d] * a.stride_n, a.stride_k, a.stride_y, a.stride_x, a.num, a.size, a.line, t.x, t.band, t.low, t.rows, a.width};
    if (a.weighting == Weighting::one_hot) {
      run_instance(a, t, d, Parts<T>{planes, a.side, t.part}, NoAttention<T>{a.line});
    } else {
      const int64_t maps = a.num * a.side * a.side;
      const FullAttention<T> attention{
          a.attentions + d * maps, a.num, a.side, a.size, a.line, t.resize, t.resize, t.wide, t.grad_wide, t.ready,
          t.grad_wide == nullptr ? nullptr : a.grad_attentions + d * maps};
      run_instance(a, t, d, planes, attention);
    }
  }
}

ADET_CLONES void run(const BlendArgs<float>& a, BlendTask<float>& t, const int64_t* order, int64_t begin, int64_t end) {
  run_instances(a, t, order, begin, end);
}
ADET_CLONES void run(const BlendArgs<double>& a, BlendTask<double>& t, const int64_t* order, int64_t begin, int64_t end) {
  run_instances(a, t, order, begin, end);
}

template <typename T>
BlendArgs<T> make_args(
    const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, int64_t size, double scale, bool aligned, bool nearest, Weighting weighting) {
  BlendArgs<T> a{};
  a.bases = bases.const_data_ptr<T>();
  a.attentions = attentions.const_data_ptr<T>();
  a.boxes = boxes.const_data_ptr<T>();
  a.image = image.const_data_ptr<int64_t>();
  a.num = bases.size(1), a.height = bases.size(2), a.width = bases.size(3);
  a.side = attentions.size(3), a.size = size, a.line = line_length(size);
  a.stride_n = bases.stride(0), a.stride_k = bases.stride(1), a.stride_y = bases.stride(2), a.stride_x = bases.stride(3);
  a.scale = static_cast<T>(scale);
  a.aligned = aligned, a.nearest = nearest, a.weighting = weighting;
  STD_TORCH_CHECK(
      a.stride_x * a.width < std::numeric_limits<int32_t>::max(), "bases has rows of more than 2^31 numbers");
  check_images(a.image, boxes.size(0), bases.size(0));
  return a;
}

template <typename T>
Tensor forward(const BlendArgs<T>& args, const Tensor& bases, int64_t count) {
  BlendArgs<T> a = args;
  Tensor out = torch::stable::new_empty(bases, {count, a.size, a.size});
  if (out.numel() == 0) {
    return out;
  }
  a.out = out.mutable_data_ptr<T>();
  parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    BlendTask<T> task(a, 0, 0, false, false);
    run(a, task, nullptr, begin, end);
  });
  return out;
}

template <typename T>
void backward(const BlendArgs<T>& args, int64_t count, int64_t images, Tensor* grad_bases, Tensor* grad_attentions) {
  BlendArgs<T> a = args;
  const bool to_bases = grad_bases != nullptr && grad_bases->numel() > 0;
  const bool to_attentions = grad_attentions != nullptr;
  const bool at_once = to_bases && to_attentions && whole_images(images);
  a.grad_attentions = to_attentions ? grad_attentions->mutable_data_ptr<T>() : nullptr;
  if (to_attentions && !at_once) {
    parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      BlendTask<T> task(a, 0, a.height, false, true);
      run(a, task, nullptr, begin, end);
    });
  }
  if (to_bases) {
    T* grad = grad_bases->mutable_data_ptr<T>();
    for_bands(a.image, count, images, a.height, [&](int64_t n, int64_t low, int64_t high, const int64_t* order, int64_t some) {
      BlendTask<T> task(a, low, high - low, true, at_once);
      run(a, task, order, 0, some);
      write_band(task.band, low, high - low, grad + n * grad_bases->stride(0), *grad_bases);
    });
  }
}

} // namespace

Tensor blend_cpu(
    const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, int64_t size, double scale, bool aligned, bool nearest, int64_t weighting) {
  const Weighting rule = check_weighting(weighting);
  check_mask_size(size);
  check_blend(bases, attentions, boxes, image, rule);
  const ScalarType type = computed_in(bases);
  const Tensor b = as(bases, type), a = torch::stable::contiguous(as(attentions, type));
  const Tensor box = torch::stable::contiguous(boxes), im = torch::stable::contiguous(image);
  const Tensor out = type == ScalarType::Double
      ? forward(make_args<double>(b, a, box, im, size, scale, aligned, nearest, rule), b, boxes.size(0))
      : forward(make_args<float>(b, a, box, im, size, scale, aligned, nearest, rule), b, boxes.size(0));
  return as(out, bases.scalar_type());
}

std::tuple<Tensor, Tensor> blend_backward_cpu(
    const Tensor& grad,
    const Tensor& bases,
    const Tensor& attentions,
    const Tensor& boxes,
    const Tensor& image,
    double scale,
    bool aligned,
    bool nearest,
    int64_t weighting,
    bool need_bases,
    bool need_attentions,
    bool /* deterministic: it is always */) {
  const Weighting rule = check_weighting(weighting);
  check_blend(bases, attentions, boxes, image, rule);
  check_mask_grad(grad, bases, boxes, 0);
  const ScalarType type = computed_in(bases);
  const Tensor g = torch::stable::contiguous(as(grad, type));
  const Tensor b = as(bases, type), a = torch::stable::contiguous(as(attentions, type));
  const Tensor box = torch::stable::contiguous(boxes), im = torch::stable::contiguous(image);
  need_attentions = need_attentions && rule != Weighting::one_hot;
  Tensor grad_bases = need_bases ? torch::stable::empty_like(b) : torch::stable::new_empty(b, {0});
  Tensor grad_attentions = need_attentions ? torch::stable::empty_like(a) : torch::stable::new_empty(a, {0});
  auto go = [&](auto args) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(args.grad)>>;
    args.grad = g.const_data_ptr<T>();
    backward(args, boxes.size(0), bases.size(0), need_bases ? &grad_bases : nullptr, need_attentions ? &grad_attentions : nullptr);
  };
  if (type == ScalarType::Double) {
    go(make_args<double>(b, a, box, im, grad.size(1), scale, aligned, nearest, rule));
  } else {
    go(make_args<float>(b, a, box, im, grad.size(1), scale, aligned, nearest, rule));
  }
  return {as(grad_bases, bases.scalar_type()), as(grad_attentions, bases.scalar_type())};
}

} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("blend", TORCH_BOX(&adet_ext::blend_cpu));
  m.impl("blend_backward", TORCH_BOX(&adet_ext::blend_backward_cpu));
}
