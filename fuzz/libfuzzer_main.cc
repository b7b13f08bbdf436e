// libFuzzer's entry for one target, named by BEELINE_FUZZ_TARGET at build time.
#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  beeline::fuzz::BEELINE_FUZZ_TARGET({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
