#include "beeline/transfer/portion.h"

#include <algorithm>
#include <cstring>

#include "beeline/transfer/peer.h"

namespace beeline::transfer {
namespace {

using transport::Run;

// Out of a mapping, between two looks at the deadline: about a millisecond.
constexpr std::uint64_t kMappedSlice = std::uint64_t{4} << 20;
// As memory::copy_bytes() has it: below, the reader finds more of it in a cache.
constexpr std::uint64_t kPastCaches = std::uint64_t{16} << 20;
// Shorter pieces begin and end within a line too often for that.
constexpr std::uint64_t kShort = 4096;

// Cuts runs into pieces of a limited size; local addresses follow in elements of another size.
class Pieces {
 public:
  Pieces(std::span<const Run> runs, const Conversion& conversion)
      : runs_(runs), from_(conversion.from().bytes()), to_(conversion.to().bytes()) {}

  [[nodiscard]] bool is_done() const { return at_ == runs_.size(); }
  // The next one, of at most `limit` bytes and at least one element.
  Run next(std::uint64_t limit) {
    const Run& run = runs_[at_];
    Run piece = run;
    piece.offset += index_ * run.stride + done_;
    piece.local += index_ * run.local_stride + done_ / from_ * to_;
    if (done_ > 0 || run.length > limit) {
      piece.length = std::min(run.length - done_, std::max<std::uint64_t>(1, limit / from_) * from_);
      piece.count = 1;
      done_ += piece.length;
      if (done_ == run.length) {
        done_ = 0;
        ++index_;
      }
    } else {
      piece.count = std::min(run.count - index_, limit / run.length);
      index_ += piece.count;
    }
    if (index_ == run.count) {
      index_ = 0;
      ++at_;
    }
    return piece;
  }

