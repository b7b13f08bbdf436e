#include "beeline/transport/nccl/messages.h"

#include <string>

namespace beeline::transport::nccl {

Result<Op> decode_request(BytesView frame, std::vector<RunRecord>& runs) {
  Reader reader(frame);
  const auto request = reader.read<Request>();
  const bool is_known = request.op == Op::kRead || request.op == Op::kWrite;
  if (!reader.ok() || !is_known || request.runs == 0 || request.runs > kMaxRequestRuns ||
      reader.left() != request.runs * sizeof(RunRecord)) {
    return Status(Code::kCorrupt, "a request that is none");
  }
  runs.clear();
  for (std::uint32_t i = 0; i < request.runs; ++i) runs.push_back(reader.read<RunRecord>());
  return request.op;
}

Result<Bytes> decode_reply(BytesView frame) {
  Reader reader(frame);
  const auto reply = reader.read<Reply>();
  if (!reader.ok() || reply.code > static_cast<std::uint32_t>(Code::kTorn)) {
    return Status(Code::kCorrupt, "a reply that is none");
  }
  const BytesView rest = reader.read_bytes(reader.left());
  if (reply.code != 0) return Status(static_cast<Code>(reply.code), std::string(as_text(rest)));
  return Bytes(rest.begin(), rest.end());
}

}  // namespace beeline::transport::nccl
