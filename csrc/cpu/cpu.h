// For CPU kernels: one body, compiled for several instruction sets; the best one is chosen at load time.
#pragma once

#include "../common.h"

// Put ADET_CLONES before a kernel (a plain function with all loops in it, not a template) and ADET_INLINE before what
// it calls: a clone vectorizes only what is inlined into it. With -fopenmp-simd, `#pragma omp simd` marks the loops.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define ADET_CLONES __attribute__((flatten, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ADET_CLONES
#endif

#define ADET_INLINE ADET_HOST_DEVICE

namespace adet_ext {

using torch::stable::parallel_for;

} // namespace adet_ext
