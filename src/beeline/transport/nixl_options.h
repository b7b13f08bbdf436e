// Where NIXL's library is, and how far what is opened by it may reach.
#pragma once

#include <cstdint>
#include <string>

namespace beeline::transport {

struct NixlOptions {
  // What of UCX the engine may use. UCX asks nobody who connects for a token, and serves whoever does by messages as
  // well as by keys: the network is for those who say so.
  enum class Reach : std::uint8_t {
    kHost,  // shared memory of this host
    kRdma,  // all but TCP
    kAny,   // all that UCX finds
  };
  // libnixl_capi.so of an installed package, or the folder that it is in. BEELINE_NIXL_LIBRARY, where it is set, is
  // taken instead.
  std::string library;
  Reach reach = Reach::kHost;
};

}  // namespace beeline::transport
