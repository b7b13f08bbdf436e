// Values that were moved out of their holder's arena: a file each, in the session's folder, until their owner frees
// them. Every process of the session can map them. docs/wire_format.md describes the files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "beeline/base/bytes.h"
#include "beeline/base/clock.h"
#include "beeline/memory/region.h"
#include "beeline/os/fd.h"
#include "beeline/store/ids.h"

namespace beeline::runtime {

// The files of one session. Any thread.
class Spill {
 public:
  explicit Spill(const std::string& session_dir);

  // The bytes of a publication, which begin at `offset` of the holder's arena.
  Status write(store::ProcessIndex holder, memory::PublicationId id, std::uint64_t offset, BytesView bytes) const;
  void remove(store::ProcessIndex holder, memory::PublicationId id) const;

  // A publication's bytes, mapped privately: whoever writes them has written its own.
  class Opened {
   public:
    // Where bytes [offset, offset + size) of the holder's arena lie; null where they are not of this publication.
    [[nodiscard]] std::byte* at(std::uint64_t offset, std::uint64_t size) const;

   private:
    friend class Spill;
    os::Mapping file_;
    std::uint64_t offset_ = 0;
  };
  // kNotFound once its owner has freed it; kCorrupt for a file that is not of this publication.
  [[nodiscard]] Result<Opened> open(store::ProcessIndex holder, memory::PublicationId id, Deadline deadline) const;

 private:
  [[nodiscard]] std::string path(store::ProcessIndex holder, memory::PublicationId id) const;

  std::string folder_;
};

}  // namespace beeline::runtime
