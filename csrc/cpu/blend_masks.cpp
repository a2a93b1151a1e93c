// blend_masks on CPUs: BlendMask's blender and assembler.
#include "../blend_masks.h"

#include "blend_attention.h"
#include "blend_instance.h"
#include "blend_share.h"

namespace adet_ext {
namespace {

template <typename T>
struct BlendArgs {
  const T *bases, *attentions, *boxes, *grad; // attentions and grad are contiguous; grad is null in the forward pass
  const int64_t* image;
  T *out, *grad_attentions; // null if not wanted
  int64_t num, height, width, side, size, line;
  int64_t stride_n, stride_k, stride_y, stride_x;
  T scale;
  bool aligned, nearest;
  Weighting weighting;

  // Lines of a row: one for the assembler.
  int64_t lines() const {
    return weighting == Weighting::one_hot ? 1 : num;
  }
};

// Tables and scratch memory of a task.
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
ADET_INLINE void run_instance(
    const BlendArgs<T>& a, BlendTask<T>& t, int64_t d, const Rows& rows, const Weights& weights) {
  const Combine rule = combine_rule(a.weighting, a.num);
  if (a.grad == nullptr) {
    blend_instance(rows, weights, t.y, rule, a.lines(), a.size, a.line, t.scratch, a.out + d * a.size * a.size);
  } else {
    blend_instance_backward(
        rows, weights, t.y, rule, a.lines(), a.size, a.line, t.low, t.low + t.rows, t.band != nullptr,
        t.grad_wide != nullptr, t.scratch, a.grad + d * a.size * a.size);
  }
}

template <typename T>
ADET_INLINE void run_instances(
    const BlendArgs<T>& a, BlendTask<T>& t, const int64_t* order, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; ++at) {
    const int64_t d = order == nullptr ? at : order[at];
    const T* box = a.boxes + d * 4;
    t.x.crop(box[0], box[2], a.size, a.scale, a.aligned, a.width);
    t.y.crop(box[1], box[3], a.size, a.scale, a.aligned, a.height);
    const Planes<T> planes{
        a.bases + a.image[d] * a.stride_n,
        a.stride_k,
        a.stride_y,
        a.stride_x,
        a.num,
        a.size,
        a.line,
        t.x,
        t.band,
        t.low,
        t.rows,
        a.width};
    if (a.weighting == Weighting::one_hot) {
      run_instance(a, t, d, Parts<T>{planes, a.side, t.part}, NoAttention<T>{a.line});
    } else {
      const int64_t maps = a.num * a.side * a.side;
      const FullAttention<T> attention{
          a.attentions + d * maps,
          a.num,
          a.side,
          a.size,
          a.line,
          t.resize,
          t.wide,
          t.grad_wide,
          t.ready,
          t.grad_wide == nullptr ? nullptr : a.grad_attentions + d * maps};
      run_instance(a, t, d, planes, attention);
    }
  }
}

ADET_CLONES void run(const BlendArgs<float>& a, BlendTask<float>& t, const int64_t* order, int64_t begin, int64_t end) {
  run_instances(a, t, order, begin, end);
}
ADET_CLONES void run(
    const BlendArgs<double>& a, BlendTask<double>& t, const int64_t* order, int64_t begin, int64_t end) {
  run_instances(a, t, order, begin, end);
}

template <typename T>
BlendArgs<T> make_args(const BlendCall& call) {
  const Tensor& bases = call.bases;
  BlendArgs<T> a{};
  a.bases = bases.const_data_ptr<T>();
  a.attentions = call.attentions.const_data_ptr<T>();
  a.boxes = call.boxes.const_data_ptr<T>();
  a.image = call.image.const_data_ptr<int64_t>();
  a.num = bases.size(1), a.height = bases.size(2), a.width = bases.size(3);
  a.side = call.attentions.size(3), a.size = call.size, a.line = line_length(call.size);
  a.stride_n = bases.stride(0), a.stride_k = bases.stride(1), a.stride_y = bases.stride(2),
  a.stride_x = bases.stride(3);
  a.scale = static_cast<T>(call.scale);
  a.aligned = call.aligned, a.nearest = call.nearest, a.weighting = call.weighting;
  check_images(a.image, call.boxes.size(0), bases.size(0));
  return a;
}

struct Cpu {
  static Tensor ready(const Tensor& t) {
    return as(t, sum_type(t));
  }

  static Tensor ready_bases(const Tensor& t) { // positions in a row are kept in 32 bits
    const bool fits = t.stride(3) <= std::numeric_limits<int32_t>::max() / (t.size(3) > 0 ? t.size(3) : 1);
    return ready(fits ? t : torch::stable::contiguous(t));
  }

  static void forward(const BlendCall& call, Tensor& out) {
    ADET_DISPATCH_SUMS(out.scalar_type(), "blend_masks", [&] {
      auto a = make_args<scalar_t>(call);
      a.out = out.mutable_data_ptr<scalar_t>();
      share_forward<BlendTask<scalar_t>>(a, out.size(0));
    });
  }

  static void backward(
      const BlendCall& call, const Tensor& grad, Tensor* grad_bases, Tensor* grad_attentions,
      bool /* deterministic: always the case */) {
    ADET_DISPATCH_SUMS(grad.scalar_type(), "blend_masks_backward", [&] {
      auto a = make_args<scalar_t>(call);
      a.grad = grad.const_data_ptr<scalar_t>();
      a.grad_attentions = grad_attentions ? grad_attentions->mutable_data_ptr<scalar_t>() : nullptr;
      share_backward<BlendTask<scalar_t>>(a, grad.size(0), call.bases.size(0), grad_bases, grad_attentions != nullptr);
    });
  }
};

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CPU, m) {
  m.impl("blend_masks", TORCH_BOX(&adet_ext::blend_masks<adet_ext::Cpu>));
  m.impl("blend_masks_backward", TORCH_BOX(&adet_ext::blend_masks_backward<adet_ext::Cpu>));
}
