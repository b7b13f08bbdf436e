#include "beeline/runtime/spill.h"

#include <array>
#include <cerrno>

#include "beeline/os/file.h"
#include "beeline/os/private_folder.h"

namespace beeline::runtime {
namespace {

// The first page of a file; the bytes follow it.
struct SpillHeader {
  static constexpr std::uint64_t kMagic = 0x316c6970734c4542;  // "BELspil1"
  std::uint64_t magic = kMagic;
  std::uint64_t publication = 0;  // generation << 32 | slot
  std::uint64_t offset = 0;       // of the first byte, in the holder's arena
  std::uint64_t size = 0;
  std::byte rest[4096 - 32] = {};
};
static_assert(sizeof(SpillHeader) == 4096);

std::uint64_t number_of(memory::PublicationId id) {
  return std::uint64_t{id.generation} << 32 | id.slot;
}

}  // namespace

Spill::Spill(const std::string& session_dir) : folder_(session_dir + "/spill") {}

std::string Spill::path(store::ProcessIndex holder, memory::PublicationId id) const {
  return folder_ + "/p" + std::to_string(holder) + "-" + std::to_string(id.slot) + "-" + std::to_string(id.generation);
}

Status Spill::write(store::ProcessIndex holder, memory::PublicationId id, std::uint64_t offset, BytesView bytes) const {
  SpillHeader header;
  header.publication = number_of(id);
  header.offset = offset;
  header.size = bytes.size();
  const std::array<iovec, 2> pieces{{{&header, sizeof header}, {const_cast<std::byte*>(bytes.data()), bytes.size()}}};
  auto status = os::write_file(path(holder, id), pieces);
  if (status.system_error() != ENOENT) return status;
  BEELINE_RETURN_IF_ERROR(os::make_private_folder(folder_));
  return os::write_file(path(holder, id), pieces);
}

void Spill::remove(store::ProcessIndex holder, memory::PublicationId id) const {
  os::remove_file(path(holder, id));
}

Result<Spill::Opened> Spill::open(store::ProcessIndex holder, memory::PublicationId id, Deadline deadline) const {
  const auto name = path(holder, id);
  BEELINE_ASSIGN(const auto file, os::open_file(name));
  BEELINE_ASSIGN(const auto size, os::size_of(file, name));
  if (size < sizeof(SpillHeader)) return Status(Code::kCorrupt, name + " ends early");
  Opened opened;
  BEELINE_ASSIGN(opened.file_, os::Mapping::map(file.get(), 0, size, os::Access::kReadWrite, os::Sharing::kPrivate));
  BEELINE_RETURN_IF_ERROR(os::read_in(opened.file_, deadline));
  const auto& header = *reinterpret_cast<const SpillHeader*>(opened.file_.data());
  if (header.magic != SpillHeader::kMagic || header.publication != number_of(id) ||
      header.size != size - sizeof header) {
    return Status(Code::kCorrupt, name + " is not the file of this publication");
  }
  opened.offset_ = header.offset;
  return opened;
}

std::byte* Spill::Opened::at(std::uint64_t offset, std::uint64_t size) const {
  const std::uint64_t bytes = file_.size() - sizeof(SpillHeader);
  if (offset < offset_ || offset - offset_ > bytes || size > bytes - (offset - offset_)) return nullptr;
  return file_.data() + sizeof(SpillHeader) + (offset - offset_);
}

}  // namespace beeline::runtime
