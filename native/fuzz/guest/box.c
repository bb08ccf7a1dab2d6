// Files. Paths are looked up inside a tmpfs that is mounted nowhere: nothing above it can be reached. Should a request get
// out all the same, this process has every mount of the machine read-only and without devices.
#include "box.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../fuzz.h"
#include "../../guest/guest.h"
#include "redirect-prototypes.h"

static int box = -1;
static bool changed = true;

static struct {
  int fds[512];
  size_t fd_count;
  DIR *dirs[64];
  size_t dir_count;
} opened;

static void must(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
  close(fd);
}

static void enter_namespaces(void) {
  uid_t uid = getuid();
  gid_t gid = getgid();
  char map[64];
  must(unshare(CLONE_NEWNS | CLONE_NEWNET | (uid != 0 ? CLONE_NEWUSER : 0)) == 0, "unshare");
  if (uid == 0) return;
  write_file("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "0 %u 1", uid);
  write_file("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "0 %u 1", gid);
  write_file("/proc/self/gid_map", map);
}

static void set_mount(int dir, const char *path, unsigned flags, uint64_t set, uint64_t clear) {
  struct mount_attr attr = {.attr_set = set, .attr_clr = clear};
  must(syscall(SYS_mount_setattr, dir, path, flags, &attr, sizeof attr) == 0, path);
}

void box_open(char *const *writable_dirs) {
  enum { MOST_DIRS = 16 };
  int trees[MOST_DIRS];
  size_t count = 0;
  enter_namespaces();
  must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "making mounts private");
  // libFuzzer's own files: the corpus, reproducers.
  for (; writable_dirs[count] != NULL && count < MOST_DIRS; count++) {
    trees[count] = (int)syscall(SYS_open_tree, AT_FDCWD, writable_dirs[count], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    must(trees[count] >= 0, writable_dirs[count]);
  }
  set_mount(AT_FDCWD, "/", AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, 0);
  for (size_t i = 0; i < count; i++) {
    must(syscall(SYS_move_mount, trees[i], "", AT_FDCWD, writable_dirs[i], MOVE_MOUNT_F_EMPTY_PATH) == 0,
         writable_dirs[i]);
    close(trees[i]);
  }

  int context = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
  must(context >= 0, "fsopen");
  must(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "size", "8m", 0) == 0, "fsconfig");
  must(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "nr_inodes", "1000", 0) == 0, "fsconfig");
  must(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0, "fsconfig");
  int made = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV);
  must(made >= 0, "fsmount");
  close(context);
  // Above the product's fixed descriptors, and above those of libFuzzer.
  box = fcntl(made, F_DUPFD_CLOEXEC, 64);
  must(box >= 0, "fcntl");
  close(made);

  int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  must(proc >= 0 && dup3(proc, FD_PROC, O_CLOEXEC) == FD_PROC, "/proc");
  close(proc);
  open_proc();
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max < 8192 ? files.rlim_max : 8192;
  setrlimit(RLIMIT_NOFILE, &files);
}

static void empty(int fd) {
  DIR *dir = fdopendir(fd);
  must(dir != NULL, "emptying the box");
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    if (unlinkat(fd, e->d_name, 0) == 0) continue;
    int below = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    must(below >= 0, "emptying the box");
    empty(below);
    must(unlinkat(fd, e->d_name, AT_REMOVEDIR) == 0, "emptying the box");
  }
  closedir(dir);
}

static void put(const char *name, const char *text) {
  int fd = openat(box, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), name);
  close(fd);
}

