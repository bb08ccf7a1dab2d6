#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"
#include "sys.h"
#include "userns.h"

enum { MAX_WORKERS = 512 };

int lifeline_fd = -1;
static int lifeline_write_fd = -1;
static int child_fd = -1;
static int lock_fd = -1;

static struct worker {
  uint32_t id;
  uint8_t op;
  pid_t pid;
  int fd;
  struct out answer;
} workers[MAX_WORKERS];
static size_t worker_count;

static void send_answer(uint32_t id, const unsigned char *data, size_t length) {
  struct out frame = {0};
  out_u32(&frame, (uint32_t)length + 4);
  out_u32(&frame, id);
  out_raw(&frame, data, length);
  for (size_t sent = 0; sent < frame.length;) {
    ssize_t n = write(STDOUT_FILENO, frame.data + sent, frame.length - sent);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) exit(0);
    sent += (size_t)n;
  }
  free(frame.data);
}

static void send_error(uint32_t id, int error, const char *text) {
  struct out body = {0};
  out_u8(&body, 1);
  out_u32(&body, (uint32_t)error);
  out_bytes(&body, text, strlen(text));
  send_answer(id, body.data, body.length);
  free(body.data);
}

static bool is_run(uint8_t op) { return op == OP_RUN || op == OP_RUN_MAPPED || op == OP_RUN_UNPACK; }

static _Noreturn void work(uint8_t op, struct in *in, int fd) {
  // Descriptors of the serving process: a worker that outlives it must hold neither its pipes nor its lifeline open.
  answer_fd = fcntl(fd, F_DUPFD_CLOEXEC, 10);
  // What only sends signals stays outside: see userns.c.
  if (op == OP_START || op == OP_RMTREE || op == OP_OWN || op == OP_CHECK_OUTSIDE || op == OP_COPY || op == OP_RUN_MAPPED ||
      op == OP_RUN_UNPACK)
    enter_user_namespace();
  int lifeline = fcntl(lifeline_fd, F_DUPFD_CLOEXEC, 10);
  // The lock goes with this process, and not with the container runtime: what it left is found by its cgroup.
  int lock = (op == OP_START || op == OP_COPY) && lock_fd >= 0 ? fcntl(lock_fd, F_DUPFD_CLOEXEC, 10) : -1;
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  for (int i = 3; i < 10; i++) close(i);
  int highest = answer_fd > lifeline ? answer_fd : lifeline;
  if (lock > highest) highest = lock;
  if (highest_kept_program() > highest) highest = highest_kept_program();
  for (int i = 10; i <= highest; i++)
    if (i != answer_fd && i != lifeline && i != lock && !is_kept_program(i)) close(i);
  close_from(highest + 1);
  lifeline_fd = lifeline;
  // A RUN takes SIGTERM, its cancellation, where it waits; before that there may be a program to end already.
  sigset_t mask;
  sigemptyset(&mask);
  if (is_run(op)) sigaddset(&mask, SIGTERM);
  sigprocmask(SIG_SETMASK, &mask, NULL);
  switch (op) {
    case OP_RUN: op_run(in, false);
    case OP_RUN_MAPPED: op_run(in, false);
    case OP_RUN_UNPACK: op_run(in, true);
    case OP_START: op_start(in);
    case OP_KILL: op_kill(in);
    case OP_CGROUP_KILL: op_cgroup_kill(in);
    case OP_RMTREE: op_rmtree(in);
    case OP_OWN: op_own(in);
    case OP_CHECK_OUTSIDE: op_check_outside(in);
    case OP_COPY: op_copy(in);
  }
  answer_error(ENOSYS, "unknown request %u", op);
}

static void cancel(uint32_t target) {
  // Only a RUN and a COPY take a cancellation: anything else is short, or must not be left half done.
  for (size_t i = 0; i < worker_count; i++)
    if (workers[i].id == target && (is_run(workers[i].op) || workers[i].op == OP_COPY)) kill(workers[i].pid, SIGTERM);
}

static void keep(uint32_t id, struct in *in) {
  char *path = in_str(in);
  int error = in->bad || in->left || path[0] != '/' ? EBADMSG : keep_program(path);
  if (error) {
    send_error(id, error, "could not keep the program");
  } else {
    struct out body = {0};
    out_u8(&body, 0);
    send_answer(id, body.data, body.length);
    free(body.data);
  }
  free(path);
}

