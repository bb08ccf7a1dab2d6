// Reading requests and building answers. See docs/wire/launcher.md.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_REQUEST = 1 << 20, MAX_ANSWER = (1 << 20) + 4096, MAX_LIST = 4096 };

enum op {
  OP_HELLO = 1, OP_RUN, OP_CANCEL, OP_START, OP_KILL, OP_CGROUP_KILL, OP_RMTREE, OP_KEEP, OP_RUN_MAPPED, OP_RUN_UNPACK, OP_OWN,
  OP_CHECK_OUTSIDE, OP_COPY
};

// A request's payload. A read past its end sets `bad` and gives zeroes; check once, after the last read.
struct in {
  const unsigned char *at;
  size_t left;
  bool bad;
};
uint32_t in_u32(struct in *in);
uint64_t in_u64(struct in *in);
// A NUL-terminated copy; a NUL inside makes the request bad.
char *in_str(struct in *in);
const unsigned char *in_bytes(struct in *in, size_t *length);
// NULL-terminated.
char **in_list(struct in *in);

// An answer's payload, built in memory.
struct out {
  unsigned char *data;
  size_t length, capacity;
};
void out_u8(struct out *out, uint8_t value);
void out_u32(struct out *out, uint32_t value);
void out_u64(struct out *out, uint64_t value);
void out_bytes(struct out *out, const void *data, size_t length);
void out_raw(struct out *out, const void *data, size_t length);

// What a worker ends with: it sends the payload to the serving process and exits.
_Noreturn void answer_ok(const struct out *out);
_Noreturn void answer_error(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
extern int answer_fd;

void *must_alloc(size_t size);
