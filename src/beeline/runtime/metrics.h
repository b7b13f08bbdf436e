// Numbers that a program keeps of itself (ray.util.metrics), in a file that any process of its user can read while the
// program runs.
//
// docs/wire_format.md is the format's description, transfer/agent_file.h tells the rules of such files.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"
#include "beeline/store/ids.h"

namespace beeline::runtime {

// ----- the file: offsets and explicit widths, no pointers. All atomics but `used` are relaxed: numbers on their own.

inline constexpr std::uint64_t kMetricsMagic = 0x317274656D4C4542;  // "BELmetr1", little-endian
inline constexpr std::uint32_t kMetricsVersion = 1;
inline constexpr std::size_t kMaxMetricsBytes = 4u << 20;

enum class MetricKind : std::uint8_t { kCounter = 0, kGauge = 1, kHistogram = 2 };
inline constexpr std::size_t kMetricKinds = 3;

struct MetricsHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::int32_t pid;
  std::uint32_t process;  // its index in the session
  std::uint32_t reserved;
  std::int64_t started_ns;          // since 1970
  std::atomic<std::uint64_t> used;  // bytes of the file that hold series; release after a series is there
  std::atomic<std::uint64_t> lost;  // series that found no room: what they record is nowhere
  std::uint64_t reserved_too[2];
};

// Begins a series. Behind it: `bounds` doubles; of a histogram a counter for each, and one for what lies above all of
// them; the value (a histogram's sum), a double; `text_bytes` of text: name, description, then keys and values of the
// tags, each with a u32 length before it.
struct SeriesHeader {
  std::uint32_t bytes;  // of the whole series, a multiple of 8
  std::uint32_t text_bytes;
  std::uint16_t bounds;
  std::uint8_t kind;  // MetricKind
  std::uint8_t reserved[5];
};

static_assert(std::is_standard_layout_v<MetricsHeader> && std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(offsetof(MetricsHeader, pid) == 12 && offsetof(MetricsHeader, process) == 16);
static_assert(offsetof(MetricsHeader, started_ns) == 24 && offsetof(MetricsHeader, used) == 32);
static_assert(offsetof(MetricsHeader, lost) == 40 && sizeof(MetricsHeader) == 64);
static_assert(offsetof(SeriesHeader, bounds) == 8 && offsetof(SeriesHeader, kind) == 10 && sizeof(SeriesHeader) == 16);

// ----- its owner

// The metrics of one process. Not thread-safe: the caller (Python, which holds the GIL) serializes all calls. A child
// of fork() has a copy of its own, which nobody sees.
class Metrics {
 public:
  using Series = std::size_t;                                     // its offset
  using Tags = std::vector<std::pair<std::string, std::string>>;  // by key

  // Until expose() in memory of this process alone.
  static Result<Metrics> create();

  // The series of that name and tags, made if need be. kAlreadyExists when the name is that of another kind of metric;
  // kResourceExhausted when there is no room, in the file or on the disk. `bounds`, of a histogram, ascend; those that
  // the series was made with stay.
  Result<Series> series(MetricKind kind, std::string_view name, std::string_view description,
                        std::span<const double> bounds, const Tags& tags);
  void add(Series series, double amount);     // to a counter
  void set(Series series, double value);      // a gauge
  void observe(Series series, double value);  // into a histogram

  // From here on in a file `<folder>/<id>.metrics`, which remove_left_behind() removes after a kill -9. On failure they
  // stay where they are.
  Status expose(const std::string& folder, std::string_view id, store::ProcessIndex process);
  [[nodiscard]] bool is_exposed() const { return !path_.empty(); }
  // Removes the file. What is recorded later is seen again after the next expose().
  void hide();

 private:
  Metrics() = default;
  [[nodiscard]] MetricsHeader& header() { return *reinterpret_cast<MetricsHeader*>(mapping_.data()); }
  [[nodiscard]] SeriesHeader& at(Series series) { return *reinterpret_cast<SeriesHeader*>(mapping_.data() + series); }
  [[nodiscard]] std::byte* value_of(Series series);
  Status make_room(std::uint64_t bytes);
  Status move_to(os::Fd fd, std::uint64_t room);
  void leave_parent();

  os::Fd fd_;
  os::Mapping mapping_;     // kMaxMetricsBytes; touched as far as `room_`
  std::uint64_t room_ = 0;  // bytes that are there for sure
  std::string path_;        // empty: nobody else sees it
  std::uint64_t forks_ = 0;
  std::map<std::tuple<std::string, Tags>, Series> found_;
  std::map<std::string, MetricKind, std::less<>> kinds_;
};

// ----- its readers

struct MetricsReading {
  struct Series {
    MetricKind kind = MetricKind::kCounter;
    std::string name, description;
    Metrics::Tags tags;
    double value = 0;  // a histogram's sum
    std::vector<double> bounds;
    std::vector<std::uint64_t> counts;  // one more than there are bounds
  };
  std::int32_t pid = 0;
  store::ProcessIndex process = 0;
  std::int64_t started_ns = 0;
  std::uint64_t lost = 0;
  bool alive = false;  // somebody holds the file
  std::vector<Series> series;
};

// kCorrupt for anything else than such a file.
Result<MetricsReading> decode_metrics(BytesView file);
// kNotFound when there is none (any more).
Result<MetricsReading> read_metrics(const std::string& path);

}  // namespace beeline::runtime
