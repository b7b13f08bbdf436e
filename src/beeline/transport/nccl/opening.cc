#include "beeline/transport/nccl/opening.h"

#include <vector>

#include "beeline/os/random.h"

namespace beeline::transport::nccl {
namespace {

template <typename Plain>
Status send(os::ByteStream& stream, const Plain& plain, const os::Wait& wait) {
  std::vector<iovec> pieces{{const_cast<Plain*>(&plain), sizeof plain}};  // it is not written to
  return os::send_all(stream, pieces, wait);
}

template <typename Plain>
Status receive(os::ByteStream& stream, Plain& plain, const os::Wait& wait) {
  static_assert(std::is_trivially_copyable_v<Plain>);
  return os::receive_exactly(stream, &plain, sizeof plain, wait);
}

}  // namespace

Proof prove(BytesView secret, Side side, const Nonce& reader, const Nonce& owner) {
  Bytes said;
  Writer writer(said);
  // Neither side's proof can be handed back to it as the other's.
  writer.write_string(side == Side::kReader ? "beeline nccl 2 reader" : "beeline nccl 2 owner");
  writer.write(reader);
  writer.write(owner);
  return hmac_sha256(secret, said);
}

Status open_connection(os::ByteStream& stream, BytesView secret, const os::Wait& wait) {
  Opening opening;
  os::fill_with_random(opening.nonce);
  BEELINE_RETURN_IF_ERROR(send(stream, opening, wait));
  Nonce owner;
  if (Status heard = receive(stream, owner, wait); !heard) {
    if (heard.code() != Code::kPeerLost) return heard;
    return std::move(heard).with_context("while opening a connection for nccl, for which its owner may have no room");
  }
  BEELINE_RETURN_IF_ERROR(send(stream, prove(secret, Side::kReader, opening.nonce, owner), wait));
  Verdict verdict;
  BEELINE_RETURN_IF_ERROR(receive(stream, verdict, wait));
  if (verdict.is_refused != 0) return {Code::kInvalidArgument, "refused: the secret of the contact is another one"};
  if (equal_in_constant_time(verdict.proof, prove(secret, Side::kOwner, opening.nonce, owner))) return Status::ok();
  return {Code::kInvalidArgument, "whoever listens there has not the secret of the contact"};
}

Status admit_connection(os::ByteStream& stream, BytesView secret, const os::Wait& wait) {
  Opening opening;
  BEELINE_RETURN_IF_ERROR(receive(stream, opening, wait));
  if (opening.magic != Opening::kMagic) return {Code::kCorrupt, "an opening that is none of ours"};
  Nonce own;
  os::fill_with_random(own);
  BEELINE_RETURN_IF_ERROR(send(stream, own, wait));
  Proof proven;
  BEELINE_RETURN_IF_ERROR(receive(stream, proven, wait));
  Verdict verdict;
  if (!equal_in_constant_time(proven, prove(secret, Side::kReader, opening.nonce, own))) {
    verdict.is_refused = 1;
    BEELINE_RETURN_IF_ERROR(send(stream, verdict, wait));
    return {Code::kInvalidArgument, "a reader without the secret"};
  }
  verdict.proof = prove(secret, Side::kOwner, opening.nonce, own);
  return send(stream, verdict, wait);
}

}  // namespace beeline::transport::nccl
