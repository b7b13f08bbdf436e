// What the daemon must know again after it was killed: records under keys, of which the last one counts, in a file that
// is only appended to and written anew when most of it is out of date. It outlives the process, not the machine:
// nothing is synced to the disk.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"

namespace beeline::runtime::node {

class Journal {
 public:
  enum class Kind : std::uint8_t {
    kHeader = 1,  // with key 0: what the daemon was started with
    kState = 2,   // with key 0: numbers that were given out, zygotes
    kNode = 3,
    kJob = 4,
    kProcess = 5,
    kWorker = 6,
    kActor = 7,  // what it was created with
    kActorState = 8,
    kGroup = 9,
    kGroupState = 10,
    kDemand = 11,
    kCounters = 12,  // with key 0; of a second ago, say
  };
  using Key = std::pair<Kind, std::uint64_t>;
  using Records = std::map<Key, Bytes>;

  // To be written to `path` by the first commit(), which replaces what another daemon has left there.
  explicit Journal(std::string path) : path_(std::move(path)) {}
  // The records after the last whole commit: what was being written when its writer was killed does not count.
  // kNotFound if there is no journal, kCorrupt if the file is none.
  static Result<Records> read(const std::string& path);

  // Both take effect with the next commit().
  void put(Key key, BytesView record);
  void drop(Key key);
  // One write. After a failure the journal is as it was, and what was put is lost: it has to be given up.
  Status commit();

  [[nodiscard]] bool has(Key key) const { return sizes_.contains(key); }
  // Whether to write it anew: after start_anew(), all records are to be put before the next commit(), which replaces
  // the file.
  [[nodiscard]] bool is_bloated() const;
  void start_anew();

  [[nodiscard]] std::uint64_t file_bytes() const { return file_bytes_; }

 private:
  void append(Key key, bool is_there, BytesView record);
  Status replace();

  std::string path_;
  os::Fd file_;
  std::uint64_t file_bytes_ = 0;
  Bytes batch_;
  bool anew_ = true;
  std::map<Key, std::size_t> sizes_;  // of the records that count
  std::uint64_t live_bytes_ = 0;
};

}  // namespace beeline::runtime::node
