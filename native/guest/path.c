#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PROC_SUPER_MAGIC 0x9fa0
#define RESOLVE_NO_MAGICLINKS 0x02
enum { MOST_LINKS = 40 }; // as the kernel

// linux/openat2.h, which musl does not bring.
struct open_how {
  uint64_t flags;
  uint64_t mode;
  uint64_t resolve;
};

/// Linux before 5.6, gVisor and some seccomp profiles do not have it.
static bool have_openat2(void) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC};
  long fd = syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof how);
  if (fd >= 0) close((int)fd);
  return fd >= 0;
}

int open_plain(int dir, const char *path, int flags) {
  flags |= O_CLOEXEC;
  if ((flags & O_PATH) == 0) flags |= O_NONBLOCK | O_NOCTTY;
  struct open_how how = {.flags = (uint64_t)(unsigned)flags, .resolve = RESOLVE_NO_MAGICLINKS};
  long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
  if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return (int)fd;
  int error = errno;
  if (!have_openat2()) return openat(dir, path, flags);
  errno = error;
  return -1;
}

int open_regular(int dir, const char *path, int flags) {
  int seen = open_plain(dir, path, O_PATH | (flags & O_NOFOLLOW));
  if (seen < 0) return -1;
  flags &= ~O_NOFOLLOW;
  struct stat st;
  int fd = -1;
  if (fstat(seen, &st) != 0) {
    // errno is set
  } else if (!S_ISREG(st.st_mode)) {
    errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
  } else if (have_proc()) {
    // The very file that was looked at, whatever its name stands for by now.
    char name[32];
    snprintf(name, sizeof name, "self/fd/%d", seen);
    fd = openat(FD_PROC, name, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } else {
    fd = open_plain(dir, path, flags);
    if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))) {
      close(fd);
      fd = -1;
      errno = EINVAL;
    }
  }
  int error = errno;
  close(seen);
  errno = error;
  return fd;
}

static int open_parent_at(int dir, const char *path, entry_name name) {
  size_t end = strlen(path);
  while (end > 0 && path[end - 1] == '/') end--;
  size_t start = end;
  while (start > 0 && path[start - 1] != '/') start--;
  size_t name_bytes = end - start;
  if (end >= PATH_MAX || name_bytes >= sizeof(entry_name)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  if (name_bytes == 0) {
    strcpy(name, ".");
  } else {
    memcpy(name, path + start, name_bytes);
    name[name_bytes] = 0;
  }
  char parent[PATH_MAX] = ".";
  if (start > 0) {
    memcpy(parent, path, start);
    parent[start] = 0;
  } else if (path[0] == '/') {
    strcpy(parent, "/");
  }
  return open_plain(dir, parent, O_PATH | O_DIRECTORY);
}

static bool is_absolute(const char *path) {
  if (path[0] == '/') return true;
  errno = EINVAL;
  return false;
}

int open_parent(const char *path, entry_name name) {
  return is_absolute(path) ? open_parent_at(AT_FDCWD, path, name) : -1;
}

int open_target(const char *path, entry_name name) {
  if (!is_absolute(path)) return -1;
  int dir = open_parent_at(AT_FDCWD, path, name);
  char target[PATH_MAX];
  for (int links = 0; dir >= 0; links++) {
    struct stat st;
    struct statfs fs;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISLNK(st.st_mode)) return dir;
    ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
    // What a link of /proc reads as is not what it leads to.
    bool is_magic = fstatfs(dir, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
    int next = -1;
    if (n >= 0 && (links >= MOST_LINKS || is_magic)) {
      errno = ELOOP;
    } else if (n >= 0) {
      target[n] = 0;
      next = open_parent_at(dir, target, name);
    }
    int error = errno;
    close(dir);
    errno = error;
    dir = next;
  }
  return -1;
}

bool make_directories(const char *path, mode_t mode) {
  if (!is_absolute(path)) return false;
  int dir = open_plain(AT_FDCWD, "/", O_PATH | O_DIRECTORY);
  const char *at = path + strspn(path, "/");
  while (dir >= 0 && *at != 0) {
    entry_name name;
    size_t bytes = strcspn(at, "/");
    const char *next = at + bytes + strspn(at + bytes, "/");
    int below = -1;
    if (bytes >= sizeof name) {
      errno = ENAMETOOLONG;
    } else {
      memcpy(name, at, bytes);
      name[bytes] = 0;
      if (mkdirat(dir, name, *next == 0 ? mode : 0755) == 0 || errno == EEXIST) {
        below = open_plain(dir, name, O_PATH | O_DIRECTORY);
        if (below < 0 && *next == 0 && (errno == ENOTDIR || errno == ENOENT)) errno = EEXIST;
      }
    }
    int error = errno;
    close(dir);
    errno = error;
    dir = below;
    at = next;
  }
  if (dir < 0) return false;
  close(dir);
  return true;
}
