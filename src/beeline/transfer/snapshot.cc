#include "beeline/transfer/snapshot.h"

#include <algorithm>
#include <utility>

#include "beeline/memory/copy.h"
#include "beeline/transfer/checksum.h"
#include "beeline/transfer/strided_copy.h"

namespace beeline::transfer {
namespace {

// Where a tensor begins: a cache line, and what vector instructions like.
constexpr std::uint64_t kAlign = 64;

void copy_dense(std::byte* to, const Source& source) {
  if (const auto strided = StridedCopy::of(0, *source.spec, to, {})) {
    (void)strided->place_mapped(source.data, os::Wait(Deadline::never()));
    return;
  }
  const transport::Region whole;  // runs are told apart by distances from the first element
  std::vector<transport::Run> runs;
  append_runs(whole, 0, *source.spec, to, {}, runs);
  for (const transport::Run& run : runs) {
    // Offsets wrap where strides go backwards.
    const std::byte* from = source.data + static_cast<std::int64_t>(run.offset);
    for (std::uint64_t i = 0; i < run.count; ++i) {
      memory::copy_bytes(run.local + i * run.local_stride, from + i * run.stride, run.length);
    }
  }
}

}  // namespace

Result<Snapshot> take_snapshot(memory::Arena& arena, Regions& regions, const std::string& owner,
                               std::span<const Source> sources, std::vector<std::string> names, bool with_checksums,
                               bool single) {
  const auto begun = Clock::now();
  auto descriptor = std::make_shared<Descriptor>();
  auto schema = std::make_shared<Schema>();
  std::uint64_t size = 0;
  for (const Source& source : sources) {
    if (!source.device.is_host()) {
      return Status(Code::kUnsupported,
                    "versions are published of the host's memory: move the tensor there first, or "
                    "register() it where it is");
    }
    schema->tensors.push_back({source.spec->dtype, source.spec->shape, {}});
    descriptor->places.push_back({0, size});
    size += (source.spec->bytes() + kAlign - 1) / kAlign * kAlign;
  }
  BEELINE_ASSIGN(std::byte* const block, arena.allocate(std::max(size, kAlign)));
  for (std::size_t i = 0; i < sources.size(); ++i) copy_dense(block + descriptor->places[i].offset, sources[i]);
  for (std::size_t i = 0; with_checksums && i < sources.size(); ++i) {
    descriptor->checksums.push_back(checksum_of(*sources[i].spec, block + descriptor->places[i].offset, {}));
  }
  const Piece piece{block, std::max(size, kAlign)};
  auto added = regions.add({&piece, 1}, nullptr, memory::Arena::Content::kAsPublished);
  arena.release(block);  // the registration keeps it
  if (!added) return added.status();
  descriptor->owner = owner;
  descriptor->regions = (*added)->regions();
  descriptor->schema = std::move(schema);
  descriptor->names = std::move(names);
  descriptor->single = single;
  return Snapshot{std::move(descriptor), std::move(*added), begun};
}

}  // namespace beeline::transfer
