#include "guest.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

void put16(unsigned char *at, uint16_t value) {
  at[0] = (unsigned char)value;
  at[1] = (unsigned char)(value >> 8);
}

void put32(unsigned char *at, uint32_t value) {
  put16(at, (uint16_t)value);
  put16(at + 2, (uint16_t)(value >> 16));
}

void put64(unsigned char *at, uint64_t value) {
  put32(at, (uint32_t)value);
  put32(at + 4, (uint32_t)(value >> 32));
}

uint32_t get32(const unsigned char *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

void put_header(unsigned char *at, unsigned type, uint32_t payload_bytes) {
  put32(at, payload_bytes);
  at[4] = (unsigned char)type;
}

static const unsigned char *take(struct fields *f, size_t bytes) {
  static const unsigned char zeros[8];
  if (f->bad || f->left < bytes) {
    f->bad = true;
    return zeros;
  }
  const unsigned char *at = f->at;
  f->at += bytes;
  f->left -= bytes;
  return at;
}

uint8_t take8(struct fields *f) {
  return *take(f, 1);
}

uint16_t take16(struct fields *f) {
  const unsigned char *at = take(f, 2);
  return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t take32(struct fields *f) {
  return get32(take(f, 4));
}

uint64_t take64(struct fields *f) {
  const unsigned char *at = take(f, 8);
  return get32(at) | (uint64_t)get32(at + 4) << 32;
}

char *take_str(struct fields *f) {
  static char empty[1];
  size_t bytes = take32(f);
  if (f->bad || f->left < bytes || memchr(f->at, 0, bytes) != NULL) {
    f->bad = true;
    empty[0] = 0;
    return empty;
  }
  // One byte down, over the length that has been read: that makes room for the NUL.
  char *text = (char *)f->at - 1;
  memmove(text, f->at, bytes);
  text[bytes] = 0;
  f->at += bytes;
  f->left -= bytes;
  return text;
}

bool read_exact(int fd, void *buffer, size_t bytes) {
  unsigned char *at = buffer;
  while (bytes > 0) {
    ssize_t n = recv(fd, at, bytes, MSG_WAITALL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    bytes -= (size_t)n;
  }
  return true;
}

static bool write_parts(int fd, struct iovec *parts, size_t count) {
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
  while (message.msg_iovlen > 0) {
    ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      struct pollfd p = {.fd = fd, .events = POLLOUT};
      poll(&p, 1, -1);
      continue;
    }
    if (n < 0) return false;
    size_t sent = (size_t)n;
    while (message.msg_iovlen > 0 && sent >= message.msg_iov->iov_len) {
      sent -= message.msg_iov->iov_len;
      message.msg_iov++;
      message.msg_iovlen--;
    }
    if (message.msg_iovlen > 0) {
      message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
      message.msg_iov->iov_len -= sent;
    }
  }
  return true;
}

bool write_exact(int fd, const void *buffer, size_t bytes) {
  struct iovec part = {.iov_base = (void *)(uintptr_t)buffer, .iov_len = bytes};
  return write_parts(fd, &part, 1);
}

bool send_frame(int fd, unsigned type, const void *payload, size_t bytes) {
  unsigned char header[HEADER_BYTES];
  put_header(header, type, (uint32_t)bytes);
  struct iovec parts[2] = {
    {.iov_base = header, .iov_len = sizeof header},
    {.iov_base = (void *)(uintptr_t)payload, .iov_len = bytes},
  };
  return write_parts(fd, parts, bytes > 0 ? 2 : 1);
}

bool send_ok(int fd) {
  return send_frame(fd, OUT_OK, NULL, 0);
}

bool send_end(int fd, uint64_t value) {
  unsigned char payload[8];
  put64(payload, value);
  return send_frame(fd, OUT_END, payload, sizeof payload);
}

bool send_error(int fd, int error, const char *what) {
  enum { MOST = 1024 };
  unsigned char payload[8 + MOST];
  size_t bytes = strnlen(what, MOST);
  put32(payload, (uint32_t)error);
  put32(payload + 4, (uint32_t)bytes);
  memcpy(payload + 8, what, bytes);
  return send_frame(fd, OUT_ERROR, payload, 8 + bytes);
}

void linger(int fd) {
  enum { LINGER_MS = 5000 };
  if (shutdown(fd, SHUT_WR) != 0) return;
  uint64_t end = now_ns() + LINGER_MS * 1000000ull;
  for (;;) {
    uint64_t now = now_ns();
    if (now >= end) return;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, (int)((end - now) / 1000000) + 1) < 0 && errno != EINTR) return;
    char scrap[16384];
    ssize_t n = recv(fd, scrap, sizeof scrap, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return;
  }
}

void put_exit(unsigned char *at, int wait_status, uint32_t flags, uint64_t cpu_us) {
  bool signalled = WIFSIGNALED(wait_status);
  at[0] = signalled;
  put32(at + 1, (uint32_t)(signalled ? WTERMSIG(wait_status) : WEXITSTATUS(wait_status)));
  put32(at + 5, flags);
  put64(at + 9, cpu_us);
}
