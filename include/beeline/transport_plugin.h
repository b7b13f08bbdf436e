/* A transport of your own for Beeline's transfer engine, as a shared library in C or any language that speaks C's ABI.
 *
 * The library exports one function, beeline_transport_plugin(), which gives a table of functions. An agent that was
 * opened with the library (Agent(plugins=["/path/lib.so"]), or BEELINE_TRANSPORT_PLUGINS=/path/lib.so) then has one
 * more path, named as the table says: it appears in explain(), is chosen by its measured speed, and can be required by
 * name. Both agents need it.
 *
 * How a transfer runs:
 *
 *   owner                                          reader
 *   open() once                                    open() once
 *                          <- asks ->              contact of the owner, once a peer
 *   contact()              -- bytes -->            connect(contact)
 *                          <- asks ->              the key of a region, once a region
 *   expose(memory)         -- key -->              transfer(connection, runs with keys)
 *   withdraw(exposure) when the registration ends
 *
 * Contacts and keys are opaque to Beeline. They travel over the agents' own connection, to agents that were admitted.
 *
 * Rules:
 *  - Every function may be called by several threads at once, and none may throw across this interface. A function
 *    that fails returns a code other than BEELINE_OK and fills `failure`, whose message says what failed, with which
 *    peer, and what to do.
 *  - The runs of one transfer() are of one region and one local device.
 *  - connect() and transfer() end when beeline_wait says so, with BEELINE_DEADLINE_EXCEEDED or BEELINE_CANCELLED.
 *  - When transfer() returns, whatever its outcome, nothing writes to local memory any more.
 *  - withdraw() returns when no peer can reach the memory any more; the memory may then be anything else.
 *  - After fork() a child calls nothing of its parent's engine.
 *
 * docs/transports.md tells more; examples/plugins/hixl is a worked plug-in.
 */
#ifndef BEELINE_TRANSPORT_PLUGIN_H
#define BEELINE_TRANSPORT_PLUGIN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when the table or a structure changes; an agent refuses a library of another one. */
#define BEELINE_TRANSPORT_ABI 1u

/* What a function returns. */
enum beeline_code {
  BEELINE_OK = 0,
  BEELINE_INVALID_ARGUMENT = 1,
  BEELINE_NOT_FOUND = 2,
  BEELINE_ALREADY_EXISTS = 3,
  BEELINE_DEADLINE_EXCEEDED = 4,
  BEELINE_CANCELLED = 5,
  BEELINE_RESOURCE_EXHAUSTED = 6,
  BEELINE_PEER_LOST = 7, /* the other side, or the way to it, has ended: another path is tried while its agent lives */
  BEELINE_UNSUPPORTED = 8, /* this path does not do it: another one is tried */
  BEELINE_STALE = 9,       /* the memory is exposed no more */
  BEELINE_CORRUPT = 10,
  BEELINE_SYSTEM = 11, /* anything else that failed: another path is tried */
};

typedef struct beeline_failure {
  char message[512]; /* ends with a zero byte */
} beeline_failure;

/* Bytes that are borrowed for the time of a call. */
typedef struct beeline_bytes {
  const void* data;
  uint64_t size;
} beeline_bytes;

/* Takes what a function gives, at most 1 MiB; may be written to several times. */
typedef struct beeline_sink {
  void* context;
  void (*write)(void* context, const void* data, uint64_t size);
} beeline_sink;

/* Bounds a call. */
typedef struct beeline_wait {
  void* context;
  /* Nanoseconds that are left, 0 when the time is over, INT64_MAX without bound. */
  int64_t (*left_ns)(void* context);
  /* BEELINE_OK to go on, else what the call ends with. To be asked every few milliseconds. */
  int32_t (*check)(void* context);
} beeline_wait;

/* As DLPack numbers devices: 1 is host memory, 2 CUDA, 12 an accelerator that came to torch as an extension. */
typedef struct beeline_memory {
  void* address;
  uint64_t length;
  int32_t device_type;
  int32_t device_id;
} beeline_memory;

/* `count` pieces of `length` bytes each, at equal distances on either side. */
typedef struct beeline_run {
  beeline_bytes key; /* of the exposed memory, as expose() wrote it */
  uint64_t offset;   /* of the first piece within that memory */
  void* local;
  uint64_t length;
  uint64_t count;
  uint64_t stride;       /* bytes from one piece's start to the next one's, in the exposed memory */
  uint64_t local_stride; /* likewise in local memory */
  int32_t local_device_type;
  int32_t local_device_id;
} beeline_run;

enum beeline_operation { BEELINE_READ = 0, BEELINE_WRITE = 1 };

/* What a transport can do. */
enum beeline_flags {
  BEELINE_SAME_HOST_ONLY = 1, /* peers of other hosts are not offered */
  BEELINE_CAN_WRITE = 2,      /* transfer() takes BEELINE_WRITE, and expose() writable memory */
};

typedef struct beeline_transport {
  uint32_t abi;  /* BEELINE_TRANSPORT_ABI */
  uint32_t size; /* sizeof(beeline_transport) */
  const char* name;
  uint64_t device_types; /* of memory on either side: bit n for DLPack's device type n */
  uint64_t flags;        /* beeline_flags */
  double expected_gbps;  /* 10^9 bytes a second of a large transfer, until some were measured */

  /* One for each agent that has the library; called when something first needs it. */
  int32_t (*open)(const char* agent_name, void** engine, beeline_failure* failure);
  /* After everything of the engine was withdrawn and disconnected. */
  void (*close)(void* engine);

  /* The owner's side. */
  int32_t (*contact)(void* engine, const beeline_sink* contact, beeline_failure* failure);
  int32_t (*expose)(void* engine, const beeline_memory* memory, int32_t writable, void** exposure,
                    const beeline_sink* key, beeline_failure* failure);
  void (*withdraw)(void* engine, void* exposure);

  /* The reader's side. */
  int32_t (*connect)(void* engine, const char* peer_name, beeline_bytes contact, const beeline_wait* wait,
                     void** connection, beeline_failure* failure);
  void (*disconnect)(void* engine, void* connection);
  int32_t (*transfer)(void* engine, void* connection, int32_t operation, const beeline_run* runs, uint64_t count,
                      const beeline_wait* wait, beeline_failure* failure);
} beeline_transport;

/* What a library exports. The table lives as long as the process. */
const beeline_transport* beeline_transport_plugin(void);

#ifdef __cplusplus
}
#endif

#endif
