// nms_mask on CUDA; the host does not wait for the device. First compute which box would suppress which, as bits. Then
// one block an image visits the boxes from the best on, 64 at a time.
#include "../nms_mask.h"
#include "cuda.h"

namespace adet_ext {
namespace {

using word = unsigned long long;
constexpr int kBits = 64;
constexpr int kThreads = 256;
constexpr int kWarp = 32;

// Blocks (x: columns, y: rows, z: images) of 64 x 64 pairs. bits: (N, K, words), written if the row is valid and the
// word of the column is not before that of the row.
__global__ void __launch_bounds__(kBits)
    compare(const Box* boxes, const int64_t* classes, const bool* valid, int count, float limit, word* bits) {
  if (blockIdx.x < blockIdx.y) {
    return;
  }
  __shared__ Box box[kBits];
  __shared__ float area[kBits];
  __shared__ int64_t kind[kBits];
  const int64_t first = int64_t(blockIdx.z) * count;
  const int column = blockIdx.x * kBits, columns = min(kBits, count - column);
  if (threadIdx.x < columns) {
    box[threadIdx.x] = boxes[first + column + threadIdx.x];
    area[threadIdx.x] = area_of(box[threadIdx.x]);
    kind[threadIdx.x] = classes[first + column + threadIdx.x];
  }
  __syncthreads();
  const int row = blockIdx.y * kBits + threadIdx.x;
  if (row >= count || !valid[first + row]) {
    return;
  }
  const Box own = boxes[first + row];
  const float own_area = area_of(own);
  const int64_t own_kind = classes[first + row];
  word found = 0;
  for (int j = max(0, row + 1 - column); j < columns; ++j) {
    if (kind[j] == own_kind && overlap(own, own_area, box[j], area[j], limit)) {
      found |= word(1) << j;
    }
  }
  bits[(first + row) * gridDim.x + blockIdx.x] = found;
}

// One block an image. removed: one bit a box, in shared memory.
__global__ void __launch_bounds__(kThreads)
    choose(const word* bits, const bool* valid, int count, int words, bool* keep) {
  extern __shared__ word removed[];
  __shared__ word own[kBits];
  __shared__ word kept;
  const int64_t first = int64_t(blockIdx.x) * count;
  for (int w = threadIdx.x; w < words; w += kThreads) {
    word gone = 0;
    for (int i = 0; i < kBits; ++i) {
      const int k = w * kBits + i;
      gone |= word(k >= count || !valid[first + k]) << i;
    }
    removed[w] = gone;
  }
  __syncthreads();
  for (int w = 0; w < words; ++w) {
    const int begin = w * kBits, size = min(kBits, count - begin);
    if (removed[w] != ~word(0)) { // the same for all threads: no thread writes to this word any more
      if (threadIdx.x < size) {
        // Rows that are not valid were not written; their bits are never read.
        own[threadIdx.x] = bits[(first + begin + threadIdx.x) * words + w];
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        word gone = removed[w], stays = 0;
        for (int i = 0; i < size; ++i) {
          if (!(gone >> i & 1)) {
            stays |= word(1) << i;
            gone |= own[i];
          }
        }
        kept = stays;
      }
      __syncthreads();
      for (int i = threadIdx.x / kWarp; i < size; i += kThreads / kWarp) {
        if (kept >> i & 1) {
          for (int v = w + 1 + threadIdx.x % kWarp; v < words; v += kWarp) {
            const word more = bits[(first + begin + i) * words + v];
            if (more) {
              atomicOr(&removed[v], more);
            }
          }
        }
      }
      if (threadIdx.x < size) {
        keep[first + begin + threadIdx.x] = kept >> threadIdx.x & 1;
      }
      __syncthreads();
    } else if (threadIdx.x < size) {
      keep[first + begin + threadIdx.x] = false;
    }
  }
}

Tensor nms_mask(Tensor boxes, Tensor classes, Tensor valid, double threshold) {
  check_candidates(boxes, classes, valid, threshold);
  OnDeviceOf device(boxes);
  const Tensor b = torch::stable::contiguous(boxes), c = torch::stable::contiguous(classes),
               v = torch::stable::contiguous(valid);
  const int64_t images = boxes.size(0), count = boxes.size(1), words = (count + kBits - 1) / kBits;
  Tensor keep = torch::stable::new_empty(v, {images, count});
  if (keep.numel() == 0) {
    return keep;
  }
  ADET_CHECK(words <= 4096, "boxes must have at most ", 4096 * kBits, " candidates an image on a GPU; got ", count);
  ADET_CHECK(images <= 65535, "boxes must have at most 65535 images on a GPU; got ", images);
  Tensor bits = torch::stable::new_empty(c, {images, count, words});
  word* table = static_cast<word*>(bits.mutable_data_ptr());
  const bool* use = static_cast<const bool*>(v.const_data_ptr());
  const cudaStream_t stream = current_stream(boxes);
  const dim3 tiles(static_cast<unsigned>(words), static_cast<unsigned>(words), static_cast<unsigned>(images));
  compare<<<tiles, kBits, 0, stream>>>(
      static_cast<const Box*>(b.const_data_ptr()), static_cast<const int64_t*>(c.const_data_ptr()), use,
      static_cast<int>(count), as_limit(threshold), table);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  choose<<<static_cast<unsigned>(images), kThreads, words * sizeof(word), stream>>>(
      table, use, static_cast<int>(count), static_cast<int>(words), static_cast<bool*>(keep.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return keep;
}

} // namespace
} // namespace adet_ext

STABLE_TORCH_LIBRARY_IMPL(adet_ext, CUDA, m) {
  m.impl("nms_mask", TORCH_BOX(&adet_ext::nms_mask));
}
