#include "beeline/transport/tcp/opening.h"

#include <sys/socket.h>

#include <algorithm>

#include "beeline/os/random.h"
#include "beeline/transport/tcp/stream.h"

namespace beeline::transport::tcp {
namespace {

constexpr std::uint32_t kMaxText = 1024;

// By which callers of the release before began; their token followed.
constexpr std::uint64_t kOlderMagic = 0x3270637465656C42;  // "Bleetcp2"

iovec piece(const void* data, std::size_t size) {
  return {const_cast<void*>(data), size};
}

template <typename T>
Status receive(os::ByteStream& stream, T& value, const os::Wait& wait) {
  static_assert(std::is_trivially_copyable_v<T>);
  return receive_exactly(stream, &value, sizeof value, wait);
}

Result<std::string> receive_text(os::ByteStream& stream, std::uint32_t size, const os::Wait& wait) {
  if (size > kMaxText) return Status(Code::kCorrupt, "a text of " + std::to_string(size) + " bytes in an opening");
  std::string text(size, '\0');
  BEELINE_RETURN_IF_ERROR(receive_exactly(stream, text.data(), text.size(), wait));
  return text;
}

// The status is what the answer says, and what becomes of saying it if it does not say that the caller is refused.
Status answer(os::ByteStream& stream, const Status& verdict, const os::Wait& wait) {
  const Answer said{static_cast<std::uint32_t>(verdict.code()), static_cast<std::uint32_t>(verdict.message().size())};
  std::vector<iovec> pieces{piece(&said, sizeof said), piece(verdict.message().data(), verdict.message().size())};
  const Status sent = send_all(stream, pieces, wait);
  return verdict.is_ok() ? sent : verdict;
}

// Nobody has proven anything when a refusal is told: its code is believed no further than that, its text is shown.
Status receive_answer(os::ByteStream& stream, const os::Wait& wait) {
  Answer answered;
  BEELINE_RETURN_IF_ERROR(receive(stream, answered, wait));
  if (answered.code == 0 && answered.message_bytes == 0) return Status::ok();
  BEELINE_ASSIGN(std::string message, receive_text(stream, answered.message_bytes, wait));
  std::ranges::replace_if(message, [](char c) { return c < ' ' || c > '~'; }, '?');
  const bool is_of_another_release = answered.code == static_cast<std::uint32_t>(Code::kUnsupported);
  return {is_of_another_release ? Code::kUnsupported : Code::kInvalidArgument, message};
}

Nonce make_nonce() {
  Nonce nonce;
  os::fill_with_random(nonce);
  return nonce;
}

Status send_proof(os::ByteStream& stream, const Proof& proof, const os::Wait& wait) {
  std::vector<iovec> pieces{piece(proof.data(), proof.size())};
  return send_all(stream, pieces, wait);
}

Status refuse_older(os::ByteStream& stream, const os::Wait& wait) {
  return answer(stream,
                {Code::kUnsupported,
                 "refused: this agent speaks version 3 of the opening, in which a token is proven and not shown; the "
                 "caller version 2: install one release on both sides"},
                wait);
}

}  // namespace

Proof prove(std::string_view token, Side side, const Transcript& transcript) {
  Bytes said;
  Writer writer(said);
  // Neither side's proof can be handed back to it as the other's.
  writer.write_string(side == Side::kCaller ? "beeline tcp 3 caller" : "beeline tcp 3 listener");
  writer.write(transcript.purpose);
  writer.write(transcript.caller_nonce);
  writer.write(transcript.listener_nonce);
  writer.write_string(transcript.caller_id);
  writer.write_string(transcript.listener_id);
  writer.write_block(transcript.binding);
  return hmac_sha256(as_bytes(token), said);
}

Status open_connection(os::ByteStream& stream, Purpose purpose, std::string_view self_id, std::string_view peer_id,
                       std::string_view token, const os::Wait& wait) {
  Opening opening;
  opening.purpose = purpose;
  opening.id_bytes = static_cast<std::uint32_t>(self_id.size());
  opening.has_token = token.empty() ? 0 : 1;
  opening.nonce = make_nonce();
  std::vector<iovec> pieces{piece(&opening, sizeof opening), piece(self_id.data(), self_id.size())};
  BEELINE_RETURN_IF_ERROR(send_all(stream, pieces, wait));
  const Status answered = receive_answer(stream, wait);
  if (answered.code() == Code::kPeerLost) {
    return {Code::kPeerLost, answered.message() +
                                 " without an answer to its opening: whoever listens there has no room for more "
                                 "callers, or is of another release"};
  }
  BEELINE_RETURN_IF_ERROR(answered);
  if (token.empty()) return {Code::kInvalidArgument, "this agent has no token: give it that of the one it connects to"};
  Challenge challenge;
  BEELINE_RETURN_IF_ERROR(receive(stream, challenge, wait));
  BEELINE_ASSIGN(const std::string listener_id, receive_text(stream, challenge.id_bytes, wait));
  // It gets no proof for another one's name.
  if (listener_id != peer_id) {
    return {Code::kNotFound, "another agent has taken its place: ask for its new address"};
  }
  BEELINE_ASSIGN(Bytes binding, stream.binding());
  const Transcript transcript{purpose, opening.nonce, challenge.nonce, self_id, peer_id, std::move(binding)};
  BEELINE_RETURN_IF_ERROR(send_proof(stream, prove(token, Side::kCaller, transcript), wait));
  BEELINE_RETURN_IF_ERROR(receive_answer(stream, wait));
  Proof proven;
  BEELINE_RETURN_IF_ERROR(receive(stream, proven, wait));
  if (equal_in_constant_time(proven, prove(token, Side::kListener, transcript))) return Status::ok();
  return {Code::kInvalidArgument, "whoever listens there does not have this agent's token, though it admits callers"};
}

namespace {

// What the address says is spoken, and nothing else: nobody on the way can have it spoken plain.
Result<std::unique_ptr<os::ByteStream>> make_stream(const os::TcpAddress& address, const PeerFacts& peer,
                                                    const os::Wait& wait) {
  if (peer.certificate.empty()) {
    BEELINE_RETURN_IF_ERROR(check_spoken(peer));
    BEELINE_ASSIGN(auto connection, os::connect_tcp(address, wait));
    os::keep_from_children(connection.get());
    return os::plain_stream(std::move(connection));
  }
  auto tls = peer.tls;
  if (tls == nullptr) {
    BEELINE_ASSIGN(tls, os::Tls::make({}, false));
  }
  BEELINE_ASSIGN(auto connection, os::connect_tcp(address, wait));
  os::keep_from_children(connection.get());
  return tls->connecting_stream(std::move(connection), address.host, peer.certificate);
}

}  // namespace

Status check_spoken(const PeerFacts& peer) {
  if (!peer.certificate.empty() || peer.tls == nullptr) return Status::ok();
  return {Code::kUnsupported, "the peer speaks no TLS, and this agent was opened to speak nothing else (tls=)"};
}

Result<std::unique_ptr<os::ByteStream>> connect(const os::TcpAddress& address, Purpose purpose, const PeerFacts& peer,
                                                const os::Wait& wait) {
  BEELINE_ASSIGN(auto stream, make_stream(address, peer, wait));
  BEELINE_RETURN_IF_ERROR(stream->begin(wait));
  BEELINE_RETURN_IF_ERROR(open_connection(*stream, purpose, peer.self_id, peer.peer_id, peer.token, wait));
  return stream;
}

void turn_away_plain(int fd) {
  const std::string message =
      "refused: this agent speaks TLS, and nothing else, at its TCP address; take the address as the agent gives it";
  const Answer said{static_cast<std::uint32_t>(Code::kUnsupported), static_cast<std::uint32_t>(message.size())};
  Bytes bytes;
  Writer writer(bytes);
  writer.write(said);
  writer.append(as_bytes(message));
  // Nothing was sent before, so there is room. Whoever has closed meanwhile is told nothing.
  (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

Result<Caller> admit_connection(os::ByteStream& stream, std::string_view self_id, std::string_view token,
                                const os::Wait& wait) {
  Opening opening;
  BEELINE_RETURN_IF_ERROR(receive(stream, opening.magic, wait));
  if (opening.magic == kOlderMagic) return refuse_older(stream, wait);
  if (opening.magic != Opening::kMagic) return Status(Code::kCorrupt, "an opening that is none of ours");
  auto* const rest = reinterpret_cast<std::byte*>(&opening) + sizeof opening.magic;
  BEELINE_RETURN_IF_ERROR(receive_exactly(stream, rest, sizeof opening - sizeof opening.magic, wait));
  if (opening.purpose != Purpose::kControl && opening.purpose != Purpose::kStream) {
    return Status(Code::kCorrupt, "an opening for a purpose that there is not");
  }
  Caller caller;
  caller.purpose = opening.purpose;
  BEELINE_ASSIGN(caller.agent_id, receive_text(stream, opening.id_bytes, wait));
  if (caller.agent_id.empty()) return Status(Code::kCorrupt, "an opening without the caller's id");
  if (opening.has_token == 0) {
    return answer(stream,
                  {Code::kInvalidArgument,
                   "refused: this agent asks for a token; give the agent that connects the one it was opened with"},
                  wait);
  }
  Challenge challenge;
  challenge.nonce = make_nonce();
  challenge.id_bytes = static_cast<std::uint32_t>(self_id.size());
  BEELINE_RETURN_IF_ERROR(answer(stream, Status::ok(), wait));
  std::vector<iovec> pieces{piece(&challenge, sizeof challenge), piece(self_id.data(), self_id.size())};
  BEELINE_RETURN_IF_ERROR(send_all(stream, pieces, wait));
  BEELINE_ASSIGN(Bytes binding, stream.binding());
  const Transcript transcript{opening.purpose, opening.nonce, challenge.nonce,
                              caller.agent_id, self_id,       std::move(binding)};
  Proof proven;
  BEELINE_RETURN_IF_ERROR(receive(stream, proven, wait));
  // The listener proves nothing to whoever has not: a stranger gets nothing to try tokens on.
  if (!equal_in_constant_time(proven, prove(token, Side::kCaller, transcript))) {
    return answer(stream, {Code::kInvalidArgument, "refused: the token is another one"}, wait);
  }
  BEELINE_RETURN_IF_ERROR(answer(stream, Status::ok(), wait));
  BEELINE_RETURN_IF_ERROR(send_proof(stream, prove(token, Side::kListener, transcript), wait));
  return caller;
}

}  // namespace beeline::transport::tcp
