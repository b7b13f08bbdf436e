#include "beeline/base/status.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace beeline {

std::string_view code_name(Code code) {
  static constexpr std::array<std::string_view, 17> kNames = {"ok",
                                                              "invalid argument",
                                                              "not found",
                                                              "already exists",
                                                              "deadline exceeded",
                                                              "cancelled",
                                                              "resource exhausted",
                                                              "peer lost",
                                                              "unsupported",
                                                              "stale",
                                                              "corrupt",
                                                              "system error",
                                                              "shutdown",
                                                              "mutated",
                                                              "interrupted",
                                                              "torn",
                                                              "raised"};
  const auto index = static_cast<std::size_t>(code);
  return index < kNames.size() ? kNames[index] : "unknown";
}

Status::Status(Code code, std::string message) : rep_(std::make_shared<const Rep>(Rep{code, 0, std::move(message)})) {}

Status Status::from_errno(std::string_view operation, int error) {
  Status status;
  status.rep_ = std::make_shared<const Rep>(
      Rep{Code::kSystem, error, std::string(operation) + ": " + std::generic_category().message(error)});
  return status;
}

const std::string& Status::message() const {
  static const std::string kEmpty;
  return rep_ ? rep_->message : kEmpty;
}

Status Status::with_context(std::string_view context) && {
  if (rep_) {
    rep_ = std::make_shared<const Rep>(Rep{rep_->code, rep_->error, std::string(context) + ": " + rep_->message});
  }
  return std::move(*this);
}

void check_failed(const char* file, int line, const char* condition, std::string_view message) {
  std::fprintf(stderr, "beeline: %s:%d: violated: %s: %.*s\n", file, line, condition, static_cast<int>(message.size()),
               message.data());
  std::abort();
}

}  // namespace beeline
