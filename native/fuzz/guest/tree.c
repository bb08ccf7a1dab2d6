// What /proc tells of the processes: their names are the payload's to choose, and a snapshot is not taken in one instant.
// An input is a byte of flags and, for each process, its pid in two bytes, a length and that much of its stat file.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../fuzz.h"

static struct dirent *fuzz_readdir(DIR *dir);
static int fuzz_openat(const char *path);
static ssize_t fuzz_read(int fd, char *to, size_t bytes);
static int fuzz_kill(pid_t pid, int number);

#define malloc(n) fuzz_malloc(n)
#define realloc(p, n) fuzz_realloc(p, n)
#define free(p) fuzz_free(p)
#define readdir(dir) fuzz_readdir(dir)
#define fdopendir(fd) ((void)(fd), (DIR *)&processes)
#define closedir(dir) ((void)(dir))
#define openat(dir, path, flags) fuzz_openat(path)
#define read(fd, to, bytes) fuzz_read(fd, to, bytes)
#define close(fd) ((void)(fd))
#define kill(pid, number) fuzz_kill(pid, number)

enum { ROOT = 100, MOST = 256, LISTING = 1 << 20 };
static struct {
  pid_t pid[MOST];
  struct fuzz_input stat[MOST];
  bool limited[MOST];
  size_t count, next;
} processes;

#include "../../guest/tree.c"

static const pid_t spare[] = {1, 200};
static const struct tree *tree;

uint64_t now_ns(void) {
  static uint64_t now;
  return now += 1000000;
}

static struct dirent *fuzz_readdir(DIR *dir) {
  static struct dirent e;
  (void)dir;
  if (processes.next == processes.count) {
    processes.next = 0;
    return NULL;
  }
  snprintf(e.d_name, sizeof e.d_name, "%d", (int)processes.pid[processes.next++]);
  return &e;
}

static int fuzz_openat(const char *path) {
  if (strcmp(path, ".") == 0) {
    processes.next = 0;
    return LISTING;
  }
  for (size_t i = 0; i < processes.count; i++)
    if (processes.pid[i] == atoi(path)) return (int)i;
  errno = ENOENT;
  return -1;
}

static ssize_t fuzz_read(int fd, char *to, size_t bytes) {
  struct fuzz_input *stat = &processes.stat[fd];
  if (bytes > stat->left) bytes = stat->left;
  memcpy(to, stat->at, bytes);
  return (ssize_t)bytes;
}

static int fuzz_kill(pid_t pid, int number) {
  if (number != 0 && (pid <= 0 || pid == tree->root)) fuzz_finding("a signal to others than a member");
  for (size_t i = 0; i < tree->spare_count; i++)
    if (pid == tree->spare[i]) fuzz_finding("a signal to one who is to be spared");
  return 0;
}

static size_t index_of(pid_t pid) {
  size_t i = 0;
  while (i < processes.count && processes.pid[i] != pid) i++;
  if (i == processes.count) fuzz_finding("a move of a process that there is not");
  return i;
}

bool groups_is_limited(pid_t pid) {
  return processes.limited[index_of(pid)];
}

bool groups_limit(pid_t pid) {
  fuzz_kill(pid, SIGSTOP);
  if (groups_is_limited(pid)) fuzz_finding("a process is moved twice");
  return processes.limited[index_of(pid)] = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input all = {data, size};
  if (all.left == 0) return 0;
  unsigned flags = *all.at++;
  all.left--;
  processes.count = processes.next = 0;
  memset(processes.limited, 0, sizeof processes.limited);
  while (all.left > 3 && processes.count < MOST) {
    size_t bytes = all.at[2];
    pid_t pid = all.at[0] | all.at[1] << 8;
    all.at += 3;
    all.left -= 3;
    if (bytes > all.left) bytes = all.left;
    // What the kernel lists has a pid of its own.
    bool known = pid == 0;
    for (size_t i = 0; i < processes.count; i++) known = known || processes.pid[i] == pid;
    if (!known) {
      processes.stat[processes.count] = (struct fuzz_input){all.at, bytes};
      processes.pid[processes.count++] = pid;
    }
    all.at += bytes;
    all.left -= bytes;
  }
  proc_usable = true;
  struct tree t = {.root = ROOT, .everyone = (flags & 1) != 0, .spare_below = (flags & 2) != 0};
  if ((flags & 4) != 0) {
    t.spare = spare;
    t.spare_count = sizeof spare / sizeof *spare;
  }
  tree = &t;
  long count = tree_signal(&t, SIGTERM);
  if (count < 0 || (size_t)count > processes.count) fuzz_finding("more members than processes");
  if (!tree_limit(&t)) fuzz_finding("what can be moved is not");
  long limited = 0;
  for (size_t i = 0; i < processes.count; i++) limited += processes.limited[i];
  if (limited != count) fuzz_finding("others than the members are moved");
  tree_stop_and_kill(&t);
  fuzz_free_all();
  return 0;
}
