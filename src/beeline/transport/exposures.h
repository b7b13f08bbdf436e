// Regions by their extents: what an exporter has exposed, and what an endpoint was told of it. A region that holds many
// tensors is reached extent by extent, so that what lies between them is not.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "beeline/base/function_ref.h"
#include "beeline/transport/transport.h"

namespace beeline::transport {

// What an exporter has exposed. Thread-safe.
class Exposures {
 public:
  struct Exposed {
    std::shared_ptr<void> handle;  // its end withdraws the extent
    Bytes key;
  };
  using Expose = FunctionRef<Result<Exposed>(std::byte* data, std::uint64_t length)>;

  // The keys of all extents, packed. `expose` is called for each of them the first time, without a lock held.
  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access, Expose expose);
  void withdraw(memory::PublicationId id);

 private:
  struct Entry {
    std::uint32_t generation = 0;
    std::vector<std::shared_ptr<void>> handles;
    Bytes keys;
  };
  std::mutex mutex_;
  std::map<std::pair<std::uint32_t, Access>, Entry> entries_;  // needs mutex_; by slot
};

// How an extent is reached.
struct ExtentKey {
  std::uint64_t offset = 0;  // in the region
  std::uint64_t length = 0;
  Bytes key;
  std::shared_ptr<void> opened;  // what the back end has made of the key
};

// A part of a run that lies in one extent; its offset counts from the extent's first byte.
struct KeyedRun {
  Run run;
  const ExtentKey* key = nullptr;
};

// Keys that an endpoint has asked for. Thread-safe.
class Keys {
 public:
  using Extents = std::vector<ExtentKey>;  // by offset, disjoint
  using Open = FunctionRef<Result<std::shared_ptr<void>>(const ExtentKey& extent)>;

  Keys(OwnerLine& owner, std::string_view path) : owner_(owner), path_(path) {}

  // Those of a region; asks its owner, and opens each, the first time. kCorrupt for an answer that is none.
  Result<std::shared_ptr<const Extents>> of(const Region& region, Access access, Open open, const os::Wait& wait);
  // Cuts the runs by extents, and appends the pieces; `kept` is what they point into. kInvalidArgument where a run
  // touches what is in no extent. What lies in two that touch becomes two pieces.
  Status append_pieces(std::span<const Run> runs, Access access, Open open, const os::Wait& wait,
                       std::vector<KeyedRun>& pieces, std::vector<std::shared_ptr<const Extents>>& kept);
  // Forgets regions, with what was made of their keys.
  void forget_if(FunctionRef<bool(memory::PublicationId id)> is_undone);

 private:
  struct Known {
    std::uint32_t generation = 0;
    std::shared_ptr<const Extents> extents;
  };
  OwnerLine& owner_;
  const std::string path_;
  std::mutex mutex_;
  std::map<std::pair<std::uint32_t, Access>, Known> known_;  // needs mutex_; by slot
};

}  // namespace beeline::transport
