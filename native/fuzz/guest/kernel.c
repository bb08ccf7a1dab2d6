// The connection to the host, and a command with its streams: all that a handler waits for. Descriptors from FIRST_FAKE on
// exist only here.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "../fuzz.h"
#include "../../guest/guest.h"
#include "box.h"
#include "redirect-prototypes.h"

enum { FIRST_FAKE = 100000, MOST_FAKE = 320, MOST_POLLS = 20000, USUAL_LIFE = 40 };

static struct {
  const uint8_t *host; // what the host sends
  size_t host_bytes, host_sent, host_total; // past host_bytes it begins again
  bool conn_closed, conn_lost;
  bool fake_open[MOST_FAKE];
  size_t output_left; // of the command, or of whom DIAL reached
  unsigned polls, life, orphans_life;
  bool alive, reaped;
  int status;
  int next_watch;
} k;

void kernel_reset(const uint8_t *data, size_t bytes) {
  memset(&k, 0, sizeof k);
  k.host = data;
  k.host_bytes = bytes;
  // Enough for frames of the greatest length, from small inputs.
  k.host_total = bytes + (bytes > 0 ? 4096 * fuzz_choose(80) : 0);
  k.life = USUAL_LIFE + fuzz_choose(64);
  k.orphans_life = fuzz_choose(8);
  k.output_left = 2048 * fuzz_choose(256);
  static const int statuses[] = {0, 1 << 8, 255 << 8, SIGTERM, SIGSEGV | 0x80};
  k.status = statuses[fuzz_choose(5)];
}

int fuzz_sometimes(int error) {
  if (fuzz_choose(8) != 7) return 0;
  errno = error;
  return -1;
}

// ---- descriptors

int fuzz_new_fd(void) {
  for (int i = 0; i < MOST_FAKE; i++) {
    if (k.fake_open[i]) continue;
    k.fake_open[i] = true;
    return FIRST_FAKE + i;
  }
  fuzz_finding("one request has 320 descriptors open");
}

static bool is_fake(int fd) {
  if (fd < FIRST_FAKE) return false;
  if (fd >= FIRST_FAKE + MOST_FAKE || !k.fake_open[fd - FIRST_FAKE]) fuzz_finding("a descriptor is used that is not open");
  return true;
}

int fuzz_close(int fd) {
  if (fd == FD_CONN) {
    if (k.conn_closed) fuzz_finding("the connection is closed twice");
    k.conn_closed = true;
  } else if (is_fake(fd)) {
    k.fake_open[fd - FIRST_FAKE] = false;
  } else {
    return box_close(fd);
  }
  return 0;
}

int fuzz_pipe2(int fds[2], int flags) {
  (void)flags;
  fds[0] = fuzz_new_fd();
  fds[1] = fuzz_new_fd();
  return 0;
}

int fuzz_fcntl(int fd, int what, ...) {
  (void)what;
  is_fake(fd);
  return 0;
}

int fuzz_fstat(int fd, struct stat *st) {
  if (!is_fake(fd)) return fstat(fd, st);
  memset(st, 0, sizeof *st);
  st->st_mode = S_IFCHR | 0666;
  st->st_rdev = fuzz_choose(8) == 7 ? makedev(1, 3) : makedev(5, 2);
  return 0;
}

int fuzz_ioctl(int fd, unsigned long what, ...) {
  va_list args;
  va_start(args, what);
  void *argument = va_arg(args, void *);
  va_end(args);
  is_fake(fd);
  if (fuzz_sometimes(ENOTTY) < 0) return -1;
  if (what == FIONREAD) *(int *)argument = (int)(k.output_left % 65536) + 4096 * (int)fuzz_choose(4);
  else if (what == TIOCGPGRP) *(pid_t *)argument = FUZZ_PID + (pid_t)fuzz_choose(2);
  else if (what == TIOCSWINSZ) fuzz_look_at(argument, sizeof(struct winsize));
  else if (what == 0x5441) return fuzz_new_fd(); // TIOCGPTPEER
  return 0;
}

int fuzz_tcgetattr(int fd, struct termios *t) {
  is_fake(fd);
  memset(t, 0, sizeof *t);
  t->c_lflag = fuzz_choose(2) == 0 ? ICANON : 0;
  t->c_cc[VEOF] = 4;
  return 0;
}

// ---- the connection

static void use_conn(void) {
  if (k.conn_closed) fuzz_finding("the connection is used after it was closed");
}

static void copy_from_host(unsigned char *to, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) to[i] = k.host[(k.host_sent + i) % k.host_bytes];
  k.host_sent += bytes;
}

