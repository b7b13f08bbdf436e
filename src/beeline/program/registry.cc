#include "beeline/program/registry.h"

#include <utility>

namespace beeline::program {

// Filled before main(), by static initialisers of any file.
Registry& registry() {
  static Registry instance;
  return instance;
}

void register_function(std::string name, std::string pointer, Invoke invoke) {
  registry().names[std::move(pointer)] = name;
  registry().functions[std::move(name)] = std::move(invoke);
}

void register_factory(std::string name, std::string pointer, std::string type, Make make) {
  registry().names[std::move(pointer)] = name;
  registry().factories[std::move(name)] = {std::move(type), std::move(make)};
}

std::string registered_name(const std::string& pointer) {
  const auto found = registry().names.find(pointer);
  return found == registry().names.end() ? std::string() : found->second;
}

std::vector<std::string> names_of(std::string_view list) {
  std::vector<std::string> names(1);
  int depth = 0;
  for (const char letter : list) {
    if (letter == '<' || letter == '(') ++depth;
    if (letter == '>' || letter == ')') --depth;
    if (letter == ',' && depth == 0) {
      names.emplace_back();
    } else if (letter != ' ' && letter != '\n' && letter != '\t' && letter != '&') {
      names.back() += letter;
    }
  }
  return names;
}

}  // namespace beeline::program
