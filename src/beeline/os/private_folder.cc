#include "beeline/os/private_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace beeline::os {

std::string user_folder() {
  const char* base = std::getenv("BEELINE_TMPDIR");
  return std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/beeline-" + std::to_string(::geteuid());
}

Status make_private_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0) return Status::ok();
  if (errno != EEXIST) return Status::from_errno("make directory " + path, errno);
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) return Status::from_errno("stat " + path, errno);
  if (S_ISDIR(info.st_mode) && info.st_uid == ::geteuid() && (info.st_mode & 0077) == 0) return Status::ok();
  return {Code::kInvalidArgument, path +
                                      " is not a directory of this user alone (mode 0700): remove it, or set "
                                      "BEELINE_TMPDIR to another place"};
}

}  // namespace beeline::os
