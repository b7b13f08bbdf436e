// A driver in C++ that calls Python: prints a line for each thing that it has learnt. Its argument is the interpreter.
#include <beeline/beeline.h>

#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace {

using beeline::Tensor;

void say(const char* what, const std::string& text) {
  std::printf("%s: %s\n", what, text.c_str());
}
template <typename T>
std::string shown(const beeline::Result<T>& result) {
  if (!result) return std::string(beeline::code_name(result.status().code())) + ": " + result.status().message();
  if constexpr (std::is_same_v<T, std::string>) {
    return *result;
  } else if constexpr (std::is_same_v<T, std::monostate>) {
    return "None";
  } else {
    return std::to_string(*result);
  }
}

beeline::Result<Tensor> ramp(std::int64_t size) {
  BEELINE_ASSIGN(auto tensor, beeline::empty({size}, beeline::dtype_of<double>()));
  for (std::int64_t i = 0; i < size; ++i) tensor.values<double>()[static_cast<std::size_t>(i)] = static_cast<double>(i);
  return tensor;
}
BEELINE_REMOTE(ramp);

void run() {
  using Nested = std::map<std::string, std::vector<std::int64_t>>;
  say("sqrt", shown(beeline::get(beeline::python_task<double>("math", "sqrt").remote(2.25))));
  say("raised", shown(beeline::get(beeline::python_task<double>("operator", "truediv").remote(1, 0))));
  say("no module", shown(beeline::get(beeline::python_task<double>("no_such_module", "f").remote())));
  const auto copied =
      beeline::get(beeline::python_task<Nested>("copy", "copy").remote(Nested{{"a", {1, 2}}, {"b", {}}}));
  say("nested", copied ? std::to_string(copied->at("a").at(1)) : copied.status().message());
  say("unsupported", shown(beeline::get(beeline::python_task<std::string>("pathlib", "Path").remote("x"))));
  // A reference of C++ to Python, and a tensor back.
  const auto made = beeline::task(ramp, {.direct = true}).remote(100'000);
  say("sum", shown(beeline::get(beeline::python_task<double>("peer", "total").remote(*made))));
  const auto doubled = beeline::get(beeline::python_task<Tensor>("peer", "doubled").remote(*made));
  say("doubled", doubled ? std::to_string(doubled->values<double>()[99'999]) : doubled.status().message());
  // An actor of Python, by name.
  say("started", shown(beeline::get(beeline::python_task<std::monostate>("peer", "start_actor").remote("greeter"))));
  const auto greeter = beeline::get_actor("greeter");
  say("greeting", shown(beeline::get(greeter->call<std::string>("greet", "C++"))));
  say("state", shown(beeline::get(greeter->call<std::int64_t>("count"))));
  say("no method", shown(beeline::get(greeter->call<std::int64_t>("no_such_method"))));
  greeter->kill();
  say("killed", std::string(beeline::code_name(beeline::get(greeter->call<std::int64_t>("count")).status().code())));
}

}  // namespace

int main(int, char** argv) {
  const auto status = beeline::init({.num_cpus = 2, .python = argv[1] == nullptr ? "" : argv[1]});
  if (!status) {
    std::printf("init: %s\n", status.message().c_str());
    return 1;
  }
  run();
  beeline::shutdown();
  std::printf("done\n");
}
