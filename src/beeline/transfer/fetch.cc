#include "beeline/transfer/fetch.h"

#include <utility>

#include "beeline/transfer/checksum.h"

namespace beeline::transfer {

using transport::Region;

namespace {

bool belongs(const Copy& copy, bool is_strided, const Portion& portion) {
  return portion.region == &copy.remote->home() && portion.local_device == copy.local.device &&
         portion.strided.empty() != is_strided && portion.conversion == copy.conversion &&
         portion.quantizer.has_value() == copy.quantization.has_value() &&
         (!copy.quantization || *portion.quantizer == copy.quantization->quantizer);
}

std::ptrdiff_t signed_bytes(std::int64_t elements, std::size_t size) {
  return elements * static_cast<std::int64_t>(size);
}

// The last two dimensions, for each index of the others.
void append_matrices(const Copy& copy, std::vector<QuantizedMatrix>& matrices) {
  const TensorSpec& spec = copy.remote->spec;
  const TensorSpec scales = scales_of(copy.quantization->shape, spec);
  const std::size_t outer = spec.shape.size() - 2;
  const auto from = spec.strides_or_dense();
  const auto to = TensorSpec{kFloat8E4M3, spec.shape, copy.local.strides}.strides_or_dense();
  const auto scale = TensorSpec{kFloat32, scales.shape, copy.quantization->scales.strides}.strides_or_dense();
  const std::size_t size = spec.dtype.bytes();
  std::vector<std::int64_t> index(outer);
  for (;;) {
    std::int64_t at = 0, to_at = 0, scale_at = 0;
    for (std::size_t i = 0; i < outer; ++i) {
      at += index[i] * from[i];
      to_at += index[i] * to[i];
      scale_at += index[i] * scale[i];
    }
    QuantizedMatrix& matrix = matrices.emplace_back();
    matrix.offset = copy.remote->offset + static_cast<std::uint64_t>(signed_bytes(at, size));
    matrix.rows = spec.shape[outer];
    matrix.columns = spec.shape[outer + 1];
    matrix.row_stride = from[outer];
    matrix.column_stride = from[outer + 1];
    matrix.shape = copy.quantization->shape;
    matrix.values = {copy.local.data + to_at, to[outer], to[outer + 1]};
    matrix.scales = {copy.quantization->scales.data + signed_bytes(scale_at, sizeof(float)),
                     signed_bytes(scale[outer], sizeof(float)), signed_bytes(scale[outer + 1], sizeof(float))};
    std::size_t i = outer;
    for (; i > 0; --i) {
      if (++index[i - 1] < spec.shape[i - 1]) break;
      index[i - 1] = 0;
    }
    if (i == 0) return;
  }
}

// Where it is worth it.
std::optional<StridedCopy> strided_copy_of(const Copy& copy) {
  if (copy.conversion || copy.quantization || !copy.local.device.is_host() || !copy.remote->home().device.is_host()) {
    return std::nullopt;
  }
  return StridedCopy::of(copy.remote->offset, copy.remote->spec, copy.local.data, copy.local.strides);
}

}  // namespace

std::vector<Portion> portions_of(std::span<const Copy> copies, Use use) {
  std::vector<Portion> portions;
  const auto scratch = std::make_shared<Scratch>();
  std::size_t last = 0;
  for (const Copy& copy : copies) {
    if (copy.remote->spec.elements() == 0) continue;
    const Region& region = copy.remote->home();
    const auto strided = use == Use::kFilled ? strided_copy_of(copy) : std::nullopt;
    if (last >= portions.size() || !belongs(copy, strided.has_value(), portions[last])) {
      for (last = 0; last < portions.size() && !belongs(copy, strided.has_value(), portions[last]); ++last) {
      }
      if (last == portions.size()) {
        Portion& portion = portions.emplace_back();
        portion.region = &region;
        portion.local_device = copy.local.device;
        portion.scratch = scratch;
        portion.conversion = copy.conversion;
        if (copy.quantization) portion.quantizer = copy.quantization->quantizer;
      }
    }
    Portion& portion = portions[last];
    if (strided) {
      strided->append_runs(region, portion.runs);
      portion.strided.push_back(*strided);
      continue;
    }
    std::uint64_t local_bytes = 0;
    if (copy.conversion) local_bytes = copy.conversion->to().bytes();
    if (copy.quantization) local_bytes = kFloat8E4M3.bytes();
    const std::size_t first = portion.runs.size();
    append_runs(region, copy.remote->offset, copy.remote->spec, copy.local.data, copy.local.strides, portion.runs,
                local_bytes);
    for (std::size_t i = first; i < portion.runs.size(); ++i) portion.runs[i].local_device = copy.local.device;
    if (copy.quantization) append_matrices(copy, portion.matrices);
  }
  return portions;
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
  if (!descriptor->keys.keys.empty()) single.keys = {descriptor->keys.path, {descriptor->keys.keys[region]}};
  return single;
}

Result<LocalTensor> fit(const TensorSpec& wanted, const std::string& whose, const TensorSpec& local, std::byte* data,
                        Use use) {
  const bool is_other_shape = local.shape != wanted.shape;
  if (is_other_shape || !(local.dtype == wanted.dtype)) {
    // What would be filled may be converted to, not what is pushed.
    const char* const hint = is_other_shape || use == Use::kRead
                                 ? ""
                                 : "; a fetch converts if it is told to (dtype=; in C++ Target::convert)";
    return Status(Code::kInvalidArgument, "the local tensor is " + text_of(local) + ", " + whose + " " +
                                              text_of(wanted) + hint + "; nothing was written");
  }
  for (std::size_t i = 0; use == Use::kFilled && i < local.strides.size(); ++i) {
    if (local.strides[i] == 0 && wanted.shape[i] > 1) {
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

// What the processor does itself needs the host's memory: what lies on a device comes there in slices.
Status check_on_host(std::span<const Copy> copies) {
  for (const Copy& copy : copies) {
    if (!copy.conversion && !copy.quantization) continue;
    if (copy.local.device.is_host()) continue;
    return {Code::kUnsupported,
            "tensors are converted on the way into the host's memory only (device=\"cpu\"): fetch as it is, and "
            "convert on the device; nothing was written"};
  }
  return Status::ok();
}

Status check_sums(std::span<const Copy> copies) {
  for (const Copy& copy : copies) {
    if (copy.conversion || copy.quantization) {
      return {Code::kInvalidArgument,
              "a tensor that is converted on the way cannot be verified: its checksum is of the "
              "elements as their owner has them"};
    }
    if (!copy.local.device.is_host()) {
      return {Code::kUnsupported, "a checksum is taken in the host's memory only; nothing was written"};
    }
    if (copy.remote->checksum) continue;
    return {
        Code::kInvalidArgument,
        "a tensor without a checksum cannot be verified: its owner registers or publishes it with checksum, and it is "
        "fetched whole"};
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

void learn_keys(Peer& peer, std::span<const Copy> copies) {
  const Descriptor* last = nullptr;
  for (const Copy& copy : copies) {
    const Descriptor* const descriptor = copy.remote->descriptor.get();
    if (descriptor != last && !descriptor->keys.keys.empty()) peer.learn(*descriptor);
    last = descriptor;
  }
}

Status fetch(Peer& peer, std::span<const Copy> copies, const Requirement& requirement, const os::Wait& wait) {
  learn_keys(peer, copies);
  BEELINE_RETURN_IF_ERROR(check_on_host(copies));
  if (requirement.verify) BEELINE_RETURN_IF_ERROR(check_sums(copies));
  std::vector<Portion> portions = portions_of(copies, Use::kFilled);
  // All or nothing is refused.
  for (std::size_t i = 0; portions.size() > 1 && i < portions.size(); ++i) {
    BEELINE_RETURN_IF_ERROR(peer.check_path(portions[i].runs, requirement, wait));
  }
  const WholeState whole(peer, portions);
  BEELINE_ASSIGN(const std::uint64_t before, whole.writes(wait));
  for (Portion& portion : portions) {
    BEELINE_RETURN_IF_ERROR(peer.read(portion.runs, requirement, wait, portion.read_by()));
  }
  BEELINE_ASSIGN(const std::uint64_t after, whole.writes(wait));
  if (after != before) return transport::torn();
  return requirement.verify ? compare_sums(copies) : Status::ok();
}

Status push(Peer& peer, std::span<const Copy> copies, const Requirement& requirement, const os::Wait& wait) {
  for (const Portion& portion : portions_of(copies, Use::kRead)) {
    BEELINE_RETURN_IF_ERROR(peer.write(portion.runs, requirement, wait));
  }
  return Status::ok();
}

}  // namespace beeline::transfer
