#include "../build_info.h"

#include <torch/headeronly/version.h>

#define ADET_EXT_TEXT_(x) #x
#define ADET_EXT_TEXT(x) ADET_EXT_TEXT_(x)

namespace adet_ext {

static std::string compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#elif defined(_MSC_VER)
  return "MSVC " ADET_EXT_TEXT(_MSC_VER);
#else
  return "unknown";
#endif
}

std::string build_info() {
  std::string text = "compiler=" + compiler();
  text += "; built_with_torch=" ADET_EXT_TEXT(TORCH_VERSION_MAJOR) "." ADET_EXT_TEXT(
      TORCH_VERSION_MINOR) "." ADET_EXT_TEXT(TORCH_VERSION_PATCH);
  text += "; runs_on_torch=" ADET_EXT_MIN_TORCH "+";
#if defined(ADET_EXT_WITH_CUDA)
  text += "; " + cuda_build_info();
#else
  text += "; cuda=none";
#endif
  return text;
}

} // namespace adet_ext
