// The way out of a sandbox that has no network: programs inside connect to a port of 127.0.0.1, where we listen, and each of their
// connections goes to the host that asked for the next one. What they say is the host's to judge.
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PROXY_BACKLOG = 1024 };

bool proxy_listen(uint16_t port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
  bool ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, PROXY_BACKLOG) == 0 &&
            (fd == FD_PROXY || dup3(fd, FD_PROXY, O_CLOEXEC) == FD_PROXY);
  int error = errno;
  if (fd != FD_PROXY) close(fd);
  errno = error;
  return ok;
}

/// The next client; -1 with errno, 0 of it when the host has gone.
static int next_client(void) {
  for (;;) {
    int fd = accept4(FD_PROXY, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) return fd;
    // Others wait for clients as well, and were faster.
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) return -1;
    struct pollfd p[2] = {{.fd = FD_PROXY, .events = POLLIN}, {.fd = FD_CONN, .events = POLLRDHUP}};
    if (poll(p, 2, -1) > 0 && p[1].revents != 0) {
      errno = 0;
      return -1;
    }
  }
}

void do_accept(struct fields *f) {
  int listening = 0;
  socklen_t bytes = sizeof listening;
  if (f->left != 0 || getsockopt(FD_PROXY, SOL_SOCKET, SO_ACCEPTCONN, &listening, &bytes) != 0 || !listening) {
    send_error(FD_CONN, f->left != 0 ? EINVAL : ENOTSUP, "accepting connections");
    return;
  }
  int client = next_client();
  if (client < 0) {
    if (errno != 0) send_error(FD_CONN, errno, "accepting a connection");
    return;
  }
  setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  if (send_ok(FD_CONN)) relay(client);
}
