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

static int open_inside(int root_fd, const char *path) {
  return sys_openat2(root_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC,
                     WARREN_RESOLVE_IN_ROOT | WARREN_RESOLVE_NO_MAGICLINKS);
}

void make_path(int root_fd, const char *path, uint32_t owner) {
  char prefix[4096];
  size_t length = strlen(path);
  if (length >= sizeof prefix) return;
  // The sandbox's root makes the directories: the host's own has no id inside.
  setfsgid(owner);
  setfsuid(owner);
  raise_capabilities();
  mode_t before = umask(0);
  int parent = open_inside(root_fd, ".");
  for (size_t at = 0; parent >= 0 && at < length;) {
    while (path[at] == '/') at++;
    size_t start = at;
    while (at < length && path[at] != '/') at++;
    if (start == at) break;
    memcpy(prefix, path, at);
    prefix[at] = 0;
    // From the root each time, so that links on the way lead to where they lead inside.
    int next = open_inside(root_fd, prefix);
    if (next < 0 && errno == ENOENT && mkdirat(parent, prefix + start, 0755) == 0) next = open_inside(root_fd, prefix);
    close(parent);
    parent = next;
  }
  if (parent >= 0) close(parent);
  umask(before);
  setfsuid(0);
  setfsgid(0);
  raise_capabilities();
}
