#include "beeline/runtime/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "beeline/base/clock.h"
#include "beeline/os/fork_count.h"
#include "beeline/os/private_folder.h"
#include "beeline/transfer/agent_file.h"

namespace beeline::runtime {
namespace {

// The file grows by so much at a time.
constexpr std::uint64_t kMetricsRoomAtOnce = 64u << 10;
constexpr std::size_t kCell = sizeof(std::uint64_t);

// How many counters a series has: of a histogram, one for each bound and one for the rest.
std::size_t counts_of(MetricKind kind, std::size_t bounds) {
  return kind == MetricKind::kHistogram ? bounds + 1 : 0;
}

std::atomic<std::uint64_t>& cell(std::byte* at) {
  return *reinterpret_cast<std::atomic<std::uint64_t>*>(at);
}

// One process writes: a load and a store are as good as an addition.
void store_double(std::byte* at, double value) {
  cell(at).store(std::bit_cast<std::uint64_t>(value), std::memory_order_relaxed);
}
double load_double(std::byte* at) {
  return std::bit_cast<double>(cell(at).load(std::memory_order_relaxed));
}

Status bad_metrics(const std::string& what) {
  return {Code::kCorrupt, "no metrics of a process: " + what};
}

Status no_room(const std::string& why) {
  return {Code::kResourceExhausted, "no room for another series of metrics: " + why};
}

}  // namespace

// ----- its owner

Result<Metrics> Metrics::create() {
  Metrics metrics;
  metrics.forks_ = os::fork_count();
  BEELINE_ASSIGN(auto fd, os::make_memfd("beeline-metrics", kMaxMetricsBytes));
  BEELINE_RETURN_IF_ERROR(metrics.move_to(std::move(fd), kMaxMetricsBytes));
  auto& header = metrics.header();
  header.version = kMetricsVersion;
  header.magic = kMetricsMagic;
  header.used.store(sizeof(MetricsHeader), std::memory_order_release);  // pairs with a reader's order of reads
  return metrics;
}

// What is recorded so far goes along.
Status Metrics::move_to(os::Fd fd, std::uint64_t room) {
  BEELINE_ASSIGN(auto mapping,
                 os::Mapping::map(fd.get(), 0, kMaxMetricsBytes, os::Access::kReadWrite, os::Sharing::kShared));
  if (mapping_.data() != nullptr) {
    std::memcpy(mapping.data(), mapping_.data(), header().used.load(std::memory_order_relaxed));
  }
  mapping_ = std::move(mapping);
  fd_ = std::move(fd);
  room_ = room;
  return Status::ok();
}

// In a child of fork(): the file is the parent's.
void Metrics::leave_parent() {
  forks_ = os::fork_count();
  path_.clear();
  auto fd = os::make_memfd("beeline-metrics", kMaxMetricsBytes);
  const auto status = fd ? move_to(std::move(*fd), kMaxMetricsBytes) : fd.status();
  BEELINE_CHECK(status.is_ok(), "a child of fork() needs memory for its metrics: " + status.message());
}

std::byte* Metrics::value_of(Series series) {
  if (forks_ != os::fork_count()) leave_parent();
  const SeriesHeader& header = at(series);
  const auto counts = counts_of(static_cast<MetricKind>(header.kind), header.bounds);
  return mapping_.data() + series + sizeof(SeriesHeader) + (header.bounds + counts) * kCell;
}

// Blocks are taken before they are used: a full disk is an error here, and no signal at a store.
Status Metrics::make_room(std::uint64_t bytes) {
  if (bytes > kMaxMetricsBytes) {
    return no_room("those of a process may take " + std::to_string(kMaxMetricsBytes >> 20) +
                   " MiB. Do not put into a tag what differs at each record, as ids or times");
  }
  if (bytes <= room_) return Status::ok();
  const auto more = std::min<std::uint64_t>(kMaxMetricsBytes,
                                            (bytes + kMetricsRoomAtOnce - 1) / kMetricsRoomAtOnce * kMetricsRoomAtOnce);
  const int error = ::posix_fallocate(fd_.get(), 0, static_cast<off_t>(more));
  if (error != 0) return no_room(Status::from_errno("reserve space in " + path_, error).message());
  room_ = more;
  return Status::ok();
}

Result<Metrics::Series> Metrics::series(MetricKind kind, std::string_view name, std::string_view description,
                                        std::span<const double> bounds, const Tags& tags) {
  if (forks_ != os::fork_count()) leave_parent();
  const auto known = kinds_.emplace(name, kind).first;
  if (known->second != kind) {
    return Status(Code::kAlreadyExists, "a metric of another type is called " + std::string(name) +
                                            " in this process; give one of them another name");
  }
  const auto [found, is_new] = found_.try_emplace({std::string(name), tags}, 0);
  if (!is_new) return found->second;

  Bytes text;
  Writer writer(text);
  writer.write_string(name);
  writer.write_string(description);
  for (const auto& [key, value] : tags) {
    writer.write_string(key);
    writer.write_string(value);
  }
  const auto text_bytes = text.size();
  text.resize((text.size() + kCell - 1) / kCell * kCell);
  const std::size_t cells = bounds.size() + counts_of(kind, bounds.size()) + 1;
  const std::size_t size = sizeof(SeriesHeader) + cells * kCell + text.size();
  const Series here = header().used.load(std::memory_order_relaxed);
  const auto status =
      bounds.size() > UINT16_MAX ? no_room("it has more than 65535 boundaries") : make_room(here + size);
  if (!status) {
    header().lost.fetch_add(1, std::memory_order_relaxed);
    found_.erase(found);
    return status;
  }
  at(here) = {.bytes = static_cast<std::uint32_t>(size),
              .text_bytes = static_cast<std::uint32_t>(text_bytes),
              .bounds = static_cast<std::uint16_t>(bounds.size()),
              .kind = static_cast<std::uint8_t>(kind),
              .reserved = {}};
  std::byte* place = mapping_.data() + here + sizeof(SeriesHeader);
  for (const double bound : bounds) {
    store_double(place, bound);
    place += kCell;
  }
  std::memset(place, 0, (cells - bounds.size()) * kCell);
  std::memcpy(place + (cells - bounds.size()) * kCell, text.data(), text.size());
  header().used.store(here + size, std::memory_order_release);  // pairs with a reader's order of reads
  found->second = here;
  return here;
}

void Metrics::add(Series series, double amount) {
  std::byte* const value = value_of(series);
  store_double(value, load_double(value) + amount);
}

void Metrics::set(Series series, double value) {
  store_double(value_of(series), value);
}

void Metrics::observe(Series series, double value) {
  std::byte* const sum = value_of(series);
  const std::size_t bounds = at(series).bounds;
  std::byte* const first_bound = mapping_.data() + series + sizeof(SeriesHeader);
  // As Prometheus counts: a bucket takes what is at most its bound.
  std::size_t bucket = 0;
  while (bucket < bounds && !(value <= load_double(first_bound + bucket * kCell))) ++bucket;
  cell(first_bound + (bounds + bucket) * kCell).fetch_add(1, std::memory_order_relaxed);
  store_double(sum, load_double(sum) + value);
}

Status Metrics::expose(const std::string& folder, std::string_view id, store::ProcessIndex process) {
  if (forks_ != os::fork_count()) leave_parent();
  hide();
  BEELINE_RETURN_IF_ERROR(os::make_private_folder(folder));
  const std::string path = folder + "/" + std::string(id) + std::string(transfer::kMetricsSuffix);
  const std::string unfinished = folder + "/" + std::string(id) + std::string(transfer::kUnfinishedMetricsSuffix);
  BEELINE_ASSIGN(auto fd, transfer::create_agent_file(unfinished));
  const auto used = header().used.load(std::memory_order_relaxed);
  const auto room = (used + kMetricsRoomAtOnce) / kMetricsRoomAtOnce * kMetricsRoomAtOnce;
  const int error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(std::min<std::uint64_t>(room, kMaxMetricsBytes)));
  auto status = error == 0 ? Status::ok() : Status::from_errno("reserve space in " + unfinished, error);
  if (status) status = move_to(std::move(fd), std::min<std::uint64_t>(room, kMaxMetricsBytes));
  if (!status) {
    ::unlink(unfinished.c_str());
    return status;
  }
  header().pid = ::getpid();
  header().process = process;
  header().started_ns = std::chrono::duration_cast<Nanos>(std::chrono::system_clock::now().time_since_epoch()).count();
  path_ = ::rename(unfinished.c_str(), path.c_str()) == 0 ? path : unfinished;
  return path_ == path ? Status::ok() : Status::from_errno("rename " + unfinished, errno);
}

