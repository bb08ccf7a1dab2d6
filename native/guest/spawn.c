#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441 // musl has it in no header
#endif

enum { PTY_PEER_MAJOR = 136 };
enum { SPAWN_TTY = 1, SPAWN_STDIN = 2, SPAWN_DETACHED = 4, SPAWN_FLAGS = 7 };

struct request {
  uint32_t flags;
  uint32_t timeout_ms;
  uint64_t most_output;
  struct winsize size;
  const char *cwd;
  const char *user;
  char **argv;
  char **env;
  size_t env_count;
};

_Noreturn static void refuse(int error, const char *what) {
  send_error(FD_CONN, error, what);
  linger(FD_CONN);
  _exit(0);
}

static char **take_list(struct fields *f, size_t *count) {
  *count = take32(f);
  // Each takes at least its length field, which bounds what is allocated.
  if (f->bad || *count > f->left / 4) {
    f->bad = true;
    return NULL;
  }
  char **list = calloc(*count + 1, sizeof *list);
  if (list == NULL) refuse(ENOMEM, "spawn");
  for (size_t i = 0; i < *count; i++) list[i] = take_str(f);
  return list;
}

static void parse(struct fields *f, struct request *r) {
  r->flags = take32(f);
  r->timeout_ms = take32(f);
  r->most_output = take64(f);
  r->size.ws_col = take16(f);
  r->size.ws_row = take16(f);
  r->cwd = take_str(f);
  r->user = take_str(f);
  size_t argc;
  r->argv = take_list(f, &argc);
  r->env = take_list(f, &r->env_count);
  if (f->bad || f->left > 0 || argc == 0 || (r->flags & ~(uint32_t)SPAWN_FLAGS) != 0) refuse(EINVAL, "the spawn request");
  for (size_t i = 0; i < r->env_count; i++) {
    const char *equals = strchr(r->env[i], '=');
    if (equals == NULL || equals == r->env[i]) refuse(EINVAL, "the spawn request's env");
  }
}

static bool nonblocking(int fd) {
  return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
}

static bool open_pipe(int *read_end, int *write_end) {
  int p[2];
  if (pipe2(p, O_CLOEXEC) != 0) return false;
  *read_end = p[0];
  *write_end = p[1];
  return true;
}

