#include "beeline/transfer/registered.h"

#include <set>
#include <string_view>
#include <utility>

#include "beeline/transfer/checksum.h"

namespace beeline::transfer {
namespace {

// Peers write to it only where its owner grants that.
Piece piece_of(const Source& source, const Extent& extent) {
  return {const_cast<std::byte*>(source.data) + extent.first, static_cast<std::uint64_t>(extent.end - extent.first),
          source.device};
}

}  // namespace

Status check_names(std::span<const std::string> names, std::size_t tensors) {
  if (!names.empty() && names.size() != tensors) {
    return {Code::kInvalidArgument,
            std::to_string(names.size()) + " names for " + std::to_string(tensors) + " tensors"};
  }
  if (std::set<std::string_view>(names.begin(), names.end()).size() != names.size()) {
    return {Code::kInvalidArgument, "two tensors of one name"};
  }
  return Status::ok();
}

bool is_pinned(const memory::Arena& arena, const Source& source) {
  const Piece piece = piece_of(source, extent_of(*source.spec));
  return piece.size == 0 || (piece.device.is_host() && arena.offset_of(piece.data, piece.size).has_value());
}

Result<Registered> register_tensors(Regions& regions, const std::string& owner, std::shared_ptr<const Schema> schema,
                                    std::span<const Source> sources, std::vector<std::string> names,
                                    std::shared_ptr<void> keep_alive, bool with_checksums) {
  BEELINE_RETURN_IF_ERROR(check_names(names, sources.size()));
  auto descriptor = std::make_shared<Descriptor>();
  std::vector<Piece> pieces;
  pieces.reserve(sources.size());
  std::vector<std::uint64_t> distances;  // from where a piece begins to its tensor's first element
  for (const Source& source : sources) {
    const Extent extent = extent_of(*source.spec);
    pieces.push_back(piece_of(source, extent));
    distances.push_back(static_cast<std::uint64_t>(-extent.first));
    if (!with_checksums) continue;
    if (!source.device.is_host()) {
      return Status(Code::kUnsupported, "a checksum is taken in the host's memory only");
    }
    descriptor->checksums.push_back(checksum_of(*source.spec, source.data, source.spec->strides));
  }
  BEELINE_ASSIGN(auto registration, regions.add(pieces, std::move(keep_alive)));
  descriptor->owner = owner;
  descriptor->regions = registration->regions();
  descriptor->places.reserve(pieces.size());
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto position = registration->position(i);
    descriptor->places.push_back({position.region, position.offset + distances[i]});
  }
  descriptor->schema = std::move(schema);
  descriptor->names = std::move(names);
  return Registered{std::move(descriptor), std::move(registration)};
}

}  // namespace beeline::transfer
