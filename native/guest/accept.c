// The way out of a sandbox that has no network: programs inside connect to a port of 127.0.0.1, where we listen, and each of their
// connections goes to the host that asked for the next one. What they say is the host's to judge.
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
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

bool has_proxy(void) {
  int listening = 0;
  socklen_t bytes = sizeof listening;
  return getsockopt(FD_PROXY, SOL_SOCKET, SO_ACCEPTCONN, &listening, &bytes) == 0 && listening;
}

void do_accept(struct fields *f) {
  unsigned service = f->left == 0 ? 0 : take8(f);
  if (f->bad || f->left != 0 || service > MOST_SERVICES) send_error(FD_CONN, EINVAL, "accepting connections");
  else if (service == 0 && !has_proxy()) send_error(FD_CONN, ENOTSUP, "accepting connections");
  else if (!tell_init(&(struct control){.kind = CONTROL_ACCEPT, .value = service}, FD_CONN)) send_error(FD_CONN, errno, "the relay");
}
