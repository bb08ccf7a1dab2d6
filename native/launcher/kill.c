#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve.h"
#include "sys.h"

static bool wait_gone(int pidfd, int64_t deadline) {
  for (;;) {
    int64_t left = deadline - now_ms();
    struct pollfd p = {pidfd, POLLIN, 0};
    int ready = poll(&p, 1, left > 0 ? (int)left : 0);
    if (ready > 0) return true;
    if (ready == 0) return false;
    if (errno != EINTR) return false;
  }
}

static _Noreturn void answer_gone(bool gone) {
  struct out out = {0};
  out_u8(&out, gone);
  answer_ok(&out);
}

// Signals one process, known by pid and start time, and waits for its end. The pidfd is opened before the start time is
// read, so the signal can't reach a process that got the same pid later.
void op_kill(struct in *in) {
  pid_t pid = (pid_t)in_u32(in);
  uint64_t start = in_u64(in);
  int signal_number = (int)in_u32(in);
  uint32_t wait_ms = in_u32(in);
  if (in->bad || in->left || pid <= 1 || signal_number < 0 || signal_number > 64 || wait_ms > 3600000)
    answer_error(EBADMSG, "KILL");
  int64_t deadline = now_ms() + wait_ms;
  int pidfd = sys_pidfd_open(pid);
  if (pidfd < 0 && errno != ESRCH) answer_error(errno, "pidfd_open");
  if (pidfd < 0 || process_start(pid) != start) answer_gone(true);
  if (signal_number && sys_pidfd_kill(pidfd, signal_number) < 0 && errno != ESRCH)
    answer_error(errno, "pidfd_send_signal");
  answer_gone(wait_gone(pidfd, deadline));
}

// True when the process is (still) in a cgroup whose path ends with `suffix`, or in one below it.
static bool in_cgroup(pid_t pid, const char *suffix) {
  char path[48];
  static char text[65536];
  snprintf(path, sizeof path, "/proc/%d/cgroup", (int)pid);
  if (read_file(path, text, sizeof text) <= 0) return false;
  size_t length = strlen(suffix);
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    for (const char *at = line + 1; (at = strstr(at, suffix)) != NULL; at++)
      if (at[length] == 0 || at[length] == '/') return true;
  }
  return false;
}

static size_t kill_members(const char *dir, const char *suffix) {
  char path[4200];
  snprintf(path, sizeof path, "%s/cgroup.procs", dir);
  FILE *f = fopen(path, "re");
  if (!f) return 0;
  size_t found = 0;
  int pid;
  while (fscanf(f, "%d", &pid) == 1 && found < 1000000) {
    // 0 is a process of a pid namespace that we can't see.
    if (pid <= 1) continue;
    found++;
    int pidfd = sys_pidfd_open(pid);
    if (pidfd < 0) continue;
    if (in_cgroup(pid, suffix)) sys_pidfd_kill(pidfd, SIGKILL);
    close(pidfd);
  }
  fclose(f);
  return found;
}

// Kills all members of the given cgroup directories, again and again until they are empty or the time is up.
void op_cgroup_kill(struct in *in) {
  char *suffix = in_str(in);
  char **dirs = in_list(in);
  uint32_t wait_ms = in_u32(in);
  if (in->bad || in->left || strlen(suffix) < 8 || suffix[0] != '/' || wait_ms > 600000) answer_error(EBADMSG, "CGROUP_KILL");
  int64_t deadline = now_ms() + wait_ms;
  for (useconds_t pause = 500;; pause = pause < 20000 ? pause * 2 : pause) {
    size_t found = 0;
    for (char **dir = dirs; *dir; dir++) found += kill_members(*dir, suffix);
    if (!found) answer_gone(true);
    if (now_ms() >= deadline) answer_gone(false);
    usleep(pause);
  }
}
