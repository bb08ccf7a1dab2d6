// Included before each of the guest's sources: their calls with effects go to kernel.c, box.c and fuzz.c.
#pragma once
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "../fuzz.h"
#include "redirect-prototypes.h"

#define malloc(n) fuzz_malloc(n)
#define calloc(n, m) fuzz_calloc(n, m)
#define realloc(p, n) fuzz_realloc(p, n)
#define strdup(s) fuzz_strdup(s)
#define free(p) fuzz_free(p)
#define clock_gettime(c, t) fuzz_clock_gettime(c, t)
#define vfork() FUZZ_FORK()
#define _exit(code) fuzz_exit(code)

#define recv(fd, p, n, f) fuzz_recv(fd, p, n, f)
#define send(fd, p, n, f) fuzz_send(fd, p, n, f)
#define sendmsg(fd, m, f) fuzz_sendmsg(fd, m, f)
#define read(fd, p, n) fuzz_read(fd, p, n)
#define write(fd, p, n) fuzz_write(fd, p, n)
#define poll(p, n, t) fuzz_poll(p, n, t)
#define close(fd) fuzz_close(fd)
#define pipe2(p, f) fuzz_pipe2(p, f)
#define ioctl(...) fuzz_ioctl(__VA_ARGS__)
#define fcntl(...) fuzz_fcntl(__VA_ARGS__)
#define fstat(fd, st) fuzz_fstat(fd, st)
#define tcgetattr(fd, t) fuzz_tcgetattr(fd, t)
#define signalfd(fd, m, f) fuzz_new_fd()
#define inotify_init1(f) fuzz_new_fd()
#define inotify_add_watch(fd, p, m) fuzz_inotify_add_watch(fd, p, m)
#define inotify_rm_watch(fd, wd) ((void)(fd), (void)(wd))
#define socket(...) fuzz_new_fd()
#define connect(fd, a, n) fuzz_connect(fd)
#define bind(fd, a, n) ((void)(a), fuzz_connect(fd))
#define listen(fd, n) 0
#define getsockopt(...) fuzz_getsockopt(__VA_ARGS__)
#define setsockopt(...) 0
#define shutdown(fd, how) 0
#define waitpid(pid, status, flags) fuzz_waitpid(pid, status, flags)
#define kill(pid, n) fuzz_kill(pid, n)
#define getrandom(p, n, f) fuzz_getrandom(p, n, f)
#define execve(p, a, e) fuzz_execve(p, a, e)
#define access(p, m) fuzz_sometimes(ENOENT)
#define chdir(p) (fuzz_look_at_text(p), fuzz_sometimes(ENOENT))
#define dup2(from, to) ((void)(from), to)
#define dup3(from, to, f) ((void)(from), to)
#define setsid() 0
#define umask(m) 0
#define prctl(...) 0
#define signal(...) ((void)0)
#define sigaction(...) ((void)0)
#define sigprocmask(...) ((void)0)
#define sigtimedwait(...) fuzz_sometimes(EAGAIN)

#define syscall(...) fuzz_syscall(__VA_ARGS__)
#define open(...) fuzz_open(__VA_ARGS__)
#define openat(...) fuzz_openat(__VA_ARGS__)
#define fdopendir(fd) fuzz_fdopendir(fd)
#define closedir(d) fuzz_closedir(d)
#define mkdirat(...) (fuzz_box_changes(), (mkdirat)(__VA_ARGS__))
#define unlinkat(...) (fuzz_box_changes(), (unlinkat)(__VA_ARGS__))
#define linkat(...) (fuzz_box_changes(), (linkat)(__VA_ARGS__))
#define fchmodat(...) (fuzz_box_changes(), (fchmodat)(__VA_ARGS__))
#define fchmod(...) (fuzz_box_changes(), (fchmod)(__VA_ARGS__))
#define fchown(...) (fuzz_box_changes(), (fchown)(__VA_ARGS__))
#define ftruncate(...) (fuzz_box_changes(), (ftruncate)(__VA_ARGS__))