void Metrics::hide() {
  if (path_.empty() || forks_ != os::fork_count()) return;
  ::unlink(path_.c_str());
  path_.clear();
}

// ----- its readers

namespace {

Result<MetricsReading::Series> read_series(Reader& reader) {
  MetricsReading::Series series;
  const auto header = reader.read<SeriesHeader>();
  if (!reader.ok() || header.kind >= kMetricKinds) return bad_metrics("a series of an unknown kind");
  series.kind = static_cast<MetricKind>(header.kind);
  const std::size_t counts = counts_of(series.kind, header.bounds);
  const std::size_t fixed = sizeof(SeriesHeader) + (header.bounds + counts + 1) * kCell;
  if (header.bytes % kCell != 0 || header.bytes < fixed || header.bytes - fixed < header.text_bytes ||
      reader.left() < header.bytes - sizeof(SeriesHeader)) {
    return bad_metrics("a series of " + std::to_string(header.bytes) + " bytes");
  }
  for (std::size_t i = 0; i < header.bounds; ++i) series.bounds.push_back(reader.read<double>());
  for (std::size_t i = 0; i < counts; ++i) series.counts.push_back(reader.read<std::uint64_t>());
  series.value = reader.read<double>();
  Reader text(reader.read_bytes(header.text_bytes));
  reader.read_bytes(header.bytes - fixed - header.text_bytes);
  series.name = text.read_string();
  series.description = text.read_string();
  while (text.ok() && text.left() > 0) {
    auto key = text.read_string();
    series.tags.emplace_back(std::move(key), text.read_string());
  }
  if (!text.ok()) return bad_metrics("a series whose texts end early");
  return series;
}

}  // namespace

