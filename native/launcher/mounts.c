#define _GNU_SOURCE
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"
#include "userns.h"
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

static int idmap_of(const char *map) {
  // A fork that is born in the new user namespace and does nothing until it is killed.
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
  if (pid < 0) answer_error(errno, "could not make a user namespace");
  if (pid == 0)
    for (;;) pause();
  char path[48];
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

int make_idmap(uint32_t base, uint32_t count) {
  char map[48];
  snprintf(map, sizeof map, "0 %u %u\n", base, count);
  return idmap_of(map);
}

int make_idmap_with_root(uint32_t base, uint32_t count) {
  char map[96];
  snprintf(map, sizeof map, "0 %u %u\n%u 0 1\n", base, count, count);
  return idmap_of(map);
}

// Ends with -1 and errno, or 0 in a new user namespace that belongs to the host id `owner`.
static int become_owner(uint32_t owner) {
  // The namespace would take over the creator's process limit, which root has none of; the cgroup's holds inside.
  struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_NPROC, &none);
  // Keeps the capabilities: some hosts let nobody without CAP_SYS_ADMIN make a user namespace.
  prctl(PR_SET_SECUREBITS, WARREN_SECBIT_NO_SETUID_FIXUP);
  if (setgroups(0, NULL) < 0 || setresgid(owner, owner, owner) < 0 || setresuid(owner, owner, owner) < 0) return -1;
  if (unshare(CLONE_NEWUSER) < 0) return -1;
  // Who changes ids is closed to all but the host's root, and then an ordinary user's worker could not write our map. There
  // is nothing to read here that this user doesn't know.
  return is_rootless() ? prctl(PR_SET_DUMPABLE, 1) : 0;
}

void mount_userns(uint32_t base, uint32_t count, const char *target) {
  int link[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link) < 0) answer_error(errno, "socketpair");
  pid_t pid = fork();
  if (pid < 0) answer_error(errno, "fork");
  if (pid == 0) {
    close(link[0]);
    int error = become_owner(base) < 0 ? errno : 0;
    write(link[1], &error, sizeof error);
    // Until the parent has closed its end, also by dying.
    while (read(link[1], &error, sizeof error) < 0 && errno == EINTR) {
    }
    _exit(0);
  }
  close(link[1]);
  int error = EIO;
  if (read(link[0], &error, sizeof error) != sizeof error || error)
    answer_error(error, "could not make the sandbox's user namespace");
  char map[96], path[48];
  // An ordinary user's own id and the subordinate ones are two ranges to the kernel, and a line may be of one only.
  if (base == 0 && count > 1) snprintf(map, sizeof map, "0 0 1\n1 1 %u\n", count - 1);
  else snprintf(map, sizeof map, "0 %u %u\n", base, count);
  write_map(pid, "uid_map", map);
  write_map(pid, "gid_map", map);
  snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
  int tree = sys_open_tree(AT_FDCWD, path, WARREN_OPEN_TREE_CLONE | O_CLOEXEC);
  error = errno;
  close(link[0]);
  waitpid(pid, NULL, 0);
  if (tree < 0) answer_error(error, "could not open the sandbox's user namespace");
  int place = open(target, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (place < 0) answer_error(errno, "could not make the file %s", target);
  close(place);
  if (sys_move_mount(tree, "", AT_FDCWD, target, WARREN_MOVE_MOUNT_F_EMPTY_PATH) < 0)
    answer_error(errno, "could not mount the sandbox's user namespace");
  close(tree);
}

void mount_idmapped(const char *source, int target_dir, const char *target, int idmap_fd) {
  int tree = sys_open_tree(AT_FDCWD, source, WARREN_OPEN_TREE_CLONE | O_CLOEXEC);
  if (tree < 0) answer_error(errno, "could not take the directory %s", source);
  if (idmap_fd >= 0 && sys_mount_setattr(tree, 0, WARREN_MOUNT_ATTR_IDMAP, idmap_fd) < 0)
    answer_error(errno, "could not map the ids of %s", source);
  if (sys_move_mount(tree, "", target_dir, target, WARREN_MOVE_MOUNT_F_EMPTY_PATH) < 0)
    answer_error(errno, "could not mount %s", source);
  close(tree);
}

// A mount of `source` that shares no inode with it. The paths go by descriptors: overlayfs has characters of its own.
static int overlay_apart(const char *source) {
  int lower = open(source, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (lower < 0) return -1;
  // Without an upper layer overlayfs wants two lower ones.
  static const char none[] = "m/none";
  if (mkdir(none, 0700) < 0 && errno != EEXIST) answer_error(errno, "could not make the directory %s", none);
  int empty = open(none, O_PATH | O_DIRECTORY | O_CLOEXEC);
  char layers[96];
  snprintf(layers, sizeof layers, "/proc/self/fd/%d:/proc/self/fd/%d", lower, empty);
  int fs = sys_fsopen("overlay");
  if (empty < 0 || fs < 0 || sys_fsconfig_string(fs, "source", "warren") < 0 ||
      sys_fsconfig_string(fs, "lowerdir", layers) < 0 || (is_rootless() && sys_fsconfig_flag(fs, "userxattr") < 0) ||
      sys_fsconfig_create(fs) < 0)
    answer_error(errno, "could not mount the overlay of %s", source);
  int mount = sys_fsmount(fs, WARREN_MOUNT_ATTR_RDONLY | WARREN_MOUNT_ATTR_NOSUID | WARREN_MOUNT_ATTR_NODEV);
  if (mount < 0) answer_error(errno, "could not mount the overlay of %s", source);
  close(fs);
  close(empty);
  close(lower);
  return mount;
}

void bind_readonly(const char *source, int root_fd, const char *target, uint32_t flags) {
  bool optional = flags & BIND_OPTIONAL;
  int at = sys_openat2(root_fd, target, O_PATH | O_CLOEXEC,
                       WARREN_RESOLVE_IN_ROOT | WARREN_RESOLVE_NO_SYMLINKS | WARREN_RESOLVE_NO_MAGICLINKS);
  if (at < 0) {
    if (optional && (errno == ENOENT || errno == ENOTDIR)) return;
    answer_error(errno, "no place for a mount in the root filesystem: /%s", target);
  }
  int tree = flags & BIND_APART ? overlay_apart(source) : -1;
  bool is_apart = tree >= 0;
  // A file can't be an overlay; a regular file alone leads nowhere.
  if (!is_apart && (!(flags & BIND_APART) || errno == ENOTDIR))
    tree = sys_open_tree(AT_FDCWD, source, WARREN_OPEN_TREE_CLONE | O_CLOEXEC);
  if (tree < 0) {
    if (optional && errno == ENOENT) {
      close(at);
      return;
    }
    answer_error(errno, "could not take %s", source);
  }
  if (!is_apart &&
      sys_mount_setattr(tree, 0, WARREN_MOUNT_ATTR_RDONLY | WARREN_MOUNT_ATTR_NOSUID | WARREN_MOUNT_ATTR_NODEV, -1) < 0)
    answer_error(errno, "could not make %s read-only", source);
  if (sys_move_mount(tree, "", at, "", WARREN_MOVE_MOUNT_F_EMPTY_PATH | WARREN_MOVE_MOUNT_T_EMPTY_PATH) < 0)
    answer_error(errno, "could not mount %s at /%s", source, target);
  close(tree);
  close(at);
}
