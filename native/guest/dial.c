#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/// Addresses only: looking names up is the image's business and would run on its data.
static bool read_address(const char *host, struct destination *to) {
  to->localhost = *host == 0 || strcmp(host, "localhost") == 0;
  to->family = AF_INET;
  if (inet_pton(AF_INET, to->localhost ? "127.0.0.1" : host, to->address) == 1) return true;
  to->family = AF_INET6;
  return inet_pton(AF_INET6, host, to->address) == 1;
}

void do_dial(struct fields *f) {
  struct control message = {.kind = CONTROL_DIAL};
  const char *host = take_str(f);
  message.to.port = take16(f);
  message.to.timeout_ms = take32(f);
  if (f->bad || message.to.port == 0 || !read_address(host, &message.to)) send_error(FD_CONN, EINVAL, *host != 0 ? host : "localhost");
  else if (!tell_init(&message, FD_CONN)) send_error(FD_CONN, errno, "the relay");
}
