// Requests to the kernel over netlink: a message is built in a buffer and sent with those before it; the kernel acknowledges
// the last, or says what it refused.
#ifndef WARREN_NETLINK_H
#define WARREN_NETLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NETLINK_EXCL = 0x200, NETLINK_CREATE = 0x400, NETLINK_APPEND = 0x800 }; // of a message's flags

struct netlink {
  int fd;
  uint32_t sequence; // of the last message
  uint32_t asked; // of that whose acknowledgement is waited for; 0: none yet
  unsigned char *bytes;
  size_t size, used, message; // the last: where the message under construction begins
  bool overflow;
};

/// With room for `size` bytes of messages. 0 or an errno; what was opened has to be closed.
int netlink_open(struct netlink *n, int protocol, size_t size);
void netlink_close(struct netlink *n);
/// A message of this type, after those that are in the buffer; attributes follow.
void netlink_begin(struct netlink *n, uint16_t type, uint16_t flags, const void *body, size_t body_bytes);
void netlink_put(struct netlink *n, uint16_t type, const void *value, size_t bytes);
/// As the kernel has it in memory.
void netlink_put32(struct netlink *n, uint16_t type, uint32_t value);
void netlink_put_text(struct netlink *n, uint16_t type, const char *text);
/// An attribute that holds others, up to the unnest with what this returns.
size_t netlink_nest(struct netlink *n, uint16_t type);
void netlink_unnest(struct netlink *n, size_t nest);
/// The message under construction is the one whose acknowledgement netlink_send() waits for. Without this the last one is.
void netlink_ask(struct netlink *n);
/// Sends all that is in the buffer: 0, or the errno of the first that was refused; EMSGSIZE when it did not fit.
int netlink_send(struct netlink *n);

#endif
