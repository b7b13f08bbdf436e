// Folders that are one user's alone: where sessions and agents keep their sockets.
#pragma once

#include <string>

#include "beeline/base/status.h"

namespace beeline::os {

// <BEELINE_TMPDIR or /tmp>/beeline-<uid>. Whoever leaves it empty may remove it: it can go between two calls.
std::string user_folder();

// Makes the folder with mode 0700 where it is not there. kInvalidArgument for one that is there and is anybody
// else's, too.
Status make_private_folder(const std::string& path);

}  // namespace beeline::os
