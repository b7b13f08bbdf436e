// The functions of OpenSSL 3 that TLS takes. They are looked for at run time, so that one build serves machines with
// the library and without, and declared here, so that no build needs its headers: names and types are OpenSSL's, which
// keeps them for all of 3.x.
#pragma once

#include <cstddef>
#include <cstdint>

#include "beeline/base/status.h"

namespace beeline::os::openssl {

// Opaque.
struct ASN1_INTEGER;
struct ASN1_TIME;
struct BIO;
struct BIO_METHOD;
struct EVP_MD;
struct EVP_PKEY;
struct OSSL_LIB_CTX;
struct SSL;
struct SSL_CTX;
struct SSL_METHOD;
struct X509;
struct X509_NAME;
struct X509_STORE_CTX;

// FUNCTION(result, name, parameters...).
#define BEELINE_LIBSSL(FUNCTION)                                                                                   \
  FUNCTION(const SSL_METHOD*, TLS_method, void)                                                                    \
  FUNCTION(SSL_CTX*, SSL_CTX_new, const SSL_METHOD*)                                                               \
  FUNCTION(void, SSL_CTX_free, SSL_CTX*)                                                                           \
  FUNCTION(long, SSL_CTX_ctrl, SSL_CTX*, int command, long, void*)                                                 \
  FUNCTION(int, SSL_CTX_use_certificate_chain_file, SSL_CTX*, const char* path)                                    \
  FUNCTION(int, SSL_CTX_use_PrivateKey_file, SSL_CTX*, const char* path, int type)                                 \
  FUNCTION(int, SSL_CTX_use_certificate, SSL_CTX*, X509*)                                                          \
  FUNCTION(int, SSL_CTX_use_PrivateKey, SSL_CTX*, EVP_PKEY*)                                                       \
  FUNCTION(int, SSL_CTX_check_private_key, const SSL_CTX*)                                                         \
  FUNCTION(X509*, SSL_CTX_get0_certificate, const SSL_CTX*)                                                        \
  FUNCTION(int, SSL_CTX_load_verify_file, SSL_CTX*, const char* path)                                              \
  FUNCTION(void, SSL_CTX_set_default_passwd_cb, SSL_CTX*, int (*)(char*, int, int, void*))                         \
  FUNCTION(void, SSL_CTX_set_default_read_buffer_len, SSL_CTX*, std::size_t)                                       \
  FUNCTION(int, SSL_CTX_set_num_tickets, SSL_CTX*, std::size_t)                                                    \
  FUNCTION(SSL*, SSL_new, SSL_CTX*)                                                                                \
  FUNCTION(void, SSL_free, SSL*)                                                                                   \
  FUNCTION(void, SSL_set_bio, SSL*, BIO*, BIO*)                                                                    \
  FUNCTION(void, SSL_set_verify, SSL*, int mode, int (*)(int, X509_STORE_CTX*))                                    \
  FUNCTION(int, SSL_set1_host, SSL*, const char*)                                                                  \
  FUNCTION(int, SSL_connect, SSL*)                                                                                 \
  FUNCTION(int, SSL_accept, SSL*)                                                                                  \
  FUNCTION(int, SSL_read_ex, SSL*, void*, std::size_t, std::size_t* read)                                          \
  FUNCTION(int, SSL_write_ex, SSL*, const void*, std::size_t, std::size_t* written)                                \
  FUNCTION(int, SSL_get_error, const SSL*, int returned)                                                           \
  FUNCTION(int, SSL_key_update, SSL*, int)                                                                         \
  FUNCTION(long, SSL_get_verify_result, const SSL*)                                                                \
  FUNCTION(X509*, SSL_get1_peer_certificate, const SSL*)                                                           \
  FUNCTION(int, SSL_export_keying_material, SSL*, unsigned char* out, std::size_t, const char* label, std::size_t, \
           const unsigned char* context, std::size_t, int use_context)

#define BEELINE_LIBCRYPTO(FUNCTION)                                                                                   \
  FUNCTION(int, OPENSSL_init_crypto, std::uint64_t options, const void* settings)                                     \
  FUNCTION(BIO_METHOD*, BIO_meth_new, int type, const char* name)                                                     \
  FUNCTION(void, BIO_meth_free, BIO_METHOD*)                                                                          \
  FUNCTION(int, BIO_meth_set_write, BIO_METHOD*, int (*)(BIO*, const char*, int))                                     \
  FUNCTION(int, BIO_meth_set_read, BIO_METHOD*, int (*)(BIO*, char*, int))                                            \
  FUNCTION(int, BIO_meth_set_ctrl, BIO_METHOD*, long (*)(BIO*, int, long, void*))                                     \
  FUNCTION(BIO*, BIO_new, const BIO_METHOD*)                                                                          \
  FUNCTION(void, BIO_set_init, BIO*, int)                                                                             \
  FUNCTION(void, BIO_set_data, BIO*, void*)                                                                           \
  FUNCTION(void*, BIO_get_data, BIO*)                                                                                 \
  FUNCTION(void, BIO_set_flags, BIO*, int)                                                                            \
  FUNCTION(void, BIO_clear_flags, BIO*, int)                                                                          \
  FUNCTION(void, ERR_clear_error, void)                                                                               \
  FUNCTION(unsigned long, ERR_get_error, void)                                                                        \
  FUNCTION(const char*, ERR_reason_error_string, unsigned long)                                                       \
  FUNCTION(const EVP_MD*, EVP_sha256, void)                                                                           \
  FUNCTION(EVP_PKEY*, EVP_PKEY_Q_keygen, OSSL_LIB_CTX*, const char* properties, const char* type, ...)                \
  FUNCTION(void, EVP_PKEY_free, EVP_PKEY*)                                                                            \
  FUNCTION(int, ASN1_INTEGER_set_uint64, ASN1_INTEGER*, std::uint64_t)                                                \
  FUNCTION(X509*, X509_new, void)                                                                                     \
  FUNCTION(void, X509_free, X509*)                                                                                    \
  FUNCTION(int, X509_set_version, X509*, long)                                                                        \
  FUNCTION(ASN1_INTEGER*, X509_get_serialNumber, X509*)                                                               \
  FUNCTION(ASN1_TIME*, X509_getm_notBefore, const X509*)                                                              \
  FUNCTION(ASN1_TIME*, X509_getm_notAfter, const X509*)                                                               \
  FUNCTION(ASN1_TIME*, X509_gmtime_adj, ASN1_TIME*, long seconds)                                                     \
  FUNCTION(int, X509_set_pubkey, X509*, EVP_PKEY*)                                                                    \
  FUNCTION(X509_NAME*, X509_get_subject_name, const X509*)                                                            \
  FUNCTION(int, X509_NAME_add_entry_by_txt, X509_NAME*, const char* field, int type, const unsigned char* bytes, int, \
           int place, int set)                                                                                        \
  FUNCTION(int, X509_set_issuer_name, X509*, const X509_NAME*)                                                        \
  FUNCTION(int, X509_sign, X509*, EVP_PKEY*, const EVP_MD*)                                                           \
  FUNCTION(int, X509_digest, const X509*, const EVP_MD*, unsigned char* out, unsigned* size)                          \
  FUNCTION(const char*, X509_verify_cert_error_string, long)

struct Library {
#define BEELINE_MEMBER(result, name, ...) result (*name)(__VA_ARGS__) = nullptr;
  BEELINE_LIBSSL(BEELINE_MEMBER)
  BEELINE_LIBCRYPTO(BEELINE_MEMBER)
#undef BEELINE_MEMBER
};

// Loaded once in a process, and never unloaded. kUnsupported where it is missing, or of another generation.
Result<const Library*> library();

// Macros of OpenSSL's headers.
inline constexpr std::uint64_t kNoAtExit = 0x00080000;  // OPENSSL_INIT_NO_ATEXIT
inline constexpr int kMinProtoVersion = 123;            // SSL_CTX_ctrl: SSL_CTRL_SET_MIN_PROTO_VERSION
inline constexpr int kMode = 33;                        // SSL_CTRL_MODE
inline constexpr int kReadAhead = 41;                   // SSL_CTRL_SET_READ_AHEAD
inline constexpr int kSessionCacheMode = 44;            // SSL_CTRL_SET_SESS_CACHE_MODE
inline constexpr long kTls13 = 0x0304;
inline constexpr long kPartialWrite = 1;       // SSL_MODE_ENABLE_PARTIAL_WRITE
inline constexpr long kMovingWriteBuffer = 2;  // SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
inline constexpr long kNoSessionCache = 0;
inline constexpr int kPem = 1;  // SSL_FILETYPE_PEM
inline constexpr int kVerifyNone = 0;
inline constexpr int kVerifyPeer = 1;
inline constexpr int kFailWithoutCertificate = 2;
inline constexpr int kOnlyOwnKey = 0;  // SSL_KEY_UPDATE_NOT_REQUESTED
inline constexpr int kWantRead = 2;    // SSL_get_error
inline constexpr int kWantWrite = 3;
inline constexpr int kZeroReturn = 6;
inline constexpr int kSourceSink = 0x0400;  // BIO_TYPE_SOURCE_SINK
inline constexpr int kBioFlush = 11;        // BIO_CTRL_FLUSH
inline constexpr int kBioRead = 1;          // BIO_FLAGS_READ
inline constexpr int kBioWrite = 2;
inline constexpr int kBioSpecial = 4;
inline constexpr int kBioShouldRetry = 8;
inline constexpr int kAscii = 0x1001;  // MBSTRING_ASC

}  // namespace beeline::os::openssl
