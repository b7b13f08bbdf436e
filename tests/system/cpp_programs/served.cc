// A program whose functions and actors are called from Python.
#include <beeline/beeline.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace {

using beeline::Tensor;

std::int64_t add(std::int64_t a, std::int64_t b) {
  return a + b;
}
beeline::Value echo(const beeline::Value& value) {
  return value;
}
std::string describe(const Tensor& tensor) {
  std::string text = std::to_string(tensor.dtype.code) + "/" + std::to_string(tensor.dtype.bits);
  for (const auto length : tensor.shape) text += " " + std::to_string(length);
  return text;
}
std::tuple<std::int64_t, std::string> two(std::int64_t number) {
  return {number, std::to_string(number)};
}
void throws(const std::string& text) {
  throw std::runtime_error(text);
}
void dies() {
  ::kill(::getpid(), SIGKILL);
}
Tensor ramp(std::int64_t size) {
  auto tensor = beeline::empty({size}, beeline::dtype_of<float>());
  if (!tensor) throw std::runtime_error(tensor.status().message());
  for (std::int64_t i = 0; i < size; ++i) tensor->values<float>()[static_cast<std::size_t>(i)] = static_cast<float>(i);
  return *tensor;
}

class Store {
 public:
  explicit Store(std::string name) : name_(std::move(name)) {}
  void set(const std::string& key, beeline::Value value) { values_[key] = std::move(value); }
  beeline::Value get(const std::string& key) {
    const auto found = values_.find(key);
    if (found == values_.end()) throw std::out_of_range(name_ + " has no " + key);
    return found->second;
  }
  std::int64_t pid() { return ::getpid(); }
  void say(const std::string& text) {
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }
  // Says that it runs by one file, and waits for another.
  std::int64_t work(const std::string& started, const std::string& enough) {
    std::ofstream{started};
    while (!std::filesystem::exists(enough)) ::usleep(1000);
    return 1;
  }

 private:
  std::string name_;
  std::map<std::string, beeline::Value> values_;
};
std::unique_ptr<Store> make_store(const std::string& name) {
  if (name.empty()) throw std::invalid_argument("a store without a name");
  return std::make_unique<Store>(name);
}

BEELINE_REMOTE(add, echo, describe, two, throws, dies, ramp, make_store, &Store::set, &Store::get, &Store::pid,
               &Store::say, &Store::work);

}  // namespace

int main() {
  const auto status = beeline::init();
  std::fprintf(stderr, "this program serves sessions of others: %s\n",
               status ? "it started one" : status.message().c_str());
  beeline::shutdown();
  return 2;
}
