"""Faults to be planted in the kernels, one at a time.

Each is a place in a source of csrc, with the part to be replaced between « and », and what replaces it. Where a part is
a statement (it ends with ";"), the replacement is one too, or nothing.
"""

# ruff: noqa: E501 (a place is a line of a source)
from typing import NamedTuple

__all__ = ["EQUIVALENT", "FAULTS", "Fault"]


class Fault(NamedTuple):
    """``tests`` are the files of tests/layers that must find it."""

    source: str
    place: str
    replacement: str
    tests: str


BLEND, ROI, BLUR, NMS, PASTE, DR1 = "blend_masks", "roi_sample", "blur_pool", "nms_mask", "paste_masks", "dr1_conv"
NORM, LOSS = "group_norm_relu", "resized_cross_entropy"

_SOURCES = [
    (
        "bilinear.h",
        ROI,
        [
            ("i1 = i + 1 < size ? i + 1 : «size - 1»;", "size"),
            ("w0 = «i >= 0 ? acc(1) - high_weight : acc(0)»;", "acc(1) - high_weight"),
            ("if (p >= acc(0) && «p < acc(size - 1)») {", "p < acc(size)"),
            ("const bool inside = border == Border::clamp ? («p >= acc(-1)» && p <= acc(size))", "p >= acc(0)"),
        ],
    ),
    ("resized_cross_entropy.h", LOSS, [("return («low == place» ? low_weight : T(0))", "low == place && high != place")]),
    ("bilinear.h", LOSS, [("i1 = static_cast<int>(«low < m - 1 ? low + 1 : low»);", "low + 1")]),
    ("blur_pool.h", BLUR, [("return q < in ? q : «period - q»;", "period - q - 1")]),
    ("nms_mask.h", NMS, [("return «both / (area_a + area_b - both) > limit»;", "both / (area_a + area_b - both) >= limit")]),
    (
        "blend.h",
        BLEND,
        [
            ("return start + acc(i) * step + «acc(0.5) * step»;", "acc(0)"),
        ],
    ),
    (
        "cuda/blend_pixel.cuh",
        BLEND,
        [
            ("(«size * size + kPixelsOfBlock - 1») / kPixelsOfBlock)", "size * size"),
            ("const int end = start + kPixelsOfBlock < pixels ? «start + kPixelsOfBlock» : pixels;", "start + kPixelsOfBlock - 1"),
            ("body(static_cast<int64_t>(blockIdx.x), i, «i / s.size», i % s.size);", "i % s.size"),
            ("wx1 * static_cast<acc>(map[«y0 * side + x1»]);", "y0 * side + x0"),
            ("const bool exists = n >= 0 && «n < s.images»;", "n <= s.images"),
            ("const bool exists = «n >= 0»", "n >= -1"),
            ("«reinterpret_cast<uintptr_t>(maps) % bytes == 0» && stride_n % 4 == 0", "true"),
            ("«stride_n % 4 == 0» &&", "true"),
            ("return stride_c == 1 && «channels % 4 == 0» &&", "true"),
            ("const int low = «static_cast<int>(floorf((static_cast<float>(i) - 0.5f) * step - 0.5f)) - 1»;", "static_cast<int>(floorf((static_cast<float>(i) - 0.5f) * step - 0.5f)) + 2"),
            ("last = high < n ? «high» : n;", "high - 3"),
            ("top = «a + b > top» ? a + b : top;", "false"),
            ("sum = «sum * less + acc(1)»;", "sum * less"),
            ("emit(k, share * («crop(k) - out»), share);", "crop(k)"),
            ("atomicAdd(plane + at[j], «weight[j] * value»);", "value"),
        ],
    ),
    (
        "cuda/blend_masks.cu",
        BLEND,
        [
            ("«__syncthreads();»\n  return shared;", ""),
            ("for (int i = threadIdx.x; i < «numbers»; i += blockDim.x) {\n    shared[i]", "numbers - 1"),
            ("if (!per_crop && («n < 0 || n >= s.crop.images»)) {", "false"),
            ("«__syncthreads();»\n  const int columns", ""),
            ("«__syncthreads();»\n  for (int i = threadIdx.x; i < num * side;", ""),
            ("for (int y = top + group; y < bottom; y += «groups») {", "groups + 1"),
            ("value += shared[(«group_» * num + k) * size + x];", "0"),
            ("grad_attentions[((d * num + k) * side + «row») * side + column]", "column"),
            ("const int groups = s.crop.size <= 64 && «4 * line <= kSharedBytes» ? 4 : 1;", "true"),
            ("s.in_shared = «others + maps <= kSharedBytes»;", "true"),
            ("const dim3 grid(static_cast<unsigned>(grad.size(0)), static_cast<unsigned>(«s.side»));", "s.side - 1"),
            ("grads[(d * num + k) * pixels + «i»] = value;", "y"),
            ("for (int x = threadIdx.x % columns; x < size; x += «columns») {", "columns + 1"),
        ],
    ),
    (
        "cuda/blend_gather.cuh",
        BLEND,
        [
            ("const acc lowest = «floor(a) - acc(1)»,", "floor(a) + acc(2)"),
            ("const acc from = (i == 0 ? «acc(-1)» : acc(i - 1)) - p0", "acc(0.5)"),
            ("sum += «part.y0 * side + part.x0 == c» ? w", "part.x0 * side + part.y0 == c"),
            ("if («s.image[d] != n») {", "false"),
            ("* grads[(d * num + «k») * plane + pixel];\n            }", "0"),
        ],
    ),
    (
        "cuda/blend_factored.cu",
        BLEND,
        [
            ("«__syncthreads();»\n}\n\ntemplate <typename T, typename Body>\n__device__ void each_pixel", ""),
            ("for (int i = threadIdx.x; i < «diagonals»; i += blockDim.x) {", "diagonals - 1"),
            ("«__syncthreads();»\n    // Sums over x", ""),
            ("    «__syncthreads();»\n  }\n  for (int i = threadIdx.x; i < num * rank * size; i += blockDim.x) {\n    along_y", ""),
            ("const int some = top + rows < size ? rows : «size - top»,", "rows"),
            ("__shfl_down_sync(«0xffffffffu», sum[k], offset);", "0x7fffffffu"),
            ("for (int offset = «16»; offset > 0; offset /= 2) {", "8"),
            ("if («lane == 0» && first + k < num) {", "lane <= 1"),
            ("down[i] += «sigma[line] * sum»;", "sum"),
            ("const int64_t rows = «4 * 2 * line + fixed <= kSharedBytes» ? 4 : 1;", "true"),
            ("if (!per_crop && («n < 0 || n >= s.crop.images»)) {", "false"),
            ("for (int first = 0; first < num; first += «kMostBases») {", "num"),
        ],
    ),
    (
        "cuda/blur_pool.cu",
        BLUR,
        [
            ("i /= width;\n    y = «i % height»;", "i / height"),
            ("const uint32_t i = blockIdx.x * kThreads + threadIdx.x;\n  if («i >= threads») {\n    return;\n  }\n  uint32_t c, y, x;\n  place<V>(\n", "false"),
            ("static_cast<unsigned>((«threads + kThreads - 1») / kThreads),", "threads"),
            ("min(kRows, «walk.rows.out - output»)", "kRows"),
            ("n < walk.images; n += «gridDim.y») {\n    const T* map = from + n * walk.read.image + c * walk.read.channel;\n    acc sum[kRows]", "walk.images"),
            ("if (reach >= t && «output < axis.out») {", "output <= axis.out"),
            ("if (axis.padding == BlurPadding::zeros || («i >= axis.taps && i < axis.in - axis.taps»)) {", "i >= 1 && i < axis.in - 1"),
            ("for (int32_t p = axis.in; p < «axis.in + axis.taps»; ++p) {", "axis.in + 1"),
            ("walk.read.line % V == 0 && «walk.read.column % V == 0» &&", "true"),
            ("«reinterpret_cast<uintptr_t>(from) % 16 == 0»;", "true"),
            ("walk.channels % V == 0 && «walk.read.image % V == 0» &&", "true"),
            ("const int lines = «(outputs - 1) * S + taps»;", "(outputs - 1) * S + taps - 1"),
        ],
    ),
    (
        "cuda/roi_sample.cu",
        ROI,
        [
            ("return boxes.level[d] >= 0 && «boxes.level[d] < levels.count» &&", "boxes.level[d] <= levels.count"),
            ("for (int64_t c = lane * V; c < channels; c += «kWarp * V») {", "kWarp"),
            ("«__syncthreads();» // the table of the last box is no longer needed", ""),
            ("«__syncthreads();»\n    const T* image = x.data + boxes.image[d] * x.stride_n;\n    for (; v < values;", ""),
            ("«__syncthreads();»\n    acc* image = x.data", ""),
            ("table.at[4 * k + 1] = static_cast<int32_t>(at.y0 * x.stride_y + «at.x1» * x.stride_x);", "at.x0"),
            ("if (cell[i] == kNoCell || («i > 0 && cell[i - 1] == cell[i]»)) {", "false"),
            ("j < count && «cell[j] == cell[i]»; ++j) {", "j <= i"),
            ("static_cast<acc>(grad[«order[j] / 4» * channels + c]);", "order[j]"),
            ("v += __shfl_down_sync(0xffffffffu, v, «offset»);", "1"),
            ("«__syncthreads();»\n    if (threadIdx.x < 4) {", ""),
            ("out[4 * d + threadIdx.x] = s;\n    }\n    «__syncthreads();»", ""),
            ("there && k < points; k += «kWarps») {", "kWarps + 1"),
            ("x.stride_c == 1 && x.stride_n % width == 0 && «x.stride_y % width == 0» &&", "true"),
            ("«reinterpret_cast<uintptr_t>(x.data) % (width * sizeof(T)) == 0»;", "true"),
            ("const int64_t values = channels * points, step = «int64_t(gridDim.y) * kThreads»;\n  for (int64_t d = blockIdx.x; d < boxes.count; d += gridDim.x) {\n    T* to", "int64_t(kThreads)"),
            ("const int points = static_cast<int>(boxes.kh * boxes.kw);\n  Table<acc> table{reinterpret_cast<acc*>(shared), reinterpret_cast<int32_t*>(shared + «4 * points * sizeof(acc)»)};", "4 * points"),
            ("const int k = static_cast<int>(v % points);\n      acc* plane = image + «v / points» * x.stride_c;", "v % points"),
        ],
    ),
    (
        "cuda/nms_mask.cu",
        NMS,
        [
            ("«__syncthreads();»\n  const int row = ", ""),
            ("for (int j = max(0, «row + 1 - column»); j < columns; ++j) {", "row - column"),
            ("if («row >= count» || !valid[first + row]) {", "row > count"),
            ("found |= «word(1) << j»;", "word(1u << (j % 32))"),
            ("«__syncthreads();»\n  for (int w = 0; w < words; ++w) {", ""),
            ("      «__syncthreads();»\n      if (threadIdx.x == 0) {", ""),
            ("      «__syncthreads();»\n      for (int i = threadIdx.x / kWarp;", ""),
            ("      «__syncthreads();»\n    } else if", ""),
            ("v < words; v += «kWarp») {", "words"),
            ("const int begin = w * kBits, size = «min(kBits, count - begin)»;", "kBits"),
            ("gone |= word(«k >= count» || !valid[first + k]) << i;", "false"),
            ("«keep[first + begin + threadIdx.x] = false;»", ""),
            ("if («kind[j] == own_kind» && overlap", "true"),
            ("const int column = blockIdx.x * kBits, columns = «min(kBits, count - column)»;", "kBits"),
        ],
    ),
    (
        "cuda/resized_cross_entropy.cu",
        LOSS,
        [
            ("const int64_t image = i / s.pixels(), at = i % s.pixels();\n    const PixelNeighbors<T> y(«at / s.out[1]», s.in[0], s.out[0])", "at % s.out[0]"),
            ("if («k == 0 || z > top») {", "k == 0"),
            ("total = k == 0 ? T(1) : «total * exp(top - z) + T(1)»;", "total + T(1)"),
            ("own = «k == label» ? z : own;", "k == label + 1"),
            ("job.normalizer[i] = «T(INFINITY)»;", "T(0)"),
            ("for (int half = kThreads / 2; half > 0; half /= 2) {\n    if (threadIdx.x < half) {\n      values[threadIdx.x] += values[threadIdx.x + half];\n    }\n    «__syncthreads();»", ""),
            ("values[threadIdx.x] = value;\n  «__syncthreads();»", ""),
            ("const double low = (static_cast<double>(place) - «0.5») * ratio", "-1.0"),
            ("const double high = (static_cast<double>(place) + «1.5») * ratio", "0.5"),
            ("const T own = label == k && «label != job.ignored» ? T(1)", "true"),
            ("of_line += «share» * (exp(z - job.normalizer", "T(1)"),
            ("sum += «weight» * of_line;", "T(1)"),
            ("k = rest % s.classes;\n      «rest /= s.classes;»\n    }\n    const int64_t column", ""),
            ("for (int i = threadIdx.x; i < count; i += «kThreads») {", "count"),
        ],
    ),
    (
        "cuda/paste_masks.cu",
        PASTE,
        [
            ("y += «static_cast<int64_t>(gridDim.y) * kRows») {", "static_cast<int64_t>(kRows)"),
            ("for (int64_t x = left + threadIdx.x; x < right; x += «kColumns») {", "kColumns + 1"),
            ("row[x] = «wy0 * above + wy1 * below >= threshold»;", "wy0 * above + wy1 * below > threshold"),
            ("const T above = wx0 * mask[y0 * side + x0] + wx1 * mask[y0 * side + «x1»];", "x0"),
            ("bool* row = out + («d * height + y») * width;", "d * height + y + 1"),
        ],
    ),
    (
        "cuda/dr1_conv_kernel.cuh",
        DR1,
        [
            ("if (y >= 0 && «y < p.H» && x >= 0 && x < p.W) {", "y <= p.H"),
            ("if («y >= 0» && ", "y >= -1"),
            ("bring_weights<T, turned>(p, dx, o0, weights);\n    «__syncthreads();»", ""),
            ("«__syncthreads();» // before the next weights", ""),
            ("«__syncthreads();»\n  constexpr int pieces", ""),
            ("if (y >= p.H || «x >= p.W» || o0 + o >= p.O) {", "false"),
            ("int64_t(line % p.C) * 9 + «8 - (3 * (line / p.C) + dx)») * p.O", "3 * (line / p.C) + dx"),
            ("const bool two = «p.O - o0 > 16»;", "true"),
            ("const int outputs = p.O - o0 < kOutputs ? «p.O - o0» : kOutputs;", "kOutputs"),
            ("const int first = («2 * warp + i») * (kColumns + 2) + dx;", "2 * warp"),
            ("«put(p.result2, p.after2, v, image, y, x, o0 + o);»", ""),
            ("v[k + j] = four.value[j] + (p.bias ? to_float(p.bias[«o0 + o + k + j»]) : 0.0f);", "o + k + j"),
        ],
    ),
    (
        "cuda/dr1_conv.cu",
        DR1,
        [
            ("fits = fits && (t.size(axis) == 1 || «t.stride(axis) % count == 0»);", "true"),
            ("bool fits = t.stride(1) == 1 && «reinterpret_cast<uintptr_t>(t.data_ptr()) % 16 == 0»;", "true"),
            ("if («bytes > 48 * 1024») {", "false"),
            ("uint32_t((«p.O + dr1::kOutputs - 1») / dr1::kOutputs));", "p.O"),
        ],
    ),
    (
        "cuda/group_norm_relu.cu",
        NORM,
        [
            ("«block >= norm.at[l + 1].first»", "block > norm.at[l + 1].first"),
            ("min(static_cast<int64_t>(kPlaces), «map.places - chunk * kPlaces»)", "static_cast<int64_t>(kPlaces)"),
            ("shared[threadIdx.x / kWarp] = value;\n  }\n  «__syncthreads();»", ""),
            ("«__syncthreads();» // before the next sum", ""),
            ("value += __shfl_down_sync(0xffffffffu, value, «offset»);", "1"),
            ("squares += moments[2 * k + 1] + «apart * apart» * static_cast<acc>(places_of(map, k)) * norm.width();", "0 * apart"),
            ("static_cast<T>(«value < 0 ? acc(0) : value»); // NaN stays", "value > 0 ? value : acc(0)"),
            ("bool wide = «norm.width() % V == 0»;", "true"),
            ("wide && «reinterpret_cast<uintptr_t>(map.from) % 16 == 0»", "true"),
            ("const int64_t image = «slot / groups», place", "0"),
            ("const int channel = «i % units * V»;", "0"),
        ],
    ),
]  # fmt: skip

FAULTS = [
    Fault(source, place, replacement, tests) for source, tests, places in _SOURCES for place, replacement in places
]

# Faults that change no result and no access that matters, by place, and why.
EQUIVALENT = {
    "if (p >= acc(0) && «p < acc(size - 1)») {": "between the last cell and the border both neighbors are the last cell, "
    "so the slope is the difference of a number and itself",
    "«__syncthreads();» // the table of the last box is no longer needed": "a block has one box: there are as many blocks "
    "as boxes, up to 2^30",
    "out[4 * d + threadIdx.x] = s;\n    }\n    «__syncthreads();»": "a block has one box",
    "for (int j = max(0, «row + 1 - column»); j < columns; ++j) {": "a box's bit for itself is set after it is read",
}
