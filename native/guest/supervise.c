#include "supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  /// Kept free for a frame that must go out: EXIT.
  OUT_RESERVE = 64,
  /// What a terminal can hold: more than this after the end of the command was written by someone else.
  TTY_HOLDS = 128 << 10,
  REAP_MS = 100,
};
#define LINGER_NS (5 * 1000000000ull)
#define RESWEEP_NS (20 * 1000000ull)
#define TTY_REST_NS (20 * 1000000ull)
/// How long STARTED waits for what follows it. Most commands say something or end by then, and one message tells it all:
/// the host wakes once for it instead of twice.
#define STARTED_WAIT_NS 1000000ull
/// How long a command may run before its processor time is limited: so that a short one is answered at once even where
/// others have used it up.
#define GRACE_NS (50 * 1000000ull)

struct supervision job;

uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

int become_supervisor(void) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigaddset(&mask, SIGPWR);
  sigprocmask(SIG_BLOCK, &mask, NULL);
  signal(SIGUSR2, SIG_IGN);
  // Told when PID 1 dies, which ends the tree: without a pid namespace nobody else would.
  prctl(PR_SET_PDEATHSIG, SIGPWR, 0, 0, 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  return signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
}

void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/// False when no child is left.
static bool reap(void) {
  for (;;) {
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) return pid == 0;
    if (pid == job.c->pid) {
      job.ended = true;
      job.status = status;
    }
  }
}

static void sweep(void) {
  struct tree t = {.root = getpid()};
  // One call stops a whole fork bomb that stayed in its group, before it takes the processor from us.
  if (!job.ended) kill(-job.c->pid, SIGSTOP);
  tree_stop_and_kill(&t);
  if (!job.ended) kill(-job.c->pid, SIGKILL);
  job.next_sweep_ns = now_ns() + RESWEEP_NS;
}

void doom(uint32_t flag) {
  job.doomed = true;
  job.exit_flags |= flag;
  sweep();
  for (uint64_t end = now_ns() + REAP_MS * 1000000ull; reap() && now_ns() < end;) {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (sigtimedwait(&child, NULL, &(struct timespec){.tv_nsec = 2000000}) < 0 && errno == EAGAIN) sweep();
  }
  if (!job.ended) {
    job.ended = true;
    job.status = SIGKILL;
  }
}

static void flush(void);

void lose_connection(void) {
  // A host that breaks the protocol hears first that its command had started.
  if (job.started_waits_ns != 0) {
    job.started_waits_ns = 0;
    flush();
  }
  if (job.conn < 0) return;
  bool matters = !job.exit_sent && !job.c->detached;
  close(job.conn);
  job.conn = -1;
  job.out_from = job.out_to = 0;
  if (!job.c->tty) close_fd(&job.in_fd);
  if (matters) doom(EXIT_KILLED);
}

// ---- to the host

static void flush(void) {
  while (job.conn >= 0 && job.out_from < job.out_to) {
    ssize_t n = send(job.conn, job.out + job.out_from, job.out_to - job.out_from, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) {
      lose_connection();
      return;
    }
    job.out_from += (size_t)n;
  }
  job.out_from = job.out_to = 0;
}

/// True while there is nothing to send but STARTED, and something may still come to send with it.
static bool started_waits(void) {
  if (job.started_waits_ns == 0) return false;
  if (!job.ended && job.out_to - job.out_from == HEADER_BYTES + 4 && now_ns() < job.started_waits_ns) return true;
  job.started_waits_ns = 0;
  return false;
}

static size_t room(void) {
  if (job.out_from > 0 && OUT_ROOM - job.out_to < CHUNK) {
    memmove(job.out, job.out + job.out_from, job.out_to - job.out_from);
    job.out_to -= job.out_from;
    job.out_from = 0;
  }
  size_t used = job.out_to + HEADER_BYTES + OUT_RESERVE;
  return used < OUT_ROOM ? OUT_ROOM - used : 0;
}

static void queue(unsigned type, const void *payload, size_t bytes) {
  if (job.conn < 0) return;
  put_header(job.out + job.out_to, type, (uint32_t)bytes);
  memcpy(job.out + job.out_to + HEADER_BYTES, payload, bytes);
  job.out_to += HEADER_BYTES + bytes;
}

/// True while the bytes of this stream go to the host; after that they are read and dropped, so that nobody blocks.
static bool is_sending(const struct stream *t) {
  return job.conn >= 0 && !job.exit_sent && !t->cut && !(job.ended && t->left == 0);
}

/// True while they are kept for LOGS instead.
static bool is_logging(const struct stream *t) {
  return job.c->logged && !job.exit_sent && !(job.ended && t->left == 0);
}

