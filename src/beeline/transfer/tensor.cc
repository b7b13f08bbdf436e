#include "beeline/transfer/tensor.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <numeric>
#include <utility>

namespace beeline::transfer {
namespace {

// An element that is in several places is read for one after the other of them.
bool comes_before(const Dimension& a, const Dimension& b) {
  if ((a.from == 0) != (b.from == 0)) return a.from == 0;
  if (std::abs(a.from) != std::abs(b.from)) return std::abs(a.from) > std::abs(b.from);
  return std::abs(a.to) > std::abs(b.to);
}

bool is_contiguous(const Dimension& dimension, std::uint64_t length, std::uint64_t local_length) {
  return dimension.from == static_cast<std::int64_t>(length) && dimension.to == static_cast<std::int64_t>(local_length);
}

bool goes_forward(const Dimension& dimension) {
  return dimension.from >= 0 && dimension.to >= 0;
}

std::uint64_t count_runs(std::span<const Dimension> dimensions, std::uint64_t length, std::uint64_t local_length) {
  if (!dimensions.empty() && is_contiguous(dimensions.back(), length, local_length)) {
    dimensions = dimensions.first(dimensions.size() - 1);
  }
  if (!dimensions.empty() && goes_forward(dimensions.back())) dimensions = dimensions.first(dimensions.size() - 1);
  std::uint64_t runs = 1;
  for (const Dimension& dimension : dimensions) runs *= dimension.size;
  return runs;
}

// Each byte from the first to the last is of one element; of a spec with strides.
bool fills_its_memory(const TensorSpec& spec) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < spec.shape.size(); ++i) {
    if (spec.strides[i] < 0) return false;  // torch has none such
    if (spec.shape[i] > 1) order.push_back(i);
  }
  std::ranges::sort(order, {}, [&](std::size_t i) { return spec.strides[i]; });
  std::int64_t dense = 1;
  for (const std::size_t i : order) {
    if (spec.strides[i] != dense) return false;
    dense *= spec.shape[i];
  }
  return true;
}

// Below 0 where dimension `a` is further in than `b`, above where it is further out, 0 where nothing says.
int compare_dimensions(const TensorSpec& spec, std::size_t a, std::size_t b) {
  const std::int64_t of_a = std::abs(spec.strides[a]), of_b = std::abs(spec.strides[b]);
  if (of_a == 0 || of_b == 0) return 0;
  if (of_a != of_b) return of_a < of_b ? -1 : 1;
  return spec.shape[a] > spec.shape[b] ? 1 : 0;
}

}  // namespace

std::uint64_t TensorSpec::elements() const {
  std::uint64_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::uint64_t>(size);
  return count;
}

std::vector<std::int64_t> TensorSpec::strides_or_dense() const {
  if (strides.size() == shape.size()) return strides;
  std::vector<std::int64_t> dense(shape.size());
  std::int64_t stride = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    dense[i] = stride;
    stride *= std::max<std::int64_t>(1, shape[i]);
  }
  return dense;
}

