// Everything that makes or joins a namespace, or changes what is mounted.
#include "probe.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif
enum { MNT_FORCE_ = 1, MNT_DETACH_ = 2 };
enum { MS_REMOUNT_ = 32, MS_BIND_ = 4096, MS_REC_ = 16384, MS_PRIVATE_ = 1 << 18 };

static const struct {
  const char *name;
  long flag;
} kinds[] = {
  {"user", CLONE_NEWUSER}, {"mnt", CLONE_NEWNS},         {"pid", CLONE_NEWPID},   {"net", CLONE_NEWNET},
  {"ipc", CLONE_NEWIPC},   {"uts", CLONE_NEWUTS},        {"cgroup", CLONE_NEWCGROUP}, {"time", CLONE_NEWTIME},
};

static long do_unshare(long flags) {
  return syscall(SYS_unshare, flags);
}

static long wait_for(long pid) {
  if (pid == 0) _exit(0);
  if (pid > 0) waitpid((pid_t)pid, NULL, __WALL);
  return pid;
}

static long do_clone(long flags) {
  return wait_for(syscall(SYS_clone, flags | SIGCHLD, 0L, 0L, 0L, 0L));
}

static long do_clone3(long flags) {
  struct {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
  } args = {.flags = (uint64_t)flags, .exit_signal = SIGCHLD};
  return wait_for(syscall(SYS_clone3, &args, sizeof args));
}

static long do_setns(long kind) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[kind].name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  // One's own user namespace can't be joined by anybody (EINVAL).
  return syscall(SYS_setns, fd, kinds[kind].flag);
}

static long setns_of_pid1(void) {
  int fd = (int)syscall(SYS_pidfd_open, 1, 0);
  return fd < 0 ? -1 : syscall(SYS_setns, fd, CLONE_NEWNS | CLONE_NEWUTS);
}

// Where this works (in a container without guards), what follows touches nobody else's mounts.
static void own_mounts(void) {
  if (syscall(SYS_unshare, CLONE_NEWNS) == 0) syscall(SYS_mount, "", "/", "", MS_REC_ | MS_PRIVATE_, NULL);
}

static long mount_tmpfs(void) {
  own_mounts();
  return syscall(SYS_mount, "tmpfs", "/tmp", "tmpfs", 0, NULL);
}
static long mount_proc(void) {
  own_mounts();
  return syscall(SYS_mount, "proc", "/tmp", "proc", 0, NULL);
}
static long mount_bind(void) {
  own_mounts();
  return syscall(SYS_mount, "/proc", "/tmp", "", MS_BIND_ | MS_REC_, NULL);
}
static long mount_cgroup(void) {
  own_mounts();
  return syscall(SYS_mount, "none", "/tmp", "cgroup2", 0, NULL);
}
static long remount_sys_writable(void) {
  own_mounts();
  return syscall(SYS_mount, "", "/sys", "", MS_REMOUNT_ | MS_BIND_, NULL);
}
static long make_root_shared(void) {
  own_mounts();
  return syscall(SYS_mount, "", "/proc", "", 1 << 20, NULL);
}
static long umount_proc(void) {
  own_mounts();
  return syscall(SYS_umount2, "/proc", MNT_DETACH_);
}
static long umount_dev_pts(void) {
  own_mounts();
  return syscall(SYS_umount2, "/dev/pts", MNT_DETACH_ | MNT_FORCE_);
}
static long do_pivot_root(void) {
  own_mounts();
  return syscall(SYS_pivot_root, "/", "/");
}
static long do_fsopen(void) {
  return syscall(SYS_fsopen, "tmpfs", 0);
}
static long do_fspick(void) {
  own_mounts();
  return syscall(SYS_fspick, AT_FDCWD, "/proc", 0);
}
static long do_open_tree_clone(void) {
  own_mounts();
  return syscall(SYS_open_tree, AT_FDCWD, "/proc", 1);
}
static long do_move_mount(void) {
  own_mounts();
  return syscall(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/tmp", 0);
}
static long do_mount_setattr(void) {
  own_mounts();
  struct {
    uint64_t set, clear, propagation, userns;
  } attributes = {.clear = 1};
  return syscall(SYS_mount_setattr, AT_FDCWD, "/sys", 0, &attributes, sizeof attributes);
}

int main(void) {
  static long (*const makers[])(long) = {do_unshare, do_clone, do_clone3};
  static const char *const names[] = {"unshare", "clone", "clone3"};
  char name[64];
  for (size_t m = 0; m < 3; m++) {
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
      // The bit of a time namespace is part of clone's exit signal.
      if (m == 1 && kinds[k].flag == CLONE_NEWTIME) continue;
      snprintf(name, sizeof name, "%s %s", names[m], kinds[k].name);
      attempt_with(name, makers[m], kinds[k].flag);
    }
  }
  for (long k = 1; k < (long)(sizeof kinds / sizeof *kinds); k++) {
    snprintf(name, sizeof name, "setns %s", kinds[k].name);
    attempt_with(name, do_setns, k);
  }
  ATTEMPT(setns_of_pid1);
  ATTEMPT(mount_tmpfs);
  ATTEMPT(mount_proc);
  ATTEMPT(mount_bind);
  ATTEMPT(mount_cgroup);
  ATTEMPT(remount_sys_writable);
  ATTEMPT(make_root_shared);
  ATTEMPT(umount_proc);
  ATTEMPT(umount_dev_pts);
  ATTEMPT(do_pivot_root);
  ATTEMPT(do_fsopen);
  ATTEMPT(do_fspick);
  ATTEMPT(do_open_tree_clone);
  ATTEMPT(do_move_mount);
  ATTEMPT(do_mount_setattr);
  return 0;
}
