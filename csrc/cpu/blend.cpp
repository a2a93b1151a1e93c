// Blend on CPUs. Forward: instances are shared out among threads. Backward: the bases' gradient is shared out in bands
// of rows of one image, each of which gathers from all instances of the image in their order, so that it does not depend
// on the number of threads; the attentions' gradient is shared out by instances.
#include "blend_attention.h"
#include "blend_instance.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
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

void check_images(const int64_t* image, int64_t count, int64_t images) {
  for (int64_t d = 0; d < count; ++d) {
    STD_TORCH_CHECK(
        image[d] >= 0 && image[d] < images, "image[", d, "] is ", image[d], "; there are ", images, " images of bases");
  }
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

ScalarType computed_in(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Tensor as(const Tensor& t, ScalarType type) {
  return t.scalar_type() == type ? t : torch::stable::to(t, type);
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

// Rows low to high of an image's gradient, which is laid out as its tensor is.
template <typename T>
void write_band(const BlendArgs<T>& a, const BlendTask<T>& t, T* grad, const Tensor& like) {
  const int64_t sk = like.stride(1), sy = like.stride(2), sx = like.stride(3);
  for (int64_t y = 0; y < t.rows; ++y) {
    for (int64_t k = 0; k < a.num; ++k) {
      const T* from = t.band + (k * t.rows + y) * a.width;
      T* to = grad + k * sk + (t.low + y) * sy;
      for (int64_t x = 0; x < a.width; ++x) {
        to[x * sx] = from[x];
      }
    }
  }
}

template <typename T>
void backward(const BlendArgs<T>& args, int64_t count, int64_t images, Tensor* grad_bases, Tensor* grad_attentions) {
  BlendArgs<T> a = args;
  const int64_t threads = torch::stable::get_num_threads();
  // With an image or more a thread, one pass serves both gradients.
  const bool at_once = grad_bases != nullptr && grad_attentions != nullptr && threads <= images;
  if (grad_attentions != nullptr) {
    a.grad_attentions = grad_attentions->mutable_data_ptr<T>();
    if (!at_once) {
      parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        BlendTask<T> task(a, 0, a.height, false, true);
        run(a, task, nullptr, begin, end);
      });
    }
  }
  if (grad_bases == nullptr || grad_bases->numel() == 0) {
    return;
  }
  // Instances by image, in their order.
  std::vector<int64_t> order(count), start(images + 1, 0);
  for (int64_t d = 0; d < count; ++d) {
    ++start[a.image[d] + 1];
  }
  for (int64_t n = 0; n < images; ++n) {
    start[n + 1] += start[n];
  }
  std::vector<int64_t> next(start.begin(), start.end() - 1);
  for (int64_t d = 0; d < count; ++d) {
    order[next[a.image[d]]++] = d;
  }
  const int64_t wished = threads <= images ? 1 : (4 * threads + images - 1) / images;
  const int64_t bands = std::min(wished, std::max<int64_t>(1, a.height / 4));
  T* grad = grad_bases->mutable_data_ptr<T>();
  parallel_for(0, images * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / bands, band = i % bands;
      const int64_t low = band * a.height / bands, high = (band + 1) * a.height / bands;
      BlendTask<T> task(a, low, high - low, true, at_once);
      run(a, task, order.data(), start[n], start[n + 1]);
      write_band(a, task, grad + n * grad_bases->stride(0), *grad_bases);
    }
  });
}

void check_blend(const Tensor& bases, const Tensor& attentions, const Tensor& boxes, const Tensor& image, Weighting weighting) {
  check_dim(boxes, "boxes", 2);
  check_boxes(bases, boxes, image, boxes.size(0));
  check_dim(attentions, "attentions", 4);
  check_like(attentions, "attentions", bases);
  check_size(attentions, "attentions", 0, weighting == Weighting::one_hot ? 0 : boxes.size(0));
  check_size(attentions, "attentions", 1, bases.size(1));
  check_size(attentions, "attentions", 2, attentions.size(3));
  STD_TORCH_CHECK(attentions.size(3) > 0 && bases.size(1) > 0, "bases and attentions cannot be empty but for instances");
  STD_TORCH_CHECK(
      weighting != Weighting::one_hot || bases.size(1) == attentions.size(3) * attentions.size(3),
      "bases has ", bases.size(1), " planes; assembling takes one a cell of the attentions");
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
  check_dim(grad, "grad", 3);
  check_like(grad, "grad", bases);
  check_size(grad, "grad", 0, boxes.size(0));
  check_size(grad, "grad", 2, grad.size(1));
  check_mask_size(grad.size(1));
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
