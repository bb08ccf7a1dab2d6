// sabotage kill-all      SIGKILL to everything that can be signalled
// sabotage stop-all      SIGSTOP likewise; then waits
// sabotage starve-init   takes PID 1's descriptors, processes and memory away with prlimit
// sabotage offer-init    makes PID 1 the first that the kernel kills for memory
// sabotage leave-behind  leaves stopped, dead but unreaped, deaf, re-sessioned and waiting processes
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static void leave_behind(void) {
  for (int i = 0; i < 40; i++) {
    pid_t pid = fork();
    if (pid != 0) continue;
    switch (i % 5) {
      case 0: raise(SIGSTOP); break;
      case 1: _exit(0); // a zombie: its parent never waits
      case 2: {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, NULL);
        break;
      }
      case 3:
        setsid();
        if (fork() > 0) _exit(0);
        break;
      case 4:
        // A parent of a vfork is in an uninterruptible wait until its child ends.
        if (syscall(SYS_clone, 0x4000L | 0x100L | SIGCHLD, 0L, 0L, 0L, 0L) == 0) {
          for (;;) pause();
        }
        break;
    }
    for (;;) pause();
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  if (strcmp(argv[1], "leave-behind") == 0) leave_behind();
  if (strcmp(argv[1], "starve-init") == 0) {
    struct rlimit none = {0, 0};
    int kinds[] = {RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_AS, RLIMIT_STACK, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_CPU};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
      printf("%d %d\n", kinds[i], prlimit(1, kinds[i], &none, NULL));
    }
    return 0;
  }
  if (strcmp(argv[1], "offer-init") == 0) {
    FILE *file = fopen("/proc/1/oom_score_adj", "w");
    return file == NULL || fputs("1000", file) < 0 || fclose(file) != 0;
  }
  puts("ready");
  fflush(stdout);
  if (strcmp(argv[1], "leave-behind") == 0) {
    for (;;) pause();
  }
  sleep(1);
  kill(-1, strcmp(argv[1], "kill-all") == 0 ? SIGKILL : SIGSTOP);
  if (strcmp(argv[1], "kill-all") == 0) return 0;
  for (;;) pause();
}
