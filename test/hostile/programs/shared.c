// What a sandbox may share with others by way of the kernel.
// shared inotify          takes all inotify instances that it gets, tells how many, and keeps them until it is killed
// shared watch FILE       says `ready`, then `seen` once somebody opens FILE; `nothing` on SIGTERM
// shared lock FILE        takes a lock on FILE without waiting, tells the outcome, and keeps it until it is killed
// shared fifo FILE        writes a byte into the FIFO, without waiting, and tells the outcome
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <unistd.h>

static void on_term(int number) {
  (void)number;
  static const char text[] = "nothing\n";
  _exit(write(1, text, sizeof text - 1) < 0);
}

static void tell(const char *what, long result) {
  if (result >= 0) printf("%s\tok\n", what);
  else printf("%s\tE%d\n", what, errno);
  fflush(stdout);
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  const char *mode = argv[1];
  if (strcmp(mode, "inotify") == 0) {
    long count = 0;
    // One child after another, because each may have only so many descriptors.
    for (int i = 0; i < 4; i++) {
      if (fork() == 0) {
        while (inotify_init1(0) >= 0) count++;
        printf("instances %ld E%d\n", count, errno);
        fflush(stdout);
        for (;;) pause();
      }
    }
    for (;;) pause();
  }
  if (argc < 3) return 2;
  if (strcmp(mode, "watch") == 0) {
    int fd = inotify_init1(0);
    if (fd < 0 || inotify_add_watch(fd, argv[2], IN_OPEN | IN_ACCESS) < 0) return 1;
    signal(SIGTERM, on_term);
    puts("ready");
    fflush(stdout);
    char event[4096];
    if (read(fd, event, sizeof event) > 0) puts("seen");
    return 0;
  }
  int fd = open(argv[2], (strcmp(mode, "fifo") == 0 ? O_WRONLY : O_RDONLY) | O_NONBLOCK);
  if (fd < 0) tell(mode, fd);
  else if (strcmp(mode, "fifo") == 0) tell(mode, write(fd, "x", 1));
  else {
    tell(mode, flock(fd, LOCK_EX | LOCK_NB));
    for (;;) pause();
  }
  return 0;
}
