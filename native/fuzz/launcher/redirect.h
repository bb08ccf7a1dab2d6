// Included before each of the launcher's sources: their calls with effects go to kernel.c and fuzz.c, and nothing is done.
#pragma once
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../fuzz.h"
#include "redirect-prototypes.h"

#define malloc(n) fuzz_malloc(n)
#define calloc(n, m) fuzz_calloc(n, m)
#define realloc(p, n) fuzz_realloc(p, n)
#define free(p) fuzz_free(p)
#define clock_gettime(c, t) fuzz_clock_gettime(c, t)
#define usleep(us) fuzz_pass_ms(1 + (us) / 1000)
#define fork() FUZZ_FORK()
#define _exit(code) fuzz_exit(code)
#define exit(code) fuzz_exit(code)

#define open(path, ...) fuzz_open(path)
#define openat(dir, path, ...) fuzz_open(path)
#define close(fd) fuzz_close(fd)
#define read(fd, p, n) fuzz_read(fd, p, n)
#define write(fd, p, n) fuzz_write(fd, p, n)
#define pipe2(p, f) fuzz_pipe2(p)
#define poll(p, n, t) fuzz_poll(p, n, t)
#define fcntl(fd, what, ...) ((what) == F_DUPFD_CLOEXEC ? fuzz_dup(fd) : 0)
#define dup2(from, to) ((void)(from), to)
#define signalfd(...) fuzz_new_fd()
#define socket(...) fuzz_fd_or_error()
#define socketpair(d, t, p, fds) fuzz_pipe2(fds)
#define accept4(...) fuzz_fd_or_error()
// Nobody takes it, so that a relay ends.
#define sendmsg(fd, m, f) (fuzz_look_at((m)->msg_control, (m)->msg_controllen), errno = EPIPE, -1)
#define setgroups(n, list) fuzz_sometimes(EPERM)
#define setresgid(a, b, c) fuzz_sometimes(EPERM)
#define setresuid(a, b, c) fuzz_sometimes(EPERM)
#define setrlimit(what, limit) fuzz_sometimes(EPERM)
#define bind(...) fuzz_sometimes(EADDRINUSE)
#define listen(...) 0
#define syscall(...) fuzz_syscall(__VA_ARGS__)
#define waitpid(pid, status, flags) fuzz_waitpid(pid, status)
#define kill(pid, n) fuzz_kill(pid, n)
#define fstat(fd, st) (memset(st, 0, sizeof *(st)), (st)->st_mode = S_IFREG, fuzz_sometimes(EIO))
#define stat(p, st) (memset(st, 0, sizeof *(st)), (st)->st_mode = S_IFREG, fuzz_look_at_path(p))
#define fchmod(fd, m) fuzz_sometimes(EPERM)
#define strdup(s) fuzz_strdup(s)
#define execve(p, a, e) fuzz_execve(p, a, e)
#define pause() fuzz_finding("a process that waits for ever")
#define chdir(p) fuzz_look_at_path(p)
#define fchdir(fd) fuzz_sometimes(EACCES)
#define mkdir(p, m) fuzz_look_at_path(p)
#define mkdirat(d, p, m) fuzz_look_at_path(p)
#define unlink(p) fuzz_look_at_path(p)
#define unlinkat(d, p, f) fuzz_look_at_path(p)
#define rename(from, to) fuzz_look_at_path(from)
#define renameat(d, from, e, to) fuzz_look_at_path(from)
#define fstatat(d, p, st, f) (memset(st, 0, sizeof *(st)), fuzz_look_at_path(p))
#define mount(source, target, type, flags, options) fuzz_mount(source, target, type, options)
#define unshare(f) fuzz_sometimes(EPERM)
#define fopen(p, m) fuzz_fopen(p)
#define readlink(p, to, n) fuzz_readlink(p, to, n)
#define fdopendir(fd) fuzz_fdopendir(fd)
#define readdir(d) ((void)(d), fuzz_readdir())
#define rewinddir(d) ((void)(d))
#define closedir(d) ((void)(d))
#define dirfd(d) ((void)(d), 3)
#define setns(fd, f) fuzz_sometimes(EPERM)
#define setgroups(n, list) fuzz_sometimes(EPERM)
#define fchownat(d, p, uid, gid, f) fuzz_look_at_path(p)
#define setfsuid(id) ((void)(id))
#define setfsgid(id) ((void)(id))
#define setsid() 0
#define umask(m) 0
#define prctl(...) 0
#define signal(...) ((void)0)
#define sigprocmask(...) ((void)0)
