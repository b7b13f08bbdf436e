// Descriptors as JSON: for people, and for programs that have nothing else in common.
#include <charconv>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

#include "beeline/transfer/descriptor.h"

namespace beeline::transfer {
namespace {

using transport::Region;
using Json = nlohmann::ordered_json;

Json json_of(const Region& region) {
  const Json arena_offset = region.in_arena() ? Json(region.arena_offset) : Json(-1);
  return {region.id.slot, region.id.generation, region.length,   region.address,
          arena_offset,   region.device.type,   region.device.id};
}

// The library converts whatever fits and wraps what does not: here a number that T cannot hold is an error.
template <typename T>
T integer(const Json& value) {
  if (value.is_number_unsigned() && std::in_range<T>(value.get<std::uint64_t>())) return value.get<T>();
  if (value.is_number_integer() && !value.is_number_unsigned() && std::in_range<T>(value.get<std::int64_t>())) {
    return value.get<T>();
  }
  throw std::invalid_argument(value.is_number() ? "a number out of range: " + value.dump()
                                                : std::string("a number is wanted, not: ") + value.type_name());
}

const Json& list(const Json& value) {
  if (!value.is_array()) throw std::invalid_argument(std::string("a list is wanted, not: ") + value.type_name());
  return value;
}

std::vector<std::int64_t> integers(const Json& value) {
  std::vector<std::int64_t> out;
  for (const Json& each : list(value)) out.push_back(integer<std::int64_t>(each));
  return out;
}

// In hexadecimal: a number of 64 bits is too large for what reads JSON's as doubles.
std::string hex_of(std::uint64_t checksum) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(checksum));
  return digits;
}

std::uint64_t checksum_of(const Json& value) {
  const auto text = value.get<std::string>();
  std::uint64_t checksum = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), checksum, 16);
  if (error == std::errc() && end == text.data() + text.size() && !text.empty()) return checksum;
  throw std::invalid_argument("a checksum is hexadecimal, not: " + text);
}

Region region_of(const Json& row) {
  if (list(row).size() != 7) throw std::invalid_argument("a region is a list of 7 numbers");
  const std::uint64_t arena_offset = row[4] == -1 ? Region::kOutsideArena : integer<std::uint64_t>(row[4]);
  return {{integer<std::uint32_t>(row[0]), integer<std::uint32_t>(row[1])},
          integer<std::uint64_t>(row[2]),
          integer<std::uint64_t>(row[3]),
          arena_offset,
          {integer<std::int32_t>(row[5]), integer<std::int32_t>(row[6])}};
}

Descriptor descriptor_of(const Json& value) {
  Descriptor descriptor;
  auto schema = std::make_shared<Schema>();
  descriptor.owner = value.at("owner").get<std::string>();
  for (const Json& row : list(value.at("regions"))) descriptor.regions.push_back(region_of(row));
  for (const Json& tensor : list(value.at("tensors"))) {
    TensorSpec spec{{integer<std::uint8_t>(tensor.at("code")), integer<std::uint8_t>(tensor.at("bits")),
                     integer<std::uint16_t>(tensor.at("lanes"))},
                    integers(tensor.at("shape")),
                    integers(tensor.at("strides"))};
    if (const Status status = check(spec); !status) throw std::invalid_argument(status.message());
    schema->tensors.push_back(std::move(spec));
    const Place place{integer<std::uint32_t>(tensor.at("region")), integer<std::uint64_t>(tensor.at("offset"))};
    if (place.region >= descriptor.regions.size()) {
      throw std::invalid_argument("a tensor in a region that is not there");
    }
    descriptor.places.push_back(place);
    if (tensor.contains("xxh3")) descriptor.checksums.push_back(checksum_of(tensor["xxh3"]));
    if (tensor.contains("name")) descriptor.names.push_back(tensor["name"].get<std::string>());
  }
  if (value.contains("single")) descriptor.single = value["single"].get<bool>();
  descriptor.schema = std::move(schema);
  return descriptor;
}

}  // namespace

std::string Descriptor::to_json() const {
  Json value = {{"owner", owner}, {"regions", Json::array()}, {"tensors", Json::array()}};
  for (const Region& region : regions) value["regions"].push_back(json_of(region));
  if (single) value["single"] = true;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const TensorSpec& tensor = spec(i);
    Json row = {{"code", tensor.dtype.code}, {"bits", tensor.dtype.bits}, {"lanes", tensor.dtype.lanes},
                {"shape", tensor.shape},     {"strides", tensor.strides}, {"region", places[i].region},
                {"offset", places[i].offset}};
    if (!names.empty()) row["name"] = names[i];
    if (!checksums.empty()) row["xxh3"] = hex_of(checksums[i]);
    value["tensors"].push_back(std::move(row));
  }
  // Names that are no UTF-8 lose what is none: JSON has no other text.
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Descriptor> Descriptor::from_json(std::string_view text) {
  Descriptor descriptor;
  try {
    descriptor = descriptor_of(Json::parse(text));
  } catch (const std::exception& error) {
    return Status(Code::kCorrupt, std::string("no descriptor in JSON: ") + error.what());
  }
  // What bytes are checked for holds here as well.
  return decode(descriptor.encode());
}

}  // namespace beeline::transfer
