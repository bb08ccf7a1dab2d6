// Services of the host: programs inside connect to a socket of ours, and each of their connections goes to the host's next ACCEPT
// of that service. What is behind it is the host's business; here it is a number.
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { SERVICE_BACKLOG = 1024 };

bool services_reserve(void) {
  int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  bool ok = null >= 0;
  for (int i = 0; i < MOST_SERVICES; i++) ok = ok && (null == FD_SERVICE + i || dup3(null, FD_SERVICE + i, O_CLOEXEC) >= 0);
  if (null >= 0 && (null < FD_SERVICE || null >= FD_SERVICE + MOST_SERVICES)) close(null);
  return ok;
}

bool has_service(unsigned service) {
  int listening = 0;
  socklen_t bytes = sizeof listening;
  return getsockopt(FD_SERVICE + (int)service - 1, SOL_SOCKET, SO_ACCEPTCONN, &listening, &bytes) == 0 && listening;
}

bool has_services(void) {
  for (unsigned service = 1; service <= MOST_SERVICES; service++)
    if (has_service(service)) return true;
  return false;
}

static bool bind_port(int fd, uint16_t port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
  return bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
}

/// For every user inside. A socket that is there is one of before this start: whoever listened there has ended.
static bool bind_path(int fd, const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  entry_name name;
  if (*path != '/' || strlen(path) >= sizeof a.sun_path) {
    errno = EINVAL;
    return false;
  }
  strcpy(a.sun_path, path);
  char directory[sizeof a.sun_path];
  strcpy(directory, path);
  *strrchr(directory, '/') = 0;
  if (*directory != 0 && !make_directories(directory, 0755)) return false;
  int parent = open_parent(path, name);
  if (parent < 0) return false;
  struct stat st;
  if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode)) unlinkat(parent, name, 0);
  close(parent);
  mode_t old = umask(0111);
  bool ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
  umask(old);
  return ok;
}

void do_listen(struct fields *f) {
  unsigned service = take8(f);
  const char *path = take_str(f);
  uint16_t port = take16(f);
  if (f->bad || f->left != 0 || service < 1 || service > MOST_SERVICES || (*path != 0) == (port != 0)) {
    send_error(FD_CONN, EINVAL, "a service");
    return;
  }
  if (has_service(service)) {
    send_ok(FD_CONN);
    return;
  }
  int fd = socket(*path != 0 ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  bool ok = fd >= 0 && (*path != 0 ? bind_path(fd, path) : bind_port(fd, port)) && listen(fd, SERVICE_BACKLOG) == 0 &&
            tell_init(&(struct control){.kind = CONTROL_LISTEN, .value = service}, fd);
  // PID 1 takes its messages in their order: an ACCEPT that the host sends now comes after this one.
  if (ok) send_ok(FD_CONN);
  else send_error(FD_CONN, errno, *path != 0 ? path : "the port of a service");
}
