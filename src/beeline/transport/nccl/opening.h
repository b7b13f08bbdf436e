// How a connection begins: both sides prove that they have the secret of the owner's contact, which itself does not
// travel here.
#pragma once

#include "beeline/os/byte_stream.h"
#include "beeline/os/wait.h"
#include "beeline/transport/nccl/messages.h"

namespace beeline::transport::nccl {

enum class Side : std::uint8_t { kReader, kOwner };
Proof prove(BytesView secret, Side side, const Nonce& reader, const Nonce& owner);

// The reader's side. kInvalidArgument when it is refused, and when whoever listens there has no such secret.
Status open_connection(os::ByteStream& stream, BytesView secret, const os::Wait& wait);
// The owner's. Proves nothing to whoever has not.
Status admit_connection(os::ByteStream& stream, BytesView secret, const os::Wait& wait);

}  // namespace beeline::transport::nccl
