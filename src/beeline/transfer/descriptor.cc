#include "beeline/transfer/descriptor.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <map>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "beeline/base/msgpack.h"
#include "beeline/transfer/varint.h"

namespace beeline::transfer {
namespace {

using transport::Region;

constexpr std::uint32_t kVersion = 2;
// So that no distance within a region overflows.
constexpr std::uint64_t kMaxLength = std::uint64_t{1} << 60;

struct PackedRegion {
  std::uint32_t slot = 0, generation = 0;
  std::uint64_t length = 0, address = 0;
  std::uint64_t arena_offset = 0;  // 0: outside the arena, else one more
  std::int32_t device_type = 0, device_id = 0;
  MSGPACK_DEFINE_ARRAY(slot, generation, length, address, arena_offset, device_type, device_id)
};

struct Packed {
  std::uint32_t version = kVersion;
  std::string owner;
  std::vector<PackedRegion> regions;
  Bytes schema;  // empty: known by its hash
  std::uint64_t schema_hash = 0;
  Bytes places;
  std::vector<std::string> names;
  Bytes checksums;
  bool single = false;
  std::string keys_path;
  std::vector<Bytes> keys;
  MSGPACK_DEFINE_ARRAY(version, owner, regions, schema, schema_hash, places, names, checksums, single, keys_path, keys)
};

Status bad_descriptor(const std::string& why) {
  return {Code::kCorrupt, "no descriptor: " + why};
}

std::uint64_t hash_of(BytesView bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

// The distance from where the tensor before it ends, which is mostly where this one begins.
void encode_places(const Descriptor& descriptor, Bytes& out) {
  std::vector<std::uint64_t> ends(descriptor.regions.size());
  std::uint32_t region = 0;
  for (std::size_t i = 0; i < descriptor.places.size(); ++i) {
    const Place& place = descriptor.places[i];
    const auto hop = static_cast<std::int64_t>(place.region) - static_cast<std::int64_t>(region);
    region = place.region;
    const auto gap = static_cast<std::int64_t>(place.offset - ends[region]);
    // One number says both where the region is the same, as it nearly always is.
    if (hop == 0) {
      write_signed_varint(out, gap * 2);
    } else {
      write_signed_varint(out, hop * 2 + 1);
      write_signed_varint(out, gap);
    }
    ends[region] = place.offset + descriptor.spec(i).bytes();
  }
}

Status decode_places(BytesView bytes, Descriptor& descriptor) {
  VarintReader reader(bytes);
  std::vector<std::uint64_t> ends(descriptor.regions.size());
  std::int64_t region = 0;
  descriptor.places.reserve(descriptor.schema->tensors.size());
  for (const TensorSpec& spec : descriptor.schema->tensors) {
    const std::int64_t first = reader.read_signed();
    const bool hops = (first & 1) != 0;
    if (hops) region += (first - 1) / 2;
    const std::int64_t gap = hops ? reader.read_signed() : first / 2;
    if (!reader.ok() || region < 0 || region >= static_cast<std::int64_t>(ends.size())) {
      return bad_descriptor("a tensor in a region that is not there");
    }
    const auto at = static_cast<std::size_t>(region);
    const std::uint64_t offset = ends[at] + static_cast<std::uint64_t>(gap);
    const std::uint64_t length = descriptor.regions[at].length;
    if (spec.elements() > 0) {
      const Extent extent = extent_of(spec);
      if (offset > length || static_cast<std::uint64_t>(-extent.first) > offset ||
          static_cast<std::uint64_t>(extent.end) > length - offset) {
        return bad_descriptor("a tensor of " + std::to_string(spec.bytes()) + " bytes at " + std::to_string(offset) +
                              " leaves its region of " + std::to_string(length) + " bytes");
      }
    }
    descriptor.places.push_back({static_cast<std::uint32_t>(at), offset});
    ends[at] = offset + spec.bytes();
  }
  return reader.left() == 0 ? Status::ok() : bad_descriptor("more places than tensors");
}

}  // namespace

Status check_region(const Region& region) {
  std::uint64_t end = 0;
  if (region.length > kMaxLength) return bad_descriptor("a region of " + std::to_string(region.length) + " bytes");
  if (__builtin_add_overflow(region.address, region.length, &end) ||
      (region.in_arena() && __builtin_add_overflow(region.arena_offset, region.length, &end))) {
    return bad_descriptor("a region that ends beyond 2^64");
  }
  return Status::ok();
}

Bytes Schema::encode() const {
  std::map<std::tuple<std::uint8_t, std::uint8_t, std::uint16_t>, std::size_t> dtypes;
  std::vector<DType> order;
  Bytes body;
  for (const TensorSpec& spec : tensors) {
    const auto [at, is_new] = dtypes.try_emplace({spec.dtype.code, spec.dtype.bits, spec.dtype.lanes}, order.size());
    if (is_new) order.push_back(spec.dtype);
    // One number for dtype, whether strides follow, and the number of dimensions.
    const bool strided =
        !spec.strides.empty() && spec.strides != TensorSpec{spec.dtype, spec.shape, {}}.strides_or_dense();
    write_varint(body, (at->second * 2 + (strided ? 1 : 0)) * (kMaxDimensions + 1) + spec.shape.size());
    for (const std::int64_t size : spec.shape) write_varint(body, static_cast<std::uint64_t>(size));
    if (!strided) continue;
    for (const std::int64_t stride : spec.strides) write_signed_varint(body, stride);
  }
  Bytes out;
  write_varint(out, order.size());
  for (const DType& dtype : order) {
    write_varint(out, dtype.code);
    write_varint(out, dtype.bits);
    write_varint(out, dtype.lanes);
  }
  write_varint(out, tensors.size());
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

Result<std::shared_ptr<const Schema>> Schema::decode(BytesView bytes) {
  VarintReader reader(bytes);
  auto schema = std::make_shared<Schema>();
  std::vector<DType> dtypes;
  const std::uint64_t dtype_count = reader.read();
  if (dtype_count > reader.left()) return bad_descriptor("more dtypes than bytes");
  for (std::uint64_t i = 0; i < dtype_count; ++i) {
    const auto code = reader.read();
    const auto bits = reader.read();
    const auto lanes = reader.read();
    if (code > 0xFF || bits > 0xFF || lanes > 0xFFFF) return bad_descriptor("a dtype that DLPack does not have");
    dtypes.push_back(
        {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), static_cast<std::uint16_t>(lanes)});
  }
  const std::uint64_t count = reader.read();
  if (count > reader.left()) return bad_descriptor("more tensors than bytes");
  schema->tensors.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t head = reader.read();
    const std::uint64_t dtype = head / (kMaxDimensions + 1) / 2;
    const bool strided = head / (kMaxDimensions + 1) % 2 != 0;
    const std::uint64_t dimensions = head % (kMaxDimensions + 1);
    if (!reader.ok() || dtype >= dtypes.size() || dimensions > reader.left())
      return bad_descriptor("a tensor cut short");
    TensorSpec spec{dtypes[dtype], {}, {}};
    for (std::uint64_t k = 0; k < dimensions; ++k) spec.shape.push_back(static_cast<std::int64_t>(reader.read()));
    for (std::uint64_t k = 0; strided && k < dimensions; ++k) spec.strides.push_back(reader.read_signed());
    if (!reader.ok()) return bad_descriptor("a tensor cut short");
    if (const Status status = check(spec); !status) return bad_descriptor(status.message());
    schema->tensors.push_back(std::move(spec));
  }
  if (!reader.ok() || reader.left() != 0) return bad_descriptor("a schema with bytes left over");
  return std::shared_ptr<const Schema>(std::move(schema));
}

std::uint64_t Schema::hash() const {
  return hash_of(encode());
}

std::uint64_t Descriptor::bytes() const {
  std::uint64_t total = 0;
  for (const TensorSpec& spec : schema->tensors) total += spec.bytes();
  return total;
}

Bytes Descriptor::encode(With with) const {
  Packed packed;
  packed.owner = owner;
  for (const Region& region : regions) {
    packed.regions.push_back({region.id.slot, region.id.generation, region.length, region.address,
                              region.in_arena() ? region.arena_offset + 1 : 0, region.device.type, region.device.id});
  }
  Bytes encoded = schema->encode();
  packed.schema_hash = hash_of(encoded);
  if (with == With::kSchema) packed.schema = std::move(encoded);
  encode_places(*this, packed.places);
  packed.names = names;
  for (const std::uint64_t checksum : checksums) Writer(packed.checksums).write(checksum);
  packed.single = single;
  packed.keys_path = keys.path;
  packed.keys = keys.keys;
  return pack(packed);
}

Result<Descriptor> Descriptor::decode(BytesView bytes, const KnownSchemas& known) {
  BEELINE_ASSIGN(auto packed, unpack<Packed>(bytes, "a descriptor"));
  if (packed.version != kVersion) return bad_descriptor("its version is " + std::to_string(packed.version));
  Descriptor descriptor;
  descriptor.owner = std::move(packed.owner);
  for (const PackedRegion& region : packed.regions) {
    const std::uint64_t arena_offset = region.arena_offset - 1;  // kOutsideArena of 0
    descriptor.regions.push_back({{region.slot, region.generation},
                                  region.length,
                                  region.address,
                                  arena_offset,
                                  {region.device_type, region.device_id}});
    BEELINE_RETURN_IF_ERROR(check_region(descriptor.regions.back()));
  }
  if (!packed.schema.empty()) {
    if (hash_of(packed.schema) != packed.schema_hash) return bad_descriptor("a schema that does not match its hash");
    BEELINE_ASSIGN(descriptor.schema, Schema::decode(packed.schema));
  } else {
    if (known) descriptor.schema = known(packed.schema_hash);
    if (descriptor.schema == nullptr) {
      return Status(Code::kNotFound,
                    "the descriptor names its schema by a hash that was never heard here: ask its "
                    "owner to encode it with the schema");
    }
  }
  BEELINE_RETURN_IF_ERROR(decode_places(packed.places, descriptor));
  if (!packed.names.empty() && packed.names.size() != descriptor.places.size()) {
    return bad_descriptor(std::to_string(packed.names.size()) + " names for " +
                          std::to_string(descriptor.places.size()) + " tensors");
  }
  if (std::set<std::string_view>(packed.names.begin(), packed.names.end()).size() != packed.names.size()) {
    return bad_descriptor("two tensors of one name");
  }
  descriptor.names = std::move(packed.names);
  if (!packed.checksums.empty() && packed.checksums.size() != descriptor.places.size() * sizeof(std::uint64_t)) {
    return bad_descriptor(std::to_string(packed.checksums.size()) + " bytes of checksums for " +
                          std::to_string(descriptor.places.size()) + " tensors");
  }
  for (Reader reader(packed.checksums); reader.left() > 0;) {
    descriptor.checksums.push_back(reader.read<std::uint64_t>());
  }
  if (packed.single && descriptor.places.size() != 1) {
    return bad_descriptor(std::to_string(descriptor.places.size()) + " tensors as a single one");
  }
  descriptor.single = packed.single;
  if (!packed.keys.empty() && packed.keys.size() != descriptor.regions.size()) {
    return bad_descriptor(std::to_string(packed.keys.size()) + " keys for " +
                          std::to_string(descriptor.regions.size()) + " regions");
  }
  descriptor.keys = {std::move(packed.keys_path), std::move(packed.keys)};
  return descriptor;
}

}  // namespace beeline::transfer