/// The other end of a terminal. gVisor's kernel has no way to it but its name, which may be the payload's: so what is found
/// there must be that very device.
static int open_peer(int terminal) {
  int peer = ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (peer >= 0 || errno != ENOTTY) return peer;
  unsigned number;
  char name[32];
  struct stat st;
  if (ioctl(terminal, TIOCGPTN, &number) != 0) return -1;
  snprintf(name, sizeof name, "/dev/pts/%u", number);
  peer = open(name, O_RDWR | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
  if (peer < 0) return -1;
  if (fstat(peer, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(PTY_PEER_MAJOR, number)) return peer;
  close(peer);
  errno = ENODEV;
  return -1;
}

/// A new terminal: the master's descriptor, and the other end in `peer`. -1 with errno.
static int open_terminal(const struct request *r, const struct account *a, int *peer) {
  int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -1;
  struct stat st;
  int unlock = 0;
  // Only the kernel's multiplexer, which is character device 5:2: the path is the payload's to change.
  if (fstat(fd, &st) != 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2)) {
    errno = ENODEV;
  } else if (ioctl(fd, TIOCSPTLCK, &unlock) == 0) {
    *peer = open_peer(fd);
    if (*peer >= 0) {
      ioctl(fd, TIOCSWINSZ, &r->size);
      // So that the user can open /dev/tty by its other names too.
      if (a->change && fchown(*peer, a->uid, (gid_t)-1) != 0) errno = 0;
      return fd;
    }
  }
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

/// Opens what the command gets as 0, 1 and 2 into `theirs` and our ends into `c`.
static bool open_streams(const struct request *r, const struct account *a, struct command *c, int theirs[3]) {
  if (c->tty) {
    c->out_fd = open_terminal(r, a, &theirs[0]);
    if (c->out_fd < 0) return false;
    c->in_fd = c->out_fd;
    theirs[1] = theirs[2] = theirs[0];
    return true;
  }
  if ((r->flags & SPAWN_STDIN) != 0) {
    if (!open_pipe(&theirs[0], &c->in_fd) || !nonblocking(c->in_fd)) return false;
  } else {
    theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (theirs[0] < 0) return false;
  }
  return open_pipe(&c->out_fd, &theirs[1]) && open_pipe(&c->err_fd, &theirs[2]) && nonblocking(c->out_fd) &&
         nonblocking(c->err_fd);
}

static void reap_failed(pid_t pid) {
  int status;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
}

void do_spawn(struct fields *f) {
  uint64_t start = now_ns();
  struct request r = {0};
  parse(f, &r);

  static struct account account;
  int error = find_account(r.user, &account);
  if (error == ESRCH) refuse(error, r.user);
  if (error != 0) refuse(error, "the sandbox's user database");
  struct command c = {
    .conn = FD_CONN,
    .status = -1,
    .in_fd = -1,
    .out_fd = -1,
    .err_fd = -1,
    .tty = (r.flags & SPAWN_TTY) != 0,
    .detached = (r.flags & SPAWN_DETACHED) != 0,
    .deadline_ns = r.timeout_ms > 0 ? start + r.timeout_ms * 1000000ull : 0,
    .most_output = r.most_output,
  };
  char **env = complete_env(r.env, r.env_count, &account);
  if (env == NULL) refuse(ENOMEM, "spawn");
  struct launch l = {.argv = r.argv, .env = env, .cwd = *r.cwd != 0 ? r.cwd : "/", .account = &account, .tty = c.tty};
  if (!open_streams(&r, &account, &c, l.fd)) refuse(errno, c.tty ? "opening a terminal" : "opening pipes");
  c.signals = become_supervisor();
  if (c.signals < 0) refuse(errno, "spawn");

  struct outcome outcome;
  c.pid = launch(&l, &outcome);
  close(l.fd[0]);
  if (l.fd[1] != l.fd[0]) {
    close(l.fd[1]);
    close(l.fd[2]);
  }
  char line[512];
  if (outcome.failed != STAGE_NONE && c.pid > 0) reap_failed(c.pid);
  switch (outcome.failed) {
    case STAGE_NONE: break;
    case STAGE_SETUP: refuse(outcome.error, "spawn");
    case STAGE_USER: refuse(outcome.error, r.user);
    case STAGE_CWD: refuse(outcome.error, l.cwd);
    case STAGE_EXEC:
      c.status = explain_exec_failure(&outcome, r.argv[0], line, sizeof line) << 8;
      c.complaint = line;
      break;
  }
  supervise(&c);
}

void run_main(char **argv, char **env, const char *cwd, const char *user) {
  static struct account account;
  struct outcome outcome = {.failed = STAGE_SETUP, .error = ENOMEM};
  struct command c = {.conn = -1, .status = -1, .in_fd = -1, .out_fd = -1, .err_fd = -1, .detached = true, .logged = true};
  struct launch l = {.argv = argv, .cwd = cwd, .account = &account, .limited = true};
  int error = find_account(user, &account);
  size_t count = 0;
  while (env[count] != NULL) count++;
  l.env = complete_env(env, count, &account);
  l.fd[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
  bool piped = open_pipe(&c.out_fd, &l.fd[1]) && open_pipe(&c.err_fd, &l.fd[2]) && nonblocking(c.out_fd) && nonblocking(c.err_fd);
  c.signals = become_supervisor();
  c.pid = -1;
  if (error != 0) outcome = (struct outcome){.failed = STAGE_USER, .error = error};
  else if (l.env != NULL && piped) c.pid = launch(&l, &outcome);
  close(l.fd[0]);
  close(l.fd[1]);
  close(l.fd[2]);
  if (outcome.failed != STAGE_NONE) {
    char line[512];
    if (c.pid > 0) reap_failed(c.pid);
    int code = 126;
    if (outcome.failed == STAGE_EXEC) code = explain_exec_failure(&outcome, argv[0], line, sizeof line);
    else snprintf(line, sizeof line, "warren: starting the main command: %s\n", strerror(outcome.error));
    c.status = code << 8;
    main_log_append(1, line, strlen(line));
  }
  tell_init(&(struct control){.kind = CONTROL_MAIN_STARTED, .value = (uint32_t)(c.pid > 0 ? c.pid : getpid())}, -1);
  supervise(&c);
}
