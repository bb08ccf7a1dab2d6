// racer A B: exchanges the directory entries A and B as fast as it can until SIGTERM, then prints how often.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile sig_atomic_t stop;

static void on_term(int number) {
  (void)number;
  stop = 1;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  signal(SIGTERM, on_term);
  puts("ready");
  fflush(stdout);
  long swaps = 0;
  while (!stop) {
    if (syscall(SYS_renameat2, AT_FDCWD, argv[1], AT_FDCWD, argv[2], 2 /* RENAME_EXCHANGE */) == 0) swaps++;
    // A call from outside may have taken one of them away; the attacker puts a link of his own back.
    else if (symlink("/", argv[1]) != 0) usleep(100);
  }
  printf("swaps %ld\n", swaps);
  return 0;
}
