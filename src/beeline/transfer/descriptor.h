// A reference to registered tensors, as a value: whose they are, where they lie, and what they are.
//
// As JSON it is for people. The binary form is msgpack: a list of tensors costs a few bytes each; its schema (dtypes,
// shapes, strides) is told apart, by its hash alone to whoever has it already.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"
#include "beeline/transfer/tensor.h"

namespace beeline::transfer {

// What a list of tensors is made of. Shared by the descriptors that have it.
struct Schema {
  std::vector<TensorSpec> tensors;

  [[nodiscard]] Bytes encode() const;
  static Result<std::shared_ptr<const Schema>> decode(BytesView bytes);
  // XXH3 of the encoded form.
  [[nodiscard]] std::uint64_t hash() const;
};

// Where a tensor's first element lies.
struct Place {
  std::uint32_t region = 0;  // index into Descriptor::regions
  std::uint64_t offset = 0;
  friend bool operator==(const Place&, const Place&) = default;
};

// kCorrupt unless it may be a region: of what comes from outside.
Status check_region(const transport::Region& region);

// By what a path reaches each of the regions; none: its readers ask the owner.
struct RegionKeys {
  std::string path;
  std::vector<Bytes> keys;  // opaque
  friend bool operator==(const RegionKeys&, const RegionKeys&) = default;
};

struct Descriptor {
  std::string owner;  // an agent's address, as text
  std::vector<transport::Region> regions;
  std::shared_ptr<const Schema> schema;
  std::vector<Place> places;             // as many as the schema has tensors
  std::vector<std::string> names;        // likewise, or none
  std::vector<std::uint64_t> checksums;  // likewise: checksum_of() when they were registered
  bool single = false;                   // one tensor that was given by itself, not in a list
  RegionKeys keys = {};                  // not in the JSON form

  [[nodiscard]] const TensorSpec& spec(std::size_t index) const { return schema->tensors[index]; }
  [[nodiscard]] std::uint64_t bytes() const;

  enum class With : std::uint8_t { kSchema, kSchemaHash };
  [[nodiscard]] Bytes encode(With with = With::kSchema) const;
  // `known` gives the schema of a hash, or null. kNotFound when the schema is told by a hash that it does not know;
  // kCorrupt for what is no descriptor, or one whose tensors leave their regions.
  using KnownSchemas = std::function<std::shared_ptr<const Schema>(std::uint64_t hash)>;
  static Result<Descriptor> decode(BytesView bytes, const KnownSchemas& known = nullptr);

  // With the schema. kCorrupt as for decode().
  [[nodiscard]] std::string to_json() const;
  static Result<Descriptor> from_json(std::string_view text);
};

}  // namespace beeline::transfer
