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
  // Elements of so many bytes on either side.
  Pieces(std::span<const Run> runs, std::uint64_t from, std::uint64_t to) : runs_(runs), from_(from), to_(to) {}
  Pieces(std::span<const Run> runs, const Conversion& conversion)
      : Pieces(runs, conversion.from().bytes(), conversion.to().bytes()) {}

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

// A piece, and where its bytes have arrived, side by side.
struct Arrived {
  Run piece;
  const std::byte* from = nullptr;
};

// Appends what reads the piece to `to`, side by side; it goes on with the last one where it lies behind that.
void append_gathered(const Run& piece, std::byte* to, std::vector<Run>& gathered) {
  if (piece.count > 1 && piece.stride != piece.length) {
    gathered.push_back({piece.region, piece.offset, to, piece.length, piece.count, piece.stride, piece.length});
    return;
  }
  if (!gathered.empty() && gathered.back().count == 1 &&
      gathered.back().offset + gathered.back().length == piece.offset) {
    gathered.back().length += piece.bytes();
    return;
  }
  gathered.push_back({piece.region, piece.offset, to, piece.bytes()});
}

// Pieces side by side in memory here, as columns of a matrix are, are filled together: as many as a line holds.
constexpr std::size_t kTogether = 16;

template <std::size_t kLength>
void scatter_together(std::span<const Arrived> pieces, std::size_t length) {
  const Run& first = pieces.front().piece;
  for (std::uint64_t i = 0; i < first.count; ++i) {
    for (const Arrived& each : pieces) {
      std::byte* const to = each.piece.local + i * first.local_stride;
      if constexpr (kLength != 0) {
        std::memcpy(to, each.from + i * kLength, kLength);
      } else {
        std::memcpy(to, each.from + i * length, length);
      }
    }
  }
}

void scatter(std::span<const Arrived> arrived) {
  while (!arrived.empty()) {
    const Run& first = arrived.front().piece;
    std::size_t together = 1;
    while (together < std::min(arrived.size(), kTogether) && arrived[together].piece.length == first.length &&
           arrived[together].piece.count == first.count && arrived[together].piece.local_stride == first.local_stride) {
      ++together;
    }
    const auto pieces = arrived.first(together);
    switch (first.length) {
      case 1:
        scatter_together<1>(pieces, 1);
        break;
      case 2:
        scatter_together<2>(pieces, 2);
        break;
      case 4:
        scatter_together<4>(pieces, 4);
        break;
      case 8:
        scatter_together<8>(pieces, 8);
        break;
      default:
        scatter_together<0>(pieces, first.length);
    }
    arrived = arrived.subspan(together);
  }
}

Stores stores_of(std::span<const Run> runs, const Conversion& conversion) {
  const std::uint64_t bytes = transport::bytes_of(runs) / conversion.from().bytes() * conversion.to().bytes();
  return bytes < kPastCaches ? Stores::kCached : Stores::kPastCaches;
}

// For each read there would be, so many pieces are put in their places: fewer are not worth a second copy.
constexpr std::uint64_t kWorthScattering = 4;

}  // namespace

void Portion::look_for_scattering() {
  if (!region->device.is_host() || !local_device.is_host()) return;
  std::uint64_t pieces = 0, reads = 0;
  const Run* last = nullptr;
  for (const Run& run : runs) {
    const bool is_solid = run.count == 1 || run.stride == run.length;
    const bool goes_on = is_solid && last != nullptr && last->offset + last->bytes() == run.offset;
    pieces += run.count;
    if (!goes_on) reads += is_solid ? 1 : run.count;
    last = is_solid ? &run : nullptr;
  }
  scatters = pieces >= kWorthScattering * reads && transport::bytes_of(runs) < pieces * kShort;
}

Status Portion::operator()(transport::Endpoint& endpoint, const transport::Capabilities& capabilities,
                           const os::Wait& wait) {
  const std::byte* const view = endpoint.view(*region);
  if (conversion) {
    if (view != nullptr) return convert_mapped(view, wait);
    const auto place = [&, stores = stores_of(runs, *conversion)](std::span<const Arrived> arrived) {
      for (const auto& [piece, from] : arrived) convert(*conversion, piece, from, piece.length, stores);
    };
    return read_in_slices(endpoint, capabilities.slice_bytes, conversion->from().bytes(), conversion->to().bytes(),
                          wait, place);
  }
  if (!quantizer) {
    if (view != nullptr) return endpoint.read(runs, wait);
    return read_in_slices(endpoint, capabilities.slice_bytes, 1, 1, wait, scatter);
  }
  return view != nullptr ? quantize_mapped(view, wait) : quantize_in_slices(endpoint, capabilities.slice_bytes, wait);
}

std::span<std::byte> Portion::slice(std::uint64_t bytes) {
  if (slice_size_ < bytes) {
    slice_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
    slice_size_ = bytes;
  }
  return {slice_.get(), bytes};
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

template <typename Place>
Status Portion::read_in_slices(transport::Endpoint& endpoint, std::uint64_t slice_bytes, std::uint64_t from,
                               std::uint64_t to, const os::Wait& wait, Place&& place) {
  const auto memory = slice(std::min(slice_bytes, transport::bytes_of(runs)));
  std::vector<Run> gathered;  // what is read, side by side
  std::vector<Arrived> arrived;
  for (Pieces pieces(runs, from, to); !pieces.is_done();) {
    gathered.clear();
    arrived.clear();
    std::uint64_t used = 0;
    while (!pieces.is_done() && memory.size() - used >= from) {
      const Run piece = pieces.next(memory.size() - used);
      arrived.push_back({piece, memory.data() + used});
      append_gathered(piece, memory.data() + used, gathered);
      used += piece.bytes();
    }
    BEELINE_RETURN_IF_ERROR(endpoint.read(gathered, wait));
    place(std::span<const Arrived>(arrived));
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
      slice(std::max(std::min(slice_bytes, transport::bytes_of(runs)), static_cast<std::uint64_t>(largest)));
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
