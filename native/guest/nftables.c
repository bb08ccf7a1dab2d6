#include "nftables.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

// linux/netlink.h, nfnetlink.h, nf_tables.h.
enum {
  PROTO_NETFILTER = 12,
  FLAG_REQUEST = 1,
  FLAG_ACK = 4,
  FLAG_EXCL = 0x200,
  FLAG_CREATE = 0x400,
  FLAG_APPEND = 0x800,
  TYPE_ERROR = 2,
  BATCH_BEGIN = 0x10,
  BATCH_END = 0x11,
  SUBSYSTEM = 10,
  NEW_TABLE = 0,
  NEW_CHAIN = 3,
  NEW_RULE = 6,
  FAMILY_INET = 1,
  NESTED = 1 << 15,
  REGISTER = 1,
};

struct header {
  uint32_t length;
  uint16_t type, flags;
  uint32_t sequence, port;
};
struct family {
  uint8_t family, version;
  uint16_t resource; // big endian
};

static void put(struct nft *n, const void *bytes, size_t count) {
  size_t padded = (count + 3) & ~(size_t)3;
  if (n->full || n->size - n->used < padded) {
    n->full = true;
    return;
  }
  memset(n->data + n->used, 0, padded);
  memcpy(n->data + n->used, bytes, count);
  n->used += padded;
}

static void message(struct nft *n, uint16_t type, uint16_t flags, uint8_t family, uint16_t resource) {
  n->message = n->used;
  put(n, &(struct header){.type = type, .flags = (uint16_t)(FLAG_REQUEST | flags), .sequence = ++n->sequence}, 16);
  put(n, &(struct family){.family = family, .resource = htons(resource)}, 4);
}

static void message_end(struct nft *n) {
  uint32_t length = (uint32_t)(n->used - n->message);
  if (!n->full) memcpy(n->data + n->message, &length, sizeof length);
}

static void attribute(struct nft *n, uint16_t type, const void *value, size_t bytes) {
  uint16_t head[2] = {(uint16_t)(4 + bytes), type};
  put(n, head, sizeof head);
  put(n, value, bytes);
}

static void attribute32(struct nft *n, uint16_t type, uint32_t value) {
  uint32_t big = htonl(value);
  attribute(n, type, &big, sizeof big);
}

static void attribute_text(struct nft *n, uint16_t type, const char *text) { attribute(n, type, text, strlen(text) + 1); }

static size_t nest(struct nft *n, uint16_t type) {
  size_t at = n->used;
  uint16_t head[2] = {0, (uint16_t)(type | NESTED)};
  put(n, head, sizeof head);
  return at;
}

static void nest_end(struct nft *n, size_t at) {
  uint16_t length = (uint16_t)(n->used - at);
  if (!n->full) memcpy(n->data + at, &length, sizeof length);
}

bool nft_begin(struct nft *n, size_t size) {
  *n = (struct nft){.data = malloc(size), .size = size};
  if (n->data == NULL) return false;
  message(n, BATCH_BEGIN, 0, 0, SUBSYSTEM);
  message_end(n);
  return true;
}

void nft_table(struct nft *n, const char *table) {
  message(n, SUBSYSTEM << 8 | NEW_TABLE, FLAG_CREATE | FLAG_EXCL, FAMILY_INET, 0);
  attribute_text(n, 1, table);
  message_end(n);
}

void nft_chain(struct nft *n, const char *table, const char *chain, const char *type, uint32_t hook, int32_t priority,
               uint32_t policy) {
  message(n, SUBSYSTEM << 8 | NEW_CHAIN, FLAG_CREATE | FLAG_EXCL, FAMILY_INET, 0);
  attribute_text(n, 1, table);
  attribute_text(n, 3, chain);
  size_t where = nest(n, 4);
  attribute32(n, 1, hook);
  attribute32(n, 2, (uint32_t)priority);
  nest_end(n, where);
  attribute32(n, 5, policy);
  attribute_text(n, 7, type);
  message_end(n);
}

void nft_rule(struct nft *n, const char *table, const char *chain) {
  message(n, SUBSYSTEM << 8 | NEW_RULE, FLAG_CREATE | FLAG_APPEND, FAMILY_INET, 0);
  attribute_text(n, 1, table);
  attribute_text(n, 2, chain);
  n->expressions = nest(n, 4);
}

void nft_rule_end(struct nft *n) {
  nest_end(n, n->expressions);
  message_end(n);
}

struct expression {
  size_t element, data;
};

static struct expression expression(struct nft *n, const char *name) {
  struct expression e = {.element = nest(n, 1)};
  attribute_text(n, 1, name);
  e.data = nest(n, 2);
  return e;
}

static void expression_end(struct nft *n, struct expression e) {
  nest_end(n, e.data);
  nest_end(n, e.element);
}

static void data(struct nft *n, uint16_t type, const void *value, size_t bytes) {
  size_t at = nest(n, type);
  attribute(n, 1, value, bytes);
  nest_end(n, at);
}

