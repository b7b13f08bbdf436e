// What this program has registered, by the names that other processes use.
#pragma once

#include <map>
#include <string>

#include "beeline/program/remote.h"

namespace beeline::program {

struct Factory {
  std::string type;
  Make make;
};

struct Registry {
  std::map<std::string, Invoke> functions;  // and methods, as "type::name"
  std::map<std::string, Factory> factories;
  std::map<std::string, std::string> names;  // by pointer
};
Registry& registry();

}  // namespace beeline::program
