// Before they touch a container, crun and runc make sure that nobody inside can write to the file that they run from
// (CVE-2019-5736): they take a copy or a read-only mount of themselves and run that, which means to start, and to link
// a dozen libraries, twice. A program that already is a sealed file in memory satisfies them, can't be written to by
// anybody, and starts once.
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

enum { MAX_KEPT = 4, FIRST_FD = 10, MAX_PROGRAM = 64 << 20 };

static struct kept {
  char *path;
  struct stat source;
  int fd;
} kept[MAX_KEPT];
static int kept_count;

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
         a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
         a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

// 0 or an errno.
static int copy_all(int from, int to) {
  static unsigned char buffer[1 << 16];
  for (;;) {
    ssize_t n = read(from, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return 0;
    for (ssize_t sent = 0; sent < n;) {
      ssize_t written = write(to, buffer + sent, (size_t)(n - sent));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return written < 0 ? errno : EIO;
      sent += written;
    }
  }
}

// A descriptor from FIRST_FD on, or -1 with errno.
static int sealed_copy(const char *path, struct stat *source) {
  int from = open(path, O_RDONLY | O_CLOEXEC);
  if (from < 0) return -1;
  int error = EINVAL, memory = -1, fd = -1;
  if (fstat(from, source) < 0) error = errno;
  else if (S_ISREG(source->st_mode) && source->st_size <= MAX_PROGRAM) {
    memory = sys_memfd_create("program");
    error = memory < 0 ? errno : copy_all(from, memory);
    if (!error && (fchmod(memory, 0500) < 0 || fcntl(memory, F_ADD_SEALS, WARREN_ALL_SEALS) < 0)) error = errno;
    if (!error && (fd = fcntl(memory, F_DUPFD_CLOEXEC, FIRST_FD)) < 0) error = errno;
  }
  if (memory >= 0) close(memory);
  close(from);
  errno = error;
  return fd;
}

static struct kept *find(const char *path) {
  for (int i = 0; i < kept_count; i++)
    if (!strcmp(kept[i].path, path)) return &kept[i];
  return NULL;
}

int keep_program(const char *path) {
  struct stat source;
  struct kept *k = find(path);
  if (!k && kept_count == MAX_KEPT) return ENOSPC;
  int fd = sealed_copy(path, &source);
  if (fd < 0) return errno;
  if (k) {
    close(k->fd);
  } else {
    k = &kept[kept_count];
    k->path = strdup(path);
    if (!k->path) {
      close(fd);
      return ENOMEM;
    }
    kept_count++;
  }
  k->source = source;
  k->fd = fd;
  return 0;
}

bool is_kept_program(int fd) {
  for (int i = 0; i < kept_count; i++)
    if (kept[i].fd == fd) return true;
  return false;
}

int highest_kept_program(void) {
  int highest = -1;
  for (int i = 0; i < kept_count; i++)
    if (kept[i].fd > highest) highest = kept[i].fd;
  return highest;
}

void exec_program(char *const *argv, char *const *env) {
  struct kept *k = find(argv[0]);
  struct stat now;
  // An upgrade of the program takes effect at once, if without this shortcut. So does a script, which needs a path.
  if (k && stat(k->path, &now) == 0 && same_file(&now, &k->source)) sys_execveat(k->fd, argv, env);
  execve(argv[0], argv, env);
}