static bool wants_read(const struct stream *t) {
  return t->fd >= 0 && t->rests_until_ns == 0 && (!is_sending(t) || room() >= CHUNK);
}

/// One read. False when there was nothing.
static bool pump(struct stream *t) {
  static unsigned char scrap[CHUNK];
  bool sending = is_sending(t);
  bool logging = is_logging(t);
  size_t most = CHUNK;
  if ((sending || logging) && job.ended && t->left < most) most = (size_t)t->left;
  unsigned char *to = sending ? job.out + job.out_to + HEADER_BYTES : scrap;
  ssize_t n = read(t->fd, to, most);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n <= 0 && job.c->tty && !job.ended) {
    // Nobody holds the terminal open now. Closing our side would send SIGHUP to a command that is just about to exit, and
    // one that lives can open /dev/tty again.
    t->rests_until_ns = now_ns() + TTY_REST_NS;
    return false;
  }
  if (n <= 0) {
    if (t->fd == job.in_fd) job.in_fd = -1;
    close_fd(&t->fd);
    t->left = 0;
    return false;
  }
  size_t bytes = (size_t)n;
  if ((sending || logging) && job.ended) t->left -= bytes;
  if (logging) main_log_append((int)(t - job.stream), to, bytes);
  if (!sending) return true;
  if (job.c->most_output > 0 && bytes > job.c->most_output - t->sent) {
    bytes = (size_t)(job.c->most_output - t->sent);
    t->cut = true;
    t->left = 0;
  }
  t->sent += bytes;
  if (bytes == 0) return true;
  put_header(job.out + job.out_to, t->type, (uint32_t)bytes);
  job.out_to += HEADER_BYTES + bytes;
  return true;
}

/// What the command had written when it ended is its output; what comes later is of others, who may never stop.
static void measure_rest(void) {
  job.measured = true;
  for (int i = 0; i < 2; i++) {
    struct stream *t = &job.stream[i];
    int waiting = 0;
    if (t->fd < 0) continue;
    if (job.c->tty) waiting = TTY_HOLDS;
    else if (ioctl(t->fd, FIONREAD, &waiting) != 0 || waiting < 0) waiting = 0;
    t->left = (uint64_t)waiting;
  }
}

