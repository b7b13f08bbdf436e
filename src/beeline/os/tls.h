// TLS 1.3 for TCP connections, by OpenSSL.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "beeline/os/byte_stream.h"

namespace beeline::os {

// PEM files.
struct TlsOptions {
  std::string certificate;  // with what leads from it to its CA; empty: none
  std::string key;          // of the certificate, without a passphrase
  std::string ca;           // who is at the other end must show a certificate by one of these; empty: none is asked for
  // What one direction of a connection sends before it takes new keys: a sixth of what is safe by RFC 8446 (5.5).
  std::uint64_t rekey_bytes = std::uint64_t{64} << 30;
};

// What one side shows and asks for. Thread-safe; outlived by its streams.
class Tls {
 public:
  // kInvalidArgument for files that do not do, kUnsupported where there is no OpenSSL. A side that listens has to show
  // a certificate: without one it makes one, of this object's life and by its own signature.
  static Result<std::shared_ptr<const Tls>> make(const TlsOptions& options, bool listens);
  ~Tls();
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;

  // SHA-256 of the certificate that is shown, in 64 hexadecimal digits; empty if none is.
  [[nodiscard]] const std::string& fingerprint() const { return fingerprint_; }

  // The handshake is their begin(). A side that connects goes on only if the other shows the certificate of that
  // fingerprint, and, where there is a CA, if that has signed it for that host and it is in force.
  // kInvalidArgument when a certificate is refused, on either side.
  [[nodiscard]] std::unique_ptr<ByteStream> connecting_stream(Fd connection, std::string host,
                                                              std::string fingerprint) const;
  [[nodiscard]] std::unique_ptr<ByteStream> listening_stream(Fd connection) const;

 private:
  struct Context;  // of OpenSSL
  class Stream;
  explicit Tls(std::shared_ptr<const Context> context, std::string fingerprint);

  std::shared_ptr<const Context> context_;
  std::string fingerprint_;
};

}  // namespace beeline::os