void box_reset(void) {
  if (!changed) return;
  changed = false;
  empty(openat(box, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  static const char *const dirs[] = {"d", "d/e", "etc", "tmp"};
  for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) must(mkdirat(box, dirs[i], 0755) == 0, dirs[i]);
  put("f", "a file's text");
  put("d/g", "");
  put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n");
  put("etc/group", "root:x:0:\nu:x:1000:\ng:x:2000:root,u\n");
  must(mkfifoat(box, "p", 0644) == 0, "p");
  must(symlinkat("/d/e", box, "l") == 0, "l");
  must(symlinkat("../f", box, "d/m") == 0, "d/m");
  must(symlinkat("o", box, "o") == 0, "o");
}

void fuzz_box_changes(void) { changed = true; }

static int remember(int fd) {
  if (fd < 0) return fd;
  if (opened.fd_count == sizeof opened.fds / sizeof *opened.fds) fuzz_finding("one request has 512 descriptors open");
  return opened.fds[opened.fd_count++] = fd;
}

static bool forget(int fd) {
  for (size_t i = opened.fd_count; i-- > 0;) {
    if (opened.fds[i] != fd) continue;
    opened.fds[i] = opened.fds[--opened.fd_count];
    return true;
  }
  return false;
}

// Closes a file of the product.
int box_close(int fd) {
  if (!forget(fd)) fuzz_finding("a descriptor is closed that is not open");
  return close(fd);
}

void box_close_all(void) {
  while (opened.dir_count > 0) closedir(opened.dirs[--opened.dir_count]);
  while (opened.fd_count > 0) close(opened.fds[--opened.fd_count]);
}

DIR *fuzz_fdopendir(int fd) {
  if (opened.dir_count == sizeof opened.dirs / sizeof *opened.dirs) fuzz_finding("one request reads 64 directories");
  DIR *dir = fdopendir(fd);
  if (dir == NULL) return NULL;
  forget(fd);
  return opened.dirs[opened.dir_count++] = dir;
}

int fuzz_closedir(DIR *dir) {
  for (size_t i = opened.dir_count; i-- > 0;) {
    if (opened.dirs[i] != dir) continue;
    opened.dirs[i] = opened.dirs[--opened.dir_count];
    return closedir(dir);
  }
  fuzz_finding("a directory is closed that is not open");
}

// openat2() with the box as the root of the filesystem.
static int open_in_box(int dir, const char *path, struct open_how how) {
  char whole[3 * 4096];
  fuzz_look_at_text(path);
  if (path[0] != '/' && dir != AT_FDCWD) {
    char link[40], at[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t n = readlink(link, at, sizeof at - 1);
    if (n < 0) return -1;
    at[n] = 0;
    int written = snprintf(whole, sizeof whole, "%s/%s", at, path);
    if (written < 0 || (size_t)written >= sizeof whole) {
      errno = ENAMETOOLONG;
      return -1;
    }
    // Which directory a relative path starts in does not count towards its length.
    if (strlen(path) < 4096) path = whole;
  }
  if ((how.flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0) changed = true;
  how.resolve |= RESOLVE_IN_ROOT;
  return remember((int)syscall(SYS_openat2, box, path, &how, sizeof how));
}

int fuzz_openat_in_box(const char *path) {
  return open_in_box(AT_FDCWD, path, (struct open_how){.flags = O_PATH | O_CLOEXEC});
}

long fuzz_syscall(long number, ...) {
  va_list args;
  va_start(args, number);
  long result = 0;
  if (number == SYS_openat2) {
    int dir = va_arg(args, int);
    const char *path = va_arg(args, const char *);
    const struct open_how *how = va_arg(args, const struct open_how *);
    result = open_in_box(dir, path, *how);
  } else if (number == SYS_renameat2) {
    changed = true;
    int from_dir = va_arg(args, int);
    const char *from = va_arg(args, const char *);
    int to_dir = va_arg(args, int);
    const char *to = va_arg(args, const char *);
    result = syscall(SYS_renameat2, from_dir, from, to_dir, to, va_arg(args, unsigned));
  } else if (number == SYS_setgroups) {
    size_t count = va_arg(args, size_t);
    fuzz_look_at(va_arg(args, const gid_t *), count * sizeof(gid_t));
    if (fuzz_choose(4) == 3) {
      errno = EPERM;
      result = -1;
    }
  }
  // The rest (close_range, setresuid, setresgid) would change this process.
  va_end(args);
  return result;
}

int fuzz_open(const char *path, int flags, ...) {
  if (strcmp(path, "/proc") == 0) return FD_PROC;
  if (strncmp(path, "/dev/", 5) == 0) return fuzz_choose(8) == 7 ? (errno = EMFILE, -1) : fuzz_new_fd();
  return open_in_box(AT_FDCWD, path, (struct open_how){.flags = (unsigned)flags, .mode = 0600});
}

int fuzz_openat(int dir, const char *path, int flags, ...) {
  // The processes of this machine, and this one's own settings.
  if (dir == FD_PROC && strncmp(path, "self/fd/", 8) != 0) {
    errno = EACCES;
    return -1;
  }
  if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0) changed = true;
  return remember(openat(dir, path, flags, 0600));
}