Result<MetricsReading> decode_metrics(BytesView file) {
  Reader reader(file);
  MetricsReading reading;
  if (reader.read<std::uint64_t>() != kMetricsMagic) return bad_metrics("it does not begin with \"BELmetr1\"");
  const auto version = reader.read<std::uint32_t>();
  if (version != kMetricsVersion) {
    return bad_metrics("it is of version " + std::to_string(version) + ", this release reads version " +
                       std::to_string(kMetricsVersion));
  }
  reading.pid = reader.read<std::int32_t>();
  reading.process = reader.read<std::uint32_t>();
  reader.read<std::uint32_t>();
  reading.started_ns = reader.read<std::int64_t>();
  const auto used = reader.read<std::uint64_t>();
  reading.lost = reader.read<std::uint64_t>();
  reader.read_bytes(sizeof(MetricsHeader::reserved_too));
  if (!reader.ok() || used < sizeof(MetricsHeader) || used > file.size()) {
    return bad_metrics("it has " + std::to_string(file.size()) + " bytes and uses " + std::to_string(used));
  }
  Reader rest(file.subspan(sizeof(MetricsHeader), used - sizeof(MetricsHeader)));
  while (rest.left() > 0) {
    BEELINE_ASSIGN(auto series, read_series(rest));
    reading.series.push_back(std::move(series));
  }
  return reading;
}

Result<MetricsReading> read_metrics(const std::string& path) {
  BEELINE_ASSIGN(const auto fd, transfer::open_agent_file(path));
  // The header first: the series that it counts were written before.
  Bytes bytes;
  BEELINE_RETURN_IF_ERROR(transfer::append_from(fd.get(), 0, sizeof(MetricsHeader), bytes).with_context(path));
  BEELINE_RETURN_IF_ERROR(transfer::append_from(fd.get(), bytes.size(), kMaxMetricsBytes - sizeof(MetricsHeader), bytes)
                              .with_context(path));
  auto reading = decode_metrics(bytes);
  if (!reading) return reading.status().with_context(path);
  reading->alive = transfer::is_held(fd.get());
  return reading;
}

}  // namespace beeline::runtime
