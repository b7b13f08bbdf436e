// The one way to report an expected failure: a code, a message, and the context added on the way up.
// Flow control (full, in progress) uses enums of its own; violated invariants use BEELINE_CHECK.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "beeline/base/export.h"

namespace beeline {

// Stable numbers: they travel between processes and select the Python exception (python/src/session.cc).
enum class Code : std::uint8_t {
  kOk = 0,
  kInvalidArgument = 1,
  kNotFound = 2,
  kAlreadyExists = 3,
  kDeadlineExceeded = 4,
  kCancelled = 5,
  kResourceExhausted = 6,
  kPeerLost = 7,
  kUnsupported = 8,
  kStale = 9,
  kCorrupt = 10,
  kSystem = 11,
  kShutdown = 12,
  kMutated = 13,
  kInterrupted = 14,
  kTorn = 15,
  kRaised = 16,  // a remote function did: its text is in the message
};

BEELINE_API std::string_view code_name(Code code);

class [[nodiscard]] BEELINE_API Status {
 public:
  Status() = default;
  Status(Code code, std::string message);

  static Status ok() { return {}; }
  // The system call `operation` failed with `error` (an errno value).
  static Status from_errno(std::string_view operation, int error);

  [[nodiscard]] bool is_ok() const { return rep_ == nullptr; }
  explicit operator bool() const { return is_ok(); }
  [[nodiscard]] Code code() const { return rep_ ? rep_->code : Code::kOk; }
  [[nodiscard]] int system_error() const { return rep_ ? rep_->error : 0; }
  [[nodiscard]] const std::string& message() const;

  // "while fetching object 3: <message>"; a no-op on success.
  Status with_context(std::string_view context) &&;

 private:
  struct Rep {
    Code code;
    int error;
    std::string message;
  };
  std::shared_ptr<const Rep> rep_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool is_ok() const { return state_.index() == 0; }
  explicit operator bool() const { return is_ok(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  [[nodiscard]] Status status() const { return is_ok() ? Status::ok() : std::get<1>(state_); }

 private:
  std::variant<T, Status> state_;
};

[[noreturn]] BEELINE_API void check_failed(const char* file, int line, const char* condition, std::string_view message);

}  // namespace beeline

// An invariant of ours: aborts with what was violated. Never for input from outside.
#define BEELINE_CHECK(condition, message)                                 \
  do {                                                                    \
    if (!(condition)) [[unlikely]]                                        \
      ::beeline::check_failed(__FILE__, __LINE__, #condition, (message)); \
  } while (false)

#define BEELINE_RETURN_IF_ERROR(expression)                                                    \
  do {                                                                                         \
    if (auto beeline_status_ = (expression); !beeline_status_.is_ok()) return beeline_status_; \
  } while (false)

#define BEELINE_CONCAT_INNER_(a, b) a##b
#define BEELINE_CONCAT_(a, b) BEELINE_CONCAT_INNER_(a, b)
// BEELINE_ASSIGN(auto fd, open_it()): binds the value or returns the failure.
#define BEELINE_ASSIGN(declaration, expression) \
  BEELINE_ASSIGN_INNER_(BEELINE_CONCAT_(beeline_result_, __LINE__), declaration, expression)
#define BEELINE_ASSIGN_INNER_(result, declaration, expression) \
  auto result = (expression);                                  \
  if (!result.is_ok()) return result.status();                 \
  declaration = std::move(result).value()
