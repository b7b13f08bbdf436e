#include "beeline/transfer/fetch.h"

#include <utility>

#include "beeline/transfer/checksum.h"

namespace beeline::transfer {

using transport::Region;
using transport::Run;

std::vector<std::pair<const Region*, std::vector<Run>>> runs_by_region(std::span<const Copy> copies) {
  std::vector<std::pair<const Region*, std::vector<Run>>> groups;
  std::size_t last = 0;
  for (const Copy& copy : copies) {
    if (copy.remote->spec.elements() == 0) continue;
    const Region& region = copy.remote->home();
    if (last >= groups.size() || groups[last].first != &region) {
      for (last = 0; last < groups.size() && groups[last].first != &region; ++last) {
      }
      if (last == groups.size()) groups.emplace_back(&region, std::vector<Run>());
    }
    append_runs(region, copy.remote->offset, copy.remote->spec, copy.local.data, copy.local.strides,
                groups[last].second);
  }
  return groups;
}

RemoteTensor RemoteTensor::whole(std::shared_ptr<const Descriptor> descriptor, std::size_t index) {
  const Place place = descriptor->places[index];
  TensorSpec spec = descriptor->spec(index);
  std::optional<std::uint64_t> checksum;
  if (!descriptor->checksums.empty()) checksum = descriptor->checksums[index];
  return {std::move(descriptor), place.region, place.offset, std::move(spec), checksum};
}

Result<RemoteTensor> RemoteTensor::part(std::span<const Slice> slices) const {
  RemoteTensor piece{descriptor, region, offset, {}, {}};
  std::int64_t distance = 0;
  BEELINE_ASSIGN(piece.spec, slice(spec, slices, distance));
  piece.offset += static_cast<std::uint64_t>(distance);
  return piece;
}

Descriptor RemoteTensor::alone() const {
  auto schema = std::make_shared<Schema>();
  schema->tensors.push_back(spec);
  Descriptor single{descriptor->owner, {home()}, std::move(schema), {{0, offset}}, {}, {}};
  if (checksum) single.checksums.push_back(*checksum);
  return single;
}

Result<LocalTensor> fit(const RemoteTensor& remote, const TensorSpec& local, std::byte* data, Use use) {
  const TensorSpec& spec = remote.spec;
  if (local.shape != spec.shape || !(local.dtype == spec.dtype)) {
    return Status(Code::kInvalidArgument, "the local tensor is " + text_of(local) + ", the remote one " +
                                              text_of(spec) + "; nothing was written");
  }
  for (std::size_t i = 0; use == Use::kFilled && i < local.strides.size(); ++i) {
    if (local.strides[i] == 0 && spec.shape[i] > 1) {
      return Status(Code::kInvalidArgument,
                    "the tensor to be filled has one element in several places (it is expanded); nothing was written");
    }
  }
  return LocalTensor{data, local.strides};
}

Status check_one_owner(std::span<const Copy> copies) {
  for (const Copy& copy : copies) {
    if (copy.remote->descriptor->owner != copies.front().remote->descriptor->owner) {
      return {Code::kInvalidArgument,
              "the references belong to several agents: transfer those of one at a time; nothing was written"};
    }
  }
  return Status::ok();
}

std::string text_of(std::span<const Copy> copies) {
  std::uint64_t bytes = 0;
  for (const Copy& copy : copies) bytes += copy.remote->spec.bytes();
  return std::to_string(copies.size()) + " tensors, " + std::to_string(bytes) + " bytes";
}

namespace {

Status check_sums(std::span<const Copy> copies) {
  for (const Copy& copy : copies) {
    if (copy.remote->checksum) continue;
    return {Code::kInvalidArgument,
            "a tensor without a checksum cannot be verified: its owner gives checksum=True, and it is fetched whole"};
  }
  return Status::ok();
}

Status compare_sums(std::span<const Copy> copies) {
  for (const Copy& copy : copies) {
    const TensorSpec& spec = copy.remote->spec;
    if (checksum_of(spec, copy.local.data, copy.local.strides) == *copy.remote->checksum) continue;
    return {Code::kTorn, "a tensor of " + std::to_string(spec.bytes()) +
                             " bytes arrived with another checksum: its owner has written to it since, or it was "
                             "damaged on the way"};
  }
  return Status::ok();
}

}  // namespace

Status fetch(Peer& peer, std::span<const Copy> copies, const Requirement& requirement, const os::Wait& wait) {
  if (requirement.verify) BEELINE_RETURN_IF_ERROR(check_sums(copies));
  for (const auto& [region, runs] : runs_by_region(copies)) {
    BEELINE_RETURN_IF_ERROR(peer.read(runs, requirement, wait));
  }
  return requirement.verify ? compare_sums(copies) : Status::ok();
}

Status push(Peer& peer, std::span<const Copy> copies, const Requirement& requirement, const os::Wait& wait) {
  for (const auto& [region, runs] : runs_by_region(copies)) {
    BEELINE_RETURN_IF_ERROR(peer.write(runs, requirement, wait));
  }
  return Status::ok();
}

}  // namespace beeline::transfer