static void compare(struct nft *n, uint32_t comparison, const void *value, size_t bytes) {
  struct expression e = expression(n, "cmp");
  attribute32(n, 1, REGISTER);
  attribute32(n, 2, comparison);
  data(n, 3, value, bytes);
  expression_end(n, e);
}

static void mask_register(struct nft *n, const void *mask, size_t bytes) {
  static const unsigned char zero[16];
  struct expression e = expression(n, "bitwise");
  attribute32(n, 1, REGISTER);
  attribute32(n, 2, REGISTER);
  attribute32(n, 3, (uint32_t)bytes);
  data(n, 4, mask, bytes);
  data(n, 5, zero, bytes);
  expression_end(n, e);
}

static void load_payload(struct nft *n, uint32_t header, uint32_t offset, size_t bytes) {
  struct expression e = expression(n, "payload");
  attribute32(n, 1, REGISTER);
  attribute32(n, 2, header);
  attribute32(n, 3, offset);
  attribute32(n, 4, (uint32_t)bytes);
  expression_end(n, e);
}

void nft_if_meta(struct nft *n, uint32_t key, const void *value, size_t bytes) {
  struct expression e = expression(n, "meta");
  attribute32(n, 1, REGISTER);
  attribute32(n, 2, key);
  expression_end(n, e);
  compare(n, NF_CMP_EQ, value, bytes);
}

void nft_if_payload(struct nft *n, uint32_t header, uint32_t offset, uint32_t comparison, const void *value, size_t bytes) {
  load_payload(n, header, offset, bytes);
  compare(n, comparison, value, bytes);
}

void nft_if_masked(struct nft *n, uint32_t header, uint32_t offset, const void *value, const void *mask, size_t bytes) {
  load_payload(n, header, offset, bytes);
  mask_register(n, mask, bytes);
  compare(n, NF_CMP_EQ, value, bytes);
}

void nft_if_state(struct nft *n, uint32_t states) {
  static const uint32_t none = 0;
  struct expression e = expression(n, "ct");
  attribute32(n, 1, REGISTER);
  attribute32(n, 2, 0); // state
  expression_end(n, e);
  mask_register(n, &states, sizeof states);
  compare(n, 1 /* is not */, &none, sizeof none);
}

void nft_if_more_than(struct nft *n, uint32_t connections) {
  struct expression e = expression(n, "connlimit");
  attribute32(n, 1, connections);
  attribute32(n, 2, 1); // more than
  expression_end(n, e);
}

void nft_verdict(struct nft *n, uint32_t verdict) {
  struct expression e = expression(n, "immediate");
  attribute32(n, 1, 0); // the register of verdicts
  size_t value = nest(n, 2), inner = nest(n, 2);
  attribute32(n, 1, verdict);
  nest_end(n, inner);
  nest_end(n, value);
  expression_end(n, e);
}

void nft_reject(struct nft *n) {
  struct expression e = expression(n, "reject");
  attribute32(n, 1, 2); // ICMP of either family
  static const uint8_t prohibited = 3;
  attribute(n, 2, &prohibited, sizeof prohibited);
  expression_end(n, e);
}

void nft_notrack(struct nft *n) {
  struct expression e = expression(n, "notrack");
  expression_end(n, e);
}

/// 0, or the first error among the kernel's answers until that to `last`.
static int read_answers(int fd, uint32_t last) {
  struct timeval patience = {.tv_sec = 10};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  for (;;) {
    _Alignas(struct header) unsigned char answer[8192];
    ssize_t got = recv(fd, answer, sizeof answer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    for (size_t at = 0; (size_t)got - at >= sizeof(struct header) + sizeof(int32_t);) {
      struct header h;
      int32_t error;
      memcpy(&h, answer + at, sizeof h);
      memcpy(&error, answer + at + sizeof h, sizeof error);
      if (h.type == TYPE_ERROR && error != 0) return -error;
      if (h.type == TYPE_ERROR && h.sequence == last) return 0;
      size_t whole = (h.length + 3) & ~(size_t)3;
      if (h.length < sizeof h || whole > (size_t)got - at) break;
      at += whole;
    }
  }
}

bool nft_commit(struct nft *n) {
  // What is asked to be acknowledged is: the last change, after which nothing can fail.
  if (!n->full) {
    uint16_t flags;
    memcpy(&flags, n->data + n->message + 6, sizeof flags);
    flags |= FLAG_ACK;
    memcpy(n->data + n->message + 6, &flags, sizeof flags);
  }
  uint32_t last = n->sequence;
  message(n, BATCH_END, 0, 0, SUBSYSTEM);
  message_end(n);
  int error = n->full ? ENOBUFS : 0;
  int fd = error ? -1 : socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, PROTO_NETFILTER);
  // To the kernel: port 0.
  struct {
    uint16_t family, padding;
    uint32_t port, groups;
  } kernel = {.family = AF_NETLINK};
  if (!error && (fd < 0 || sendto(fd, n->data, n->used, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)) error = errno;
  if (!error) error = read_answers(fd, last);
  if (fd >= 0) close(fd);
  free(n->data);
  *n = (struct nft){0};
  errno = error;
  return error == 0;
}
