#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/// How long a host may take over its first frame.
#define FIRST_FRAME_S 60

void close_from(int first) {
  if (syscall(SYS_close_range, (unsigned)first, ~0u, 0) == 0) return;
  enum { MOST = 4096 };
  for (int fd = first; fd < MOST; fd++) close(fd);
}

bool send_message(int to, const struct control *message, int fd, int flags) {
  struct iovec part = {.iov_base = (void *)(uintptr_t)message, .iov_len = sizeof *message};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
  union {
    struct cmsghdr align;
    unsigned char bytes[CMSG_SPACE(sizeof(int))];
  } ancillary;
  if (fd >= 0) {
    memset(&ancillary, 0, sizeof ancillary);
    m.msg_control = ancillary.bytes;
    m.msg_controllen = sizeof ancillary.bytes;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  ssize_t n;
  while ((n = sendmsg(to, &m, MSG_NOSIGNAL | flags)) < 0 && errno == EINTR) continue;
  return n >= 0;
}

ssize_t receive_message(int from, void *message, size_t bytes, int *fd) {
  struct iovec part = {.iov_base = message, .iov_len = bytes};
  union {
    struct cmsghdr align;
    unsigned char bytes[CMSG_SPACE(sizeof(int))];
  } ancillary;
  struct msghdr m = {
    .msg_iov = &part, .msg_iovlen = 1, .msg_control = ancillary.bytes, .msg_controllen = sizeof ancillary.bytes};
  *fd = -1;
  ssize_t n = recvmsg(from, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
  if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) memcpy(fd, CMSG_DATA(c), sizeof *fd);
  return n;
}

bool tell_init(const struct control *message, int fd) {
  return send_message(FD_CONTROL, message, fd, 0);
}

static void hello(void) {
  unsigned char payload[12 + sizeof WARREN_VERSION];
  put32(payload, PROTOCOL);
  put32(payload + 4, FEATURE_SERVICES | (has_capture() ? FEATURE_CAPTURE : 0));
  put32(payload + 8, sizeof WARREN_VERSION - 1);
  memcpy(payload + 12, WARREN_VERSION, sizeof WARREN_VERSION - 1);
  send_frame(FD_CONN, OUT_INFO, payload, 12 + sizeof WARREN_VERSION - 1);
}

static void begin_shutdown(struct fields *f) {
  struct control message = {.kind = CONTROL_SHUTDOWN, .value = take32(f)};
  if (f->bad) {
    send_error(FD_CONN, EINVAL, "the shutdown request");
    return;
  }
  // First: PID 1 may be gone the moment that it knows.
  send_ok(FD_CONN);
  tell_init(&message, -1);
}

static void answer(unsigned type, struct fields *f) {
  switch (type) {
    case REQ_HELLO: hello(); break;
    case REQ_WAIT: tell_init(&(struct control){.kind = CONTROL_WAIT}, FD_CONN); _exit(0);
    case REQ_SHUTDOWN: begin_shutdown(f); break;
    case REQ_SPAWN: do_spawn(f); break;
    case REQ_LOGS: do_logs(f); break;
    case REQ_READ: do_read(f); break;
    case REQ_WRITE: do_write(f); break;
    case REQ_STAT: do_stat(f); break;
    case REQ_LIST: do_list(f); break;
    case REQ_MKDIR: do_mkdir(f); break;
    case REQ_RENAME: do_rename(f); break;
    case REQ_REMOVE: do_remove(f); break;
    case REQ_CHMOD: do_chmod(f); break;
    case REQ_WATCH: do_watch(f); break;
    case REQ_DIAL: do_dial(f); break;
    case REQ_ACCEPT: do_accept(f); break;
    case REQ_LISTEN: do_listen(f); break;
    case REQ_DATAGRAMS: do_datagrams(f); break;
    default: send_error(FD_CONN, ENOSYS, "a request of an unknown type"); break;
  }
}

void set_handler_signals(void) {
  static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGALRM, SIGPIPE, SIGXCPU, SIGXFSZ,
                                SIGVTALRM, SIGPROF, SIGIO, SIGTSTP, SIGTTIN, SIGTTOU};
  for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) signal(ignored[i], SIG_IGN);
  signal(SIGUSR2, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

void serve(int conn) {
  if (conn != FD_CONN && dup3(conn, FD_CONN, O_CLOEXEC) < 0) _exit(1);
  close_from(first_free_fd());
  set_handler_signals();
  // A handler without children needs no more; a supervisor sets another.
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  umask(0);

  struct timeval limit = {.tv_sec = FIRST_FRAME_S};
  setsockopt(FD_CONN, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  unsigned char header[HEADER_BYTES];
  if (!read_exact(FD_CONN, header, sizeof header)) _exit(0);
  size_t bytes = get32(header);
  unsigned char *payload = bytes <= MAX_REQUEST ? malloc(bytes + 1) : NULL;
  if (payload == NULL) {
    send_error(FD_CONN, bytes <= MAX_REQUEST ? ENOMEM : E2BIG, "a request");
    linger(FD_CONN);
    _exit(0);
  }
  if (!read_exact(FD_CONN, payload, bytes)) _exit(0);
  setsockopt(FD_CONN, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){0}, sizeof limit);
  struct fields f = {.at = payload, .left = bytes};
  answer(header[4], &f);
  _exit(0);
}