ssize_t fuzz_recv(int fd, void *to, size_t bytes, int flags) {
  if (fd != FD_CONN) return fuzz_read(fd, to, bytes);
  use_conn();
  // Inside one variable the sanitizer sees no overflow: what has room for a frame is asked for no more than that.
  bool in_request = k.host_bytes < HEADER_BYTES || k.host_sent < HEADER_BYTES + (size_t)get32(k.host);
  size_t most = in_request ? MAX_REQUEST : MAX_DATA + HEADER_BYTES;
  if (bytes > most) fuzz_finding("more is asked for than a frame may have");
  size_t left = k.host_total - k.host_sent;
  if ((flags & MSG_DONTWAIT) != 0 && left > 0) {
    unsigned how = fuzz_choose(16);
    if (how == 15) {
      errno = fuzz_choose(2) == 0 ? EAGAIN : EINTR;
      return -1;
    }
    // A part, as a socket may give at any time.
    if (how > 0 && how < 8 && bytes > how) bytes = how;
  }
  if (left == 0 && fuzz_choose(4) == 3) {
    errno = ECONNRESET;
    return -1;
  }
  if (bytes > left) bytes = left;
  if (bytes > 0) copy_from_host(to, bytes);
  return (ssize_t)bytes;
}

// How many of these bytes a peer takes now; -1 with errno.
static ssize_t take_some(size_t bytes, int lost) {
  unsigned how = fuzz_choose(16);
  if (how == 15) errno = lost;
  else if (how == 14) errno = EAGAIN;
  else if (how == 13) errno = EINTR;
  else return (ssize_t)(how > 0 && how < 8 && bytes > how ? how : bytes);
  return -1;
}

ssize_t fuzz_send(int fd, const void *from, size_t bytes, int flags) {
  (void)flags;
  fuzz_look_at(from, bytes);
  if (fd != FD_CONN) {
    is_fake(fd);
    return take_some(bytes, ECONNRESET);
  }
  use_conn();
  if (k.conn_lost) {
    errno = EPIPE;
    return -1;
  }
  ssize_t n = take_some(bytes, EPIPE);
  if (n > 0) replies_take(from, (size_t)n);
  if (n < 0 && errno == EPIPE) k.conn_lost = true;
  return n;
}

ssize_t fuzz_sendmsg(int fd, const struct msghdr *message, int flags) {
  // What goes to PID 1 does not go further.
  if (fd == FD_CONTROL) {
    fuzz_look_at(message->msg_iov->iov_base, message->msg_iov->iov_len);
    return (ssize_t)message->msg_iov->iov_len;
  }
  ssize_t sent = 0;
  for (size_t i = 0; i < message->msg_iovlen; i++) {
    const struct iovec *part = &message->msg_iov[i];
    if (part->iov_len == 0) continue;
    ssize_t n = fuzz_send(fd, part->iov_base, part->iov_len, flags);
    if (n < 0) return sent > 0 ? sent : -1;
    sent += n;
    if ((size_t)n < part->iov_len) break;
  }
  return sent;
}

void kernel_check_connection(void) {
  if (!k.conn_lost && !k.conn_closed) replies_end();
}

// ---- streams of the command, and others that are read

static ssize_t read_events(void *to, size_t bytes) {
  static const uint32_t masks[] = {IN_CREATE, IN_MODIFY, IN_DELETE, IN_MOVED_FROM, IN_MOVED_TO, IN_ATTRIB, IN_DELETE_SELF,
                                   IN_MOVE_SELF, IN_CREATE | IN_ISDIR, IN_MOVED_FROM | IN_ISDIR, IN_MOVED_TO | IN_ISDIR,
                                   IN_DELETE | IN_ISDIR, IN_IGNORED, IN_Q_OVERFLOW};
  size_t used = 0;
  for (unsigned n = fuzz_choose(4); n > 0; n--) {
    struct inotify_event e = {.wd = 1 + (int)fuzz_choose(8), .mask = masks[fuzz_choose(14)]};
    char name[256] = "";
    if (fuzz_choose(4) != 0) {
      static const char *const names[] = {"e", "g", "new", "d"};
      unsigned which = fuzz_choose(5);
      if (which < 4) strcpy(name, names[which]);
      else memset(name, 'n', 255);
      e.len = (uint32_t)(strlen(name) / 16 + 1) * 16;
    }
    if (used + sizeof e + e.len > bytes) break;
    memcpy((char *)to + used, &e, sizeof e);
    memcpy((char *)to + used + sizeof e, name, e.len);
    used += sizeof e + e.len;
  }
  if (used == 0) errno = EAGAIN;
  return used > 0 ? (ssize_t)used : -1;
}

static bool watching(void) { return k.next_watch > 0; }

