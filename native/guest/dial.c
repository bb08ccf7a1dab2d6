#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/// Bytes on their way in one direction.
struct flow {
  int from, to;
  size_t start, end;
  bool source_ended;
  bool done; // the end was passed on, or nobody takes the bytes any more
  unsigned char bytes[64 << 10];
};

/// 0, or an errno.
static int connect_to(const struct sockaddr *address, socklen_t bytes, int timeout_ms, int *connected) {
  int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  int error = connect(fd, address, bytes) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int n = poll(&p, 1, timeout_ms > 0 ? timeout_ms : -1);
    socklen_t size = sizeof error;
    if (n == 0) error = ETIMEDOUT;
    else if (n < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  }
  if (error != 0) close(fd);
  else *connected = fd;
  return error;
}

static int connect_v4(const char *host, uint16_t port, int timeout_ms, int *connected) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (inet_pton(AF_INET, host, &a.sin_addr) != 1) return EINVAL;
  return connect_to((struct sockaddr *)&a, sizeof a, timeout_ms, connected);
}

static int connect_v6(const char *host, uint16_t port, int timeout_ms, int *connected) {
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  if (inet_pton(AF_INET6, host, &a.sin6_addr) != 1) return EINVAL;
  return connect_to((struct sockaddr *)&a, sizeof a, timeout_ms, connected);
}

/// Addresses only: looking names up is the image's business and would run on its data.
static int dial(const char *host, uint16_t port, int timeout_ms, int *connected) {
  if (*host == 0 || strcmp(host, "localhost") == 0) {
    int error = connect_v4("127.0.0.1", port, timeout_ms, connected);
    // Many servers that listen on "localhost" do so on ::1 only.
    if (error == ECONNREFUSED && connect_v6("::1", port, timeout_ms, connected) == 0) error = 0;
    return error;
  }
  int error = connect_v4(host, port, timeout_ms, connected);
  return error == EINVAL ? connect_v6(host, port, timeout_ms, connected) : error;
}

/// Moves what can be moved now. False when a side was reset, which ends both directions.
static bool advance(struct flow *w) {
  if (!w->source_ended && w->end < sizeof w->bytes) {
    ssize_t n = recv(w->from, w->bytes + w->end, sizeof w->bytes - w->end, MSG_DONTWAIT);
    if (n == 0) w->source_ended = true;
    else if (n > 0) w->end += (size_t)n;
    else if (errno != EAGAIN && errno != EINTR) return false;
  }
  while (w->start < w->end) {
    ssize_t n = send(w->to, w->bytes + w->start, w->end - w->start, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (n < 0) return false;
    w->start += (size_t)n;
  }
  w->start = w->end = 0;
  if (w->source_ended && !w->done) {
    w->done = true;
    shutdown(w->to, SHUT_WR);
  }
  return true;
}

void relay(int remote) {
  static struct flow out, in;
  out.from = in.to = FD_CONN;
  out.to = in.from = remote;
  while (!out.done || !in.done) {
    struct pollfd p[2] = {{.fd = FD_CONN}, {.fd = remote}};
    if (!out.source_ended && out.end < sizeof out.bytes) p[0].events |= POLLIN;
    if (!in.source_ended && in.end < sizeof in.bytes) p[1].events |= POLLIN;
    if (in.start < in.end) p[0].events |= POLLOUT;
    if (out.start < out.end) p[1].events |= POLLOUT;
    // With nothing to wait for, only a hang-up could be told, again and again; that of the host is wanted once.
    if (p[0].events == 0 && in.done) p[0].fd = -1;
    if (p[1].events == 0) p[1].fd = -1;
    if (poll(p, 2, -1) < 0) continue;
    if ((p[0].revents & POLLHUP) != 0 && !in.done) {
      // The host has gone, and not only ended its direction: what it had sent still goes out.
      in.done = in.source_ended = true;
      in.start = in.end = 0;
    }
    if (!advance(&out) || (!in.done && !advance(&in))) return;
  }
}

void do_dial(struct fields *f) {
  const char *host = take_str(f);
  uint16_t port = take16(f);
  uint32_t timeout_ms = take32(f);
  int remote = -1;
  int error = f->bad || port == 0 ? EINVAL : dial(host, port, timeout_ms > INT32_MAX ? INT32_MAX : (int)timeout_ms, &remote);
  if (error != 0) {
    send_error(FD_CONN, error, *host != 0 ? host : "localhost");
    return;
  }
  setsockopt(remote, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  if (send_ok(FD_CONN)) relay(remote);
}