static void send_exit(void) {
  struct rusage usage;
  getrusage(RUSAGE_CHILDREN, &usage);
  uint64_t cpu_us = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000u +
                    (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  job.exit_sent = true;
  if (job.stream[0].cut) job.exit_flags |= EXIT_STDOUT_CUT;
  if (job.stream[1].cut) job.exit_flags |= EXIT_STDERR_CUT;
  if (job.c->conn < 0) {
    main_log_end();
    tell_init(&(struct control){.kind = CONTROL_MAIN_ENDED, .value = (uint32_t)job.status, .cpu_us = cpu_us}, -1);
    return;
  }
  unsigned char payload[EXIT_BYTES];
  put_exit(payload, job.status, job.exit_flags, cpu_us);
  queue(OUT_EXIT, payload, sizeof payload);
}

/// After the end of the command: moves its last bytes, then EXIT.
static void finish_output(void) {
  for (int i = 0; i < 2; i++) {
    struct stream *t = &job.stream[i];
    while (t->fd >= 0 && (is_sending(t) || is_logging(t))) {
      if (room() < CHUNK) {
        flush();
        if (job.conn < 0) break;
        if (room() < CHUNK) return;
      }
      if (!pump(t)) t->left = 0;
    }
  }
  send_exit();
}

/// All is sent. The host is to close first: see linger().
static void say_goodbye(void) {
  if (job.input_ended) {
    lose_connection();
  } else if (job.linger_ns == 0) {
    shutdown(job.conn, SHUT_WR);
    job.linger_ns = now_ns() + LINGER_NS;
  } else if (now_ns() >= job.linger_ns) {
    lose_connection();
  }
}

// ---- the loop

static void on_connection(short events) {
  if ((events & POLLOUT) != 0) flush();
  if (job.conn < 0 || (events & (POLLIN | POLLRDHUP | POLLHUP | POLLERR)) == 0) return;
  bool lost = (events & (POLLHUP | POLLERR)) != 0;
  if (job.exit_sent) {
    drop_input();
  } else if (!job.c->detached && !lost && (events & POLLRDHUP) != 0) {
    // Seen at once, even behind stdin bytes that nobody takes.
    end_input();
  } else {
    if (!lost || job.c->detached) take_input();
    if (lost) lose_connection();
  }
}

static void on_signal(void) {
  struct signalfd_siginfo info;
  while (read(job.signals, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo == SIGPWR && getppid() != job.init) {
      lose_connection();
      if (!job.doomed) doom(EXIT_KILLED);
    }
  }
}

/// What can't be limited is not run.
static void end_grace(void) {
  static const char complaint[] = "warren: the command was killed: it can't be put under the sandbox's limits\n";
  struct tree t = {.root = getpid()};
  job.grace_end_ns = 0;
  if (tree_limit(&t)) return;
  if (!job.exit_sent && room() > sizeof complaint) queue(OUT_STDERR, complaint, sizeof complaint - 1);
  doom(EXIT_KILLED);
}

static int wait_ms(uint64_t deadline_ns, bool children) {
  uint64_t next = UINT64_MAX;
  if (deadline_ns != 0) next = deadline_ns;
  if (children && !job.doomed && job.grace_end_ns != 0 && job.grace_end_ns < next) next = job.grace_end_ns;
  if (job.doomed && children && job.next_sweep_ns < next) next = job.next_sweep_ns;
  if (job.started_waits_ns != 0 && job.started_waits_ns < next) next = job.started_waits_ns;
  if (job.linger_ns != 0 && job.conn >= 0 && job.linger_ns < next) next = job.linger_ns;
  if (job.stream[0].rests_until_ns != 0 && job.stream[0].rests_until_ns < next) next = job.stream[0].rests_until_ns;
  if (next == UINT64_MAX) return -1;
  uint64_t now = now_ns();
  if (next <= now) return 0;
  uint64_t ms = (next - now) / 1000000 + 1;
  return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

_Noreturn void supervise(const struct command *c) {
  job.c = c;
  job.conn = c->conn;
  job.init = getppid();
  job.in_fd = c->in_fd;
  job.stream[0] = (struct stream){.fd = c->out_fd, .type = OUT_STDOUT};
  job.stream[1] = (struct stream){.fd = c->err_fd, .type = OUT_STDERR};
  job.signals = c->signals;
  job.ended = c->status >= 0;
  job.status = c->status;
  // The main command has none.
  if (groups_limit_later() && c->conn >= 0) job.grace_end_ns = now_ns() + GRACE_NS;
  uint64_t deadline_ns = c->deadline_ns;
  unsigned char pid[4];
  put32(pid, (uint32_t)c->pid);
  queue(OUT_STARTED, pid, sizeof pid);
  job.started_waits_ns = now_ns() + STARTED_WAIT_NS;
  if (c->complaint != NULL) queue(OUT_STDERR, c->complaint, strlen(c->complaint));

  for (;;) {
    bool children = reap();
    if (job.ended && !job.measured) measure_rest();
    if (job.ended) deadline_ns = 0;
    if (deadline_ns != 0 && now_ns() >= deadline_ns) {
      deadline_ns = 0;
      doom(EXIT_TIMED_OUT);
      continue;
    }
    if (job.doomed && children && now_ns() >= job.next_sweep_ns) {
      sweep();
      continue;
    }
    if (children && !job.doomed && job.grace_end_ns != 0 && now_ns() >= job.grace_end_ns) {
      end_grace();
      continue;
    }
    if (job.ended && !job.exit_sent) finish_output();
    bool waits = started_waits();
    if (!waits) flush();
    if (job.stream[0].rests_until_ns != 0 && (job.ended || now_ns() >= job.stream[0].rests_until_ns)) {
      job.stream[0].rests_until_ns = 0;
    }
    if (job.exit_sent && job.conn >= 0 && job.out_to == 0) say_goodbye();
    if (job.exit_sent && job.conn < 0 && !children) _exit(0);

    struct pollfd p[5] = {
      {.fd = job.signals, .events = POLLIN},
      {.fd = job.conn, .events = job.c->detached || job.input_ended ? 0 : POLLRDHUP},
      {.fd = wants_read(&job.stream[0]) ? job.stream[0].fd : -1, .events = POLLIN},
      {.fd = wants_read(&job.stream[1]) ? job.stream[1].fd : -1, .events = POLLIN},
      {.fd = job.stdin_to > 0 ? job.in_fd : -1, .events = POLLOUT},
    };
    if (!job.input_ended && (job.stdin_to == 0 || job.exit_sent)) p[1].events |= POLLIN;
    if (job.out_to > 0 && !waits) p[1].events |= POLLOUT;
    if (poll(p, 5, wait_ms(deadline_ns, children)) < 0) continue;
    if (p[0].revents != 0) on_signal();
    if (p[1].revents != 0 && job.conn >= 0) on_connection(p[1].revents);
    for (int i = 0; i < 2; i++) {
      if (p[2 + i].revents != 0 && job.stream[i].fd >= 0 && wants_read(&job.stream[i])) pump(&job.stream[i]);
    }
    if (p[4].revents != 0) write_stdin();
  }
}
