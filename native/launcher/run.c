#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mounts.h"
#include "program.h"
#include "serve.h"
#include "sys.h"

enum { RUN_TIMED_OUT = 1, RUN_CUT = 2, RUN_CANCELLED = 4 };

struct run {
  char *cwd, **argv, **env;
  const unsigned char *input;
  size_t input_length, input_sent;
  int output_fd, input_fd;
  int image_ids_fd; // -1: none
  pid_t pid;
};

// The last `size` bytes of the output: what a tool says last is why it failed.
struct tail {
  unsigned char *data;
  size_t size, used;
  bool cut;
};

static void tail_add(struct tail *t, const unsigned char *data, size_t n) {
  if (n > t->size) {
    data += n - t->size;
    n = t->size;
    t->cut = true;
  }
  if (t->used + n > t->size) {
    size_t drop = t->used + n - t->size;
    memmove(t->data, t->data + drop, t->used - drop);
    t->used -= drop;
    t->cut = true;
  }
  memcpy(t->data + t->used, data, n);
  t->used += n;
}

// False at end of file.
static bool drain(struct run *r, struct tail *t) {
  unsigned char buffer[65536];
  ssize_t n = read(r->output_fd, buffer, sizeof buffer);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  tail_add(t, buffer, (size_t)n);
  return n > 0;
}

static void feed(struct run *r) {
  ssize_t n = write(r->input_fd, r->input + r->input_sent, r->input_length - r->input_sent);
  if (n > 0) r->input_sent += (size_t)n;
  if ((n < 0 && errno != EAGAIN && errno != EINTR) || r->input_sent == r->input_length) {
    close(r->input_fd);
    r->input_fd = -1;
  }
}

static _Noreturn void exec_child(const struct run *r, int in, int out, int report) {
  setsid();
  reset_signals();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int error = 0;
  if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 || chdir(r->cwd) < 0) error = errno;
  if (!error && r->image_ids_fd >= 0 && enter_image_namespace(r->image_ids_fd) < 0) error = errno;
  if (!error) {
    exec_program(r->argv, r->env);
    error = errno;
  }
  write(report, &error, sizeof error);
  _exit(127);
}

static void spawn(struct run *r) {
  int in[2], out[2], report[2];
  if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0)
    answer_error(errno, "pipe");
  r->pid = fork();
  if (r->pid < 0) answer_error(errno, "fork");
  if (r->pid == 0) exec_child(r, in[0], out[1], report[1]);
  close(in[0]);
  close(out[1]);
  close(report[1]);
  int error = 0;
  if (read(report[0], &error, sizeof error) == sizeof error) {
    waitpid(r->pid, NULL, 0);
    answer_error(error, "%s", r->argv[0]);
  }
  close(report[0]);
  r->input_fd = in[1];
  r->output_fd = out[0];
  fcntl(r->input_fd, F_SETFL, O_NONBLOCK);
  fcntl(r->output_fd, F_SETFL, O_NONBLOCK);
}

// Waits for the program itself; a child of it that keeps the pipe open holds nobody up.
static uint32_t supervise(struct run *r, struct tail *t, uint32_t timeout_ms) {
  // Blocked since before the fork, so that it can't end this process and leave the program.
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  int term_fd = signalfd(-1, &mask, SFD_CLOEXEC);
  int pidfd = sys_pidfd_open(r->pid);
  if (term_fd < 0 || pidfd < 0) {
    kill(-r->pid, SIGKILL);
    answer_error(errno, "pidfd_open");
  }
  int64_t deadline = timeout_ms ? now_ms() + timeout_ms : 0;
  uint32_t flags = 0;
  for (;;) {
    if (r->input_fd >= 0 && r->input_sent == r->input_length) feed(r);
    struct pollfd polls[] = {
        {r->output_fd, POLLIN, 0}, {r->input_fd, POLLOUT, 0}, {pidfd, POLLIN, 0},
        {term_fd, POLLIN, 0},      {lifeline_fd, 0, 0},
    };
    int wait = -1;
    if (deadline) {
      int64_t left = deadline - now_ms();
      wait = left > 0 ? (int)(left < 1 << 30 ? left : 1 << 30) : 0;
    }
    int ready = poll(polls, 5, wait);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) flags |= RUN_TIMED_OUT;
    if (polls[3].revents || polls[4].revents) flags |= RUN_CANCELLED;
    if (flags) break;
    if (polls[0].revents && !drain(r, t)) {
      close(r->output_fd);
      r->output_fd = -1;
    }
    if (polls[1].revents) feed(r);
    if (polls[2].revents) break;
  }
  // Before the wait below, so that the group's id can't have been given to anybody else.
  kill(-r->pid, SIGKILL);
  for (int i = 0; i < 64 && r->output_fd >= 0; i++) {
    struct pollfd more = {r->output_fd, POLLIN, 0};
    if (poll(&more, 1, 0) <= 0 || !drain(r, t)) break;
  }
  return flags;
}

void op_run(struct in *in, bool in_image_ids) {
  struct run r = {.image_ids_fd = -1};
  uint32_t timeout_ms = in_u32(in);
  uint32_t most = in_u32(in);
  r.cwd = in_str(in);
  r.argv = in_list(in);
  r.env = in_list(in);
  r.input = in_bytes(in, &r.input_length);
  if (in->bad || in->left || !r.argv[0] || most > MAX_REQUEST) answer_error(EBADMSG, "RUN");
  struct tail t = {.data = must_alloc(most), .size = most};
  signal(SIGPIPE, SIG_IGN);
  if (in_image_ids && is_rootless()) r.image_ids_fd = make_idmap_with_root(FIRST_SUBORDINATE, subordinate_count());
  spawn(&r);
  uint32_t flags = supervise(&r, &t, timeout_ms);
  int status = 0;
  while (waitpid(r.pid, &status, 0) < 0 && errno == EINTR) {
  }
  struct out out = {0};
  out_u8(&out, WIFSIGNALED(status) ? 1 : 0);
  out_u32(&out, (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
  out_u32(&out, flags | (t.cut ? RUN_CUT : 0));
  out_bytes(&out, t.data, t.used);
  answer_ok(&out);
}
