// What the attack programs share: each attempt runs in a process of its own and is told in one line, `name<TAB>outcome`.
// Nothing that is attempted harms a host where it succeeds: arguments that would are wrong on purpose, so that only the
// permission check tells the two cases apart.
#ifndef PROBE_H
#define PROBE_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ATTEMPT_SECONDS = 5 };

// What a kernel built before a call was added, or an old libc's headers, lack.
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fspick 433
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#define SYS_io_uring_enter 426
#define SYS_io_uring_register 427
#endif

__attribute__((unused)) static void attempt_with(const char *name, long (*call)(long), long argument) {
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    alarm(ATTEMPT_SECONDS);
    errno = 0;
    long result = call(argument);
    if (result >= 0) printf("%s\tok\n", name);
    else printf("%s\tE%d\n", name, errno);
    fflush(stdout);
    _exit(0);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) < 0) printf("%s\tno-process\n", name);
  else if (WIFSIGNALED(status)) printf("%s\tsignal%d\n", name, WTERMSIG(status));
}

__attribute__((unused)) static long without_argument(long call) {
  return ((long (*)(void))call)();
}

#define ATTEMPT(function) attempt_with(#function, without_argument, (long)(function))

#endif
