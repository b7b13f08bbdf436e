#include "beeline/transfer/agents_folder.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "beeline/os/private_folder.h"
#include "beeline/os/unix_socket.h"
#include "beeline/transfer/agent_file.h"

namespace beeline::transfer {

std::string agents_folder() {
  return os::user_folder() + "/agents";
}

void remove_left_behind(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string path = entry.path().string();
    if (path.ends_with(kAgentSocketSuffix) && os::is_left_behind(path)) ::unlink(path.c_str());
    if (is_agent_file(path)) remove_if_left_behind(path);
  }
}

}  // namespace beeline::transfer
