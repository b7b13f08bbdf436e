#include "beeline/transport/served_extents.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "beeline/os/random.h"

namespace beeline::transport {

Status check_extent_key(const ExtentKey& extent) {
  if (extent.key.size() == sizeof(RunRecord::extent)) return Status::ok();
  return {Code::kCorrupt, "a key of " + std::to_string(extent.key.size()) + " bytes"};
}

std::uint64_t extent_id(const ExtentKey& extent) {
  std::uint64_t id = 0;
  std::memcpy(&id, extent.key.data(), sizeof id);
  return id;
}

ServedExtents::Hold& ServedExtents::Hold::operator=(Hold&& other) noexcept {
  if (this == &other) return *this;
  let_go();
  owner_ = std::exchange(other.owner_, nullptr);
  extents_ = std::exchange(other.extents_, {});
  return *this;
}

bool ServedExtents::Hold::is_withdrawn() const {
  return std::ranges::any_of(extents_,
                             [](const Extent* extent) { return extent->is_withdrawn.load(std::memory_order_acquire); });
}

void ServedExtents::Hold::let_go() {
  if (owner_ == nullptr) return;
  const std::lock_guard guard(owner_->mutex_);
  for (Extent* extent : extents_) --extent->holds;
  owner_->let_go_.notify_all();
  owner_ = nullptr;
}

Result<Bytes> ServedExtents::key(memory::PublicationId id, const RegionSource::Held& held, Access access) {
  return exposures_.key(id, held, access, [&](std::byte* data, std::uint64_t length) -> Result<Exposures::Exposed> {
    std::uint64_t id_of_extent = 0;
    const std::lock_guard guard(mutex_);
    do {
      os::fill_with_random(std::as_writable_bytes(std::span(&id_of_extent, 1)));
    } while (extents_.contains(id_of_extent));
    Extent& extent = extents_[id_of_extent];
    extent.data = data;
    extent.length = length;
    extent.device = held.device;
    extent.access = access;
    Exposures::Exposed exposed;
    exposed.handle = {this, [id_of_extent](void* own) { static_cast<ServedExtents*>(own)->forget(id_of_extent); }};
    const BytesView key = view_of(id_of_extent);
    exposed.key.assign(key.begin(), key.end());
    return exposed;
  });
}

void ServedExtents::forget(std::uint64_t extent) {
  std::unique_lock lock(mutex_);
  const auto found = extents_.find(extent);
  if (found == extents_.end()) return;
  auto node = extents_.extract(found);  // nobody holds it anew
  node.mapped().is_withdrawn.store(true, std::memory_order_release);
  if (fork_count_ != os::fork_count()) return;
  let_go_.wait(lock, [&] { return node.mapped().holds == 0; });
}

Result<ServedExtents::Hold> ServedExtents::hold(std::span<const RunRecord> runs, Access access,
                                                std::uint64_t max_bytes) {
  Hold held;  // ends without the lock
  std::uint64_t total = 0;
  const std::lock_guard guard(mutex_);
  for (const RunRecord& record : runs) {
    const auto found = extents_.find(record.extent);
    if (found == extents_.end()) return Status(Code::kStale, "the registration was undone");
    Extent& extent = found->second;
    if (extent.access != access) {
      const char* const why = access == Access::kWrite ? "the key is for reading only" : "the key is for writing only";
      return Status(Code::kInvalidArgument, why);
    }
    if (record.length == 0) return Status(Code::kInvalidArgument, "pieces of no bytes");
    Region region;
    region.length = extent.length;
    const Run run{&region, record.offset, nullptr, record.length, record.count, record.stride, 0};
    BEELINE_RETURN_IF_ERROR(check_bounds({&run, 1}));
    if (__builtin_add_overflow(total, run.bytes(), &total) || total > max_bytes) {
      return Status(Code::kInvalidArgument, "a request of more than " + std::to_string(max_bytes) + " bytes");
    }
    ++extent.holds;
    held.owner_ = this;
    held.extents_.push_back(&extent);
  }
  return held;
}

}  // namespace beeline::transport
