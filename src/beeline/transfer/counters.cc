#include "beeline/transfer/counters.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>

#include "beeline/transfer/agent_file.h"

namespace beeline::transfer {
namespace {

// The file grows by so many rows at a time.
constexpr std::uint32_t kRowsAtOnce = 32;

std::uint64_t size_with(std::uint32_t rows) {
  return offsetof(CountersFile, rows) + std::uint64_t{rows} * sizeof(CounterRow);
}

Status bad_counters(const std::string& what) {
  return {Code::kCorrupt, "no counters of an agent: " + what};
}

CountersReading::Row read_row(Reader& reader) {
  CountersReading::Row row;
  row.peer_id = field_text(reader.read_bytes(sizeof(CounterRow::peer_id)));
  row.peer_name = field_text(reader.read_bytes(sizeof(CounterRow::peer_name)));
  row.path = field_text(reader.read_bytes(sizeof(CounterRow::path)));
  row.operation = static_cast<Operation>(reader.read<std::uint8_t>());
  row.size_class = reader.read<std::uint8_t>();
  reader.read_bytes(sizeof(CounterRow::reserved));
  row.bytes = reader.read<std::uint64_t>();
  row.nanoseconds = reader.read<std::uint64_t>();
  row.failures = reader.read<std::uint64_t>();
  row.failovers = reader.read<std::uint64_t>();
  reader.read_bytes(sizeof(CounterRow::reserved_counters));
  for (auto& count : row.latency) count = reader.read<std::uint64_t>();
  return row;
}

}  // namespace

// ----- its owner

Result<std::shared_ptr<Counters>> Counters::create(const std::string& folder, std::string_view id,
                                                   std::string_view name) {
  const std::string place = folder + "/" + std::string(id);
  const std::string path = place + std::string(kUnfinishedCountersSuffix);
  BEELINE_ASSIGN(auto fd, create_agent_file(path));
  auto made = start(std::move(fd), path, id, name);
  if (!made) {
    ::unlink(path.c_str());
    return made;
  }
  auto spans = Spans::create(place + std::string(kSpansSuffix), id);
  if (!spans) {
    (*made)->remove();
    return spans.status();
  }
  (*made)->spans_ = std::move(*spans);
  return made;
}

Result<std::shared_ptr<Counters>> Counters::create_unseen(std::string_view id, std::string_view name) {
  BEELINE_ASSIGN(auto fd, os::make_memfd("beeline-counters", sizeof(CountersFile)));
  return start(std::move(fd), {}, id, name);
}

Result<std::shared_ptr<Counters>> Counters::start(os::Fd fd, std::string path, std::string_view id,
                                                  std::string_view name) {
  std::shared_ptr<Counters> counters(new Counters());
  counters->fd_ = std::move(fd);
  if (!counters->make_room(1)) return Status::from_errno("reserve space for counters", errno);
  // All that it may grow to: what lies beyond its end is never touched.
  BEELINE_ASSIGN(counters->mapping_, os::Mapping::map(counters->fd_.get(), 0, sizeof(CountersFile),
                                                      os::Access::kReadWrite, os::Sharing::kShared));
  counters->path_ = std::move(path);
  CountersHeader& header = counters->file().header;
  header.version = kCountersVersion;
  header.row_bytes = sizeof(CounterRow);
  header.max_rows = kMaxCounterRows;
  header.pid = ::getpid();
  header.started_ns = std::chrono::duration_cast<Nanos>(std::chrono::system_clock::now().time_since_epoch()).count();
  write_field(header.id, id);
  write_field(header.name, name);
  header.magic = kCountersMagic;
  header.numbers.rows.store(1, std::memory_order_release);  // row 0 is all zeroes; pairs with a reader's order of reads
  return counters;
}

// Blocks are taken before a row is used: a full disk is an error here, and no signal at a store.
bool Counters::make_room(std::uint32_t rows) {
  if (rows <= room_) return true;
  const std::uint32_t more = std::min(kMaxCounterRows, room_ + kRowsAtOnce);
  const int error = ::posix_fallocate(fd_.get(), 0, static_cast<off_t>(size_with(more)));
  errno = error;
  if (error != 0) return false;
  room_ = more;
  return true;
}

Status Counters::appear(std::string_view address) {
  if (path_.empty()) return Status::ok();
  CountersHeader& header = file().header;
  const std::size_t size = std::min(address.size(), kMaxCountedAddress);
  std::copy_n(address.begin(), size, header.address);
  header.address_bytes = static_cast<std::uint32_t>(size);
  const std::string final =
      path_.substr(0, path_.size() - kUnfinishedCountersSuffix.size()) + std::string(kCountersSuffix);
  if (::rename(path_.c_str(), final.c_str()) != 0) return Status::from_errno("rename " + path_, errno);
  path_ = final;
  return Status::ok();
}

void Counters::remove() {
  if (spans_ != nullptr) spans_->remove();
  if (path_.empty()) return;
  ::unlink(path_.c_str());
  path_.clear();
}

void Counters::published(std::string_view name, std::uint64_t bytes, Clock::time_point begin) {
  if (spans_ != nullptr) spans_->record({Operation::kPublish, 0, bytes, begin, Clock::now() - begin, Code::kOk}, name);
}

CounterRow& Counters::row(std::string_view peer_id, std::string_view peer_name, std::string_view path,
                          Operation operation, std::size_t size_class) {
  const std::lock_guard guard(mutex_);
  const auto [found, is_new] =
      rows_.try_emplace({std::string(peer_id), std::string(path), operation, size_class}, nullptr);
  if (!is_new) return *found->second;
  AgentNumbers& numbers = this->numbers();
  const std::uint32_t at = numbers.rows.load(std::memory_order_relaxed);  // written under the mutex
  if (at >= kMaxCounterRows || !make_room(at + 1)) {
    numbers.rows_lost.fetch_add(1, std::memory_order_relaxed);
    found->second = file().rows;
    return *found->second;
  }
  CounterRow& row = file().rows[at];
  write_field(row.peer_id, peer_id);
  write_field(row.peer_name, peer_name);
  write_field(row.path, path);
  row.operation = static_cast<std::uint8_t>(operation);
  row.size_class = static_cast<std::uint8_t>(size_class);
  numbers.rows.store(at + 1, std::memory_order_release);  // pairs with a reader's order of reads
  found->second = &row;
  return row;
}

PeerCounters::PeerCounters(std::shared_ptr<Counters> home, std::string id, std::string name,
                           std::vector<std::string> paths)
    : home_(std::move(home)),
      spans_(home_->spans()),
      id_(std::move(id)),
      name_(std::move(name)),
      paths_(std::move(paths)),
      rows_(paths_.size() * kCountedOperations * kSizeClasses) {}

CounterRow& PeerCounters::find(std::size_t path, Operation operation, std::size_t size) {
  CounterRow& row = home_->row(id_, name_, paths_[path], operation, size);
  // Release: pairs with the acquire in row_of().
  place(path, operation, size).store(&row, std::memory_order_release);
  return row;
}

// ----- its readers

Result<CountersReading> decode_counters(BytesView file) {
  if (file.size() < sizeof(CountersHeader)) {
    return bad_counters("it has " + std::to_string(file.size()) + " bytes, the header alone " +
                        std::to_string(sizeof(CountersHeader)));
  }
  Reader reader(file);
  if (reader.read<std::uint64_t>() != kCountersMagic) return bad_counters("it does not begin with \"BELcntr1\"");
  const auto version = reader.read<std::uint32_t>();
  if (version != kCountersVersion) {
    return bad_counters("it is of version " + std::to_string(version) + ", this release reads version " +
                        std::to_string(kCountersVersion) + ": read it by the release that the agent runs");
  }
  const auto row_bytes = reader.read<std::uint32_t>();
  const auto max_rows = reader.read<std::uint32_t>();
  CountersReading reading;
  reading.pid = reader.read<std::int32_t>();
  reading.started_ns = reader.read<std::int64_t>();
  reading.id = field_text(reader.read_bytes(sizeof(CountersHeader::id)));
  reading.name = field_text(reader.read_bytes(sizeof(CountersHeader::name)));
  const auto address_bytes = reader.read<std::uint32_t>();
  reader.read_bytes(sizeof(CountersHeader::reserved));
  const auto rows = reader.read<std::uint32_t>();
  reading.rows_lost = reader.read<std::uint32_t>();
  reading.refused = reader.read<std::uint64_t>();
  reading.registrations = reader.read<std::uint64_t>();
  reading.visitors = reader.read<std::uint64_t>();
  reading.peers = reader.read<std::uint64_t>();
  reading.unreached = reader.read<std::uint64_t>();
  reader.read_bytes(sizeof(AgentNumbers::reserved) + sizeof(CountersHeader::reserved_numbers));
  const BytesView address = reader.read_bytes(kMaxCountedAddress);
  if (row_bytes != sizeof(CounterRow) || max_rows > kMaxCounterRows || rows == 0 || rows > max_rows) {
    return bad_counters(std::to_string(rows) + " rows of at most " + std::to_string(max_rows) + ", " +
                        std::to_string(row_bytes) + " bytes each");
  }
  if (address_bytes > address.size()) return bad_counters("an address of " + std::to_string(address_bytes) + " bytes");
  if (reading.pid <= 0) return bad_counters("process " + std::to_string(reading.pid));
  reading.address = std::string(as_text(address.first(address_bytes)));
  if (reader.left() < std::size_t{rows} * sizeof(CounterRow)) {
    return bad_counters("it was cut short: it has " + std::to_string(file.size()) + " bytes, its " +
                        std::to_string(rows) + " rows need " + std::to_string(size_with(rows)));
  }
  reading.rows.reserve(rows - 1);
  for (std::uint32_t i = 0; i < rows; ++i) {
    auto& row = i == 0 ? reading.rest : reading.rows.emplace_back();
    row = read_row(reader);
    if (static_cast<std::size_t>(row.operation) >= kCountedOperations || row.size_class >= kSizeClasses) {
      return bad_counters("row " + std::to_string(i) + " is of operation " +
                          std::to_string(static_cast<unsigned>(row.operation)) + " and size " +
                          std::to_string(row.size_class));
    }
  }
  return reading;
}

Result<CountersReading> read_counters(const std::string& path) {
  BEELINE_ASSIGN(const auto fd, open_agent_file(path));
  // The header first: rows that it counts were written before.
  Bytes bytes;
  BEELINE_RETURN_IF_ERROR(append_from(fd.get(), 0, sizeof(CountersHeader), bytes).with_context(path));
  BEELINE_RETURN_IF_ERROR(
      append_from(fd.get(), bytes.size(), sizeof(CountersFile) - sizeof(CountersHeader), bytes).with_context(path));
  auto reading = decode_counters(bytes);
  if (!reading) return reading.status().with_context(path);
  reading->alive = is_held(fd.get());
  return reading;
}

}  // namespace beeline::transfer
