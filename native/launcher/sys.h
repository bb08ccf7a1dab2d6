// System calls and constants that libc's headers may not have yet; the numbers are the same on every 64-bit Linux.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WARREN_OPEN_TREE_CLONE 1u
#define WARREN_AT_EMPTY_PATH 0x1000u
#define WARREN_AT_RECURSIVE 0x8000u
#define WARREN_MOVE_MOUNT_F_EMPTY_PATH 0x4u
#define WARREN_MOVE_MOUNT_T_EMPTY_PATH 0x40u
#define WARREN_MOUNT_ATTR_RDONLY 0x1u
#define WARREN_MOUNT_ATTR_NOSUID 0x2u
#define WARREN_MOUNT_ATTR_NODEV 0x4u
#define WARREN_MOUNT_ATTR_NOEXEC 0x8u
#define WARREN_MOUNT_ATTR_IDMAP 0x100000u
#define WARREN_RESOLVE_NO_XDEV 0x1u
#define WARREN_RESOLVE_NO_MAGICLINKS 0x2u
#define WARREN_RESOLVE_NO_SYMLINKS 0x4u
#define WARREN_RESOLVE_IN_ROOT 0x10u
#define WARREN_SECBIT_NO_SETUID_FIXUP 0x4ul
// SEAL, SHRINK, GROW, WRITE: what crun and runc ask for, no more and no less.
#define WARREN_ALL_SEALS 0xf

int sys_open_tree(int dirfd, const char *path, unsigned flags);
int sys_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
// `userns_fd` is used when `set` has IDMAP, else ignored. `flags` may be WARREN_AT_RECURSIVE.
int sys_mount_setattr(int fd, unsigned flags, uint64_t set, int userns_fd);
int sys_fsopen(const char *type);
int sys_fsconfig_string(int fs, const char *key, const char *value);
int sys_fsconfig_flag(int fs, const char *key);
// Makes the filesystem that was configured.
int sys_fsconfig_create(int fs);
int sys_fsmount(int fs, unsigned attributes);
int sys_openat2(int dirfd, const char *path, uint64_t flags, uint64_t resolve);
// An empty file in memory that can be sealed and run.
int sys_memfd_create(const char *name);
int sys_execveat(int fd, char *const *argv, char *const *env);
// From and to the same position; it moves no position.
ssize_t sys_copy_file_range(int from, int to, off_t at, size_t length);
int sys_pidfd_open(pid_t pid);
int sys_pidfd_kill(int pidfd, int signal);
// Closes every descriptor from `first` on.
void close_from(int first);

// Field 22 of /proc/PID/stat, in clock ticks since boot; 0 when there is no such process or it is a zombie.
uint64_t process_start(pid_t pid);
// Monotonic clock, in milliseconds.
int64_t now_ms(void);
// Whole file into `buffer`, NUL-terminated; its length, or -1.
ssize_t read_file(const char *path, char *buffer, size_t size);
// Back to what a program expects: default signals, nothing blocked.
void reset_signals(void);