ssize_t fuzz_read(int fd, void *to, size_t bytes) {
  if (!is_fake(fd)) return read(fd, to, bytes);
  if (watching()) return read_events(to, bytes);
  unsigned how = fuzz_choose(8);
  if (how == 7 || (k.output_left == 0 && k.alive)) {
    errno = how == 6 ? EIO : EAGAIN;
    return -1;
  }
  if (how > 0 && how < 5 && bytes > how * 1000) bytes = how * 1000;
  if (bytes > k.output_left) bytes = k.output_left;
  memset(to, 'o', bytes);
  k.output_left -= bytes;
  return (ssize_t)bytes;
}

ssize_t fuzz_write(int fd, const void *from, size_t bytes) {
  fuzz_look_at(from, bytes);
  return is_fake(fd) ? take_some(bytes, EPIPE) : write(fd, from, bytes);
}

int fuzz_inotify_add_watch(int fd, const char *path, uint32_t mask) {
  (void)mask;
  is_fake(fd);
  if (k.next_watch > 64 || fuzz_choose(16) == 15) {
    errno = ENOSPC;
    return -1;
  }
  int seen = fuzz_openat_in_box(path);
  if (seen < 0) return -1;
  box_close(seen);
  return ++k.next_watch;
}

int fuzz_poll(struct pollfd *p, nfds_t count, int timeout_ms) {
  if (++k.polls > MOST_POLLS) fuzz_finding("a request that does not end");
  int ready = 0;
  bool host_left = k.host_sent < k.host_total;
  unsigned not_now = fuzz_choose(16);
  for (nfds_t i = 0; i < count; i++) {
    p[i].revents = 0;
    if (p[i].fd < 0) continue;
    if (p[i].fd == FD_CONN) use_conn();
    else is_fake(p[i].fd);
    // A watching guest ends with the first sign of its host.
    if (p[i].fd == FD_CONN && watching() && k.polls < 20) continue;
    short can = POLLIN | POLLOUT;
    if (p[i].fd == FD_CONN && !host_left) can |= POLLRDHUP;
    if (not_now < 8 && (not_now & (1u << (i % 3))) != 0) can = 0;
    p[i].revents = p[i].events & can;
    if (p[i].fd == FD_CONN && not_now == 15) p[i].revents |= POLLHUP;
    if (p[i].revents != 0) ready++;
  }
  if (ready == 0) fuzz_pass_ms(timeout_ms > 0 ? (uint64_t)timeout_ms : 1);
  return ready;
}

int fuzz_connect(int fd) {
  is_fake(fd);
  static const int errors[] = {0, EINPROGRESS, ECONNREFUSED, EINTR};
  errno = errors[fuzz_choose(4)];
  return errno == 0 ? 0 : -1;
}

int fuzz_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes) {
  (void)level, (void)name;
  is_fake(fd);
  fuzz_look_at(bytes, sizeof *bytes);
  *(int *)value = fuzz_choose(4) == 3 ? ECONNREFUSED : 0;
  return 0;
}

ssize_t fuzz_getrandom(void *to, size_t bytes, unsigned flags) {
  (void)flags;
  memset(to, 7, bytes);
  return (ssize_t)bytes;
}

// ---- processes

int fuzz_execve(const char *path, char *const *argv, char *const *env) {
  fuzz_look_at_text(path);
  fuzz_look_at_list(argv);
  fuzz_look_at_list(env);
  static const int errors[] = {0, ENOENT, EACCES, ENOTDIR, E2BIG, ENOEXEC};
  int error = errors[fuzz_choose(6)];
  if (error == 0) {
    k.alive = true;
    fuzz_exit(0); // to the parent, which sees no failure
  }
  errno = error;
  return -1;
}

pid_t fuzz_waitpid(pid_t pid, int *status, int flags) {
  if (pid > 0 && !k.alive) { // the one that could not be started
    *status = 127 << 8;
    return pid;
  }
  if (k.alive && k.polls >= k.life) k.alive = false;
  if (k.alive) return (flags & WNOHANG) != 0 ? 0 : (errno = EINTR, -1);
  if (!k.reaped) {
    k.reaped = true;
    *status = k.status;
    return FUZZ_PID;
  }
  if (k.orphans_life > 0 && k.polls < k.life + k.orphans_life) return 0;
  errno = ECHILD;
  return -1;
}

int fuzz_kill(pid_t pid, int signal) {
  if (pid >= -1 && pid <= 1) fuzz_finding("a signal to everybody, to its own group, or to PID 1");
  if (signal < 1 || signal > 64) fuzz_finding("a signal with no such number");
  if (pid == -FUZZ_PID && signal == SIGKILL && k.alive) {
    k.alive = false;
    k.orphans_life = 0;
    k.status = SIGKILL;
  }
  return 0;
}
