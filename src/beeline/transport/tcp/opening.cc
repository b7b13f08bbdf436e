#include "beeline/transport/tcp/opening.h"

#include <type_traits>

#include "beeline/transport/tcp/stream.h"

namespace beeline::transport::tcp {
namespace {

constexpr std::uint32_t kMaxText = 1024;

// Followed by the id and the token.
struct Opening {
  static constexpr std::uint64_t kMagic = 0x3270637465656C42;  // "Bleetcp2"
  std::uint64_t magic = kMagic;
  Purpose purpose = Purpose::kControl;
  std::uint32_t id_bytes = 0;
  std::uint32_t token_bytes = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Opening) == 24 && std::is_trivially_copyable_v<Opening>);

// Followed by the text.
struct Answer {
  std::uint32_t code = 0;  // Code
  std::uint32_t message_bytes = 0;
};
static_assert(sizeof(Answer) == 8);

// In a time that tells nothing of where they differ.
bool equal(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned>(static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]));
  }
  return difference == 0;
}

iovec piece(const void* data, std::size_t size) {
  return {const_cast<void*>(data), size};
}

Result<std::string> receive_text(int fd, std::uint32_t size, const os::Wait& wait) {
  if (size > kMaxText) return Status(Code::kCorrupt, "a text of " + std::to_string(size) + " bytes in an opening");
  std::string text(size, '\0');
  BEELINE_RETURN_IF_ERROR(receive_exactly(fd, text.data(), text.size(), wait));
  return text;
}

Status answer(int fd, const Status& status, const os::Wait& wait) {
  const Answer answer{static_cast<std::uint32_t>(status.code()), static_cast<std::uint32_t>(status.message().size())};
  std::vector<iovec> pieces{piece(&answer, sizeof answer), piece(status.message().data(), status.message().size())};
  return send_all(fd, pieces, wait);
}

}  // namespace

Status open_connection(int fd, Purpose purpose, std::string_view agent_id, std::string_view token,
                       const os::Wait& wait) {
  Opening opening;
  opening.purpose = purpose;
  opening.id_bytes = static_cast<std::uint32_t>(agent_id.size());
  opening.token_bytes = static_cast<std::uint32_t>(token.size());
  std::vector<iovec> pieces{piece(&opening, sizeof opening), piece(agent_id.data(), agent_id.size()),
                            piece(token.data(), token.size())};
  BEELINE_RETURN_IF_ERROR(send_all(fd, pieces, wait));
  Answer answered;
  BEELINE_RETURN_IF_ERROR(receive_exactly(fd, &answered, sizeof answered, wait));
  if (answered.code == 0 && answered.message_bytes == 0) return Status::ok();
  BEELINE_ASSIGN(const std::string message, receive_text(fd, answered.message_bytes, wait));
  return {Code::kInvalidArgument, message};
}

Result<Caller> admit_connection(int fd, std::string_view token, const os::Wait& wait) {
  Opening opening;
  BEELINE_RETURN_IF_ERROR(receive_exactly(fd, &opening, sizeof opening, wait));
  const bool is_known = opening.purpose == Purpose::kControl || opening.purpose == Purpose::kStream;
  if (opening.magic != Opening::kMagic || !is_known) return Status(Code::kCorrupt, "an opening that is none of ours");
  Caller caller;
  caller.purpose = opening.purpose;
  BEELINE_ASSIGN(caller.agent_id, receive_text(fd, opening.id_bytes, wait));
  if (caller.agent_id.empty()) return Status(Code::kCorrupt, "an opening without the caller's id");
  BEELINE_ASSIGN(const std::string given, receive_text(fd, opening.token_bytes, wait));
  Status verdict;
  if (!equal(given, token)) {
    verdict = Status(Code::kInvalidArgument, given.empty() ? "refused: this agent asks for a token; give the agent "
                                                             "that connects the one it was opened with"
                                                           : "refused: the token is another one");
  }
  BEELINE_RETURN_IF_ERROR(answer(fd, verdict, wait));
  if (!verdict) return verdict;
  return caller;
}

}  // namespace beeline::transport::tcp
