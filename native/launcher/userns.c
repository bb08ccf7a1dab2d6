#define _GNU_SOURCE
#include "userns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"
#include "wire.h"

static bool wanted;
static uint32_t subordinates;
static int namespace_fd = -1;
static int failed_errno;
static char failed[1024];

static bool parse_id(const char *text, uint32_t *id) {
  char *end;
  errno = 0;
  unsigned long long n = strtoull(text, &end, 10);
  *id = (uint32_t)n;
  return !errno && *text >= '0' && *text <= '9' && !*end && n > 0 && n < UINT32_MAX;
}

bool parse_subordinate_ids(char **argv, struct subordinate_ids *ids) {
  ids->newuidmap = argv[0];
  ids->newgidmap = argv[1];
  return parse_id(argv[2], &ids->first_uid) && parse_id(argv[3], &ids->first_gid) && parse_id(argv[4], &ids->count);
}

static void fail(int error, const char *what, const char *words) {
  failed_errno = error ? error : EPERM;
  snprintf(failed, sizeof failed, "%s%s%s", what, *words ? ": " : "", words);
}

// newuidmap or newgidmap: set-user-ID programs that look the range up in /etc/subuid or /etc/subgid and write the map.
static bool map_ids(const char *program, pid_t pid, uint32_t own, uint32_t first, uint32_t count) {
  char text[6][16];
  uint32_t numbers[] = {0, own, 1, FIRST_SUBORDINATE, first, count};
  char target[16];
  snprintf(target, sizeof target, "%d", (int)pid);
  char *argv[9] = {(char *)program, target};
  for (int i = 0; i < 6; i++) {
    snprintf(text[i], sizeof text[i], "%u", numbers[i]);
    argv[2 + i] = text[i];
  }
  int said[2];
  if (pipe2(said, O_CLOEXEC) < 0) {
    fail(errno, "pipe", "");
    return false;
  }
  pid_t child = fork();
  if (child == 0) {
    char *env[] = {"PATH=/usr/bin:/bin", NULL};
    dup2(said[1], STDOUT_FILENO);
    dup2(said[1], STDERR_FILENO);
    reset_signals();
    execve(program, argv, env);
    _exit(127);
  }
  int error = errno;
  close(said[1]);
  if (child < 0) {
    close(said[0]);
    fail(error, "fork", "");
    return false;
  }
  char words[512];
  size_t used = 0;
  for (ssize_t n; used < sizeof words - 1 && (n = read(said[0], words + used, sizeof words - 1 - used)) != 0;) {
    if (n < 0 && errno != EINTR) break;
    if (n > 0) used += (size_t)n;
  }
  close(said[0]);
  while (used > 0 && words[used - 1] == '\n') used--;
  words[used] = 0;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  char what[256];
  snprintf(what, sizeof what, "could not map the user's subordinate ids with %s", program);
  fail(EPERM, what, words);
  return false;
}

void make_user_namespace(const struct subordinate_ids *ids) {
  wanted = true;
  subordinates = ids->count;
  // A fork that is born in the new namespace and does nothing until it is killed: we stay outside, because only there the
  // user owns the namespaces of sandboxes that an earlier launcher started, and may signal what runs in them.
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
  if (pid < 0) {
    fail(errno, "could not make a user namespace", "");
    return;
  }
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  if (map_ids(ids->newuidmap, pid, getuid(), ids->first_uid, ids->count) &&
      map_ids(ids->newgidmap, pid, getgid(), ids->first_gid, ids->count)) {
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(errno, "could not open a user namespace", "");
    // Above what workers close.
    namespace_fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 10);
    close(fd);
  }
  kill(pid, SIGKILL);
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
  }
}

bool is_rootless(void) { return wanted; }

uint32_t subordinate_count(void) { return subordinates; }

void enter_user_namespace(void) {
  if (!wanted) return;
  if (namespace_fd < 0) answer_error(failed_errno, "%s", failed);
  if (setns(namespace_fd, CLONE_NEWUSER) < 0) answer_error(errno, "could not enter the user namespace");
  close(namespace_fd);
}

int enter_image_namespace(int idmap_fd) {
  if (setns(idmap_fd, CLONE_NEWUSER) < 0) return -1;
  struct {
    uint32_t version;
    int pid;
  } head = {0x20080522, 0};
  struct {
    uint32_t effective, permitted, inheritable;
  } data[2];
  if (syscall(SYS_capget, &head, data) < 0) return -1;
  for (int i = 0; i < 2; i++) data[i].inheritable = data[i].permitted;
  if (syscall(SYS_capset, &head, data) < 0) return -1;
  for (unsigned long cap = 0; cap < 64; cap++)
    if (data[cap / 32].permitted >> cap % 32 & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0) return -1;
  return 0;
}