std::string name_of(DType dtype) {
  // By DLPack's numbers.
  static constexpr const char* kCodes[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  static constexpr const char* kFloat8[] = {"float8_e3m4",     "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn",
                                            "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",    "float8_e8m0fnu"};
  constexpr std::size_t kFirstFloat8 = std::size(kCodes);
  std::string name;
  if (dtype.code < kFirstFloat8) {
    name = kCodes[dtype.code];
    if (dtype.code != 6) name += std::to_string(dtype.bits);
  } else if (dtype.code < kFirstFloat8 + std::size(kFloat8)) {
    name = kFloat8[dtype.code - kFirstFloat8];
  } else {
    name = "dtype " + std::to_string(dtype.code) + " of " + std::to_string(dtype.bits) + " bits";
  }
  return dtype.lanes == 1 ? name : name + "x" + std::to_string(dtype.lanes);
}

std::string text_of(const TensorSpec& spec) {
  std::string text = name_of(spec.dtype) + "[";
  for (std::size_t i = 0; i < spec.shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(spec.shape[i]);
  return text + "]";
}

Status check(const TensorSpec& spec) {
  const auto bad = [](std::string why) { return Status(Code::kInvalidArgument, "no tensor: " + std::move(why)); };
  if (spec.dtype.bytes() == 0) {
    return bad("elements of " + std::to_string(spec.dtype.bits) + " bits, " + std::to_string(spec.dtype.lanes) +
               " lanes, do not fill bytes");
  }
  if (spec.shape.size() > kMaxDimensions) return bad(std::to_string(spec.shape.size()) + " dimensions");
  if (!spec.strides.empty() && spec.strides.size() != spec.shape.size()) {
    return bad(std::to_string(spec.strides.size()) + " strides for " + std::to_string(spec.shape.size()) +
               " dimensions");
  }
  // Every product that is formed later is at most this one.
  std::int64_t bytes = static_cast<std::int64_t>(spec.dtype.bytes());
  std::int64_t reach = bytes;
  for (std::size_t i = 0; i < spec.shape.size(); ++i) {
    const std::int64_t size = spec.shape[i];
    if (size < 0) return bad("a size of " + std::to_string(size));
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(1, size), &bytes)) return bad("more than 2^63 bytes");
    if (spec.strides.empty() || size == 0) continue;
    std::int64_t distance = 0;
    if (spec.strides[i] == INT64_MIN || __builtin_mul_overflow(std::abs(spec.strides[i]), size, &distance) ||
        __builtin_mul_overflow(distance, static_cast<std::int64_t>(spec.dtype.bytes()), &distance) ||
        __builtin_add_overflow(reach, distance, &reach)) {
      return bad("strides that reach beyond 2^63 bytes");
    }
  }
  return Status::ok();
}

Extent extent_of(const TensorSpec& spec) {
  if (spec.strides.empty()) return {0, static_cast<std::int64_t>(spec.bytes())};
  const auto size = static_cast<std::int64_t>(spec.dtype.bytes());
  Extent extent{0, size};
  for (std::size_t i = 0; i < spec.shape.size(); ++i) {
    if (spec.shape[i] == 0) return {};
    const std::int64_t reach = (spec.shape[i] - 1) * spec.strides[i] * size;
    (reach < 0 ? extent.first : extent.end) += reach;
  }
  return extent;
}

std::vector<std::int64_t> preserved_strides(const TensorSpec& spec) {
  if (spec.elements() == 0) return {};
  if (spec.strides.empty() || fills_its_memory(spec)) return spec.strides;
  // From the innermost dimension out. Where the strides do not say which of two that is, it is the later one, as in
  // torch's infer_dense_strides(), whose order this is.
  std::vector<std::size_t> order(spec.shape.size());
  std::iota(order.rbegin(), order.rend(), std::size_t{0});
  for (std::size_t i = 1; i < order.size(); ++i) {
    std::size_t at = i;
    for (std::size_t before = i; before-- > 0;) {
      const auto compared = compare_dimensions(spec, order[before], order[at]);
      if (compared < 0) break;
      if (compared == 0) continue;
      std::swap(order[before], order[at]);
      at = before;
    }
  }
  std::vector<std::int64_t> strides(order.size());
  std::int64_t dense = 1;
  for (const std::size_t i : order) {
    strides[i] = dense;
    dense *= std::max<std::int64_t>(1, spec.shape[i]);
  }
  if (strides == TensorSpec{spec.dtype, spec.shape, {}}.strides_or_dense()) strides.clear();
  return strides;
}

Result<TensorSpec> slice(const TensorSpec& spec, std::span<const Slice> slices, std::int64_t& offset) {
  if (slices.size() > spec.shape.size()) {
    return Status(Code::kInvalidArgument, std::to_string(slices.size()) + " slices of a tensor of " +
                                              std::to_string(spec.shape.size()) + " dimensions");
  }
  TensorSpec part{spec.dtype, spec.shape, spec.strides_or_dense()};
  offset = 0;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const Slice& piece = slices[i];
    const std::int64_t size = spec.shape[i];
    const bool is_empty = piece.count == 0;
    std::int64_t last = piece.start;
    std::int64_t reach = 0;
    const bool fits = piece.count >= 0 && piece.step != 0 &&
                      (is_empty || (!__builtin_mul_overflow(piece.count - 1, piece.step, &reach) &&
                                    !__builtin_add_overflow(piece.start, reach, &last) && piece.start >= 0 &&
                                    piece.start < size && last >= 0 && last < size));
    if (!fits) {
      return Status(Code::kInvalidArgument, "slice " + std::to_string(i) + " takes " + std::to_string(piece.count) +
                                                " from " + std::to_string(piece.start) + " on, " +
                                                std::to_string(piece.step) + " apart, of a dimension of size " +
                                                std::to_string(size));
    }
    if (!is_empty) offset += piece.start * part.strides[i] * static_cast<std::int64_t>(spec.dtype.bytes());
    part.shape[i] = piece.count;
    if (piece.count > 1) part.strides[i] *= piece.step;
  }
  if (part.elements() == 0) offset = 0;
  return part;
}

