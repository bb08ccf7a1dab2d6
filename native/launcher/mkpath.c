#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mounts.h"
#include "sys.h"

// Changing the file system uid takes the capabilities that go past permissions; a directory below one of another user's
// needs them.
static void raise_capabilities(void) {
  struct {
    uint32_t version;
    int pid;
  } head = {0x20080522, 0};
  struct {
    uint32_t effective, permitted, inheritable;
  } data[2];
  if (syscall(SYS_capget, &head, data) < 0) return;
  for (int i = 0; i < 2; i++) data[i].effective = data[i].permitted;
  syscall(SYS_capset, &head, data);
}

static int open_inside(int root_fd, const char *path, uint64_t flags) {
  return sys_openat2(root_fd, path, O_PATH | O_CLOEXEC | flags, WARREN_RESOLVE_IN_ROOT | WARREN_RESOLVE_NO_MAGICLINKS);
}

// O_EXCL: what stands there, a link that leads nowhere included, is not written through.
static int make_file(int parent, const char *name) {
  int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0) return -1;
  close(fd);
  return 0;
}

int make_path(int root_fd, const char *path, uint32_t owner, bool is_file) {
  char prefix[4096];
  size_t length = strlen(path);
  while (length > 0 && path[length - 1] == '/') length--;
  if (length >= sizeof prefix) {
    errno = ENAMETOOLONG;
    return -1;
  }
  // The sandbox's root makes the directories: the host's own has no id inside.
  setfsgid(owner);
  setfsuid(owner);
  raise_capabilities();
  mode_t before = umask(0);
  int at = open_inside(root_fd, ".", O_DIRECTORY);
  for (size_t end = 0; at >= 0 && end < length;) {
    while (path[end] == '/') end++;
    size_t start = end;
    while (end < length && path[end] != '/') end++;
    memcpy(prefix, path, end);
    prefix[end] = 0;
    bool is_file_here = is_file && end == length;
    uint64_t flags = is_file_here ? 0 : O_DIRECTORY;
    // From the root each time, so that links on the way lead to where they lead inside.
    int next = open_inside(root_fd, prefix, flags);
    if (next < 0 && errno == ENOENT) {
      int made = is_file_here ? make_file(at, prefix + start) : mkdirat(at, prefix + start, 0755);
      if (made == 0 || errno == EEXIST) next = open_inside(root_fd, prefix, flags);
    }
    int error = errno;
    close(at);
    errno = error;
    at = next;
  }
  int error = errno;
  umask(before);
  setfsuid(0);
  setfsgid(0);
  raise_capabilities();
  errno = error;
  return at;
}
