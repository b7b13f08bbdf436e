#include "beeline/transport/exposures.h"

#include <algorithm>
#include <utility>

#include "beeline/base/msgpack.h"

namespace beeline::transport {
namespace {

using memory::PublicationId;
using memory::Range;

// As the keys of a region travel.
struct PackedKey {
  std::uint64_t offset = 0, length = 0;
  Bytes key;
  MSGPACK_DEFINE_ARRAY(offset, length, key)
};

Result<Keys::Extents> decode_keys(BytesView bytes, const Region& region) {
  BEELINE_ASSIGN(auto packed, unpack<std::vector<PackedKey>>(bytes, "the keys of a region"));
  Keys::Extents extents;
  std::uint64_t end = 0;
  for (PackedKey& each : packed) {
    const bool fits = each.offset >= end && each.offset <= region.length && each.length <= region.length - each.offset;
    if (!fits) return Status(Code::kCorrupt, "keys of extents that overlap or leave their region");
    end = each.offset + each.length;
    extents.push_back({each.offset, each.length, std::move(each.key), nullptr});
  }
  return extents;
}

// The extent that holds [start, start + length); null if none does.
const ExtentKey* extent_of(const Keys::Extents& extents, std::uint64_t start, std::uint64_t length) {
  const auto after = std::upper_bound(extents.begin(), extents.end(), start,
                                      [](std::uint64_t value, const ExtentKey& each) { return value < each.offset; });
  if (after == extents.begin()) return nullptr;
  const ExtentKey& extent = *std::prev(after);
  const std::uint64_t inside = start - extent.offset;
  return inside <= extent.length && length <= extent.length - inside ? &extent : nullptr;
}

}  // namespace

Result<Bytes> Exposures::key(PublicationId id, const RegionSource::Held& held, Access access, Expose expose) {
  const std::pair<std::uint32_t, Access> place{id.slot, access};
  {
    const std::lock_guard guard(mutex_);
    const auto found = entries_.find(place);
    if (found != entries_.end() && found->second.generation == id.generation) return found->second.keys;
  }
  Entry entry{id.generation, {}, {}};
  std::vector<PackedKey> packed;
  for (const Range& extent : held.extents) {
    BEELINE_ASSIGN(auto exposed, expose(held.data + extent.offset, extent.length));
    entry.handles.push_back(std::move(exposed.handle));
    packed.push_back({extent.offset, extent.length, std::move(exposed.key)});
  }
  entry.keys = pack(packed);
  Bytes keys = entry.keys;
  Entry replaced;  // ends without the lock
  const std::lock_guard guard(mutex_);
  Entry& now = entries_[place];
  // Another thread may have been quicker: whoever asked first keeps what it was told.
  if (now.generation == id.generation && !now.keys.empty()) {
    replaced = std::move(entry);
    return now.keys;
  }
  replaced = std::exchange(now, std::move(entry));
  return keys;
}

void Exposures::withdraw(PublicationId id) {
  std::vector<Entry> ended;  // without the lock
  const std::lock_guard guard(mutex_);
  for (const Access access : {Access::kRead, Access::kWrite}) {
    const auto found = entries_.find({id.slot, access});
    if (found == entries_.end() || found->second.generation != id.generation) continue;
    ended.push_back(std::move(found->second));
    entries_.erase(found);
  }
}

Result<std::shared_ptr<const Keys::Extents>> Keys::of(const Region& region, Access access, Open open,
                                                      const os::Wait& wait) {
  const std::pair<std::uint32_t, Access> place{region.id.slot, access};
  {
    const std::lock_guard guard(mutex_);
    const auto found = known_.find(place);
    if (found != known_.end() && found->second.generation == region.id.generation) return found->second.extents;
  }
  BEELINE_ASSIGN(const Bytes keys, owner_.key(path_, region, access, wait));
  BEELINE_ASSIGN(auto extents, decode_keys(keys, region));
  for (ExtentKey& extent : extents) {
    BEELINE_ASSIGN(extent.opened, open(extent));
  }
  auto shared = std::make_shared<const Extents>(std::move(extents));
  Known replaced;  // ends without the lock
  const std::lock_guard guard(mutex_);
  replaced = std::exchange(known_[place], {region.id.generation, shared});
  return shared;
}

void Keys::forget_if(FunctionRef<bool(PublicationId id)> is_undone) {
  std::vector<std::shared_ptr<const Extents>> forgotten;  // end without the lock
  const std::lock_guard guard(mutex_);
  for (auto it = known_.begin(); it != known_.end();) {
    if (!is_undone({it->first.first, it->second.generation})) {
      ++it;
      continue;
    }
    forgotten.push_back(std::move(it->second.extents));
    it = known_.erase(it);
  }
}

Status Keys::append_pieces(std::span<const Run> runs, Access access, Open open, const os::Wait& wait,
                           std::vector<KeyedRun>& pieces, std::vector<std::shared_ptr<const Extents>>& kept) {
  const Region* last = nullptr;
  for (const Run& run : runs) {
    if (run.bytes() == 0) continue;
    if (run.region != last) {
      BEELINE_ASSIGN(auto extents, of(*run.region, access, open, wait));
      kept.push_back(std::move(extents));
      last = run.region;
    }
    const auto append = [&](const Run& part, std::uint64_t reach) {
      const ExtentKey* const extent = extent_of(*kept.back(), part.offset, reach);
      if (extent == nullptr) return false;
      pieces.push_back({part, extent});
      pieces.back().run.offset -= extent->offset;
      return true;
    };
    if (append(run, (run.count - 1) * run.stride + run.length)) continue;
    for (std::uint64_t i = 0; i < run.count; ++i) {
      Run part = run;
      part.offset += i * run.stride;
      part.local += i * run.local_stride;
      part.count = 1;
      while (part.length > 0 && !append(part, part.length)) {
        const ExtentKey* const first = extent_of(*kept.back(), part.offset, 1);
        if (first == nullptr) {
          return {Code::kInvalidArgument, std::to_string(part.length) + " bytes at " + std::to_string(part.offset) +
                                              " are not among what was registered of the region"};
        }
        Run head = part;
        head.length = first->offset + first->length - part.offset;
        append(head, head.length);
        part.offset += head.length;
        part.local += head.length;
        part.length -= head.length;
      }
    }
  }
  return Status::ok();
}

}  // namespace beeline::transport