 private:
  std::span<const Run> runs_;
  std::uint64_t from_, to_;
  std::size_t at_ = 0;       // run
  std::uint64_t index_ = 0;  // of its `count`
  std::uint64_t done_ = 0;   // bytes of that one
};

// A piece whose bytes lie at `from`, their beginnings `stride` apart.
void convert(const Conversion& conversion, const Run& piece, const std::byte* from, std::uint64_t stride,
             Stores stores) {
  const std::size_t count = piece.length / conversion.from().bytes();
  if (count == 1) {
    conversion.apply_strided(piece.local, static_cast<std::ptrdiff_t>(piece.local_stride), from,
                             static_cast<std::ptrdiff_t>(stride), piece.count);
    return;
  }
  const Stores by = piece.length < kShort ? Stores::kCached : stores;
  for (std::uint64_t i = 0; i < piece.count; ++i) {
    conversion.apply(piece.local + i * piece.local_stride, from + i * stride, count, by);
  }
}

Stores stores_of(std::span<const Run> runs, const Conversion& conversion) {
  const std::uint64_t bytes = transport::bytes_of(runs) / conversion.from().bytes() * conversion.to().bytes();
  return bytes < kPastCaches ? Stores::kCached : Stores::kPastCaches;
}

}  // namespace

Status Portion::operator()(transport::Endpoint& endpoint, const transport::Capabilities& capabilities,
                           const os::Wait& wait) {
  const std::byte* const view = endpoint.view(*region);
  if (!strided.empty()) return place_strided(endpoint, view, capabilities.slice_bytes, wait);
  if (conversion) {
    return view != nullptr ? convert_mapped(view, wait) : convert_in_slices(endpoint, capabilities.slice_bytes, wait);
  }
  return view != nullptr ? quantize_mapped(view, wait) : quantize_in_slices(endpoint, capabilities.slice_bytes, wait);
}

std::span<std::byte> Scratch::bytes(std::uint64_t size) {
  if (size_ < size) {
    bytes_ = std::make_unique_for_overwrite<std::byte[]>(size);
    size_ = size;
  }
  return {bytes_.get(), size};
}

Status Portion::place_strided(transport::Endpoint& endpoint, const std::byte* view, std::uint64_t slice_bytes,
                              const os::Wait& wait) const {
  for (const StridedCopy& copy : strided) {
    if (view != nullptr) {
      BEELINE_RETURN_IF_ERROR(copy.place_mapped(view, wait));
    } else {
      const auto slice = scratch->bytes(std::max(copy.piece_bytes(), std::min(slice_bytes, copy.bytes())));
      BEELINE_RETURN_IF_ERROR(copy.read_in_slices(endpoint, *region, slice, wait));
    }
  }
  return Status::ok();
}

Status Portion::convert_mapped(const std::byte* view, const os::Wait& wait) const {
  const Stores stores = stores_of(runs, *conversion);
  std::uint64_t since_check = 0;
  for (Pieces pieces(runs, *conversion); !pieces.is_done();) {
    const Run piece = pieces.next(kMappedSlice);
    convert(*conversion, piece, view + piece.offset, piece.stride, stores);
    since_check += piece.bytes();
    if (since_check < kMappedSlice) continue;
    since_check = 0;
    BEELINE_RETURN_IF_ERROR(wait.check());
  }
  return Status::ok();
}

Status Portion::convert_in_slices(transport::Endpoint& endpoint, std::uint64_t slice_bytes, const os::Wait& wait) {
  const Stores stores = stores_of(runs, *conversion);
  const std::uint64_t element = conversion->from().bytes();
  const auto memory = scratch->bytes(std::min(slice_bytes, transport::bytes_of(runs)));
  std::vector<Run> gathered;  // what is read, side by side
  std::vector<Run> targets;
  for (Pieces pieces(runs, *conversion); !pieces.is_done();) {
    gathered.clear();
    targets.clear();
    std::uint64_t used = 0;
    while (!pieces.is_done() && memory.size() - used >= element) {
      const Run& piece = targets.emplace_back(pieces.next(memory.size() - used));
      gathered.push_back(
          {region, piece.offset, memory.data() + used, piece.length, piece.count, piece.stride, piece.length});
      used += piece.bytes();
    }
    BEELINE_RETURN_IF_ERROR(endpoint.read(gathered, wait));
    for (std::size_t i = 0; i < targets.size(); ++i) {
      convert(*conversion, targets[i], gathered[i].local, gathered[i].local_stride, stores);
    }
    BEELINE_RETURN_IF_ERROR(wait.check());
  }
  return Status::ok();
}

void Portion::quantize(const Tile& tile, const Grid<const std::byte>& from) const {
  const QuantizedMatrix& matrix = *tile.matrix;
  const auto [high, wide] = matrix.shape;
  for (std::int64_t i = 0; i < tile.rows; i += high) {
    for (std::int64_t j = 0; j < tile.columns; j += wide) {
      const std::int64_t row = tile.row + i;
      const std::int64_t column = tile.column + j;
      const float scale = quantizer->apply(matrix.values.at(row, column), from.at(i, j), std::min(high, tile.rows - i),
                                           std::min(wide, tile.columns - j));
      std::memcpy(matrix.scales.at(row / high, column / wide).data, &scale, sizeof scale);
    }
  }
}

Status Portion::quantize_mapped(const std::byte* view, const os::Wait& wait) const {
  const auto size = static_cast<std::int64_t>(quantizer->from().bytes());
  std::uint64_t since_check = 0;
  for (const QuantizedMatrix& matrix : matrices) {
    const Grid<const std::byte> from{view + matrix.offset, matrix.row_stride * size, matrix.column_stride * size};
    for (std::int64_t row = 0; row < matrix.rows; row += matrix.shape.rows) {
      const std::int64_t rows = std::min(matrix.shape.rows, matrix.rows - row);
      // So wide that a tile is a slice.
      const std::int64_t blocks = static_cast<std::int64_t>(kMappedSlice) / (rows * matrix.shape.columns * size);
      const std::int64_t step = std::max<std::int64_t>(1, blocks) * matrix.shape.columns;
      for (std::int64_t column = 0; column < matrix.columns; column += step) {
        const std::int64_t columns = std::min(step, matrix.columns - column);
        quantize({&matrix, row, column, rows, columns}, from.at(row, column));
        since_check += static_cast<std::uint64_t>(rows * columns * size);
        if (since_check < kMappedSlice) continue;
        since_check = 0;
        BEELINE_RETURN_IF_ERROR(wait.check());
      }
    }
  }
  return Status::ok();
}

Status Portion::quantize_in_slices(transport::Endpoint& endpoint, std::uint64_t slice_bytes, const os::Wait& wait) {
  const auto size = static_cast<std::int64_t>(quantizer->from().bytes());
  // The largest block there is: each is read whole.
  std::int64_t largest = 0;
  for (const QuantizedMatrix& matrix : matrices) {
    largest = std::max(
        largest, std::min(matrix.rows, matrix.shape.rows) * std::min(matrix.columns, matrix.shape.columns) * size);
  }
  const auto memory =
      scratch->bytes(std::max(std::min(slice_bytes, transport::bytes_of(runs)), static_cast<std::uint64_t>(largest)));
  std::vector<Run> gathered;
  std::vector<Tile> tiles;
  std::uint64_t used = 0;
  const auto read_and_quantize = [&]() -> Status {
    BEELINE_RETURN_IF_ERROR(endpoint.read(gathered, wait));
    const std::byte* at = memory.data();
    for (const Tile& tile : tiles) {
      quantize(tile, {at, tile.columns * size, size});
      at += tile.rows * tile.columns * size;
    }
    gathered.clear();
    tiles.clear();
    used = 0;
    return wait.check();
  };
  for (const QuantizedMatrix& matrix : matrices) {
    const auto& [rows_high, columns_wide] = matrix.shape;
    for (std::int64_t row = 0; row < matrix.rows; row += rows_high) {
      const std::int64_t rows = std::min(rows_high, matrix.rows - row);
      const std::int64_t blocks = static_cast<std::int64_t>(memory.size()) / (rows * columns_wide * size);
      const std::int64_t step = std::max<std::int64_t>(1, blocks) * columns_wide;
      for (std::int64_t column = 0; column < matrix.columns; column += step) {
        const Tile tile{&matrix, row, column, rows, std::min(step, matrix.columns - column)};
        const auto bytes = static_cast<std::uint64_t>(tile.rows * tile.columns * size);
        if (used + bytes > memory.size()) BEELINE_RETURN_IF_ERROR(read_and_quantize());
        const std::int64_t distance = (row * matrix.row_stride + column * matrix.column_stride) * size;
        append_runs(*region, matrix.offset + static_cast<std::uint64_t>(distance),
                    {quantizer->from(), {tile.rows, tile.columns}, {matrix.row_stride, matrix.column_stride}},
                    memory.data() + used, {}, gathered);
        tiles.push_back(tile);
        used += bytes;
      }
    }
  }
  return tiles.empty() ? Status::ok() : read_and_quantize();
}

WholeState::WholeState(Peer& peer, std::span<const Portion> portions) : peer_(peer) {
  for (const Portion& portion : portions) {
    const bool is_new = std::ranges::find(regions_, portion.region) == regions_.end();
    if (portions.size() > 1 && is_new) regions_.push_back(portion.region);
  }
}

Result<std::uint64_t> WholeState::writes(const os::Wait& wait) const {
  if (regions_.empty()) return std::uint64_t{0};
  return peer_.writes_to(regions_, wait);
}

}  // namespace beeline::transfer
