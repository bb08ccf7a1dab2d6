#define _GNU_SOURCE
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"
#include "wire.h"

void enter_private_mounts(void) {
  if (unshare(CLONE_NEWNS) < 0) answer_error(errno, "could not make a mount namespace");
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) answer_error(errno, "could not make mounts private");
}

static void write_map(pid_t pid, const char *file, const char *map) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  ssize_t length = (ssize_t)strlen(map);
  if (fd < 0 || write(fd, map, (size_t)length) != length) {
    int error = errno;
    kill(pid, SIGKILL);
    answer_error(error, "could not write %s", path);
  }
  close(fd);
}

int make_idmap(uint32_t base, uint32_t count) {
  // A fork that is born in the new user namespace and does nothing until it is killed.
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
  if (pid < 0) answer_error(errno, "could not make a user namespace");
  if (pid == 0)
    for (;;) pause();
  char map[96], path[48];
  snprintf(map, sizeof map, "0 %u %u\n%u 0 1\n", base, count, count);
  write_map(pid, "uid_map", map);
  write_map(pid, "gid_map", map);
  snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  int error = errno;
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  if (fd < 0) answer_error(error, "could not open a user namespace");
  return fd;
}

void mount_idmapped(const char *source, int target_dir, const char *target, int idmap_fd) {
  int tree = sys_open_tree(AT_FDCWD, source, WARREN_OPEN_TREE_CLONE | O_CLOEXEC);
  if (tree < 0) answer_error(errno, "could not take the directory %s", source);
  if (sys_mount_setattr(tree, WARREN_MOUNT_ATTR_IDMAP, idmap_fd) < 0)
    answer_error(errno, "could not map the ids of %s", source);
  if (sys_move_mount(tree, "", target_dir, target, WARREN_MOVE_MOUNT_F_EMPTY_PATH) < 0)
    answer_error(errno, "could not mount %s", source);
  close(tree);
}

void bind_readonly(const char *source, int root_fd, const char *target, uint32_t flags) {
  bool optional = flags & BIND_OPTIONAL;
  int at = sys_openat2(root_fd, target, O_PATH | O_CLOEXEC,
                       WARREN_RESOLVE_IN_ROOT | WARREN_RESOLVE_NO_SYMLINKS | WARREN_RESOLVE_NO_MAGICLINKS);
  if (at < 0) {
    if (optional && (errno == ENOENT || errno == ENOTDIR)) return;
    answer_error(errno, "no place for a mount in the root filesystem: /%s", target);
  }
  int tree = sys_open_tree(AT_FDCWD, source, WARREN_OPEN_TREE_CLONE | O_CLOEXEC);
  if (tree < 0) {
    if (optional && errno == ENOENT) {
      close(at);
      return;
    }
    answer_error(errno, "could not take %s", source);
  }
  if (sys_mount_setattr(tree, WARREN_MOUNT_ATTR_RDONLY | WARREN_MOUNT_ATTR_NOSUID | WARREN_MOUNT_ATTR_NODEV, -1) < 0)
    answer_error(errno, "could not make %s read-only", source);
  if (sys_move_mount(tree, "", at, "", WARREN_MOVE_MOUNT_F_EMPTY_PATH | WARREN_MOVE_MOUNT_T_EMPTY_PATH) < 0)
    answer_error(errno, "could not mount %s at /%s", source, target);
  close(tree);
  close(at);
}
