// Datagrams of a port that is published: one process for each port, and a socket of its own for each of the host's clients, so
// that the server inside tells them apart. What nobody takes is lost, as on any network.
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  MOST_FLOWS = 256,
  MOST_BYTES = 65507, // of a datagram, by IPv4
  FLOW_BYTES = 4, // of its number, before the datagram
  MOST_FRAME = HEADER_BYTES + FLOW_BYTES + MOST_BYTES,
};

/// One of the host's clients.
struct flow {
  uint32_t id;
  int fd;
  bool v6;
};

static struct {
  uint16_t port;
  struct flow flows[MOST_FLOWS];
  size_t count;
  unsigned char in[MOST_FRAME], out[MOST_FRAME];
  size_t in_have, out_start, out_end;
} d;

/// -1: failed.
static int open_socket(bool v6) {
  int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(d.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(d.port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  const struct sockaddr *address = v6 ? (const struct sockaddr *)&a6 : (const struct sockaddr *)&a4;
  if (fd >= 0 && connect(fd, address, v6 ? sizeof a6 : sizeof a4) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

static void end_flow(struct flow *w) {
  close(w->fd);
  *w = d.flows[--d.count];
}

/// NULL: there is none, and none can be made.
static struct flow *find_flow(uint32_t id, bool make) {
  for (size_t i = 0; i < d.count; i++)
    if (d.flows[i].id == id) return &d.flows[i];
  if (!make || d.count == MOST_FLOWS) return NULL;
  struct flow w = {.id = id, .fd = open_socket(false)};
  if (w.fd < 0) return NULL;
  d.flows[d.count] = w;
  return &d.flows[d.count++];
}

/// Goes to the other of 127.0.0.1 and ::1 from now on: many servers that listen on "localhost" do so on ::1 only. False: it can't.
static bool turn(struct flow *w) {
  int other = open_socket(!w->v6);
  if (other < 0) return false;
  close(w->fd);
  w->fd = other;
  w->v6 = !w->v6;
  return true;
}

static void deliver(struct flow *w, const unsigned char *bytes, size_t count) {
  // The third goes where the first went: what refused that one may have been meant for an earlier datagram.
  for (int tries = 0; tries < 3; tries++) {
    int error = 0;
    socklen_t size = sizeof error;
    if (send(w->fd, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) error = errno;
    // On loopback a refusal is there at once, unless the machine is busy: then from_server() hears of it.
    else if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return;
    if (error != ECONNREFUSED || !turn(w)) return;
  }
}

/// False when the host breaks the protocol.
static bool on_frame(unsigned type, const unsigned char *payload, size_t bytes) {
  if (bytes < FLOW_BYTES) return false;
  struct flow *w = find_flow(get32(payload), type == IN_DATAGRAM);
  if (type == IN_DATAGRAM) {
    if (w != NULL) deliver(w, payload + FLOW_BYTES, bytes - FLOW_BYTES);
    return true;
  }
  if (w != NULL) end_flow(w);
  return type == IN_END_FLOW;
}

/// Takes what the host has sent. False when it has gone, or breaks the protocol.
static bool from_host(void) {
  ssize_t n = recv(FD_CONN, d.in + d.in_have, sizeof d.in - d.in_have, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  d.in_have += (size_t)n;
  size_t at = 0;
  while (d.in_have - at >= HEADER_BYTES) {
    size_t bytes = get32(d.in + at);
    if (bytes > FLOW_BYTES + MOST_BYTES) return false;
    if (d.in_have - at < HEADER_BYTES + bytes) break;
    if (!on_frame(d.in[at + 4], d.in + at + HEADER_BYTES, bytes)) return false;
    at += HEADER_BYTES + bytes;
  }
  memmove(d.in, d.in + at, d.in_have -= at);
  return true;
}

/// Sends what waits for the host. False when it has gone.
static bool to_host(void) {
  while (d.out_start < d.out_end) {
    ssize_t n = send(FD_CONN, d.out + d.out_start, d.out_end - d.out_start, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    d.out_start += (size_t)n;
  }
  d.out_start = d.out_end = 0;
  return true;
}

/// One datagram of the server's on its way to the host. False when the host has gone.
static bool from_server(struct flow *w) {
  ssize_t n = recv(w->fd, d.out + HEADER_BYTES + FLOW_BYTES, MOST_BYTES, MSG_DONTWAIT);
  if (n < 0) {
    // The client hears nothing, as of any server that is not there, and what it sends again goes to the other address.
    if (errno == ECONNREFUSED) turn(w);
    return true;
  }
  put_header(d.out, OUT_DATAGRAM, (uint32_t)(FLOW_BYTES + n));
  put32(d.out + HEADER_BYTES, w->id);
  d.out_end = HEADER_BYTES + FLOW_BYTES + (size_t)n;
  return to_host();
}

void do_datagrams(struct fields *f) {
  d.port = take16(f);
  if (f->bad || f->left != 0 || d.port == 0) {
    send_error(FD_CONN, EINVAL, "datagrams");
    return;
  }
  if (!send_ok(FD_CONN)) return;
  for (;;) {
    // While the host takes nothing, the kernel keeps a few datagrams of each flow and drops the rest.
    bool full = d.out_start < d.out_end;
    struct pollfd p[1 + MOST_FLOWS] = {{.fd = FD_CONN, .events = full ? POLLIN | POLLOUT : POLLIN}};
    size_t watched = full ? 0 : d.count;
    for (size_t i = 0; i < watched; i++) p[1 + i] = (struct pollfd){.fd = d.flows[i].fd, .events = POLLIN};
    if (poll(p, 1 + watched, -1) < 0) continue;
    if (!to_host()) return;
    // Before the host's frames, which may end flows and so move others.
    for (size_t i = 0; i < watched && d.out_end == 0; i++) {
      if (p[1 + i].revents != 0 && !from_server(&d.flows[i])) return;
    }
    if ((p[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !from_host()) return;
  }
}
