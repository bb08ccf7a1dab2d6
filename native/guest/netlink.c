#include "netlink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

// linux/netlink.h
enum { ALIGNMENT = 4, REQUEST = 1, ACK = 4, NESTED = 1 << 15, NLMSG_ERROR_TYPE = 2 };
enum { PATIENCE_S = 10 };

/// struct nlmsghdr
struct header {
  uint32_t bytes;
  uint16_t type, flags;
  uint32_t sequence, pid;
};

static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1); }

/// Room for so many bytes, zeroed, up to the next boundary. NULL once a request has become too long.
static unsigned char *grow(struct netlink *n, size_t bytes) {
  if (aligned(bytes) > n->size - n->used) n->overflow = true;
  if (n->overflow) return NULL;
  unsigned char *at = n->bytes + n->used;
  memset(at, 0, aligned(bytes));
  n->used += aligned(bytes);
  return at;
}

static void end_message(struct netlink *n) {
  uint32_t bytes = (uint32_t)(n->used - n->message);
  if (n->used > 0) memcpy(n->bytes + n->message, &bytes, sizeof bytes);
}

void netlink_begin(struct netlink *n, uint16_t type, uint16_t flags, const void *body, size_t body_bytes) {
  end_message(n);
  n->message = n->used;
  struct header h = {.type = type, .flags = flags | REQUEST, .sequence = ++n->sequence};
  unsigned char *at = grow(n, sizeof h + body_bytes);
  if (at == NULL) return;
  memcpy(at, &h, sizeof h);
  memcpy(at + sizeof h, body, body_bytes);
}

void netlink_put(struct netlink *n, uint16_t type, const void *value, size_t bytes) {
  uint16_t head[2] = {(uint16_t)(sizeof head + bytes), type};
  unsigned char *at = grow(n, sizeof head + bytes);
  if (at == NULL) return;
  memcpy(at, head, sizeof head);
  if (bytes > 0) memcpy(at + sizeof head, value, bytes);
}

void netlink_put32(struct netlink *n, uint16_t type, uint32_t value) { netlink_put(n, type, &value, sizeof value); }

void netlink_put_text(struct netlink *n, uint16_t type, const char *text) { netlink_put(n, type, text, strlen(text) + 1); }

size_t netlink_nest(struct netlink *n, uint16_t type) {
  size_t at = n->used;
  netlink_put(n, type | NESTED, NULL, 0);
  return at;
}

void netlink_unnest(struct netlink *n, size_t nest) {
  uint16_t bytes = (uint16_t)(n->used - nest);
  if (!n->overflow) memcpy(n->bytes + nest, &bytes, sizeof bytes);
}

void netlink_ask(struct netlink *n) {
  struct header h;
  if (n->overflow || n->used - n->message < sizeof h) return;
  memcpy(&h, n->bytes + n->message, sizeof h);
  h.flags |= ACK;
  memcpy(n->bytes + n->message, &h, sizeof h);
  n->asked = n->sequence;
}

int netlink_open(struct netlink *n, int protocol, size_t size) {
  *n = (struct netlink){.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), .bytes = malloc(size), .size = size};
  int error = n->fd < 0 ? errno : n->bytes == NULL ? ENOMEM : 0;
  // All that is sent at one time has to fit; beyond the system's own limit it is that limit.
  if (error == 0) setsockopt(n->fd, SOL_SOCKET, SO_SNDBUF, &(int){(int)size}, sizeof(int));
  if (error != 0) netlink_close(n);
  return error;
}

void netlink_close(struct netlink *n) {
  if (n->fd >= 0) close(n->fd);
  free(n->bytes);
  *n = (struct netlink){.fd = -1};
}

/// 0 or an errno: of the first that was refused, or else of the one that was asked about.
static int outcome(struct netlink *n) {
  struct timeval patience = {.tv_sec = PATIENCE_S};
  setsockopt(n->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  for (;;) {
    unsigned char reply[8192];
    ssize_t got = recv(n->fd, reply, sizeof reply, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    for (size_t at = 0; at + sizeof(struct header) + sizeof(int32_t) <= (size_t)got;) {
      struct header h;
      int32_t error;
      memcpy(&h, reply + at, sizeof h);
      memcpy(&error, reply + at + sizeof h, sizeof error);
      if (h.type == NLMSG_ERROR_TYPE && (error != 0 || h.sequence == n->asked)) return -error;
      if (h.bytes < sizeof h) return EPROTO;
      at += aligned(h.bytes);
    }
  }
}

int netlink_send(struct netlink *n) {
  end_message(n);
  if (n->asked == 0) netlink_ask(n);
  int error = 0;
  if (n->overflow) error = EMSGSIZE;
  else if (send(n->fd, n->bytes, n->used, 0) != (ssize_t)n->used) error = errno;
  if (error == 0) error = outcome(n);
  n->used = n->message = n->asked = 0;
  n->overflow = false;
  return error;
}
