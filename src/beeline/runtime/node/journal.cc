#include "beeline/runtime/node/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace beeline::runtime::node {
namespace {

// The file: this, then batches of a u32 size and as many bytes of entries: u8 kind, u64 key, u8 whether it is there,
// u32 size and the record.
constexpr std::string_view kJournalMagic = "BEEJRNL1";
constexpr std::size_t kEntryHead = 1 + 8 + 1 + 4;
constexpr std::uint64_t kMinBloat = 1u << 20;
constexpr std::uint64_t kBloatFactor = 4;

Status append_whole(int file, BytesView bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Status::from_errno("write " + path, written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return Status::ok();
}

Result<Bytes> journal_bytes(const std::string& path) {
  const os::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open() && errno == ENOENT) return Status(Code::kNotFound, "there is no journal at " + path);
  if (!file.is_open()) return Status::from_errno("open " + path, errno);
  Bytes bytes;
  std::byte buffer[65536];
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status::from_errno("read " + path, errno);
    if (got == 0) return bytes;
    bytes.insert(bytes.end(), buffer, buffer + got);
  }
}

// False where the batch is not made of whole entries.
bool take_batch(BytesView batch, Journal::Records& records) {
  Reader reader(batch);
  while (reader.ok() && reader.left() > 0) {
    const auto kind = reader.read<std::uint8_t>();
    const auto number = reader.read<std::uint64_t>();
    const auto is_there = reader.read<std::uint8_t>();
    const auto record = reader.read_block();
    if (!reader.ok()) return false;
    const Journal::Key key(static_cast<Journal::Kind>(kind), number);
    if (is_there != 0) {
      records[key].assign(record.begin(), record.end());
    } else {
      records.erase(key);
    }
  }
  return reader.ok();
}

}  // namespace

Result<Journal::Records> Journal::read(const std::string& path) {
  BEELINE_ASSIGN(const auto bytes, journal_bytes(path));
  Reader reader(bytes);
  if (as_text(reader.read_bytes(kJournalMagic.size())) != kJournalMagic) {
    return Status(Code::kCorrupt, path + " is not a journal of this version");
  }
  Records records;
  while (reader.left() >= sizeof(std::uint32_t)) {
    const auto size = reader.read<std::uint32_t>();
    if (reader.left() < size) break;  // its writer was killed while it wrote
    if (!take_batch(reader.read_bytes(size), records)) return Status(Code::kCorrupt, path + " does not decode");
  }
  return records;
}

void Journal::append(Key key, bool is_there, BytesView record) {
  Writer writer(batch_);
  writer.write(static_cast<std::uint8_t>(key.first));
  writer.write(key.second);
  writer.write(static_cast<std::uint8_t>(is_there ? 1 : 0));
  writer.write_block(record);
}

void Journal::put(Key key, BytesView record) {
  append(key, true, record);
  auto& size = sizes_[key];
  live_bytes_ += kEntryHead + record.size() - size;
  size = kEntryHead + record.size();
}

void Journal::drop(Key key) {
  const auto found = sizes_.find(key);
  if (found == sizes_.end()) return;
  live_bytes_ -= found->second;
  sizes_.erase(found);
  append(key, false, {});
}

void Journal::start_anew() {
  anew_ = true;
  batch_.clear();
  sizes_.clear();
  live_bytes_ = 0;
}

bool Journal::is_bloated() const {
  return file_bytes_ > kMinBloat + kBloatFactor * live_bytes_;
}

Status Journal::commit() {
  if (anew_) return replace();
  if (batch_.empty()) return Status::ok();
  Bytes framed;
  framed.reserve(sizeof(std::uint32_t) + batch_.size());
  Writer(framed).write_block(batch_);
  batch_.clear();
  BEELINE_RETURN_IF_ERROR(append_whole(file_.get(), framed, path_));
  file_bytes_ += framed.size();
  return Status::ok();
}

Status Journal::replace() {
  const std::string next = path_ + ".new";
  os::Fd file(::open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (!file.is_open()) return Status::from_errno("open " + next, errno);
  Bytes content;
  Writer writer(content);
  writer.append(as_bytes(kJournalMagic));
  if (!batch_.empty()) writer.write_block(batch_);
  batch_.clear();
  auto status = append_whole(file.get(), content, next);
  if (status && ::rename(next.c_str(), path_.c_str()) != 0) status = Status::from_errno("rename " + next, errno);
  if (!status) {
    ::unlink(next.c_str());
    return status;
  }
  file_ = std::move(file);
  file_bytes_ = content.size();
  anew_ = false;
  return Status::ok();
}

}  // namespace beeline::runtime::node