static void handle(uint32_t id, uint8_t op, struct in in) {
  if (op == OP_HELLO) {
    struct out body = {0};
    out_u8(&body, 0);
    out_u32(&body, 1);
    send_answer(id, body.data, body.length);
    free(body.data);
    return;
  }
  if (op == OP_KEEP) {
    keep(id, &in);
    return;
  }
  if (op == OP_CANCEL) {
    cancel(in_u32(&in));
    return;
  }
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0) {
    send_error(id, errno, "could not make a pipe");
    return;
  }
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, &before);
  pid_t pid = fork();
  if (pid == 0) work(op, &in, fds[1]);
  sigprocmask(SIG_SETMASK, &before, NULL);
  close(fds[1]);
  if (pid < 0) {
    close(fds[0]);
    send_error(id, errno, "could not fork");
    return;
  }
  workers[worker_count++] = (struct worker){.id = id, .op = op, .pid = pid, .fd = fds[0]};
}

static void collect(size_t index) {
  struct worker *w = &workers[index];
  unsigned char buffer[65536];
  ssize_t n = read(w->fd, buffer, sizeof buffer);
  if (n < 0 && errno == EINTR) return;
  if (n > 0 && w->answer.length + (size_t)n <= MAX_ANSWER) {
    out_raw(&w->answer, buffer, (size_t)n);
    return;
  }
  if (n == 0 && w->answer.length > 0)
    send_answer(w->id, w->answer.data, w->answer.length);
  else
    send_error(w->id, EIO, "the worker ended without an answer");
  close(w->fd);
  free(w->answer.data);
  *w = workers[--worker_count];
}

static void reap(void) {
  struct signalfd_siginfo info;
  while (read(child_fd, &info, sizeof info) > 0) {
  }
  // Containers' first processes are reparented to us, so that they never stay zombies while we live.
  while (waitpid(-1, NULL, WNOHANG) > 0) {
  }
}

// Takes what is complete out of the buffer. -1 when the peer breaks the protocol.
static int take_requests(unsigned char *buffer, size_t *filled) {
  size_t at = 0;
  while (worker_count < MAX_WORKERS && *filled - at >= 4) {
    struct in head = {buffer + at, 4, false};
    uint32_t length = in_u32(&head);
    if (length < 5 || length > MAX_REQUEST) return -1;
    if (*filled - at - 4 < length) break;
    struct in in = {buffer + at + 4, length, false};
    uint32_t id = in_u32(&in);
    uint8_t op = *in.at++;
    in.left--;
    handle(id, op, in);
    at += 4 + length;
  }
  memmove(buffer, buffer + at, *filled - at);
  *filled -= at;
  return 0;
}

// Waits until nobody holds the lock any more. Held by descriptors, so it ends with the last process that has one.
static bool take_lock(const char *path) {
  lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd < 0) return false;
  while (flock(lock_fd, LOCK_EX) < 0)
    if (errno != EINTR) return false;
  return true;
}

int serve(const char *lock, const struct subordinate_ids *ids) {
  // A Ctrl-C in the engine's terminal must not end us before the engine has put its things in order.
  setsid();
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (lock && *lock && !take_lock(lock)) return 1;
  int line[2];
  if (pipe2(line, O_CLOEXEC) < 0) return 1;
  lifeline_fd = line[0];
  lifeline_write_fd = line[1];
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mask, NULL);
  child_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  if (child_fd < 0) return 1;

  if (ids) make_user_namespace(ids);
  static unsigned char buffer[MAX_REQUEST + 4];
  size_t filled = 0;
  for (;;) {
    struct pollfd polls[MAX_WORKERS + 2];
    polls[0] = (struct pollfd){worker_count < MAX_WORKERS ? STDIN_FILENO : -1, POLLIN, 0};
    polls[1] = (struct pollfd){child_fd, POLLIN, 0};
    size_t watched = worker_count;
    for (size_t i = 0; i < watched; i++) polls[i + 2] = (struct pollfd){workers[i].fd, POLLIN, 0};
    if (poll(polls, watched + 2, -1) < 0 && errno != EINTR) return 1;
    // From the end, because collect() moves the last worker into a freed place.
    for (size_t i = watched; i-- > 0;)
      if (polls[i + 2].revents) collect(i);
    if (polls[1].revents) reap();
    if (polls[0].revents) {
      ssize_t n = read(STDIN_FILENO, buffer + filled, sizeof buffer - filled);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return 0;
      filled += (size_t)n;
    }
    if (take_requests(buffer, &filled) < 0) return 2;
  }
}