std::vector<Dimension> dimensions_of(const TensorSpec& spec, std::span<const std::int64_t> local_strides,
                                     std::uint64_t local_bytes) {
  const auto size = static_cast<std::int64_t>(spec.dtype.bytes());
  const auto strides = spec.strides_or_dense();
  const TensorSpec local{spec.dtype, spec.shape, {local_strides.begin(), local_strides.end()}};
  const auto local_dense = local.strides_or_dense();
  std::vector<Dimension> dimensions(spec.shape.size());
  for (std::size_t i = 0; i < dimensions.size(); ++i) {
    dimensions[i] = {static_cast<std::uint64_t>(spec.shape[i]), strides[i] * size,
                     local_dense[i] * static_cast<std::int64_t>(local_bytes)};
  }
  return dimensions;
}

void sort_by_region(std::vector<Dimension>& dimensions) {
  // There are few, and std::stable_sort() allocates.
  for (auto at = dimensions.begin(); at != dimensions.end(); ++at) {
    std::rotate(std::upper_bound(dimensions.begin(), at, *at, comes_before), at, at + 1);
  }
}

void merge(std::vector<Dimension>& dimensions) {
  std::erase_if(dimensions, [](const Dimension& dimension) { return dimension.size == 1; });
  std::size_t kept = 0;
  for (std::size_t i = 1; i < dimensions.size(); ++i) {
    Dimension& outer = dimensions[kept];
    const Dimension& inner = dimensions[i];
    const auto count = static_cast<std::int64_t>(inner.size);
    if (outer.from == inner.from * count && outer.to == inner.to * count) {
      outer = {outer.size * inner.size, inner.from, inner.to};
    } else {
      dimensions[++kept] = inner;
    }
  }
  if (!dimensions.empty()) dimensions.resize(kept + 1);
}

void append_runs(const transport::Region& region, std::uint64_t offset, std::uint64_t length,
                 std::uint64_t local_length, std::vector<Dimension> dimensions, std::byte* local,
                 std::vector<transport::Run>& runs) {
  transport::Run run;
  run.region = &region;
  run.length = length;
  if (!dimensions.empty() && is_contiguous(dimensions.back(), length, local_length)) {
    run.length *= dimensions.back().size;
    dimensions.pop_back();
  }
  // The innermost dimension that is left becomes the run's count; a run only goes forward.
  if (!dimensions.empty() && goes_forward(dimensions.back())) {
    run.count = dimensions.back().size;
    run.stride = static_cast<std::uint64_t>(dimensions.back().from);
    run.local_stride = static_cast<std::uint64_t>(dimensions.back().to);
    dimensions.pop_back();
  }
  for_each_index(dimensions, [&](std::int64_t from, std::int64_t to) {
    run.offset = offset + static_cast<std::uint64_t>(from);
    run.local = local + to;
    runs.push_back(run);
  });
}

void append_runs(const transport::Region& region, std::uint64_t offset, const TensorSpec& spec, std::byte* local,
                 std::span<const std::int64_t> local_strides, std::vector<transport::Run>& runs,
                 std::uint64_t local_bytes) {
  if (spec.elements() == 0) return;
  const std::uint64_t length = spec.dtype.bytes();
  if (local_bytes == 0) local_bytes = length;
  const auto all = dimensions_of(spec, local_strides, local_bytes);
  auto dimensions = all;
  merge(dimensions);
  if (const auto needed = count_runs(dimensions, length, local_bytes); needed > 1) {
    auto sorted = all;
    sort_by_region(sorted);
    merge(sorted);
    if (count_runs(sorted, length, local_bytes) < needed) dimensions = std::move(sorted);
  }
  append_runs(region, offset, length, local_bytes, std::move(dimensions), local, runs);
}

}  // namespace beeline::transfer
